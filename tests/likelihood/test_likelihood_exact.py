"""Log-likelihoods against densities in closed form.

Values are compared because an error of 8.7 nats once passed a test of shapes.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_law import AnyLaw
from closed_form import Exact, Gaussian, Mixture

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

ISOTROPIC = Gaussian.scalar(0.0, 0.6, 4)


def states_at_t0(law, data, n):
    rng = np.random.default_rng(0)
    a, c = (float(v) for v in law.coeffs(jnp.asarray(law.t0)))
    x0 = data.draw(rng, n)
    return a * x0 + c * rng.standard_normal(x0.shape)


@pytest.fixture(scope="module")
def solved():
    """Return `(which, data_name, x, eps) -> LogLik` with the exact score, trace and density at t1.

    The true density at t1 replaces the prior, so that errors are those of the solve. There is one
    program for each kind of data, with the law's number as an argument.
    """

    @partial(jax.jit, static_argnums=1)
    def run(which, data_name, x, eps):
        law, data = AnyLaw(LAWS.values(), which), DATA[data_name]
        return log_likelihood(
            KEY, law, data.predict(law), x, divergence=exact(), eps=eps,
            solver=Solver("dopri5", 1e-6, 1e-6), prior_logp=lambda y: data.logp(law, y, law.t1),
        )  # fmt: skip

    return run


# Tests below also run Gaussian data under every law.
CASES = [(law, "mixture") for law in LAWS] + [("vp", "gaussian")]


@pytest.mark.parametrize("name, data_name", CASES)
def test_log_density_in_closed_form(name, data_name, solved, x64):
    """log p is right within 1e-4 nats per dimension.

    Flow's drift is singular just above its t1 = 0.999.
    """
    law, data = LAWS[name], DATA[data_name]
    x = states_at_t0(law, data, 8)
    result = solved([*LAWS].index(name), data_name, x, law.t0)
    truth = data.logp(law, x, law.t0)
    assert np.max(abs(result.logp - truth)) < 3 * 1e-4
    assert np.std(truth) > 0.3, "a constant would pass"
    np.testing.assert_array_equal(result.stderr, 0.0)
    assert not np.any(result.failed)
    if isinstance(data, Gaussian):
        latent = data.flow_map(law, x, law.t0, law.t1)
        np.testing.assert_allclose(result.latent, latent, atol=1e-4 * float(law.prior_std()))


def test_eps_chooses_which_law_the_data_are_taken_to_follow(solved, x64):
    law, data = LAWS["vp"], DATA["gaussian"]
    x = states_at_t0(law, data, 8)
    for eps in (1e-3, 0.2):
        found = solved([*LAWS].index("vp"), "gaussian", x, eps).logp
        np.testing.assert_allclose(found, data.logp(law, x, eps), atol=3e-4)


@pytest.fixture(scope="module")
def as_used():
    """Return `(which, x) -> LogLik` in float32, tolerance 1e-5, with the law's own prior."""

    @jax.jit
    def run(which, x):
        law = AnyLaw(LAWS.values(), which)
        return log_likelihood(KEY, law, ISOTROPIC.predict(law), x, divergence=exact())

    return run


@pytest.mark.parametrize("name", ["vp", "subvp", "ve"])
def test_default_prior_in_float32(name, as_used):
    """With the default prior, mean log p of zero-mean data is below the truth by KL(p_T | prior).

    This divergence is known, and below 1e-7 nats for data of so small a spread.
    """
    law, data, dims = LAWS[name], ISOTROPIC, len(ISOTROPIC.mean)
    x = np.float32(states_at_t0(law, data, 64))
    result = as_used([*LAWS].index(name), x)
    truth = data.logp(law, np.float64(x), law.t0)
    _, cov = data.moments(law, law.t1)
    ratio = cov[0, 0] / float(law.prior_std()) ** 2
    kl = 0.5 * dims * (ratio - 1.0 - np.log(ratio))
    assert kl < 1e-7
    gap = truth - np.float64(result.logp)
    assert abs(gap.mean() - kl) < 1e-4 * dims
    assert np.max(abs(gap)) < 3e-4 * dims


GOLDENS = np.load(Path(__file__).parent / "goldens" / "likelihood.npz")


class Modes(NamedTuple):
    """x0 ~ N(0, U diag(L) U^T) with arrays that can be arguments; for one example at a time."""

    U: jax.Array
    L: jax.Array

    def predict(self, path):
        def predict(x, t):
            (a, c), (da, dc) = path.coeffs(t), path.rates(t)
            y = x.reshape(1, -1) @ self.U / (a**2 * self.L + c**2)
            x0, eps = ((v @ self.U.T).reshape(x.shape) for v in (a * self.L * y, c * y))
            return Exact(x0, eps, -eps / c, da * x0 + dc * eps)

        return predict


@pytest.fixture(scope="module")
def with_given_probes():
    """Return `(which, modes, x, probes) -> LogLik`; each example is a batch with its own probe."""

    @jax.jit
    def run(which, modes, x, probes):
        law = AnyLaw(LAWS.values(), which)

        def one(x, probe):
            given = Divergence(lambda key, x: probe[None, None], rademacher().evaluate, 1)
            return log_likelihood(KEY, law, modes.predict(law), x[None], divergence=given)

        return jax.vmap(one)(x, probes)

    return run


@pytest.mark.parametrize(
    "case", ["vp_cov", "vp_cov_gaussian_eps", "ve_cov", "vp_iso", "subvp_iso", "ve_iso"]
)
def test_original_implementation(case, with_given_probes):
    """bits/dim and latent codes are those of yang-song/score_sde, with its Hutchinson probe.

    Its offset is 7 bits for data scaled to [-1, 1] (VP and sub-VP) and 8 otherwise. In the original
    all four images share the step size, so values agree to its tolerance of 1e-5, not to rounding.
    """
    get = lambda key: GOLDENS[f"{case}/{key}"]
    modes = Modes(get("cov_evecs") if "cov" in case else np.eye(64), get("cov_evals"))
    which = [*LAWS].index(case.split("_")[0])
    result = jax.device_get(
        with_given_probes(which, jax.tree.map(np.float32, modes), get("data"), get("epsilon"))
    )
    offset = 8 if case.startswith("ve") else 7
    bits = -result.logp[:, 0] / (64 * np.log(2)) + offset
    np.testing.assert_allclose(bits, get("bpd"), atol=1e-4)
    latent = np.max(abs(get("z")))
    np.testing.assert_allclose(result.latent[:, 0], get("z"), atol=1e-3 * latent)
    if case.endswith("iso"):
        # If the Jacobian is a multiple of the identity, the probe gives the exact trace.
        np.testing.assert_allclose(bits, get("bpd_analytic"), atol=1e-4)
