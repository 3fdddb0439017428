"""The released code's sampler on data with a known score, against formulas in NumPy and float64.

The formulas are those of the papers (DDPM, SMLD, and Song et al. 2021, algorithms 2 to 5). The
level of step k is known beforehand: times are `1 - k (1 - eps) / (N - 1)`, so the truncated level
is N - 1 - k as long as `k eps < 1`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian

from samplers import score_sde
from samplers.released.score_sde import score_reader
from samplers.released.score_sde_steps import CORRECTORS, PREDICTORS
from sde_lib import EDM, VE, VP, Prediction, SubVP, example_keys
from sde_lib.tables import make_tables

KEY = jax.random.key(0)
MEAN, STD, SNR = 0.7, 0.4, 0.16
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE()}
EPS = {"vp": 1e-3, "subvp": 1e-3, "ve": 1e-5}
PRIOR_STD = {"vp": 1.0, "subvp": 1.0, "ve": 50.0}
DATA, DATA_2D = (Gaussian.scalar(MEAN, STD, dims) for dims in (1, 2))


class Level:
    """The coefficients of step k of N: those of the law at its time, and of the chain's level."""

    def __init__(self, law, k, N, discrete):
        t = 1.0 - k * (1.0 - EPS[law]) / (N - 1)
        i = N - 1 - k
        B, beta = 0.1 * t + 0.5 * 19.9 * t**2, 0.1 + 19.9 * t
        a = np.exp(-B / 2)
        self.a, self.c, self.f, self.g2 = {
            "vp": (a, np.sqrt(-np.expm1(-B)), -beta / 2, beta),
            "subvp": (a, -np.expm1(-B), -beta / 2, -beta * np.expm1(-2 * B)),
            "ve": (1.0, s := 0.01 * 5000.0**t, 0.0, 2 * np.log(5000.0) * s**2),
        }[law]
        self.v = self.a**2 * STD**2 + self.c**2
        betas = np.linspace(0.1, 20.0, N) / N
        self.beta = betas[i] if law == "vp" else beta / N
        sigmas = np.append(np.geomspace(0.01, 50.0, N), 0.0)  # the last entry is that of level -1
        self.sigma2, self.before2 = sigmas[i] ** 2, sigmas[i - 1] ** 2
        # The score of a discrete VP model is computed with the chain's noise level, not the law's.
        c_i = np.sqrt(1 - np.prod(1 - betas[: i + 1]))
        self.read = self.c / c_i if law == "vp" and discrete else 1.0

    def score(self, x):
        return self.read * (self.a * MEAN - x) / self.v


def euler_maruyama(law, now, N, x, part):
    """Return mean and variance of a step by Song et al. 2021, eq. 6 and 13, with dt = 1/N.

    `part` is 1, or 1/2 for the ODE.
    """
    return x - (now.f * x - part * now.g2 * now.score(x)) / N, now.g2 / N


def reverse_diffusion(law, now, N, x, part):
    """Return mean and variance of a step by algorithms 2 and 3."""
    if law == "subvp":
        return euler_maruyama(law, now, N, x, part)
    if law == "ve":
        q2 = now.sigma2 - now.before2
        return x + part * q2 * now.score(x), q2
    return (2 - np.sqrt(1 - now.beta)) * x + part * now.beta * now.score(x), now.beta


def ancestral(law, now, N, x, part):
    """Return mean and variance by Ho et al. 2020, algorithm 2, with sigma^2 = beta.

    For VE they are those of Song et al. 2021, eq. 47.
    """
    if law == "ve":
        q2 = now.sigma2 - now.before2
        return x + q2 * now.score(x), now.before2 * q2 / now.sigma2
    return (x + now.beta * now.score(x)) / np.sqrt(1 - now.beta), now.beta


def none(law, now, N, x, part):
    return x, 0.0


MOVES = {
    "euler_maruyama": euler_maruyama,
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "none": none,
}


def step_size(corrector, law, now, x, z):
    """Return the step size of algorithms 4 and 5 with batch norms, or of annealed Langevin."""
    alpha = 1.0 if law == "ve" else 1.0 - now.beta
    if corrector == "ald":
        return 2 * alpha * (SNR * now.c) ** 2
    norm = lambda v: np.mean(np.sqrt(np.sum(v**2, axis=-1)))
    return 2 * alpha * (SNR * norm(z) / norm(now.score(x))) ** 2


def reference(law, predictor, corrector, x, z, N, n_steps, ode, discrete):
    """Make the whole run with the same noise z in every draw; return x and the last mean."""
    for k in range(N):
        now = Level(law, k, N, discrete)
        for _ in range(n_steps if corrector != "none" else 0):
            e = step_size(corrector, law, now, x, z)
            x = x + e * now.score(x) + np.sqrt(2 * e) * z
        mean, variance = MOVES[predictor](law, now, N, x, 0.5 if ode else 1.0)
        x = mean + (0.0 if ode else np.sqrt(variance) * z)
    return x, mean


def build(law, predictor, corrector="none", **changes):
    settings = {
        "num_scales": 60, "eps": EPS.get(law, 1e-3), "snr": SNR, "n_steps": 2, "denoise": False,
        "probability_flow": False, "continuous": True,
    }  # fmt: skip
    path = LAWS[law] if isinstance(law, str) else law
    return score_sde(path, predictor, corrector, **{**settings, **changes})


CASES = [
    *((law, "euler_maruyama", "none", ode, False) for law in LAWS for ode in (False, True)),
    *((law, "reverse_diffusion", c, False, False) for law in LAWS for c in ("langevin", "ald")),
    *((law, "reverse_diffusion", "none", True, law == "vp") for law in LAWS),
    *((law, "ancestral", "none", False, discrete) for law in ("vp", "ve") for discrete in (0, 1)),
    ("vp", "reverse_diffusion", "langevin", False, True),
    ("vp", "none", "ald", False, True),
]


@pytest.mark.parametrize("law, predictor, corrector, ode, discrete", CASES)
def test_a_run_follows_the_formulas(law, predictor, corrector, ode, discrete, x64):
    """60 steps with the exact score and given noise end with the formulas' x and last mean.

    The tolerance is the rounding of times and tables, which are float32. A wrong level, coefficient
    or order would give an error of 1e-2 and more.
    """
    rng = np.random.default_rng(0)
    x, z = PRIOR_STD[law] * rng.standard_normal((6, 1)), rng.standard_normal((6, 1))

    class Given(type(LAWS[law])):
        def noise(self, key, x):
            return jnp.asarray(z)

    path = Given(**vars(LAWS[law]))
    sampler = build(
        path, predictor, corrector, eps=EPS[law], probability_flow=ode,
        continuous=not discrete, denoise=True,
    )  # fmt: skip
    run = jax.jit(lambda x: sampler(KEY, DATA.predict(path), x, collect=lambda state: state.x))
    found, truths = run(x), reference(law, predictor, corrector, x, z, 60, 2, ode, discrete)
    for out, truth in zip((np.asarray(found.trace)[-1], found.x), truths):
        np.testing.assert_allclose(out, truth, rtol=1e-4, atol=1e-4 * np.max(abs(truth)))


@pytest.mark.parametrize(
    "law, predictor, corrector", [("vp", "ancestral", "none"), ("ve", "reverse_diffusion", "ald")]
)
def test_moments_follow_the_recursion(law, predictor, corrector):
    """With random noise, moments of 20,000 samples are within four standard errors of a recursion.

    This holds with and without the last noise.
    """
    n, N = 20_000, 60
    x = np.float32(PRIOR_STD[law] * np.random.default_rng(1).standard_normal((n, 1)))
    sampler = build(law, predictor, corrector, denoise=True, num_scales=N, n_steps=1)
    run = jax.jit(lambda x: sampler(KEY, DATA.predict(LAWS[law]), x, collect=lambda s: s.x))
    out = run(x)
    mean, variance = 0.0, PRIOR_STD[law] ** 2
    for k in range(N):
        now = Level(law, k, N, False)
        if corrector != "none":
            e = step_size(corrector, law, now, None, None)
            move = lambda m, now=now, e=e: m + e * now.score(m)
            mean, variance = move(mean), (move(1.0) - move(0.0)) ** 2 * variance + 2 * e
        move = lambda m, now=now: MOVES[predictor](law, now, N, m, 1.0)[0]
        noise = MOVES[predictor](law, now, N, 0.0, 1.0)[1]
        gain = move(1.0) - move(0.0)
        mean, before = move(mean), gain**2 * variance
        variance = before + noise
    for samples, var in ((out.x, before), (np.asarray(out.trace)[-1], variance)):
        y = np.asarray(samples, np.float64)
        assert abs(y.mean() - mean) < 4 * (var / n) ** 0.5
        assert abs(y.var() / var - 1.0) < 4 * (2 / n) ** 0.5
    # After 60 steps, the samples are near the data.
    assert abs(mean - MEAN) < 0.05 and abs(variance**0.5 - STD) < 0.1


@pytest.mark.parametrize("law", ["vp", "ve"])
def test_ancestral_sampling_is_the_posterior_of_the_chain(law):
    """For any network and level i > 0, a step has the mean of `q(x_{i-1} | x_i, x0)`.

    x0 is the predicted one. For VE the step also has its variance; DDPM takes that of the forward
    step. The truth comes from conditioning the joint Gaussian with the covariance `r c_{i-1}^2`.
    """
    N = 100
    path = LAWS[law]
    tables = make_tables(path, N)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((N - 1, 3)), jnp.float32)
    t = (jnp.arange(1, N) + 0.5) / (N - 1)
    t = t.at[-1].set(1.0)
    eps = jnp.sin(3.0 * x)

    def predict(x, t):
        # The output of a VE network is the score itself, here that of its level.
        return Prediction(x0=None, eps=eps, score=-eps / tables.c[1:, None], velocity=None)

    score = score_reader(path, N, continuous=False)(predict)
    mean, std = PREDICTORS["ancestral"](path, N, False)(score, x, t)

    betas = np.linspace(0.1, 20.0, N) / N if law == "vp" else np.zeros(N)
    a = np.sqrt(np.cumprod(1 - betas))[:, None]
    c = np.sqrt(1 - a**2) if law == "vp" else np.geomspace(0.01, 50.0, N)[:, None]
    r = np.sqrt(1 - betas)[1:, None]
    x0 = (x - c[1:] * np.asarray(eps, np.float64)) / a[1:]
    gain = r * c[:-1] ** 2 / c[1:] ** 2
    expected = a[:-1] * x0 + gain * (x - a[1:] * x0)
    assert np.max(abs(mean - expected) / (1 + abs(expected))) < 2e-5
    variance = betas[1:] if law == "vp" else (c[:-1] ** 2 - gain**2 * c[1:] ** 2)[:, 0]
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=2e-6)


def test_levels_fall_one_by_one():
    """The truncated level of step k is N - 1 - k, in float32 and for the original's configs.

    At N = 2000 and eps = 1e-3 `k eps` exceeds 1 in the second half, where the level is one higher.
    One level in the middle then occurs twice, and level 0 never.
    """
    for path, N, eps in (
        (VP(), 1000, 1e-3),
        (VE(), 1000, 1e-5),
        (VE(), 232, 1e-5),
        (VE(), 2311, 1e-5),
    ):
        levels = make_tables(path, N).index(jnp.linspace(1.0, eps, N))
        np.testing.assert_array_equal(levels, np.arange(N)[::-1])
    levels = np.asarray(make_tables(VP(), 2000).index(jnp.linspace(1.0, 1e-3, 2000)))
    np.testing.assert_array_equal(levels[:1000], np.arange(1999, 999, -1))
    # At k = 1000 the product is 1000 up to rounding, so this level is not compared.
    np.testing.assert_array_equal(levels[1001:], np.arange(999, 0, -1))


def test_a_sample_depends_on_its_own_key_but_for_batch_norms(x64):
    """Beside other examples, example 5 is the same, unless norms are taken over the batch."""
    z = 50.0 * np.random.default_rng(0).standard_normal((8, 2))
    five = np.where(np.arange(8) == 5, 5, np.arange(8) + 20)
    for corrector, norm, coupled in (
        ("ald", "batch", False),
        ("langevin", "example", False),
        ("langevin", "batch", True),
    ):
        sampler = build("ve", "reverse_diffusion", corrector, norm=norm)

        @jax.jit
        def run(numbers, x, f=sampler):
            """Sample examples whose numbers seed their keys."""
            return f(example_keys(3, numbers), DATA_2D.predict(LAWS["ve"]), x).x

        found, beside = run(np.arange(8), z), run(five, np.where(five[:, None] == 5, z, 2.0 * z))
        gap = np.max(np.abs(np.asarray(found)[5] - np.asarray(beside)[5]))
        assert (gap > 1e-2) == coupled and (coupled or gap < 1e-9)
    assert len(np.unique(found)) == 16


def test_no_two_draws_share_a_key():
    """Each inner step of the corrector and each predictor draws with a key of its own."""
    seen = []

    class Watched(VE):
        def noise(self, key, x):
            note = lambda data: seen.append(tuple(np.asarray(data)))
            jax.debug.callback(note, jax.random.key_data(key))
            return super().noise(key, x)

    run = build(Watched(), "euler_maruyama", "ald", num_scales=4)
    jax.block_until_ready(jax.jit(lambda x: run(KEY, DATA.predict(VE()), x).x)(np.ones((3, 1))))
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 4 * (2 + 1)


def test_example_norms_are_the_step_size_of_each_example():
    """For VE the step size is `e = 2 (snr sqrt(D) / |score|)^2`, by mean and variance of a step."""
    law, n, D = LAWS["ve"], 4000, 16
    data = Gaussian.scalar(MEAN, STD, D)
    x = jnp.tile(jnp.linspace(-1.0, 3.0, D)[None], (n, 1))
    t = jnp.asarray(0.4)
    score = data.score(law)
    step = jax.jit(lambda x: CORRECTORS["langevin"](law, 100, 0.1, 1, "example")(KEY, score, x, t))
    moved = np.asarray(step(x) - x, np.float64)
    g = np.asarray(score(x[:1], t)[0], np.float64)
    e = 2 * 0.01 * D / np.sum(g**2)
    assert np.all(abs(moved.mean(0) - e * g) < 4.5 * np.sqrt(2 * e / n))
    assert abs(moved.var(0).mean() / (2 * e) - 1.0) < 4 * np.sqrt(2 / (n * D))


def test_trace_and_the_end():
    """Every step is collected; with a noise-free predictor, denoising changes nothing."""
    x, predict = np.ones((3, 1), np.float32), M1.predict(VP())
    collect = lambda state: state.x
    kept = jax.jit(lambda x: build("vp", "ancestral")(KEY, predict, x, collect=collect))(x)
    assert kept.trace.shape == (60, 3, 1) and kept.nfe == 60
    np.testing.assert_array_equal(np.asarray(kept.trace)[-1], kept.x)
    for how in ({"predictor": "none", "corrector": "ald"}, {"predictor": "euler_maruyama",
                "probability_flow": True}):  # fmt: skip
        made = [build("vp", **how, denoise=d) for d in (True, False)]
        ends = jax.jit(lambda x, made=made: [run(KEY, predict, x) for run in made])(x)
        np.testing.assert_array_equal(ends[0].x, ends[1].x)
        assert ends[0].nfe == (120 if how["predictor"] == "none" else 60)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"law": "subvp", "predictor": "ancestral"}, "no chain of levels"),
        ({"predictor": "ancestral", "probability_flow": True}, "no such form"),
        ({"law": "subvp", "continuous": False}, "no discrete ancestor"),
        ({"law": EDM()}, "knows VP, sub-VP and VE"),
        ({"predictor": "heun"}, "must be one of euler_maruyama"),
        ({"corrector": "mala"}, "must be one of langevin"),
        ({"norm": "max"}, "must be one of example"),
        ({"predictor": "none"}, "both 'none'"),
        ({"num_scales": 1}, "at least 2"),
        ({"num_scales": 15, "predictor": "reverse_diffusion"}, "must be below 1"),
        ({"eps": 0.0}, "between 0 and t1"),
        ({"n_steps": 0, "corrector": "ald"}, "at least 1"),
        ({"law": VP(t1=0.9)}, "take sde.t1=1"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**{"law": "vp", "predictor": "euler_maruyama", **changes})


def test_langevin_on_subvp_takes_beta_from_the_law(x64):
    """Langevin on sub-VP uses `alpha = 1 - beta(t) / N`; the original fails for lack of a table."""
    x, t = jnp.ones((1, 4)), jnp.asarray([0.5])
    z = jnp.asarray([[1.0, -1.0, 1.0, 2.0]])

    class Given(SubVP):
        def noise(self, key, x):
            return z

    out = CORRECTORS["langevin"](Given(), 50, SNR, 1, "batch")(KEY, lambda x, t: -x, x, t)
    e = 2 * (1 - (0.1 + 19.9 * 0.5) / 50) * SNR**2 * 7 / 4
    np.testing.assert_allclose(out, x - e * x + np.sqrt(2 * e) * z, rtol=1e-9)
