"""The strength eta of noise means the same for all methods, by the correlation with the start.

For Gaussian data of variance S^2, the SDE of strength eta leaves between two noise levels the
correlation `exp(-eta int sigma^2 / (S^2 + sigma^2) dlog sigma)`. A sampler with the exact score is
affine in its start. So two runs with one key, from starts that differ by 1, measure its correlation
without error.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Empirical, Gaussian
from law_as_data import for_each
from scipy.integrate import quad

from samplers import (
    GRIDS,
    Solver,
    Span,
    adaptive_sde,
    ddim,
    dpm_multistep,
    edm,
    euler_maruyama,
    heun,
    make_grid,
    sample,
)
from samplers.around.restart import Restarts, restart
from sde_lib import EDM, VE, VP, Flow

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
LAWS = {"vp": VP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
S, TOP, END = 0.4, 2.0, -3.0  # std of the data; log sigma of the two ends
DATA, SIZES = Gaussian.scalar(0.7, S), (128, 256)


def correlation(eta, top=TOP, end=END):
    return np.exp(-eta * quad(lambda u: np.exp(2 * u) / (S**2 + np.exp(2 * u)), end, top)[0])


def left(law, ends, x):
    """Return the correlation from the ends `(..., 2)` of two starts that differ by 1."""
    a, c = (np.asarray(v) for v in law.coeffs(ends))
    spread, x = np.sqrt(a**2 * S**2 + c**2), np.asarray(x)
    return (x[..., 1] - x[..., 0]) * spread[0] / spread[-1]


def measured(law, sampler):
    """Return the correlation that is left after 128 and after 256 steps even in lam."""
    lams = [np.linspace(-TOP, -END, n + 1) for n in SIZES]
    lams = np.stack([np.pad(lam, (0, max(SIZES) + 1 - len(lam)), "edge") for lam in lams], 1)
    ts = np.asarray(law.t_of_lam(np.repeat(lams, 2, axis=1)))
    x = np.tile([[0.0], [1.0]], (2, 1))
    run = lambda x, ts: sample(jnp.stack([KEY] * 4), DATA.predict(law), sampler, x, ts).x
    return left(law, ts[[0, -1], 0], np.asarray(jax.jit(run)(x, ts)).reshape(2, 2))


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
    """In the limit of small steps the correlation is the SDE's, to 1 %.

    The limit is extrapolated from two step lengths; the remaining error has the method's order.
    """
    make, order = METHODS[method]
    found, truth = measured(LAWS[name], make(LAWS[name], eta)), correlation(eta)
    limit = found[1] + (found[1] - found[0]) / (2**order - 1)
    np.testing.assert_allclose(limit, truth, rtol=0.01)
    fall = np.log2(np.abs(found - truth)[0] / np.abs(found - truth)[1])
    assert abs(fall - order) < 0.15, fall


def test_restarts_are_as_strong_as_they_are_many():
    """K restarts over an interval leave the correlation of `dpm_multistep` with eta = K on it."""
    law, low, high = VP(), 0.3, 0.7
    ts = np.asarray(law.t_of_lam(-np.log(np.linspace(high, low, 41))))

    def both(x, eta):
        keys, predict = jnp.stack([KEY, KEY]), DATA.predict(law)
        way = [Restarts(low, high, eta, 40)]
        again = restart(law, heun(law), ts, way, grid=GRIDS["karras"])(keys, predict, x)
        sde = sample(keys, predict, dpm_multistep(law, 2, eta=float(eta)), x, ts)
        return again.x, sde.x

    for eta in (1, 3):
        truth = correlation(eta, np.log(high), np.log(low))
        for out in jax.jit(both, static_argnums=1)(np.array([[0.0], [1.0]]), eta):
            np.testing.assert_allclose(left(law, ts, np.asarray(out)[:, 0]), truth, rtol=1e-3)


def test_the_adaptive_sde_forgets_as_much():
    law, eta = VP(t1=0.5), 0.5
    t, s = law.t1, 0.05
    run = adaptive_sde(law, 0.05, Solver(rtol=1e-4, atol=1e-4, variable="lam"), eta=eta)
    twins = jax.jit(lambda x: run(jnp.stack([KEY, KEY]), DATA.predict(law), x).x)
    out = np.asarray(twins(np.array([[0.0], [1.0]])))
    truth = correlation(eta, *-np.asarray(law.lam(np.array([t, s]))))
    np.testing.assert_allclose(left(law, np.array([t, s]), out[:, 0]), truth, rtol=3e-3)


def test_on_a_point_one_step_of_any_length_is_exact():
    """For data at one point, one step of any length leaves the correlation `exp(-eta h)`."""
    eta = 0.7

    def run(law, x):
        predict, keys = Empirical(np.array([[0.3]])).predict(law), jnp.stack([KEY, KEY])
        t, s = (law.t_of_lam(jnp.asarray(lam)) for lam in (-1.0, 0.5))
        kept = []
        for sampler in (edm(law, eta=eta), dpm_multistep(law, 2, eta=eta)):
            out = sampler.step(keys, predict, sampler.init(x, t), Span(t, s)).x
            kept.append((out[1, 0] - out[0, 0]) * law.coeffs(t).c / law.coeffs(s).c)
        return kept

    run = for_each(LAWS, run)
    for name in LAWS:
        for kept in run(name, np.array([[0.0], [1.0]])):
            np.testing.assert_allclose(kept, np.exp(-1.5 * eta), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_eta_of_ddim_on_the_common_scale(eta):
    """DDIM's eta has the strength e with `1 - exp(-2 e h) = eta^2 (1 - exp(-2 h))` in steps h.

    Samples are equal one by one.
    """
    law, steps = VP(), 6
    ts = np.asarray(make_grid("uniform_lam", law, steps, 0.01))
    h = np.diff(law.lam(ts))[0]
    strength = -np.log1p(eta**2 * np.expm1(-2 * h)) / (2 * h)
    # The paper's churn on the same grid, and the strength that the docstring of `edm` states.
    churn = 2.0
    made = [ddim(law, eta), dpm_multistep(law, 1, eta=strength)]
    made += [edm(law, churn), edm(law, eta=np.log1p(churn / steps) / h)]
    run = jax.jit(lambda x, ts: [sample(KEY, DATA.predict(law), m, x, ts).x for m in made])
    by_ddim, by_strength, churned, same = run(np.linspace(-2.0, 2.0, 5)[:, None], ts)
    np.testing.assert_allclose(by_ddim, by_strength, rtol=1e-9)
    np.testing.assert_allclose(churned, same, rtol=1e-9)
