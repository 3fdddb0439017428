"""The deterministic samplers: orders of convergence, and figures for DDIM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian
from law_as_data import for_each
from rk4 import padded, runge_kutta
from scipy.stats import norm

from samplers import (
    PREDICTORS,
    Span,
    State,
    ddim,
    euler_maruyama,
    heun,
    make_grid,
    reverse_diffusion,
    sample,
)
from sde_lib import EDM, VE, VP, Flow, SubVP, parametrize

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
KEY = jax.random.key(0)
DATA = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
# At t = 1 the f of the straight path is singular, so its runs start a little before.
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow(t1=0.95)}
EPS = {"edm": 2e-3}

# The deterministic form of each predictor that has one, and its stated order.
ORDERS = {
    "ddim": (ddim, 1),
    "heun": (heun, 2),
    "euler_maruyama": (lambda path: euler_maruyama(path, probability_flow=True), 1),
    "reverse_diffusion": (lambda path: reverse_diffusion(path, probability_flow=True), 1),
}
STOCHASTIC_ONLY = {"ancestral"}
# Samplers whose orders are measured in files of their own.
ELSEWHERE = {
    "dpm_solver", "dpm_multistep", "adams_bashforth", "unipc", "edm", "bdia",
    "restoration_degradation", "velocity_ab", "weighted",
}  # fmt: skip


def test_every_predictor_is_here():
    assert ORDERS.keys() | STOCHASTIC_ONLY | ELSEWHERE == PREDICTORS.keys()


def even(lam, sizes):
    """Return grids even in lam between two ends, as columns of one array."""
    return padded([jnp.linspace(*lam, n + 1) for n in sizes])


def errors(ends, reference):
    """Return the RMS distance of each run `(S, B, D)`."""
    return np.sqrt(np.mean((np.asarray(ends) - reference[None]) ** 2, axis=(1, 2)))


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name):
    """The slope of log error over log step is the order, against Gaussian data's flow map.

    For a method that converges to a wrong end, the error would stop falling.
    """
    (method, order), sizes = ORDERS[name], (64, 128, 256)
    start = np.random.default_rng(0).standard_normal((6, 2))

    def run(law, x, eps):
        ts = law.t_of_lam(even(law.lam(jnp.stack([law.t1, eps])), sizes))
        ts = ts.at[0].set(law.t1)
        return jax.vmap(lambda ts: sample(KEY, DATA.predict(law), method(law), x, ts).x, in_axes=1)(
            ts
        )

    run = for_each(LAWS, run)
    for law_name, law in LAWS.items():
        x, eps = float(law.prior_std()) * start, EPS.get(law_name, 1e-3)
        found = errors(run(law_name, x, eps), DATA.flow_map(law, x, law.t1, eps))
        slope = -np.polyfit(np.log(sizes), np.log(found), 1)[0]
        assert abs(slope - order) < 0.1, (law_name, found)


def test_mixture_figures_of_ddim():
    """DDIM's RMS errors on M1, VP from 1 to 0.01, equal independently computed figures within 10 %.

    The figures halve with the step; they were computed from other starts. Heun, in the same run,
    has order 2 on this non-linear problem too.
    """
    law, sizes = VP(), (24, 48, 96, 192)
    start = norm.ppf((np.arange(400) + 0.5) / 400)[:, None]

    @jax.jit
    def runs(x):
        ts = law.t_of_lam(even(law.lam(jnp.asarray([1.0, 0.01])), sizes)).at[0].set(1.0)
        run = lambda method: jax.vmap(
            lambda ts: sample(KEY, M1.predict(law), method(law), x, ts).x, in_axes=1
        )(ts)
        return runge_kutta(law, M1, x, 0.01, 1000), run(ddim), run(heun)

    reference, first, second = jax.device_get(runs(start))
    np.testing.assert_allclose(errors(first, reference), [6.6e-2, 3.3e-2, 1.7e-2, 8.4e-3], rtol=0.1)
    *_, coarse, fine = errors(second, reference)
    assert abs(np.log2(coarse / fine) - 2.0) < 0.2


def test_rescaled_states_agree_between_laws():
    """In `y = x / a`, DDIM on a mixture gives the same states for every law on the same lam grid.

    This is the cheapest check that the laws and the sampler fit together; it holds to rounding.
    """
    y0 = np.exp(3.0) * np.random.default_rng(0).standard_normal((50, 1))

    def run(law, y):
        ts = law.t_of_lam(jnp.linspace(-3.0, 3.0, 21))
        a = law.coeffs(ts).a
        return sample(KEY, M1.predict(law), ddim(law), a[0] * y, ts).x / a[-1]

    run = for_each(LAWS, run)
    results = {name: np.asarray(run(name, y0)) for name in LAWS}
    for name, y in results.items():
        np.testing.assert_allclose(y, results["vp"], atol=1e-12, rtol=1e-11, err_msg=name)


def test_one_solver_step_with_a_time_per_example():
    """One step with a (t, s) per example, as in distillation losses, equals steps of each alone."""
    law, x = VP(), np.random.default_rng(0).standard_normal((3, 2))
    t, s = np.array([0.9, 0.5, 0.2]), np.array([0.6, 0.45, 0.01])

    @jax.jit
    def steps(x, t, s):
        found = []
        for sampler in [method(law) for method, _ in ORDERS.values()]:
            step = lambda x, t, s, f=sampler: f.step(KEY, DATA.predict(law), State(x), Span(t, s)).x
            found.append((step(x, t, s), jax.vmap(step)(x[:, None], t, s)[:, 0]))
        return found

    for together, alone in steps(x, t, s):
        np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_a_flow_from_pure_noise():
    """Under `Flow(t1=1)`, with a = 0 at t1, solvers in t end where the exact flow does.

    The exact flow gives `mean + std x` at t = 0; here it is stopped at 1e-3. Solvers that would
    give nan are refused.
    """
    law, data = Flow(t1=1.0), Gaussian.scalar(0.3, 0.5)
    ts, x = make_grid("uniform", law, 100, 1e-3), jnp.asarray([[0.5], [-1.0], [2.0]])
    predict = parametrize("velocity", law, lambda x, t: data.predict(law)(x, t).velocity)
    good = ("heun", "ddim", "bdia", "restoration_degradation", "velocity_ab", "weighted")
    make = lambda name: PREDICTORS[name](law)
    run = lambda x: {name: sample(KEY, predict, make(name), x, ts).x for name in good}
    spread = np.sqrt((0.999 * 0.5) ** 2 + 1e-6)
    for name, found in jax.jit(run)(x).items():
        np.testing.assert_allclose(found, 0.999 * 0.3 + spread * x, atol=0.02, err_msg=name)
    for name in ("dpm_solver", "dpm_multistep", "adams_bashforth", "unipc", "edm"):
        with pytest.raises(ValueError, match=r"^Flow has t1 = 1\.0, where nothing is left"):
            make(name)
    for name in ("uniform_lam", "karras"):
        with pytest.raises(ValueError, match=f"the grid '{name}' is not defined"):
            make_grid(name, law, 5, 1e-3)
