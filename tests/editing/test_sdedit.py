"""SDEdit: images with noise of some level are sampled down, with and without a mask."""

import jax
import numpy as np
import pytest
from linear_gaussian import EPS, LAWS, PAIR, covariance_error

from editing import edit_grid, edit_time, sdedit
from samplers import State, ancestral, heun
from sde_lib import VE, VP, example_keys

KEY = jax.random.key(0)


@pytest.mark.parametrize(("name", "strength", "unit"), [("vp", 0.3, "part"), ("ve", 0.8, "sigma")])
def test_sdedit_of_gaussian_data(name, strength, unit):
    """For Gaussian data and the flow, mean and covariance of the results have closed forms.

    They are `m + a G (image - m)` and `c^2 G^2`, where G is the gain of the flow.
    """
    law, eps, n = LAWS[name], EPS[name], 20_000
    image = np.array([1.5, 0.5])
    ts = edit_grid(law, strength, unit, 40, "uniform_lam", eps)
    run = lambda images: sdedit(KEY, law, PAIR.predict(law), heun(law), images, ts)
    result = jax.device_get(jax.jit(run)(np.tile(image, (n, 1))))
    t = float(edit_time(law, strength, unit))
    a, c = (float(v) for v in law.coeffs(t))
    assert (t / law.t1 if unit == "part" else c / a) == pytest.approx(strength, rel=1e-4)
    assert result.ts[0] == pytest.approx(t, rel=1e-6) and result.nfe == 80
    corner = np.concatenate([np.zeros((1, 2)), np.eye(2)])
    out = PAIR.flow_map(law, corner, t, eps)
    gain = out[1:] - out[:1]
    mean, cov = out[0] + a * image @ gain, c**2 * gain.T @ gain
    x = np.asarray(result.x, np.float64)
    assert np.all(np.abs(x.mean(0) - mean) < 4.0 * np.sqrt(np.diag(cov) / n))
    assert np.all(np.abs(np.cov(x.T) - cov) < 4.0 * covariance_error(cov, n))
    # The mean and covariance of the start differ visibly from these.
    assert np.abs(mean - a * image).max() > 0.05 and np.abs(cov[0, 1]) > 0.02


def test_more_strength_forgets_more():
    """With a stochastic sampler, results are draws of `p(x0 | x_t)` for `x_t = a image + c z`.

    Their mean and covariance are known. With more strength they are farther from the image and
    nearer to the data's law.
    """
    law, n, image = VP(), 4000, np.array([3.0, -3.0])
    away = []
    for strength in (0.2, 1.0):
        ts = edit_grid(law, strength, steps=300, grid="uniform_lam", eps=1e-3)
        run = lambda x, ts=ts: sdedit(KEY, law, PAIR.predict(law), ancestral(law), x, ts).x
        x = np.asarray(jax.jit(run)(np.tile(image, (n, 1))), np.float64)
        a, c = (float(v) for v in law.coeffs(strength * law.t1))
        gain = a * np.linalg.solve(a**2 * PAIR.cov + c**2 * np.eye(2), PAIR.cov).T
        mean = PAIR.mean + a * gain @ (image - PAIR.mean)
        cov = PAIR.cov - a * gain @ PAIR.cov + c**2 * gain @ gain.T
        assert np.all(np.abs(x.mean(0) - mean) < 4.0 * np.sqrt(np.diag(cov) / n))
        assert np.all(np.abs(np.cov(x.T) - cov) < 4.0 * covariance_error(cov, n))
        away.append(np.linalg.norm(mean - image))
    assert away[0] < 0.8 * away[1]


def test_what_a_mask_keeps_is_kept():
    """A mask keeps its part to the last bit; the rest is drawn, whatever the other images are."""
    law, keep = VE(), np.array([1, 0])
    images = PAIR.draw(np.random.default_rng(0), 5).astype(np.float32)
    ts, short = edit_grid(law, 0.6), edit_grid(law, 0.2, steps=1)

    @jax.jit
    def edit(numbers, images):
        keys, predict = example_keys(0, numbers), PAIR.predict(law)
        return sdedit(keys, law, predict, ancestral(law), images, ts, keep=keep, denoise=True).x

    rows = np.array([3, 3, 1, 0, 0])
    x, others = jax.device_get([edit(i, images[i]) for i in (np.arange(5), rows)])
    np.testing.assert_array_equal(x[:, 0], images[:, 0])
    assert np.abs(x[:, 1] - images[:, 1]).min() > 1e-3
    np.testing.assert_allclose(others, x[rows], rtol=1e-4, atol=1e-4)

    # The start is `a image + c z` in both parts, and the kept part is not added twice. A step that
    # swaps the coordinates shows the start's first coordinate in the second one.
    swap = ancestral(law)._replace(step=lambda key, predict, state, span: State(state.x[:, ::-1]))
    start = jax.jit(lambda x: sdedit(KEY, law, PAIR.predict(law), swap, x, short, keep=keep).x)
    first = np.asarray(start(np.tile(images[:1], (4000, 1))), np.float64)[:, 1]
    spread = float(law.coeffs(0.2).c)
    assert abs(first.mean() - images[0, 0]) < 4.0 * spread / 4000**0.5 < 0.5 * abs(images[0, 0])
    assert first.std() == pytest.approx(spread, rel=0.05)
