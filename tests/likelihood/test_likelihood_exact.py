"""Log-likelihoods against closed densities: an error of 8.7 nats once passed a check of shapes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian, Mixture

from likelihood import log_likelihood
from likelihood.divergence import Divergence, exact, rademacher
from samplers import Solver
from sde_lib import EDM, VE, VP, Flow, SubVP

KEY = jax.random.key(0)
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
DATA = {
    "gaussian": Gaussian(
        np.array([0.4, -0.7, 0.1]),
        np.array([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.8]]),
    ),
    "mixture": Mixture(
        np.array([0.3, 0.7]),
        np.array([[-1.0, 0.5, 0.0], [0.8, -0.3, 0.4]]),
        np.array([0.3, 0.5]),
    ),
}


def states_at_t0(law, data, n):
    rng = np.random.default_rng(0)
    a, _, c = (float(v) for v in law.coeffs(jnp.asarray(law.t0)))
    x0 = data.draw(rng, n)
    return a * x0 + c * rng.standard_normal(x0.shape)


# Gaussian data meet every law in the two tests further down as well.
CASES = [(law, "mixture") for law in LAWS] + [("vp", "gaussian")]


@pytest.mark.parametrize("name, data_name", CASES)
def test_log_density_in_closed_form(name, data_name, x64):
    """Within 1e-4 nats per dimension, with the exact score, trace and density at t1.

    The true density at t1 takes the place of the prior, so that nothing but the solve is judged.
    Flow's drift is singular just behind its t1 = 0.999.
    """
    law, data = LAWS[name], DATA[data_name]
    x = jnp.asarray(states_at_t0(law, data, 8))
    true_end = lambda y: data.logp(law, y, law.t1)

    @jax.jit
    def run(x):
        return log_likelihood(
            KEY, law, data.predict(law), x,
            divergence=exact(), solver=Solver("dopri5", 1e-6, 1e-6), prior_logp=true_end,
        )  # fmt: skip

    result, truth = run(x), data.logp(law, x, law.t0)
    assert np.max(abs(result.logp - truth)) < 3 * 1e-4
    assert np.std(truth) > 0.3, "a constant would pass"
    np.testing.assert_array_equal(result.stderr, 0.0)
    assert not np.any(result.failed)
    if isinstance(data, Gaussian):
        latent = data.flow_map(law, x, law.t0, law.t1)
        np.testing.assert_allclose(result.latent, latent, atol=1e-4 * float(law.prior_std()))


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_default_prior_in_float32(name):
    """As used: float32, tolerance 1e-5, the law's own prior. Zero-mean data.

    The mean over the data differs from the truth by KL(p_T | prior), which is known and tiny: below
    1e-7 nats for data with as little spread as these against each prior.
    """
    law, dims, n = LAWS[name], 4, 64
    data = Gaussian.scalar(0.0, 0.6, dims)
    x = jnp.asarray(states_at_t0(law, data, n), jnp.float32)
    run = jax.jit(lambda x: log_likelihood(KEY, law, data.predict(law), x, divergence=exact()))
    result = run(x)
    truth = data.logp(law, x, law.t0)
    _, cov = data.moments(law, law.t1)
    ratio = cov[0, 0] / float(law.prior_std()) ** 2
    kl = 0.5 * dims * (ratio - 1.0 - np.log(ratio))
    assert kl < 1e-7
    gap = np.asarray(truth - result.logp, np.float64)
    assert abs(gap.mean() - kl) < 1e-4 * dims
    assert np.max(abs(gap)) < 3e-4 * dims


def test_eps_chooses_which_law_the_data_are_taken_to_follow(x64):
    law, data = VP(), DATA["gaussian"]
    x = jnp.asarray(states_at_t0(law, data, 4))
    true_end = lambda y: data.logp(law, y, law.t1)
    solver = Solver("dopri5", 1e-6, 1e-6)

    @jax.jit
    def run(x, eps):
        predict = data.predict(law)
        return log_likelihood(
            KEY, law, predict, x, divergence=exact(), solver=solver, eps=eps, prior_logp=true_end
        ).logp

    for eps in (1e-3, 0.2):
        np.testing.assert_allclose(run(x, eps), data.logp(law, x, eps), atol=3e-4)


GOLDENS = np.load(Path(__file__).parent / "goldens" / "likelihood.npz")


@pytest.mark.parametrize(
    "case", ["vp_cov", "vp_cov_gaussian_eps", "ve_cov", "vp_iso", "subvp_iso", "ve_iso"]
)
def test_original_implementation(case):
    """Bits per dimension and latent code of yang-song/score_sde, with its own Hutchinson probe.

    Its offset is 7 bits where data are scaled to [-1, 1] (VP and sub-VP) and 8 where not. All four
    images share a step there, so values agree to its tolerance of 1e-5, not to rounding.
    """
    get = lambda key: GOLDENS[f"{case}/{key}"]
    law = LAWS[case.split("_")[0]]
    U = get("cov_evecs") if "cov" in case else np.eye(64)
    data = Gaussian(np.zeros(64), (U * get("cov_evals")) @ U.T)

    def one(x, probe):
        """A batch of one, with its own probe."""
        given = Divergence(lambda key, x: probe[None, None], rademacher().evaluate, 1)
        return log_likelihood(KEY, law, data.predict(law), x[None], divergence=given)

    result = jax.jit(jax.vmap(one))(get("data"), get("epsilon"))
    offset = 8 if case.startswith("ve") else 7
    bits = -result.logp[:, 0] / (64 * np.log(2)) + offset
    np.testing.assert_allclose(bits, get("bpd"), atol=1e-4)
    latent = np.max(abs(get("z")))
    np.testing.assert_allclose(result.latent[:, 0], get("z"), atol=1e-3 * latent)
    if case.endswith("iso"):
        # the probe is exact where the Jacobian is a multiple of the identity
        np.testing.assert_allclose(bits, get("bpd_analytic"), atol=1e-4)
