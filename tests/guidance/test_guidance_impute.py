"""Imputation of correlated Gaussian data, whose conditional is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian

from guidance import fill, impute, repaint
from guidance.operators import downsample, greyscale, mask
from samplers import CORRECTORS, PREDICTORS, chain, make_grid, sample
from samplers.base import begin
from sde_lib import EDM, VE, VP, Flow, SubVP, example_keys

LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "flow": Flow()}
DATA = Gaussian(np.array([0.5, -0.2]), np.array([[1.0, 0.8], [0.8, 1.0]]))
Y = 1.6
# The second coordinate given the first.
MEAN = -0.2 + 0.8 * (Y - 0.5)
VARIANCE = 1.0 - 0.8**2
FIRST = mask((2,), np.array([1, 0]))
N = 20_000
KEYS = example_keys(3, jnp.arange(N))


def parts(path, correct):
    """A predictor and steps of a corrector, each to be wrapped."""
    langevin = CORRECTORS["langevin"](path, 0.2, 1, "batch", "end")
    return [PREDICTORS["reverse_diffusion"](path), *[langevin] * correct]


def run(path, steps, correct=0, repeats=1, **options):
    """Samples of the second coordinate, and the result."""
    ts = make_grid("uniform", path, steps, 1e-3)
    y = jnp.array([Y])
    method = impute(path, FIRST, y, *parts(path, correct))
    predict, x = DATA.predict(path), path.prior_sample(KEYS, (N, 2))
    if repeats > 1:
        call = lambda: repaint(KEYS, path, predict, method, x, ts, repeats=repeats, **options)
    else:
        call = lambda: sample(KEYS, predict, method, x, ts, **options)
    result = jax.jit(call)()
    return np.asarray(result.x[:, 1], np.float64), result


def bias(x):
    """Of the mean, in conditional standard deviations, and its standard error."""
    return (x.mean() - MEAN) / VARIANCE**0.5, N**-0.5


def test_the_bias_falls_with_steps_and_correctors():
    """What is known pulls too weakly at high noise, which a corrector forgets and no predictor."""
    few, more, fine, alone = (
        bias(run(VP(), steps, correct)[0])[0]
        for steps, correct in ((30, 1), (30, 4), (120, 4), (240, 0))
    )
    assert few < -0.4 and alone < -0.5
    assert few < 2 * more < -0.3
    assert abs(fine) < 0.04


@pytest.mark.parametrize("law", ["ve", "subvp", "flow"])
def test_other_laws(law):
    found, result = run(LAWS[law], 120, 4)
    assert abs(bias(found)[0]) < 0.05
    assert found.var() == pytest.approx(VARIANCE, rel=0.1)
    assert result.nfe == 600


def test_the_bias_falls_with_time_travel():
    once, often = (bias(run(VP(), 60, repeats=k)[0])[0] for k in (1, 10))
    assert once < -0.5 and -0.12 < often < -0.04


def test_time_travel_alone_changes_nothing():
    """Unguided, with steps that are fine enough: the law of the data, as without."""
    path = VP()
    ts = make_grid("uniform", path, 200, 1e-3)
    x = path.prior_sample(KEYS, (N, 2))
    method = PREDICTORS["reverse_diffusion"](path)
    run = lambda: repaint(KEYS, path, DATA.predict(path), method, x, ts, jump=10, repeats=3)
    result = jax.jit(run)()
    np.testing.assert_allclose(result.x.mean(axis=0), DATA.mean, atol=4 * N**-0.5)
    np.testing.assert_allclose(np.cov(result.x.T), DATA.cov, atol=0.05)
    assert result.nfe == 600


def test_what_is_known_is_a_draw_of_its_law():
    """At every node: `N(a y, c^2)` of the known coordinate, the prior's own at the start too."""
    path, y = VE(), jnp.array([Y])
    method = impute(path, FIRST, y, PREDICTORS["reverse_diffusion"](path))
    t1 = jnp.asarray(path.t1)
    x = method.enter(path.prior_sample(KEYS, (N, 2)), t1)
    predict = DATA.predict(path)
    for s in (t1, 0.5, 0.1):
        state = (
            method.step(KEYS, predict, method.init(x, t1), t1, jnp.asarray(s)) if s != t1 else None
        )
        known = np.asarray(state.x[:, 0] if state else x[:, 0], np.float64)
        a, _, c = (float(v) for v in path.coeffs(jnp.asarray(s)))
        assert known.mean() == pytest.approx(a * Y, abs=4 * c * N**-0.5)
        assert known.std() == pytest.approx(c, rel=0.03)


def test_it_ends_with_the_mean_of_what_is_not_known():
    """The last denoising acts on the unknown, and `fill` puts back the known as it was."""
    path, y, exact = VP(), jnp.array([Y]), DATA.predict(VP())
    ts, x = make_grid("uniform", path, 30, 0.1), path.prior_sample(KEYS, (N, 2))
    method = impute(path, FIRST, y, PREDICTORS["reverse_diffusion"](path))
    noisy, clean = (sample(KEYS, exact, method, x, ts, denoise=d) for d in (False, True))
    np.testing.assert_allclose(clean.x, exact(noisy.x, ts[-1]).x0, rtol=1e-5, atol=1e-6)
    assert (clean.nfe, noisy.nfe) == (31, 30)
    filled = fill(FIRST, y, clean.x)
    np.testing.assert_array_equal(filled[:, 0], np.float32(Y))
    np.testing.assert_array_equal(filled[:, 1], clean.x[:, 1])


def test_a_measurement_for_each_example():
    path = VP()
    ys = jnp.linspace(-2.0, 2.0, 4)[:, None]
    method = impute(path, FIRST, ys, PREDICTORS["ancestral"](path))
    ts = make_grid("uniform", path, 30, 1e-3)
    keys = example_keys(0, jnp.arange(4))
    x = path.prior_sample(keys, (4, 2))
    predict = DATA.predict(path)
    together = fill(FIRST, ys, sample(keys, predict, method, x, ts).x)
    np.testing.assert_allclose(together[:, 0], ys[:, 0], rtol=1e-6)
    alone = impute(path, FIRST, ys[2], PREDICTORS["ancestral"](path))
    one = sample(keys[2:3], predict, alone, x[2:3], ts).x
    np.testing.assert_allclose(fill(FIRST, ys[2], one)[0], together[2], rtol=2e-5)


def test_colouring():
    """The grey value of each pixel is kept, and the colour is sampled: a basis and not a mask."""
    path, shape = VP(), (2, 2, 3)
    operator = greyscale(shape)
    rng = np.random.default_rng(0)
    grey = jnp.asarray(rng.normal(size=4), jnp.float32)
    cov = 0.3 * np.eye(12)
    cov[::3, 1::3] = cov[1::3, ::3] = 0.1
    data = Gaussian(rng.normal(size=12), cov)
    method = impute(path, operator, grey, PREDICTORS["reverse_diffusion"](path))
    keys = example_keys(0, jnp.arange(50))
    ts = make_grid("uniform", path, 40, 1e-3)
    x = path.prior_sample(keys, (50, *shape))
    x = fill(operator, grey, sample(keys, data.predict(path), method, x, ts, denoise=True).x)
    np.testing.assert_allclose(
        x.sum(axis=-1).reshape(50, 4) / 3**0.5, np.broadcast_to(grey, (50, 4)), atol=2e-6
    )
    assert np.std(np.asarray(x)[..., 0], axis=0).min() > 0.1


def test_the_start_is_completed_once_by_the_whole_of_a_step():
    """At sigma = 1 the known coordinate of a draw 0 of the prior is y, whatever follows in a
    step; the network is not shown twice of it where noise takes the run back."""
    path, y = EDM(t1=1.0), jnp.array([Y])
    x, t1 = jnp.zeros((1, 2)), jnp.asarray(1.0)
    for correct in (0, 2):
        method = impute(path, FIRST, y, *parts(path, correct))
        first = begin(method, x, t1)
        np.testing.assert_allclose(first.x, [[Y, 0.0]], rtol=1e-6)
        np.testing.assert_array_equal(method.init(first.x, t1).x, first.x)
    again = impute(path, FIRST, y, PREDICTORS["ancestral"](path))
    with pytest.raises(ValueError, match="2 methods of a chain complete its start"):
        chain(again, again)


def test_bad_input():
    path, method = VP(), PREDICTORS["ancestral"](VP())
    with pytest.raises(ValueError, match="'downsample' has rows that are not orthonormal"):
        impute(path, downsample((4, 4, 1), 2), jnp.zeros((2, 2, 1)), method)
    with pytest.raises(ValueError, match="measurement has shape"):
        impute(path, FIRST, jnp.zeros(3), method)
    ts, x = make_grid("uniform", path, 10, 1e-3), jnp.zeros((1, 2))
    for options, sentence in (
        ({"jump": 3}, "jump is 3; it must divide"),
        ({"repeats": 0}, "repeats is 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            repaint(jax.random.key(0), path, DATA.predict(path), method, x, ts, **options)
