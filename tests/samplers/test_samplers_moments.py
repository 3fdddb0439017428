"""The stochastic samplers on one-dimensional Gaussian data, where mean and variance are known.

They are compared with an independent recursion (recursion.py). At ten steps, an index wrong by one
or a wrong factor would show.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from flax import struct
from law_as_data import for_each
from recursion import (
    EPS,
    MEAN,
    SNR,
    STD,
    Level,
    ald_size,
    data_moments,
    langevin_size,
    recursion,
    step_ddim,
    step_euler_maruyama,
    step_forward_variance,
    step_posterior,
    step_reverse_diffusion,
)

from editing import regional
from samplers import (
    CORRECTORS,
    PREDICTORS,
    Span,
    State,
    ancestral,
    annealed_langevin,
    ddim,
    euler_maruyama,
    langevin,
    predictor_corrector,
    reverse_diffusion,
    sample,
)
from sde_lib import VE, VP, SubVP
from sde_lib.prediction import Prediction

# Optimised programs draw millions of random numbers several times faster.
pytestmark = pytest.mark.optimised
KEY = jax.random.key(0)
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE()}

PREDICTOR_CASES = {
    "euler_maruyama": (euler_maruyama, step_euler_maruyama),
    "reverse_diffusion": (reverse_diffusion, step_reverse_diffusion),
    "ancestral": (ancestral, step_posterior),
    "ancestral forward": (lambda path: ancestral(path, "forward"), step_forward_variance),
    "ddim": (lambda path: ddim(path, eta=1.0), step_ddim(1.0)),
    "ddim half": (lambda path: ddim(path, eta=0.5), step_ddim(0.5)),
}
DETERMINISTIC_ONLY = {
    "heun", "dpm_solver", "adams_bashforth", "unipc", "bdia", "velocity_ab", "weighted",
    "restoration_degradation",
}  # fmt: skip
# Samplers whose noise is compared with recursions in files of their own.
ELSEWHERE = {"dpm_multistep", "edm"}


CORRECTOR_CASES = {
    "langevin": (lambda path, at: langevin(path, SNR, 2, "batch", at), langevin_size),
    "ald": (lambda path, at: annealed_langevin(path, SNR, 2, at=at), ald_size),
}
ENDS = {"paper": "end", "original": "start"}


def sampler_of(path, case):
    """Return the sampler of a predictor, or of a corrector and its order with reverse diffusion."""
    if case in PREDICTOR_CASES:
        return PREDICTOR_CASES[case][0](path)
    corrector, order = case
    make, _ = CORRECTOR_CASES[corrector]
    return predictor_corrector(reverse_diffusion(path), make(path, ENDS[order]), order)


def recursion_of(law, case, ts):
    """Return mean and variance of the output of `sampler_of(case)` by the recursion."""
    if case in PREDICTOR_CASES:
        return recursion(law, ts, PREDICTOR_CASES[case][1])
    corrector, order = case
    return recursion(law, ts, step_reverse_diffusion, CORRECTOR_CASES[corrector][1], order)


@struct.dataclass
class Silent(VP):
    """A law whose noise is zero, so that a step gives its mean."""

    def noise(self, key, x):
        return jnp.zeros_like(x)


def test_every_entry_is_here():
    """Every sampler has a recursion here or an order in test_samplers_order.py."""
    cases = {name.split()[0] for name in PREDICTOR_CASES}
    assert cases | DETERMINISTIC_ONLY | ELSEWHERE == set(PREDICTORS)
    assert CORRECTOR_CASES.keys() == CORRECTORS.keys()


@functools.cache
def samples_of(case, n):
    """Return `(name of a law, grids (S, N + 1)) -> samples (S, n)` with the exact prediction.

    One program serves all laws, and one scan all grids. A short grid repeats t1 at its beginning;
    there a predictor does nothing, and a corrector acts, as in the recursion.
    """

    def samples(law, grids):
        predict, sampler = Gaussian.scalar(MEAN, STD).predict(law), sampler_of(law, case)

        def one(key, ts):
            start, key = jax.random.split(key)
            return sample(key, predict, sampler, law.prior_sample(start, (n, 1)), ts).x[:, 0]

        # Keys of this kind compile in two thirds of the time.
        return jax.vmap(one)(jax.random.split(jax.random.key(n, impl="rbg"), len(grids)), grids)

    return for_each(LAWS, samples)


def even(law, sizes):
    """Return grids even in t, which repeat t1 at the beginning, in float32."""
    grids = [np.linspace(1.0, EPS[law], steps + 1) for steps in sizes]
    return np.float32([np.pad(ts, (max(sizes) + 1 - len(ts), 0), "edge") for ts in grids])


def is_close(x, moments):
    """Whether sample mean and variance are within four standard errors of the expected ones.

    The errors are those of the expected normal law. With the sample's own spread, a sample with
    heavy tails would have a larger tolerance.
    """
    (mean, var), n, x = moments, len(x), np.asarray(x, np.float64)
    return (
        abs(x.mean() - mean) < 4 * (var / n) ** 0.5 and abs(x.var() / var - 1) < 4 * (2 / n) ** 0.5
    )


CORRECTED = [(corrector, order) for corrector in CORRECTOR_CASES for order in ENDS]


@pytest.mark.parametrize("case", [*PREDICTOR_CASES, *CORRECTED], ids=str)
def test_few_steps_follow_the_recursion(case):
    """Few steps follow the recursion; a corrector acts twice, after the predictor or before it."""
    for law in LAWS:
        grids = even(law, (10, 50))
        for x, ts in zip(np.asarray(samples_of(case, 20_000)(law, grids)), grids):
            assert is_close(x, recursion_of(law, case, np.float64(ts))), law


# Not here: DDIM with eta = 1, which is the ancestral sampler by the recursion above; and the
# original's order, which in so many steps only lacks the last correction.
MANY = [case for case in PREDICTOR_CASES if "ddim" not in case]
MANY += [(corrector, "paper") for corrector in CORRECTOR_CASES]


@pytest.mark.parametrize("case", MANY, ids=str)
def test_many_steps_give_the_data(case):
    """At N = 1000 the samples have the moments of the data.

    The remaining bias is known from the recursion, also for N = 2000, and is less than one standard
    error of 2500 samples (2 % of the mean's unit, 2.8 % of the variance). It is of order 1/N, at
    N = 1000 at most 1.8 % of the variance (ancestral on VP). An exception is Langevin, whose finite
    step leaves 2.6 % too much at any N.
    """
    n = 2500
    for law in LAWS:
        moments, grids = data_moments(law), even(law, (1000,))
        for ts in (np.float64(grids[0]), np.linspace(1.0, EPS[law], 2001)):
            mean, var = recursion_of(law, case, ts)
            assert abs(mean - moments[0]) < (moments[1] / n) ** 0.5
            assert abs(var / moments[1] - 1.0) < (2 / n) ** 0.5
        assert is_close(np.asarray(samples_of(case, n)(law, grids))[0], moments), law


def test_posterior_ancestral_is_exact_on_a_point():
    """For data at one point x0_hat is the truth, so 1, 2 or 10 steps are exact draws.

    From the exact law at t1, the output is `a MEAN + c z`. The run ends where this noise is large
    enough to be seen in float32.
    """
    n = 40_000
    grids = [np.linspace(1.0, 0.1, steps + 1) for steps in (1, 2, 10)]
    grids = np.float32([np.pad(ts, (11 - len(ts), 0), mode="edge") for ts in grids])

    def samples(law, grids):
        predict = Gaussian.scalar(MEAN, 0.0).predict(law)

        def one(key, ts):
            start, key = jax.random.split(key)
            x, _ = law.perturb(start, jnp.full((n, 1), MEAN), jnp.asarray(1.0))
            return sample(key, predict, ancestral(law), x, ts).x[:, 0]

        return jax.vmap(one)(jax.random.split(jax.random.key(0), 3), grids)

    samples = for_each(LAWS, samples)
    for law in LAWS:
        level = Level(law, 0.1)
        for x in np.asarray(samples(law, grids)):
            assert is_close(x, (level.a * MEAN, level.c**2)), law


def test_forward_variance_is_exact_on_standard_normal_data():
    """On VP, N(0, 1) stays N(0, 1) in three steps."""
    path, n = LAWS["vp"], 40_000
    predict = Gaussian.scalar(0.0, 1.0).predict(path)
    x = np.float32(np.random.default_rng(1).standard_normal((n, 1)))
    ts, sampler = np.float32(np.linspace(1.0, 1e-3, 4)), ancestral(path, "forward")
    out = jax.jit(lambda x: sample(jax.random.key(2), predict, sampler, x, ts).x)(x)
    assert is_close(np.asarray(out)[:, 0], (0.0, 1.0))


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_what_a_long_step_keeps_of_the_noise(eta):
    """`c_s^2 - std^2` is right in float32 for 4000 steps from t1, for DDIM and regional noise.

    The truth is in float64. Long steps draw nearly all of the noise anew.
    """
    law, s = Silent(), np.linspace(1e-3, 1.0, 4000)
    zero, one = jnp.zeros((len(s), 1)), jnp.ones((len(s), 1))
    known = lambda x, t: Prediction(zero, one, None, None)

    @jax.jit
    def kept(s):
        both = ddim(law, eta), regional(law, np.full(1, eta))
        return [
            each.step(KEY, known, State(zero), Span(jnp.float32(1.0), s)).x[:, 0] for each in both
        ]

    s = np.asarray(s, np.float32).astype(np.float64)
    B = lambda t: t * (0.1 + 0.5 * t * 19.9)
    c2_s, c2_t, r2 = -np.expm1(-B(s)), -np.expm1(-B(1.0)), np.exp(B(s) - B(1.0))
    truth = np.sqrt(c2_s) * np.sqrt(1 - eta**2 + eta**2 * r2 * c2_s / c2_t)
    for found in kept(jnp.asarray(s, jnp.float32)):
        np.testing.assert_allclose(found, truth, rtol=2e-5)
