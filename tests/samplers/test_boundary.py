"""One optimal start for conditional sampling: closed forms for a Gaussian, and real digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from rk4 import even_in_lam
from scipy.stats import spearmanr
from sklearn.datasets import load_digits

from evaluation.metrics.perceptual import edge_distance
from samplers import ddim, dpm_multistep, sample
from samplers.around.boundary import (
    Boundary,
    Setting,
    best,
    candidate,
    candidate_scores,
    from_boundary,
    load,
    save,
)
from samplers.base import SampleResult
from sde_lib import VP
from sde_lib.prediction import prediction_of

LAW, KEY, SHAPE = VP(), jax.random.key(3), (8, 8, 1)
GIVEN = Setting(SHAPE, "ddim", 6)
KEYS = [KEY, *(jax.random.key(k) for k in range(3))]


def images():
    return np.random.default_rng(0).permutation(load_digits().data) / 8.0 - 1.0


def pooled(z):
    """Return means over 2 x 2 pixels, `(n, 16)`."""
    return z.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(len(z), 16)


def mse(x, y):
    return ((x - y) ** 2).mean(axis=(1, 2, 3))


def solver(steps, method=ddim, denoise=True):
    ts = np.float32(even_in_lam(LAW, (steps,), 0.01)[:, 0])
    return lambda key, predict, x, cond=None: sample(
        key, predict, method(LAW), x, ts, None, denoise, cond=cond
    )


@functools.partial(jax.jit, static_argnums=0)
def candidates(count):
    return jax.vmap(lambda k: candidate(LAW, KEY, k, SHAPE))(jnp.arange(count))


# Super-resolution of a Gaussian: z ~ N(mean, cov) of the digits, y = A z + 0.1 noise.


@functools.cache
def gaussian():
    """Return the covariance C, means m of 12 conditions and residuals r, both `(12, 64)`.

    Images are m + r and m - r.
    """
    z = images()
    mean, cov = z.mean(0), np.cov(z.T) + 1e-4 * np.eye(64)
    A = np.linalg.lstsq(np.eye(64), pooled(np.eye(64)), rcond=None)[0].T
    gain = np.linalg.solve(A @ cov @ A.T + 0.01 * np.eye(16), A @ cov).T
    C = cov - gain @ A @ cov
    rng = np.random.default_rng(1)
    y = z[:12] @ A.T + 0.1 * rng.standard_normal((12, 16))
    m = mean + (y - mean @ A.T) @ gain.T
    return C, m, rng.multivariate_normal(np.zeros(64), C, 12)


def gaussian_predict_given(m):
    """Return the exact prediction for N(m_i, C): that of N(0, C), moved by a m_i."""
    centred = Gaussian(np.zeros(64), gaussian()[0]).predict(LAW)

    def predict(x, t):
        a = LAW.coeffs(t).a
        means = jnp.asarray(m).reshape(x.shape)
        p = centred(x - a * means, t)
        return prediction_of(LAW, x, t, p.x0 + means, p.eps)

    return predict


def exact_flow(m):
    """Return the closed-form flow from t1 to the data, as a solver without steps."""
    L, U = np.linalg.eigh(gaussian()[0])
    # These must be numbers also under `jit`.
    with jax.ensure_compile_time_eval():
        a, c = (float(v) for v in LAW.coeffs(np.array(1.0)))
    gain = np.sqrt(np.maximum(L, 0.0) / (a**2 * np.maximum(L, 0.0) + c**2))

    def run(key, predict, x, cond=None):
        del key, predict
        y = (x.reshape(len(x), -1) - a * m) @ U
        return SampleResult((m + (gain * y) @ U.T).reshape(x.shape), None, 0)

    return run


def weighted_norms(m, count):
    """Return `sum_k C_k / (a^2 C_k + c^2) (u_k^T (x_T - a m_i))^2 / 64`, `(count, R)`."""
    C = gaussian()[0]
    a, c = (float(v) for v in LAW.coeffs(np.array(1.0)))
    x = np.asarray(candidates(count)).reshape(count, 64)
    d = x[:, None] - a * m
    M = C @ np.linalg.inv(a**2 * C + c**2 * np.eye(64))
    return np.einsum("krd,de,kre->kr", d, M, d) / 64


def test_solver_meets_the_closed_form_of_the_map(x64):
    """With many steps the conditional flow is `m + sum_k gain_k u_k^T (x_T - a m)`."""
    m = gaussian()[1]
    x = np.repeat(np.asarray(candidates(1)), 12, axis=0)
    predict = gaussian_predict_given(m)
    # At t = 0.01 the state differs from the flow's end at 0 by the remaining noise.
    run = solver(60, dpm_multistep, denoise=False)
    end = np.asarray(jax.jit(lambda x: run(KEY, predict, x).x)(x))
    centred = Gaussian(np.zeros(64), gaussian()[0])
    a, a_end = np.asarray(LAW.coeffs(np.array([1.0, 0.01])).a)
    flat = centred.flow_map(LAW, x.reshape(12, 64) - a * m, 1.0, 0.01) + a_end * m
    np.testing.assert_allclose(end.reshape(12, 64), flat, atol=2e-2)
    to_data = exact_flow(m)(KEY, predict, x).x.reshape(12, 64)
    start = centred.flow_map(LAW, x.reshape(12, 64) - a * m, 1.0, 0.0) + m
    np.testing.assert_allclose(to_data, start, atol=1e-9)


def test_least_squares_picks_the_smallest_weighted_norm(x64):
    """The best start by squared error is the one of the smallest weighted norm.

    The images come in pairs m + r and m - r, so that the random parts cancel. One pair then chooses
    the same start as all pairs.
    """
    C, m, r = gaussian()
    m, r = np.repeat(m, 2, axis=0), np.stack([r, -r], axis=1).reshape(24, 64)
    targets = (m + r).reshape(24, *SHAPE)
    score = lambda z: candidate_scores(LAW, KEY, exact_flow(m), None, z, mse, 40)
    scores = np.asarray(jax.jit(score)(targets))
    norms, noise = weighted_norms(m, 40), np.mean(r**2, axis=1)
    pairs = scores.reshape(40, 12, 2).mean(2)
    expected = norms.reshape(40, 12, 2).mean(2) + noise.reshape(12, 2).mean(1)
    np.testing.assert_allclose(pairs, expected, rtol=1e-6)
    # Because a is 0.007 at t1, the norm without m has its minimum at the same candidate.
    lone = np.argmin(weighted_norms(np.zeros((1, 64)), 40)[:, 0])
    for subset in (slice(0, 2), slice(6, 12), slice(0, 24)):
        assert best(LAW, KEY, scores[:, subset], GIVEN).index == lone
    # The start zero gives the conditional mean, and is better than all candidates. Its error is the
    # spread of the images.
    zero = from_boundary(Boundary(np.zeros(SHAPE), -1, 0.0, GIVEN), exact_flow(m))
    at_zero = mse(np.asarray(zero(KEY, None, targets).x), targets)
    np.testing.assert_allclose(np.mean(at_zero), np.mean(noise), rtol=1e-3)
    assert np.mean(at_zero) < np.min(np.mean(scores, axis=1))
    assert abs(np.mean(noise) * 64 / np.trace(C) - 1.0) < 0.5


# z is one of the digits, given y = A z + 0.6 noise; this posterior is far from Gaussian.

R, COUNT = 128, 48


@functools.cache
def digits():
    """Return images and conditions. The first R pairs choose a start, the R from 300 on test it."""
    z = images()[:600].astype(np.float32)
    noise = np.random.default_rng(1).standard_normal((len(z), 16))
    return z, (pooled(z) + 0.6 * noise).astype(np.float32)


def digits_predict_given(y):
    """Predict `x0 = sum_j softmax_j(-|x - a z_j|^2 / 2 c^2 - |y - A z_j|^2 / 2 s^2) z_j`."""
    z = jnp.asarray(digits()[0])
    likelihood = -0.5 * jnp.sum((y[:, None] - pooled(z)[None]) ** 2, axis=-1) / 0.6**2

    def predict(x, t):
        a, c = LAW.coeffs(t)
        # |x|^2 is the same for all z_j.
        exponent = (a * x.reshape(len(x), -1) @ z.T - 0.5 * a**2 * jnp.sum(z**2, 1)[None]) / c**2
        x0 = (jax.nn.softmax(exponent + likelihood, axis=-1) @ z).reshape(x.shape)
        return prediction_of(LAW, x, t, x0, (x - a * x0) / c)

    return predict


def both(x, y):
    return jnp.stack([edge_distance(x, y), mse(x, y)], axis=1)


@functools.cache
def digit_scores():
    """Return the scores of runs of 6 steps, `(4, 2, COUNT, R, 2)`.

    The axes are: set of candidates, choosing or testing pairs, candidate, pair, distance.
    """
    (z, y), run = digits(), solver(6)

    @jax.jit
    def scores(key, y, z):
        predict, targets = digits_predict_given(y), z.reshape(R, *SHAPE)
        return candidate_scores(LAW, key, run, predict, targets, both, COUNT)

    halves = [(y[i : i + R], z[i : i + R]) for i in (0, 300)]
    return np.stack([[scores(key, *half) for half in halves] for key in KEYS])


# The runs take longer than compiling.
@pytest.mark.optimised
@pytest.mark.parametrize("metric", [0, 1], ids=["edges", "squares"])
def test_a_start_chosen_on_some_digits_serves_others(metric):
    """A start that is chosen on some conditions is better than average on others.

    The ranks of the candidates agree between conditions, and more so with more pairs. They do not
    agree completely, as they would for Gaussian data.
    """
    chosen, judged = np.moveaxis(digit_scores()[..., metric], 1, 0)
    means = judged.mean(axis=2)
    kept = np.argmin(chosen.mean(axis=2), axis=1)
    # Compared with random starts, whose error is the mean over candidates.
    gain = np.mean([m[k] / m.mean() for m, k in zip(means, kept)])
    assert gain < 0.99
    rng = np.random.default_rng(0)
    agreement = []
    for size in (1, 8, R):
        some = [rng.choice(R, size, replace=False) for _ in range(20)]
        agreement.append(
            np.mean([spearmanr(c[:, i].mean(1), m)[0] for c, m in zip(chosen, means) for i in some])
        )
    assert 0.0 < agreement[0] < agreement[1] < agreement[2]
    # For candidates in random order the standard error is 1 / sqrt(47 * 4) = 0.07.
    assert agreement[2] > 0.4


def test_candidates_are_nested_and_belong_to_their_index(x64):
    """Candidate k is the same for any number of candidates, and a draw of the prior.

    So the best score can only fall with the number of candidates.
    """
    _, m, r = gaussian()
    targets = (m + r).reshape(12, *SHAPE)
    score = lambda z: [
        candidate_scores(LAW, KEY, exact_flow(m), None, z, mse, count) for count in (3, 20)
    ]
    few, more = jax.device_get(jax.jit(score)(targets))
    np.testing.assert_allclose(few, more[:3], rtol=1e-12)
    starts = np.asarray(candidates(2000))
    np.testing.assert_array_equal(starts[:40], candidates(40))
    assert abs(starts.mean()) < 4 / np.sqrt(starts.size)
    assert abs(starts.std() - 1.0) < 4 / np.sqrt(2 * starts.size)


def test_a_kept_start_takes_the_chance_away():
    """With the kept start, a condition gives the same image for every key; random starts differ."""
    z, y = digits()
    run = solver(6)
    kept = Boundary(np.asarray(candidates(40))[2], 2, 0.0, GIVEN)
    starts = np.float32(np.random.default_rng(2).standard_normal((3, 4, *SHAPE)))

    @jax.jit
    def both(key, x, y):
        predict = digits_predict_given(y)
        return from_boundary(kept, run)(key, predict, x).x, run(key, predict, x).x

    pairs = [both(KEYS[i], x, y[:4]) for i, x in enumerate(starts)]
    for ours, _ in pairs[1:]:
        np.testing.assert_array_equal(pairs[0][0], ours)
    _, expected = both(KEY, np.broadcast_to(kept.x, (4, *SHAPE)), y[:4])
    np.testing.assert_allclose(pairs[0][0], expected, atol=1e-6)
    errors = [mse(np.asarray(plain), z[:4].reshape(4, *SHAPE)) for _, plain in pairs]
    assert np.std(errors, axis=0).min() > 0


def test_a_file_serves_only_what_it_was_made_for(tmp_path):
    kept = Boundary(np.ones(SHAPE, np.float32) * 0.5, 7, 0.25, Setting(SHAPE, "ddim", 6, "net-1"))
    file = str(tmp_path / "start.npz")
    save(file, kept)
    back = load(file, kept.setting)
    np.testing.assert_array_equal(back.x, kept.x)
    assert back[1:] == kept[1:] and back.x.dtype == np.float32
    for change, message in (
        ({"shape": (16, 16, 1)}, r"shape = \(8, 8, 1\) and this run has \(16, 16, 1\)"),
        ({"solver": "heun"}, "solver = 'ddim' and this run has 'heun'"),
        ({"steps": 7}, "steps = 6 and this run has 7"),
        ({"network": ""}, "network = 'net-1' and this run has ''"),
    ):
        with pytest.raises(ValueError, match=message):
            load(file, kept.setting._replace(**change))
    with pytest.raises(ValueError, match=r"for images of shape \(8, 8, 1\) and these have"):
        from_boundary(kept, None)(KEY, None, np.zeros((2, 16, 16, 1)))


def test_refusals():
    arguments = (None, None, np.zeros((2, *SHAPE)), mse)
    with pytest.raises(ValueError, match="count is 0; a search needs at least 1"):
        candidate_scores(LAW, KEY, *arguments, 0)
    with pytest.raises(ValueError, match=r"key has the shape \(2,\)"):
        candidate_scores(LAW, jax.random.split(KEY), *arguments, 3)
    with pytest.raises(ValueError, match="All 3 candidates have the score nan"):
        best(LAW, KEY, np.full((3, 2), np.nan), GIVEN)
    scores = np.array([[np.nan, 1.0], [0.5, 2.0], [1.0, 1.0]])
    assert best(LAW, KEY, scores, GIVEN).index == 2
