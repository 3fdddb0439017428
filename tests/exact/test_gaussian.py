"""The Gaussian model: moments, score and flow against dense formulas and an adaptive solve."""

from functools import partial

import jax
import numpy as np
import pytest
from closed_form import Gaussian
from scipy.integrate import solve_ivp
from scipy.special import softmax
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from exact.gaussian import GaussianMoments, gaussian_flow, gaussian_predict, moments
from sde_lib import EDM, VE, VP, Flow, SubVP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow(t1=0.95)}
EPS = {"edm": 2e-3}
RNG = np.random.default_rng(0)
DIGITS = load_digits().data / 8.0 - 1.0
D = 5
# Models of rank 5 and of rank 2, with directions that are not axes.
FULL = RNG.standard_normal((D, D)) * np.array([2.0, 1.0, 0.5, 0.3, 0.1])
THIN = FULL[:, :2]
MEAN = RNG.standard_normal(D)
COVS = {"full": FULL @ FULL.T, "thin": THIN @ THIN.T}


def modes(cov, rank):
    L, U = np.linalg.eigh(cov)
    return GaussianMoments(MEAN, U[:, ::-1][:, :rank], L[::-1][:rank])


MODELS = {"full": modes(COVS["full"], 5), "thin": modes(COVS["thin"], 2)}


def ends(name):
    return LAWS[name].t1, EPS.get(name, 1e-3)


def starts(law, n=4):
    return float(law.prior_std()) * np.random.default_rng(1).standard_normal((n, D))


def numbers(law, t):
    a, c = (np.asarray(v) for v in law.coeffs(np.float64(t)))
    return a, c


@partial(jax.jit, static_argnums=(0, 1))
def flow_of(law, model, x, s, t):
    return gaussian_flow(law, MODELS[model], x, s, t)


@partial(jax.jit, static_argnums=(0, 1))
def prediction(law, model, x, t):
    return gaussian_predict(law, MODELS[model])(x, t)


@pytest.mark.parametrize("images", [False, True])
def test_moments_of_real_images(images):
    """Moments of one array and of batches of unequal size are NumPy's for flattened images."""
    data = DIGITS.reshape(-1, 8, 8, 1) if images else DIGITS
    whole = moments(data)
    for found in (whole, moments(iter(np.split(data, [100, 101, 900])))):
        np.testing.assert_allclose(found.mean, DIGITS.mean(0), atol=1e-12)
        cov = (found.U * found.L) @ found.U.T
        np.testing.assert_allclose(cov, np.cov(DIGITS.T, bias=True), atol=1e-12)
        assert np.all(np.diff(found.L) <= 0.0)
    # Three of the 64 pixels are blank in every digit.
    assert whole.U.shape == (64, 61) and np.all(whole.L > 0.0)


def test_moments_of_few_examples():
    """With fewer examples than dimensions the rank is n - 1; SVD and covariance agree."""
    few = DIGITS[:20]
    by_svd, by_eigh = moments(few), moments([few])
    assert by_svd.U.shape == by_eigh.U.shape == (64, 19)
    for found in (by_svd, by_eigh):
        cov = (found.U * found.L) @ found.U.T
        np.testing.assert_allclose(cov, np.cov(few.T, bias=True), atol=1e-12)
        np.testing.assert_allclose(found.U.T @ found.U, np.eye(19), atol=1e-12)


def test_rank_keeps_the_largest():
    whole, kept = moments(DIGITS), moments(DIGITS, rank=7)
    np.testing.assert_array_equal(kept.L, whole.L[:7])
    np.testing.assert_array_equal(kept.U, whole.U[:, :7])


@pytest.mark.parametrize(
    ("data", "rank", "message"),
    [
        (DIGITS, 65, "rank is 65; the data have 64 dimensions"),
        (DIGITS, 0, "rank is 0"),
        (np.zeros((0, 3)), None, "no data"),
        ([], None, "no data"),
    ],
)
def test_moments_refuse(data, rank, message):
    with pytest.raises(ValueError, match=message):
        moments(data, rank)


@pytest.mark.parametrize("law_name", LAWS)
@pytest.mark.parametrize("model", MODELS)
def test_prediction_equals_the_dense_one(law_name, model):
    """Woodbury's formula with r directions equals the inverse of the whole covariance."""
    law, x = LAWS[law_name], starts(LAWS[law_name])
    for t in (law.t1, 0.05 * law.t1):
        a, c = numbers(law, t)
        inverse = np.linalg.inv(a**2 * COVS[model] + c**2 * np.eye(D))
        state = a * MEAN[None] + c * x + a * 0.3
        score = -(state - a * MEAN) @ inverse
        rates = [float(v) for v in law.rates(np.float64(t))]
        x0 = MEAN + a * (state - a * MEAN) @ inverse @ COVS[model]
        expected = (x0, -c * score, score, rates[0] * x0 - rates[1] * c * score)
        for found, value in zip(prediction(law, model, state, t), expected):
            scale = np.max(np.abs(value))
            np.testing.assert_allclose(found, value, rtol=1e-8, atol=1e-8 * scale)


@pytest.mark.parametrize("law_name", LAWS)
@pytest.mark.parametrize("model", MODELS)
def test_flow_is_the_solution_of_the_ode(law_name, model):
    """The flow equals the dense closed form and an adaptive solve of `dy / d lam = -exp(-lam) eps`.

    The solve uses a dense inverse. The flow is also run forth and back, and in two parts.
    """
    law, x, (t1, eps) = LAWS[law_name], starts(LAWS[law_name]), ends(law_name)
    flow = lambda x, s, t: np.asarray(flow_of(law, model, x, s, t))
    found = flow(x, t1, eps)
    exact = Gaussian(MEAN, COVS[model]).flow_map(law, x, t1, eps)
    np.testing.assert_allclose(found, exact, atol=1e-10)
    np.testing.assert_allclose(found, adaptive(law, COVS[model], x, t1, eps), rtol=1e-7, atol=1e-7)
    middle = 0.3 * t1
    np.testing.assert_allclose(flow(flow(x, t1, middle), middle, eps), found, atol=1e-10)
    np.testing.assert_allclose(flow(found, eps, t1), x, rtol=1e-8, atol=1e-8)


def adaptive(law, cov, x, t1, eps):
    a, c = numbers(law, np.array([t1, eps]))

    def rate(lam, y):
        sigma2 = np.exp(-2.0 * lam)
        away = y.reshape(-1, D) - MEAN
        return -sigma2 * np.linalg.solve(cov + sigma2 * np.eye(D), away.T).T.ravel()

    y = np.asarray(x).ravel() / a[0]
    span = np.log(a) - np.log(c)
    solved = solve_ivp(rate, span, y, "DOP853", rtol=1e-10, atol=1e-10)
    return a[1] * solved.y[:, -1].reshape(x.shape)


def test_flow_with_a_time_per_example():
    law, x = LAWS["vp"], starts(LAWS["vp"], 3)
    s, t = np.array([1.0, 0.7, 0.2]), np.array([0.1, 0.5, 0.9])
    flow = lambda s, t: np.asarray(flow_of(law, "thin", x, s, t))
    eps = lambda s: np.asarray(prediction(law, "thin", x, s).eps)
    for i in range(3):
        np.testing.assert_allclose(flow(s, t)[i], flow(s[i], t[i])[i], rtol=1e-12)
        np.testing.assert_allclose(eps(s)[i], eps(s[i])[i], rtol=1e-12)


@pytest.mark.parametrize("law_name", LAWS)
def test_flow_carries_one_gaussian_to_the_other(law_name):
    """The flow maps mean to mean, and its Jacobian J the covariances, `J C_s J^T = C_t`.

    Outside the model's directions it scales states as the noise.
    """
    law, (s, t) = LAWS[law_name], ends(law_name)
    for model, cov in COVS.items():
        data = Gaussian(MEAN, cov)
        (mean_s, cov_s), (mean_t, cov_t) = data.moments(law, s), data.moments(law, t)
        moved = np.asarray(flow_of(law, model, mean_s + np.eye(D + 1, D), s, t))
        J = (moved[:D] - moved[D]).T
        np.testing.assert_allclose(moved[D], mean_t, atol=1e-10)
        np.testing.assert_allclose(J @ cov_s @ J.T, cov_t, atol=1e-8)
    outside = np.linalg.svd(MODELS["thin"].U)[0][:, 2:]
    ratio = numbers(law, t)[1] / numbers(law, s)[1]
    np.testing.assert_allclose(J @ outside, ratio * outside, atol=1e-10)


def test_denoiser_along_the_path():
    """Along the flow the conditional mean is `m + sum_k chi_k c_k u_k` (Wang & Vastola 2023).

    Here `chi = a_t L / sqrt(v_t v_T)`. A mode reaches `1 / sqrt 2` of its end where `a^2 L = c^2`;
    modes of large L come first.
    """
    law, model = LAWS["vp"], MODELS["full"]
    x = starts(law)
    a_T, c_T = numbers(law, 1.0)
    coordinates = (x - a_T * MEAN[None]) @ model.U
    # The times at which exp(-lam), the noise-to-signal ratio, is sqrt(L).
    crossings = np.asarray(law.t_of_lam(-0.5 * np.log(model.L)))
    assert np.all(np.diff(crossings) < 0.0)
    for k, t in enumerate(crossings):
        a, c = numbers(law, t)
        v, v_T = a**2 * model.L + c**2, a_T**2 * model.L + c_T**2
        chi = a * model.L / np.sqrt(v * v_T)
        found = np.asarray(prediction(law, "full", flow_of(law, "full", x, 1.0, t), t).x0)
        by_mode = (found - MEAN[None]) @ model.U
        np.testing.assert_allclose(by_mode, chi[None] * coordinates, rtol=1e-9, atol=1e-12)
        end = np.sqrt(model.L[k] / v_T[k]) * coordinates[:, k]
        np.testing.assert_allclose(by_mode[:, k], end / np.sqrt(2.0), rtol=1e-9)


def unexplained(score, model):
    """Return `E|score - model|^2 / E|score|^2`, one minus the explained variance."""
    return float(np.sum((score - np.asarray(model)) ** 2) / np.sum(score**2))


def empirical_score(x, sigma):
    squares = np.sum(x**2, 1)[:, None] - 2.0 * x @ DIGITS.T + np.sum(DIGITS**2, 1)
    share = softmax(-0.5 * squares / sigma**2, axis=1)
    return (share @ DIGITS - x) / sigma**2


def test_explained_variance_on_real_digits():
    """The Gaussian model explains the digits' exact score fully at large noise.

    The unexplained share falls as `sigma^-6`, because third moments are missing. At medium noise,
    ten Gaussians explain more than one, and one more than an isotropic model. At small noise the
    share is largest.
    """
    law, model = EDM(), moments(DIGITS)
    spread = GaussianMoments(model.mean, np.zeros((64, 0)), np.zeros(0))
    isotropic = GaussianMoments(model.mean, np.eye(64), np.full(64, model.L.sum() / 64))
    labels = KMeans(10, n_init=1, random_state=0).fit_predict(DIGITS)
    parts = [DIGITS[labels == k] for k in range(10)]
    models = {"mean": spread, "isotropic": isotropic, "gaussian": model}
    scores = {k: jax.jit(gaussian_predict(law, m)) for k, m in models.items()}
    left = {name: [] for name in (*models, "mixture")}
    sigmas = np.array([0.1, 0.5, 1.0, 2.0, 10.0, 20.0, 40.0])
    for sigma in sigmas:
        x = DIGITS[::9] + sigma * np.random.default_rng(2).standard_normal((200, 64))
        score = empirical_score(x, sigma)
        for name in models:
            left[name].append(unexplained(score, scores[name](x, sigma).score))
        left["mixture"].append(unexplained(score, mixture_score(x, parts, sigma)))
    for i in (2, 3):
        assert left["mean"][i] > left["isotropic"][i] > left["gaussian"][i] > left["mixture"][i]
    gaussian = np.array(left["gaussian"])
    assert np.all(np.diff(gaussian) < 0.0) and gaussian[-1] < 1e-5
    slopes = np.diff(np.log(gaussian[-3:])) / np.log(2.0)
    assert np.all(slopes < -5.5), slopes
    assert left["gaussian"][-1] < left["isotropic"][-1] < left["mean"][-1]


def mixture_score(x, parts, sigma):
    """Return the score at a = 1 of a mixture of Gaussians with the parts' moments, densely."""
    logp, scores = [], []
    for part in parts:
        cov = np.cov(part.T, bias=True) + sigma**2 * np.eye(64)
        d = x - part.mean(0)
        pull = np.linalg.solve(cov, d.T).T
        logp.append(np.log(len(part)) - 0.5 * (np.linalg.slogdet(cov)[1] + np.sum(d * pull, 1)))
        scores.append(-pull)
    return np.einsum("kb,kbd->bd", softmax(np.stack(logp), axis=0), np.stack(scores))


def test_paths_turn_in_a_plane():
    """With the digits' moments, x_t stays near the plane of its two ends ("Painters")."""
    law, model = VP(), moments(DIGITS)
    start = np.random.default_rng(3).standard_normal((20, 64))
    flow = jax.jit(lambda t: gaussian_flow(law, model, start, 1.0, t))
    end, cosines = np.asarray(flow(1e-3)), []
    for t in np.linspace(0.05, 0.95, 10):
        for point, *plane in zip(np.asarray(flow(t)), start, end):
            basis = np.linalg.qr(np.stack(plane, axis=1))[0]
            cosines.append(np.linalg.norm(point @ basis) / np.linalg.norm(point))
    assert min(cosines) > 0.98 and np.mean(cosines) > 0.99


@pytest.mark.parametrize("shape", [(4, 4), (4, 2)], ids=["whole", "few"])
def test_products_are_at_full_precision(shape):
    """Matrix products ask for full precision; by default accelerators use lower precision."""
    model = GaussianMoments(np.zeros(4), np.eye(*shape), np.ones(shape[1]))
    for run in (
        lambda x: gaussian_predict(VP(), model)(x, np.float32(0.5)),
        lambda x: gaussian_flow(VP(), model, x, np.float32(0.5), np.float32(0.2)),
    ):
        program = str(jax.make_jaxpr(run)(np.ones((2, 4), np.float32)))
        assert 0 < program.count("dot_general") == program.count("Precision.HIGHEST, Precision")
