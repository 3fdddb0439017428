"""One strength for all: how much of a start is left, against the closed form of the reverse SDE.

On Gaussian data of variance S^2 the SDE of strength eta leaves, between two noise levels, the
correlation `exp(-eta int sigma^2 / (S^2 + sigma^2) dlog sigma)`. A sampler with the exact score is
affine in its start, so two runs with one key and starts one apart measure its own without error.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Empirical, Gaussian
from rk4 import padded
from scipy.integrate import quad

from samplers import (
    Solver,
    adaptive_sde,
    ddim,
    dpm_multistep,
    edm,
    euler_maruyama,
    heun,
    make_grid,
    sample,
)
from samplers.restart import Restarts, restart
from sde_lib import EDM, VE, VP, Flow

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
LAWS = {"vp": VP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
S, TOP, END = 0.4, 2.0, -3.0  # of the data; log sigma of the ends
DATA, SIZES = Gaussian.scalar(0.7, S), (128, 256)


def correlation(eta, top=TOP, end=END):
    return np.exp(-eta * quad(lambda u: np.exp(2 * u) / (S**2 + np.exp(2 * u)), end, top)[0])


def left(law, ends, x):
    """The correlation from the end points `(..., 2)` of two starts one apart."""
    a, _, c = law.coeffs(ends)
    spread = jnp.sqrt(a**2 * S**2 + c**2)
    return np.asarray((x[..., 1] - x[..., 0]) * spread[0] / spread[-1])


def measured(law, sampler):
    """The correlation left by 128 and by 256 steps even in lam."""
    lams = [jnp.linspace(-TOP, -END, n + 1) for n in SIZES]
    ts = law.t_of_lam(jnp.repeat(padded(lams), 2, axis=1))
    x = jnp.tile(jnp.asarray([[0.0], [1.0]]), (2, 1))
    keys = jnp.stack([KEY] * 4)
    out = jax.jit(lambda x: sample(keys, DATA.predict(law), sampler, x, ts).x)(x)
    return left(law, ts[jnp.asarray([0, -1]), 0], out.reshape(2, 2))


METHODS = {
    "edm": (lambda law, eta: edm(law, eta=eta), 1),
    "dpm_multistep": (lambda law, eta: dpm_multistep(law, 2, eta=eta), 2),
    "euler_maruyama": (lambda law, eta: euler_maruyama(law), 1),
}


@pytest.mark.parametrize(
    "name, method, eta",
    [
        ("vp", "edm", 0.5),
        ("vp", "edm", 2.0),
        ("ve", "edm", 1.0),
        ("vp", "dpm_multistep", 0.5),
        ("flow", "dpm_multistep", 2.0),
        ("vp", "euler_maruyama", 1.0),
        ("edm", "euler_maruyama", 1.0),
    ],
)
def test_the_same_is_forgotten_in_small_steps(name, method, eta):
    """The limit, extrapolated from two lengths of step, to 1 %; and the order of what is left."""
    make, order = METHODS[method]
    found, truth = measured(LAWS[name], make(LAWS[name], eta)), correlation(eta)
    limit = found[1] + (found[1] - found[0]) / (2**order - 1)
    np.testing.assert_allclose(limit, truth, rtol=0.01)
    fall = np.log2(np.abs(found - truth)[0] / np.abs(found - truth)[1])
    assert abs(fall - order) < 0.15, fall


@pytest.mark.parametrize("eta", [1, 3])
def test_restarts_are_as_strong_as_they_are_many(eta):
    """K restarts over an interval, against `dpm_multistep` with eta = K on it."""
    law, low, high = VP(), 0.3, 0.7
    ts = law.t_of_lam(-jnp.log(jnp.linspace(high, low, 41)))
    run = restart(law, heun(law), ts, [Restarts(low, high, eta, 40)])
    keys, x = jnp.stack([KEY, KEY]), jnp.asarray([[0.0], [1.0]])
    again = jax.jit(lambda x: run(keys, DATA.predict(law), x).x)(x)
    sde = dpm_multistep(law, 2, eta=float(eta))
    steps = jax.jit(lambda x: sample(keys, DATA.predict(law), sde, x, ts).x)(x)
    truth = correlation(eta, np.log(high), np.log(low))
    for out in (again, steps):
        np.testing.assert_allclose(left(law, ts, out[:, 0]), truth, rtol=1e-3)


def test_the_adaptive_sde_forgets_as_much():
    law, eta = VP(t1=0.5), 0.5
    t, s = jnp.asarray(law.t1), jnp.asarray(0.05)
    run = adaptive_sde(law, 0.05, Solver(rtol=1e-4, atol=1e-4, variable="lam"), eta=eta)
    keys, x = jnp.stack([KEY, KEY]), jnp.asarray([[0.0], [1.0]])
    out = jax.jit(lambda x: run(keys, DATA.predict(law), x).x)(x)
    ends = (-float(law.lam(t)), -float(law.lam(s)))
    truth = correlation(eta, *ends)
    np.testing.assert_allclose(left(law, jnp.stack([t, s]), out[:, 0]), truth, rtol=3e-3)


@pytest.mark.parametrize("name", LAWS)
def test_on_a_point_one_step_of_any_length_is_exact(name):
    """Where all the spread is noise, `exp(-eta h)` of the start is left."""
    law, eta = LAWS[name], 0.7
    predict = Empirical(np.array([[0.3]])).predict(law)
    t, s = (law.t_of_lam(jnp.asarray(lam)) for lam in (-1.0, 0.5))
    x, c = jnp.asarray([[0.0], [1.0]]), [law.coeffs(v).c for v in (t, s)]
    for sampler in (edm(law, eta=eta), dpm_multistep(law, 2, eta=eta)):
        out = sampler.step(jnp.stack([KEY, KEY]), predict, sampler.init(x, t), t, s).x
        kept = (out[1, 0] - out[0, 0]) * c[0] / c[1]
        np.testing.assert_allclose(kept, np.exp(-1.5 * eta), rtol=1e-9)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_eta_of_ddim_on_the_common_scale(eta):
    """Steps of one length h: `1 - exp(-2 e h) = eta^2 (1 - exp(-2 h))`, sample by sample."""
    law, steps = VP(), 6
    ts = make_grid("uniform_lam", law, steps, 0.01)
    h = float(law.lam(ts[1]) - law.lam(ts[0]))
    strength = -np.log1p(eta**2 * np.expm1(-2 * h)) / (2 * h)
    x = jnp.linspace(-2.0, 2.0, 5)[:, None]
    run = lambda sampler: jax.jit(lambda x: sample(KEY, DATA.predict(law), sampler, x, ts).x)(x)
    np.testing.assert_allclose(
        run(ddim(law, eta)), run(dpm_multistep(law, 1, eta=strength)), rtol=1e-9
    )
    # The churn of the paper on the same grid, by the strength that its docstring states.
    churn = 2.0
    same = edm(law, steps, eta=np.log1p(churn / steps) / h)
    np.testing.assert_allclose(run(edm(law, steps, churn)), run(same), rtol=1e-9)
