"""Langevin correctors keep the law of x_t, and pull other samples towards it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian, Mixture, w2
from law_as_data import for_each

from samplers import (
    CORRECTORS,
    Span,
    State,
    ancestral,
    annealed_langevin,
    langevin,
    predictor_corrector,
    reverse_diffusion,
    sample,
)
from samplers.released import score_sde_steps
from sde_lib import VE, VP
from sde_lib.prediction import Prediction

# Loops of many steps over many dimensions run longer than they compile.
pytestmark = pytest.mark.optimised
KEY = jax.random.key(0)
LAWS = {"vp": VP(), "ve": VE()}
# Many dimensions, because in one dimension the norm of one example's score is a poor step size.
DIMS = 64
CLOUDS = Mixture(
    np.array([0.4, 0.6]),
    np.stack([-np.ones(DIMS), 0.5 * np.ones(DIMS)]),
    np.array([0.35, 0.5]),
)


def at_level(law, data, t, n):
    """Return n exact draws of x_t."""
    rng = np.random.default_rng(0)
    a, c = (float(v) for v in law.coeffs(jnp.asarray(t)))
    x0 = data.draw(rng, n)
    return np.float32(a * x0 + c * rng.standard_normal(x0.shape))


def repeat(sampler, predict, x, t, times):
    """Apply the corrector alone, several times at one noise level."""

    def body(i, x):
        return sampler.step(jax.random.fold_in(KEY, i), predict, State(x), Span(t, t)).x

    return jax.lax.fori_loop(0, times, body, x)


# Relative excess of the variance that a corrector keeps, besides O(e). A step size that depends on
# x keeps `p |score|^2` instead of p, whose variance for a Gaussian is 2 / D too large.
KEEPERS = {
    "ald": (annealed_langevin, 0.0),
    "langevin batch": (lambda law, snr: langevin(law, snr, norm="batch"), 0.0),
    "langevin example": (langevin, 2 / DIMS),
}


def test_every_corrector_is_here():
    assert {name.split()[0] for name in KEEPERS} == CORRECTORS.keys()


@pytest.mark.parametrize("name", KEEPERS)
def test_keeps_the_law_it_starts_in(name):
    """40 steps of a 200th of the variance keep the moments within four standard errors and O(e)."""
    t, n, snr = np.float32(0.45), 2000, 0.05
    make, excess = KEEPERS[name]
    run = lambda law, x, t: repeat(make(law, snr), CLOUDS.predict(law), x, t, 40)
    run = for_each(LAWS, run)
    for law_name, law in LAWS.items():
        x = at_level(law, CLOUDS, t, n)
        out = np.asarray(run(law_name, x, t))
        mean, cov = CLOUDS.moments(law, t)
        a, c = (float(v) for v in law.coeffs(jnp.asarray(t)))
        # The mean over dimensions differs between the two clouds; the rest is their spread.
        spread = a**2 * (CLOUDS.weights @ CLOUDS.stds**2) + c**2
        for y, limit in ((x, 0.005), (out, 0.01 + excess)):
            y = np.asarray(y, np.float64)
            centre = y.mean(1, keepdims=True)
            assert abs(centre.mean() - mean.mean()) < 4 * np.sqrt(cov.sum() / n) / DIMS
            assert abs(np.mean((y - centre) ** 2) * DIMS / (DIMS - 1) / spread - 1.0) < limit
        assert np.sqrt(np.mean((out - x) ** 2)) > 0.2 * spread**0.5


def test_norms_per_example_keep_the_law_times_the_squared_score():
    """With norms per example the stationary law is `p |score|^2`.

    For N(0, I) in 8 dimensions, |x|^2 has mean D + 2 under it, instead of D.
    """
    dims, n = 8, 4000
    x = np.float32(np.random.default_rng(0).standard_normal((n, dims)))
    law, t = VP(), np.float32(0.5)
    predict = Gaussian.scalar(0.0, 1.0, dims).predict(law)
    out = jax.jit(lambda x: repeat(langevin(law, 0.1), predict, x, t, 400))(x)
    square = np.sum(np.asarray(out, np.float64) ** 2, axis=1)
    # O(e): the Euler step itself adds half of e = 2 snr^2 to the variance.
    expected = (dims + 2) * (1 + 0.01)
    assert abs(square.mean() - expected) < 4 * square.std() / n**0.5 + 0.005 * dims


@pytest.mark.parametrize("name", CORRECTORS)
def test_pulls_towards_the_law(name):
    """From a wrong mean and spread, the W2 distance falls to less than 5 %."""
    law, t, n = VE(), np.float32(0.6), 500
    data = Gaussian.scalar(0.5, 0.7, DIMS)
    mean, cov = data.moments(law, t)
    x = np.float32(np.random.default_rng(0).normal(5.0, 4.0, (n, DIMS)))
    sampler, predict = CORRECTORS[name](law, 0.16), data.predict(law)
    run = jax.jit(lambda x, times: repeat(sampler, predict, x, t, times))
    distances = []
    for times in (0, 50, 400):
        y = np.asarray(run(x, times), np.float64)
        ours = (np.full(DIMS, y.mean()), np.eye(DIMS) * y.var(0).mean())
        distances.append(w2(*ours, mean, cov) / DIMS**0.5)
    assert distances[0] > 4.0
    assert distances[1] < 0.9 * distances[0]
    assert distances[2] < 0.05 * distances[0]


def test_one_small_step_has_the_stated_drift_and_noise():
    """One step is `x + e g + sqrt(2 e) z`: over draws its mean is `e g`, its variance `2 e`."""
    law, n, snr, (t, s) = VP(), 4000, 0.1, np.float32([0.5, 0.4])
    x = np.tile(np.linspace(-1.0, 2.0, DIMS, dtype=np.float32)[None], (n, 1))
    predict = Gaussian.scalar(0.5, 0.7, DIMS).predict(law)
    cases = [(name, at) for name in CORRECTORS for at in ("end", "start")]

    @jax.jit
    def steps(x, t, s):
        made = [CORRECTORS[name](law, snr, at=at) for name, at in cases]
        return [sampler.step(KEY, predict, State(x), Span(t, s)).x for sampler in made]

    a, c = (np.asarray(v, np.float64) for v in law.coeffs(np.array([t, s])))
    (a_t, a_s), (c_t, c_s) = a, c
    for (name, at), out in zip(cases, steps(x, t, s)):
        moved = np.asarray(out, np.float64) - x
        g = np.float64(predict(x[:1], s if at == "end" else t).score[0])
        # The squared ratio of the norms of noise and score, or the squared noise level.
        size = {"langevin": DIMS / np.sum(g**2), "ald": (c_s if at == "end" else c_t) ** 2}
        e = 2 * (a_t / a_s) ** 2 * snr**2 * size[name]
        z = (moved.mean(0) - e * g) / np.sqrt(2 * e / n)
        assert np.all(abs(z) < 4.5)
        assert abs(moved.var(0).mean() / (2 * e) - 1) < 4 * np.sqrt(2 / (n * DIMS))


def test_batch_norms_couple_the_examples_and_example_norms_do_not():
    law, t = VE(), np.float32(0.4)
    x = at_level(law, CLOUDS, 0.4, 8)
    others = np.concatenate([x[:1], np.float32(3.0) * x[1:]])

    @jax.jit
    def steps(x):
        keys, predict = jax.random.split(KEY, 8), CLOUDS.predict(law)
        made = [langevin(law, 0.1, norm=norm) for norm in ("example", "batch")]
        return [sampler.step(keys, predict, State(x), Span(t, t)).x[0] for sampler in made]

    by_example, by_batch = np.abs(np.asarray(steps(others)) - np.asarray(steps(x))).max(-1)
    assert by_example < 1e-6 and by_batch > 1e-3


def test_predictor_with_corrector_beats_predictor_alone_at_few_steps():
    """On M1 with 20 steps, the corrector lowers the predictor's W2 distance to the data.

    This also holds for the noise-free predictor, where the corrector is the only source of noise.
    The corrector is annealed Langevin, which suits one dimension (see above).
    """
    law, n, eps = VP(), 10_000, 1e-3
    truth = np.sort(at_level(law, M1, eps, n)[:, 0])
    ts = np.linspace(1.0, eps, 21, dtype=np.float32)
    corrector = annealed_langevin(law, 0.3, n_steps=2)
    predictors = reverse_diffusion(law), reverse_diffusion(law, probability_flow=True)
    pairs = [(None, corrector)] + [(p, c) for p in predictors for c in (None, corrector)]

    @jax.jit
    def runs(x):
        made = [predictor_corrector(*pair) for pair in pairs]
        return [sample(KEY, M1.predict(law), sampler, x, ts).x[:, 0] for sampler in made]

    ends = np.sort(runs(np.float32(np.random.default_rng(1).standard_normal((n, 1)))), axis=1)
    only, *rest = np.sqrt(np.mean((ends - truth[None]) ** 2, axis=1))
    for alone, corrected in (rest[:2], rest[2:]):
        assert corrected < 0.8 * alone
        assert only > corrected


def test_either_part_may_be_missing():
    """Without predictor or corrector, the sampler is the other part, with its evaluations."""
    law, x = VP(), np.ones((5, 1), np.float32)
    only = predictor_corrector(ancestral(law), None)
    assert only.nfe == 1 and predictor_corrector(None, langevin(law, 0.1, 3)).nfe == 3
    ts = np.linspace(1.0, 0.1, 4, dtype=np.float32)
    run = lambda x: sample(KEY, M1.predict(law), only, x, ts).x
    assert jax.eval_shape(run, x).shape == x.shape


def test_where_the_score_is_zero_nothing_moves():
    """Where the score is zero, as for an untrained network, a Langevin step changes nothing.

    The score is zero for all examples, or for the first of two. The second has a score of norm 8,
    so `e = 2 (0.1 sqrt(64) / 8)^2`; with the batch's mean norm, 4, e is four times as large.
    """
    law, x, t = VE(), jnp.zeros((2, DIMS)), jnp.asarray(0.5)
    original = score_sde_steps.langevin

    @jax.jit
    def moved(some):
        score = jnp.ones((2, DIMS)).at[0].set(0.0) * some
        predict = lambda x, t: Prediction(None, None, score, None)
        theirs = lambda norm: original(law, 1000, 0.1, 1, norm)(KEY, lambda x, t: score, x, t)
        ours = lambda norm: langevin(law, 0.1, 1, norm).step(KEY, predict, State(x), Span(t, t)).x
        return [f(norm) for norm in ("example", "batch") for f in (ours, theirs)]

    for found in moved(0.0):
        np.testing.assert_array_equal(found, x)
    for found in moved(1.0)[:2]:
        np.testing.assert_array_equal(found[0], x[0])
        # The change e score + sqrt(2 e) z has the mean square e^2 + 2 e = 0.0404.
        assert 0.02 < float(jnp.mean(found[1] ** 2)) < 0.07
