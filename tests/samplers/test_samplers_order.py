"""The deterministic samplers: order of convergence, and the published figures for DDIM."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian
from rk4 import errors, runge_kutta

from samplers import (
    PREDICTORS,
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
# The straight path ends in a point at t = 1, where f is singular: from a little before.
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow(t1=0.95)}
EPS = {"edm": 2e-3}

# The deterministic form of each predictor that has one, and the order it claims.
ORDERS = {
    "ddim": (ddim, 1),
    "heun": (heun, 2),
    "euler_maruyama": (lambda path: euler_maruyama(path, probability_flow=True), 1),
    "reverse_diffusion": (lambda path: reverse_diffusion(path, probability_flow=True), 1),
}
STOCHASTIC_ONLY = {"ancestral"}
# Whose orders are measured in files of their own.
ELSEWHERE = {
    "dpm_solver", "dpm_multistep", "adams_bashforth", "unipc", "edm", "bdia", "restoration",
    "velocity_ab",
}  # fmt: skip


def test_every_predictor_is_here():
    assert ORDERS.keys() | STOCHASTIC_ONLY | ELSEWHERE == PREDICTORS.keys()


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("law_name", LAWS)
def test_order_of_convergence(name, law_name):
    """Against the closed flow map of Gaussian data: the slope of log error over log step.

    A method that converged to a wrong place would have an error that stops falling.
    """
    (method, order), law = ORDERS[name], LAWS[law_name]
    eps, sizes = EPS.get(law_name, 1e-3), (64, 128, 256)
    start = law.prior_std() * jnp.asarray(np.random.default_rng(0).standard_normal((6, 2)))
    reference = DATA.flow_map(law, start, law.t1, eps)
    found = errors(law, DATA, method, sizes, eps, start, reference)
    slope = -np.polyfit(np.log(sizes), np.log(found), 1)[0]
    assert abs(slope - order) < 0.1, found


def test_mixture_figures_of_ddim():
    """VP from 1 to 0.01 on the mixture M1, 2000 normal starts: figures computed elsewhere.

    They halve with the step; within 10 %, for the starts are other ones. Heun, in the same run, is
    of order 2 on this non-linear problem too.
    """
    law, sizes = VP(), (24, 48, 96, 192)
    start = jnp.asarray(np.random.default_rng(0).standard_normal((2000, 1)))
    reference = jax.jit(lambda x: runge_kutta(law, M1, x, 0.01, 1000))(start)
    found = errors(law, M1, ddim, sizes, 0.01, start, reference)
    np.testing.assert_allclose(found, [6.6e-2, 3.3e-2, 1.7e-2, 8.4e-3], rtol=0.1)
    second = errors(law, M1, heun, sizes[2:], 0.01, start, reference)
    assert abs(np.log2(second[0] / second[1]) - 2.0) < 0.2


def test_rescaled_states_agree_between_laws():
    """In `y = x / a` DDIM on matched lam grids is the same computation for every law.

    The cheapest check that the laws and the sampler fit together: to round-off, on a mixture.
    """
    lam = jnp.linspace(-3.0, 3.0, 21)
    y0 = np.exp(3.0) * jnp.asarray(np.random.default_rng(0).standard_normal((50, 1)))
    results = {}
    for name, law in LAWS.items():
        ts = law.t_of_lam(lam)
        a, predict, sampler = law.coeffs(ts).a, M1.predict(law), ddim(law)
        run = jax.jit(lambda x, p=predict, m=sampler, ts=ts: sample(KEY, p, m, x, ts).x)
        results[name] = run(a[0] * y0) / a[-1]
    for name, y in results.items():
        np.testing.assert_allclose(y, results["vp"], atol=1e-12, rtol=1e-11, err_msg=name)


def test_one_solver_step_with_a_time_per_example():
    """As a distillation loss takes it: each example at its own (t, s), like each alone."""
    law = VP()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    t, s = jnp.asarray([0.9, 0.5, 0.2]), jnp.asarray([0.6, 0.45, 0.01])
    for method, _ in ORDERS.values():
        sampler, predict = method(law), DATA.predict(law)
        step = jax.jit(lambda x, t, s, f=sampler, p=predict: f.step(KEY, p, State(x), t, s).x)
        together = step(x, t, s)
        for i in range(3):
            np.testing.assert_allclose(together[i], step(x[i : i + 1], t[i], s[i])[0], rtol=1e-12)


def test_a_flow_from_pure_noise():
    """`Flow(t1=1)`, a = 0: solvers in t end where the exact flow does, `mean + std x` at t = 0 and
    here at 1e-3, and those that would be nan there are refused."""
    law, data = Flow(t1=1.0), Gaussian.scalar(0.3, 0.5)
    ts, x = make_grid("uniform", law, 100, 1e-3), jnp.asarray([[0.5], [-1.0], [2.0]])
    predict = parametrize("velocity", law, lambda x, t: data.predict(law)(x, t).velocity)
    good = ("heun", "ddim", "bdia", "restoration", "velocity_ab")
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
