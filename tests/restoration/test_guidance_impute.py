"""Imputation of correlated Gaussian data, whose conditional law is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian

from operators import downsample, greyscale, mask
from restoration import fill, impute, repaint
from samplers import CORRECTORS, PREDICTORS, Sampler, Span, chain, make_grid, sample
from samplers.base import State, begin, start
from sde_lib import EDM, VE, VP, Flow, SubVP, example_keys, fold_in

LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "flow": Flow()}
DATA = Gaussian(np.array([0.5, -0.2]), np.array([[1.0, 0.8], [0.8, 1.0]]))
Y = 1.6
# Mean and variance of the second coordinate given the first.
MEAN = -0.2 + 0.8 * (Y - 0.5)
VARIANCE = 1.0 - 0.8**2
FIRST = mask((2,), np.array([1, 0]))
N = 8000
KEY = jax.random.key(3)


def starts(path):
    """Return draws of the prior; they differ between laws only by their scale."""
    z = np.random.default_rng(0).standard_normal((N, 2))
    return (float(path.prior_std()) * z).astype(np.float32)


def repeated(sampler, times):
    """Return a sampler that applies the method `times` times in each step, as a loop."""

    def step(key, predict, state, span):
        again = lambda i, state: sampler.step(fold_in(key, i), predict, state, span)
        return jax.lax.fori_loop(0, times, again, state)

    return Sampler(sampler.init, step, times * sampler.nfe)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def run(path, x, correct, steps, repeats=1):
    """Return samples and the number of evaluations.

    Each step has a predictor and `correct` steps of a corrector, each wrapped by `impute`.
    """
    ts = make_grid("uniform", path, steps, 1e-3)
    predictor, predict = PREDICTORS["reverse_diffusion"](path), DATA.predict(path)
    corrector = CORRECTORS["langevin"](path, 0.2, 1, "batch", "end")
    method, given = (impute(path, FIRST, jnp.array([Y]), v) for v in (predictor, corrector))
    if repeats > 1:
        result = repaint(KEY, path, predict, method, x, ts, repeats=repeats)
    else:
        result = sample(KEY, predict, chain(method, repeated(given, correct)), x, ts)
    return result.x, result.nfe


def bias(path, *options):
    """Return the bias of the second coordinate's mean, in conditional standard deviations.

    Its standard error is 0.011.
    """
    x = np.asarray(run(path, starts(path), *options)[0], np.float64)[:, 1]
    return (x.mean() - MEAN) / VARIANCE**0.5


@pytest.mark.optimised
def test_the_bias_falls_with_steps_and_correctors():
    """The bias of imputation falls with steps and correctors.

    At high noise the known part has too little effect on the rest. A corrector removes this bias, a
    predictor does not.
    """
    few, more, fine, alone = (
        bias(VP(), correct, steps) for correct, steps in ((1, 30), (4, 30), (4, 120), (0, 120))
    )
    assert few < -0.4 and alone < -0.5
    assert few < 2 * more < -0.3
    assert abs(fine) < 0.04


@pytest.mark.optimised
@pytest.mark.parametrize("law", ["ve", "subvp", "flow"])
def test_other_laws(law):
    x, nfe = jax.device_get(run(LAWS[law], starts(LAWS[law]), 4, 120))
    found = x[:, 1].astype(np.float64)
    assert abs(found.mean() - MEAN) < 0.05 * VARIANCE**0.5
    assert found.var() == pytest.approx(VARIANCE, rel=0.1)
    assert nfe == 600


@pytest.mark.optimised
def test_the_bias_falls_with_time_travel():
    once, often = (bias(VP(), 0, 60, repeats) for repeats in (1, 10))
    assert once < -0.5 and -0.12 < often < -0.04


@pytest.mark.optimised
def test_time_travel_alone_changes_nothing():
    """Without a guide and with fine steps, time travel keeps the law of the data."""
    path = VP()
    ts = make_grid("uniform", path, 200, 1e-3)
    method, predict = PREDICTORS["reverse_diffusion"](path), DATA.predict(path)
    run = lambda x: repaint(KEY, path, predict, method, x, ts, jump=10, repeats=3)
    result = jax.device_get(jax.jit(run)(starts(path)))
    np.testing.assert_allclose(result.x.mean(axis=0), DATA.mean, atol=4 * N**-0.5)
    np.testing.assert_allclose(np.cov(result.x.T), DATA.cov, atol=0.05)
    assert result.nfe == 600


def test_a_block_goes_back_once_for_each_repeat():
    """Each of two blocks goes back twice for three repeats; one repeat equals `sample`.

    The method subtracts 1 in each step and adds no noise: 12 steps are made. Under EDM noise from s
    to t has the variance `t^2 - s^2`, so the returns add `2 (1 - 0.2^2)` in all.
    """
    law, x, ts = EDM(t1=1.0), jnp.zeros((20_000, 1)), jnp.linspace(1.0, 0.2, 5)
    less = Sampler(start, lambda key, predict, state, span: State(state.x - 1.0), 1)
    draw = lambda key, predict, state, span: State(state.x + law.noise(key, state.x))
    noisy = Sampler(start, draw, 1)

    @jax.jit
    def run(x):
        once = repaint(KEY, law, None, noisy, x, ts, repeats=1), sample(KEY, None, noisy, x, ts)
        return repaint(KEY, law, None, less, x, ts, jump=2, repeats=3), once

    found, once = run(x)
    assert found.nfe == 12 and jnp.mean(found.x) == pytest.approx(-12.0, abs=0.04)
    # The standard error of the variance is 1 %.
    assert jnp.var(found.x) == pytest.approx(2 * 0.96, rel=0.04)
    np.testing.assert_array_equal(*(result.x for result in once))


def test_what_is_known_is_a_draw_of_its_law():
    """The known coordinate has the law `N(a y, c^2)` at every node, also at the start."""
    path, y = VE(), np.array([Y])
    method = impute(path, FIRST, y, PREDICTORS["reverse_diffusion"](path))
    predict, t1 = DATA.predict(path), path.t1

    @jax.jit
    def run(x, s):
        state = begin(method, x, t1)
        return state.x[:, 0], method.step(KEY, predict, state, Span(t1, s)).x[:, 0]

    (start, late), (_, early) = (run(starts(path), s) for s in (0.5, 0.1))
    for s, known in ((t1, start), (0.5, late), (0.1, early)):
        known = np.asarray(known, np.float64)
        a, c = (float(v) for v in path.coeffs(s))
        assert known.mean() == pytest.approx(a * Y, abs=4 * c * N**-0.5)
        assert known.std() == pytest.approx(c, rel=0.03)


def test_it_ends_with_the_mean_of_what_is_not_known():
    """The last denoising gives the mean of the unknown part; `fill` puts the known part back."""
    path, y, exact = VP(), np.array([Y]), DATA.predict(VP())
    ts = make_grid("uniform", path, 30, 0.1)
    method = impute(path, FIRST, y, PREDICTORS["reverse_diffusion"](path))

    @jax.jit
    def run(x):
        noisy, clean = (sample(KEY, exact, method, x, ts, denoise=d) for d in (False, True))
        return noisy, clean, fill(FIRST, y, clean.x)

    noisy, clean, filled = jax.device_get(run(starts(path)[:50]))
    np.testing.assert_allclose(clean.x, exact(noisy.x, 0.1).x0, rtol=1e-5, atol=1e-6)
    assert (clean.nfe, noisy.nfe) == (31, 30)
    np.testing.assert_array_equal(filled[:, 0], np.float32(Y))
    np.testing.assert_array_equal(filled[:, 1], clean.x[:, 1])


def test_a_measurement_for_each_example():
    """With one measurement per example, each example gives the same as alone or beside others."""
    path, ys = VP(), np.linspace(-2.0, 2.0, 4, dtype=np.float32)[:, None]
    ts, predict = make_grid("uniform", path, 30, 1e-3), DATA.predict(path)

    @jax.jit
    def run(numbers, x, y):
        method = impute(path, FIRST, y, PREDICTORS["ancestral"](path))
        return fill(FIRST, y, sample(example_keys(0, numbers), predict, method, x, ts).x)

    x, rows = starts(path)[:4], np.array([2, 2, 3, 0])
    together, others = (np.asarray(run(i, x[i], ys[i])) for i in (np.arange(4), rows))
    np.testing.assert_allclose(together[:, 0], ys[:, 0], rtol=1e-6)
    np.testing.assert_allclose(others, together[rows], rtol=2e-5)
    alone = run(rows[:1], x[2:3], ys[2])
    np.testing.assert_allclose(alone[0], together[2], rtol=2e-5)


def test_colouring():
    """Colouring keeps each pixel's grey value and samples its colour; this operator is no mask."""
    path, shape = VP(), (2, 2, 3)
    operator = greyscale(shape)
    rng = np.random.default_rng(0)
    grey = rng.normal(size=4).astype(np.float32)
    cov = 0.3 * np.eye(12)
    cov[::3, 1::3] = cov[1::3, ::3] = 0.1
    data = Gaussian(rng.normal(size=12), cov)
    method = impute(path, operator, grey, PREDICTORS["reverse_diffusion"](path))
    ts = make_grid("uniform", path, 30, 1e-3)

    @jax.jit
    def run(x):
        x = sample(KEY, data.predict(path), method, x, ts, denoise=True).x
        return fill(operator, grey, x)

    x = np.asarray(run(rng.standard_normal((50, *shape))))
    np.testing.assert_allclose(
        x.sum(axis=-1).reshape(50, 4) / 3**0.5, np.broadcast_to(grey, (50, 4)), atol=2e-6
    )
    assert np.std(x[..., 0], axis=0).min() > 0.1


def test_the_start_is_completed_once_by_the_whole_of_a_step():
    """The start gets its known coordinate once, also if a step has several parts.

    At sigma = 1 the known coordinate of the prior's draw 0 becomes y. `init` does not add y again,
    as it would matter where noise takes the run back.
    """
    path, y = EDM(t1=1.0), jnp.array([Y])
    x, t1 = jnp.zeros((1, 2)), jnp.asarray(1.0)
    parts = [PREDICTORS["ancestral"](path), *[CORRECTORS["langevin"](path)] * 2]
    for some in (parts[:1], parts):
        method = impute(path, FIRST, y, *some)
        first = begin(method, x, t1)
        np.testing.assert_allclose(first.x, [[Y, 0.0]], rtol=1e-6)
        np.testing.assert_array_equal(method.init(first.x, t1).x, first.x)
    again = impute(path, FIRST, y, PREDICTORS["ancestral"](path))
    with pytest.raises(ValueError, match="2 methods of a chain complete its start"):
        chain(again, again)


def test_bad_input():
    path, method = VP(), PREDICTORS["ancestral"](VP())
    with pytest.raises(ValueError, match="'downsample' has rows that are not orthonormal"):
        impute(path, downsample((4, 4, 1), 2), np.zeros((2, 2, 1)), method)
    with pytest.raises(ValueError, match="measurement has shape"):
        impute(path, FIRST, np.zeros(3), method)
    ts, x = np.linspace(1.0, 1e-3, 11), np.zeros((1, 2))
    for options, sentence in (
        ({"jump": 3}, "jump is 3; it must divide"),
        ({"repeats": 0}, "repeats is 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            repaint(KEY, path, DATA.predict(path), method, x, ts, **options)
