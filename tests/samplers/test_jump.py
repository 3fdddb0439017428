"""ODE-Jump: its nodes, its result, and its combination with other methods."""

from functools import partial
from itertools import pairwise

import jax
import numpy as np
import pytest
from closed_form import Gaussian

from exact.gaussian import GaussianMoments, gaussian_flow
from samplers import SampleResult, ddim, heun, sample
from samplers.around.jump import above, jump
from samplers.around.teleport import teleport
from sde_lib import EDM, VP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
KEY = jax.random.key(0)
LAW, TS = EDM(), np.array([80.0, 20.0, 5.0, 1.0, 0.1])
DATA = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
L, U = np.linalg.eigh(DATA.cov)
MODEL = GaussianMoments(DATA.mean, U[:, ::-1], L[::-1])


def by(method):
    return lambda key, predict, x, ts: sample(key, predict, method, x, ts)


def starts(n=20):
    return 80.0 * np.random.default_rng(0).standard_normal((n, 2))


@pytest.mark.parametrize(
    ("method", "sigma", "kept"),
    [(heun, 80.0, 1), (ddim, 19.0, 2), (heun, 5.0, 3), (ddim, 0.1, 5), (ddim, 0.0, 5)],
)
def test_the_answer_is_the_denoiser_at_the_last_node_kept(method, sigma, kept):
    """The result is the denoiser at the last node kept, and `nfe` counts the evaluations made."""
    calls, sampler, exact = [], method(LAW), DATA.predict(LAW)

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    run = jax.jit(lambda x: jump(by(sampler), LAW, sigma)(KEY, predict, x, TS))
    found = jax.block_until_ready(run(starts()))
    jax.effects_barrier()
    assert len(calls) == found.nfe == (kept - 1) * sampler.nfe + 1
    x = starts()
    for t, s in pairwise(TS[:kept]):
        v = exact(x, t).velocity
        if method is heun:
            v = 0.5 * (v + exact(x + (s - t) * v, s).velocity)
        # For this law, with a = 1 and c = t, DDIM is Euler's method.
        x = x + (s - t) * v
    np.testing.assert_allclose(found.x, exact(x, TS[kept - 1]).x0, rtol=1e-10)


def test_at_the_end_of_the_grid_it_is_the_usual_denoising():
    exact = DATA.predict(LAW)

    @jax.jit
    def both(x, ts):
        usual = sample(KEY, exact, ddim(LAW), x, ts, denoise=True)
        return usual, jump(by(ddim(LAW)), LAW, 0.1)(KEY, exact, x, TS)

    usual, found = both(starts(), TS)
    np.testing.assert_array_equal(found.x, usual.x)
    assert found.nfe == usual.nfe


def test_what_a_jump_costs():
    """A jump from sigma shrinks Gaussian data by `sqrt(L / (L + sigma^2))` along variance L.

    The comparison is with the exact flow on VP to sigma = 0.
    """
    law, sigmas = VP(), np.array([1.0, 0.1])
    x = starts() / 80.0
    ts = np.concatenate([np.ones(1), law.t_of_lam(-np.log(sigmas))])
    a, c = (float(v) for v in law.coeffs(np.array(1.0)))
    to = lambda key, predict, x, ts: SampleResult(
        DATA.flow_map(law, x, 1.0, ts[-1]), None, len(ts) - 1
    )
    y = (x - a * DATA.mean[None]) @ U
    for i, sigma in enumerate(sigmas):
        found = jump(to, law, sigma)(KEY, DATA.predict(law), x, ts)
        limit = np.sqrt(L / (a**2 * L + c**2))[None] * y
        truth = np.sqrt(L / (L + sigma**2))[None] * limit
        np.testing.assert_allclose((found.x - DATA.mean[None]) @ U, truth, rtol=1e-9)
        assert found.nfe == i + 2


def test_both_ends_left_out():
    """Teleported to 20 and stopped at 1, with the exact flow between, a run is the jump from 1."""
    flow = partial(gaussian_flow, LAW, MODEL)
    exact_run = lambda key, predict, x, ts: sample(key, predict, ddim(LAW), x, ts)._replace(
        x=DATA.flow_map(LAW, x, ts[0], ts[-1])
    )
    run = teleport(flow, jump(exact_run, LAW, 1.0), LAW, TS, 20.0)
    found = jax.jit(lambda x: run(KEY, DATA.predict(LAW), x))(starts())
    state = DATA.flow_map(LAW, starts(), 80.0, 1.0)
    truth = DATA.predict(LAW)(state, 1.0).x0
    np.testing.assert_allclose(found.x, truth, rtol=1e-10)
    assert found.nfe == 2 + 1


def test_refusals():
    with pytest.raises(ValueError, match="starts at c / a = 80;"):
        above(LAW, TS, 81.0)
    with pytest.raises(ValueError, match="sigma is nan"):
        above(LAW, TS, float("nan"))
    with pytest.raises(ValueError, match="one grid for all"):
        above(LAW, np.ones((3, 2)), 1.0)
