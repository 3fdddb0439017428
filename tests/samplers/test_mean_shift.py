"""With the optimal denoiser, DDIM is mean shift with a shrinking bandwidth.

So mean shift needs no method of its own. Chen et al. 2023 (arXiv 2305.19947).
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from exact.empirical import empirical_predict, points
from samplers import Span, ddim, make_grid, sample
from sde_lib import EDM, VE, VP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
LAWS = {"vp": VP(), "ve": VE()}


@pytest.mark.parametrize("law_name", LAWS)
def test_ddim_is_annealed_mean_shift(law_name):
    """In y = x / a, a DDIM step is a part of a mean shift: y' = r y + (1 - r) shift(y).

    Here r = `sigma_s / sigma_t`, and the shift is a kernel average of the data with bandwidth
    sigma_t, computed in NumPy. All laws have the same noise levels.
    """
    law, rng = LAWS[law_name], np.random.default_rng(0)
    data = rng.standard_normal((20, 3))
    lam = jnp.linspace(-2.0, 3.0, 13)
    ts = law.t_of_lam(lam)
    sigma, a = np.exp(-np.asarray(lam)), np.asarray(law.coeffs(ts).a)
    y = sigma[0] * rng.standard_normal((5, 3))
    run = jax.jit(
        lambda p, x: sample(jax.random.key(0), empirical_predict(law, p), ddim(law), x, ts).x
    )
    found = run(points(data, block=7), jnp.asarray(a[0] * y)) / a[-1]
    for wide, narrow in pairwise(sigma):
        d2 = np.sum((y[:, None] - data[None]) ** 2, axis=2)
        shifted = softmax(-d2 / (2 * wide**2), axis=1) @ data
        y = narrow / wide * y + (1 - narrow / wide) * shifted
    np.testing.assert_allclose(found, y, rtol=1e-9, atol=1e-10)


def test_the_last_step_to_no_noise_is_one_whole_mean_shift():
    """Denoising at the end of a run is the mean-shift map itself."""
    law, data = EDM(t1=2.0), points(np.random.default_rng(1).standard_normal((20, 3)))
    predict, ts = empirical_predict(law, data), make_grid("karras", law, 4, 0.3)
    x = jnp.ones((2, 3))

    @jax.jit
    def both(x):
        result = sample(jax.random.key(0), predict, ddim(law), x, ts)
        to_nought = ddim(law).step(None, predict, result, Span(ts[-1], jnp.asarray(0.0)))
        return to_nought.x, sample(jax.random.key(0), predict, ddim(law), x, ts, denoise=True).x

    np.testing.assert_allclose(*both(x), rtol=1e-12)
