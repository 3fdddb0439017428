"""Codes against the closed-form flow of Gaussian data, and their moments against N(0, I)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_law import AnyLaw
from closed_form import Gaussian, Mixture

from likelihood import Adams, log_likelihood
from likelihood.divergence import exact
from likelihood.latents import decode, encode, round_trip_error, temperature
from samplers import Solver
from sde_lib import EDM, VE, VP, Flow, SubVP

LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
DATA = Gaussian(
    np.array([0.4, -0.7, 0.1]),
    np.array([[0.5, 0.2, 0.0], [0.2, 0.3, 0.1], [0.0, 0.1, 0.8]]),
)
TIGHT = Solver("dopri5", 1e-7, 1e-7)
# Over lam; `test_the_code_is_the_latent_of_the_likelihood` has the adaptive solve over t.
SOLVERS = {"tight": TIGHT._replace(variable="lam"), "adams": Adams(64)}
CASES = [("vp", "tight"), ("ve", "tight"), ("edm", "tight"), ("vp", "adams"), ("ve", "adams")]


def at_eps(law, data, n, eps):
    """Return draws of the law at eps, float64."""
    rng = np.random.default_rng(1)
    a, c = (float(v) for v in law.coeffs(jnp.asarray(eps)))
    x0 = data.draw(rng, n)
    return a * x0 + c * rng.standard_normal(x0.shape)


@pytest.fixture(scope="module")
def there_and_back():
    """Return `(name, solver, x, eps) -> (codes, decoded)`.

    An adaptive solve is one program for all laws.
    """

    def both(law, solver, x, eps):
        codes = encode(law, DATA.predict(law), x, SOLVERS[solver], eps)
        return codes, decode(law, DATA.predict(law), codes.z, SOLVERS[solver], eps)

    @jax.jit
    def adaptive(which, x, eps):
        return both(AnyLaw(LAWS.values(), which), "tight", x, eps)

    @partial(jax.jit, static_argnums=(0, 2))
    def fixed(name, x, eps):
        return both(LAWS[name], "adams", x, eps)

    def run(name, solver, x, eps):
        found = fixed(name, x, eps) if solver == "adams" else adaptive([*LAWS].index(name), x, eps)
        return jax.device_get(found)

    return run


@pytest.mark.parametrize(("name", "solver"), CASES)
def test_codes_are_the_closed_flow_and_decode_to_the_data(name, solver, there_and_back, x64):
    """Codes from eps = 1e-3 (not t0) are the closed-form flow's, in units of the prior's std."""
    law, eps = LAWS[name], max(1e-3, LAWS[name].t0)
    x = at_eps(law, DATA, 6, eps)
    codes, back = there_and_back(name, solver, x, eps)
    truth = DATA.flow_map(law, x, eps, law.t1) / float(law.prior_std())
    np.testing.assert_allclose(codes.z, truth, atol=1e-5)
    assert np.std(truth) > 0.5
    np.testing.assert_allclose(back.x, x, atol=5e-5)
    assert np.max(round_trip_error(x, back.x)) < 5e-5
    for result in (codes, back):
        assert result.nfe.shape == (6,) and np.all(result.nfe > 30)
        assert result.failed.shape == (6,) and not np.any(result.failed)


SPREAD = Mixture(np.array([0.5, 0.5]), np.array([[-0.6, 0.6], [0.6, -0.6]]), np.array([0.2, 0.4]))


@pytest.fixture(scope="module")
def encoded():
    """Return `(which, x) -> Latents` in float32, as in use."""

    @jax.jit
    def run(which, x):
        law, solver = AnyLaw(LAWS.values(), which), Solver("tsit5", 1e-4, 1e-4, variable="lam")
        return encode(law, SPREAD.predict(law), x, solver)

    return run


@pytest.mark.parametrize("name", LAWS)
def test_codes_are_standard_normal(name, encoded):
    """Moments of 2000 codes are those of N(0, I) within four standard errors.

    The prior ignores what remains of the data at t1. So the data have zero mean, and their spread
    is either small beside VE's prior std of 50, or equals the prior's.
    """
    law, n = LAWS[name], 2000
    x = np.float32(at_eps(law, SPREAD, n, law.t0))
    codes = encoded([*LAWS].index(name), x)
    z = np.asarray(codes.z, np.float64)
    assert z.shape == (n, 2) and codes.z.dtype == np.float32
    cov = np.cov(z.T)
    assert np.all(np.abs(z.mean(0)) < 4 / n**0.5)
    assert np.all(np.abs(np.diag(cov) - 1) < 4 * (2 / n) ** 0.5)
    assert abs(cov[0, 1]) < 4 / n**0.5
    assert np.all(np.abs((z**4).mean(0) - 3) < 4 * (96 / n) ** 0.5)
    # The data themselves are far from N(0, I): correlated, with two components.
    assert abs(np.corrcoef(x.T)[0, 1]) > 0.5


@pytest.mark.parametrize("solver", [TIGHT, Adams(32)], ids=["adaptive", "fixed"])
def test_the_code_is_the_latent_of_the_likelihood(solver, x64):
    law, x = LAWS["vp"], at_eps(LAWS["vp"], DATA, 3, 1e-3)
    predict, key = DATA.predict(law), jax.random.key(0)
    given = {"solver": solver, "eps": 1e-3}

    @jax.jit
    def run(x):
        both = log_likelihood(key, law, predict, x, divergence=exact(), **given)
        return encode(law, predict, x, **given).z, both.latent / law.prior_std()

    np.testing.assert_allclose(*run(x), atol=1e-6)


def test_a_batch_mate_changes_nothing():
    """An example that needs many more steps does not change the others of its batch.

    They are equal to the last bit, because this network has no matrix products.
    """
    law = LAWS["vp"]
    data = Mixture(np.array([0.5, 0.5]), np.array([[-1.0, 0.5], [1.0, 0.5]]), np.array([0.05, 0.1]))
    x = np.array([[0.9, 0.4], [0.01, 30.0], [-1.0, 0.6]], np.float32)
    near = x.copy()
    near[1] = 1.0, 0.5
    run = jax.jit(lambda x: encode(law, data.predict(law), x, Solver("tsit5", 1e-4, 1e-4)))
    many, other = jax.device_get((run(x), run(near)))
    np.testing.assert_array_equal(many.z[::2], other.z[::2])
    np.testing.assert_array_equal(many.nfe[::2], other.nfe[::2])
    assert many.nfe[1] != other.nfe[1]


@pytest.mark.parametrize(
    "solver", [Solver("tsit5", 1e-3, 1e-3, max_steps=100), Adams(16)], ids=["adaptive", "fixed"]
)
def test_a_failure_is_reported_and_kept_from_the_others(solver):
    """An example with a value that is not finite fails alone, with either solver."""
    law = LAWS["vp"]
    predict = DATA.predict(law)
    x = np.array([[0.1, 0.2, 0.3], [0.1, np.inf, 0.3]], np.float32)

    @jax.jit
    def run(x):
        codes = encode(law, predict, x, solver)
        return codes, decode(law, predict, codes.z, solver)

    codes, back = jax.device_get(run(x))
    assert codes.failed.tolist() == [False, True]
    assert np.isfinite(codes.z[0]).all() and np.isnan(codes.z[1]).all()
    assert back.failed.tolist() == [False, True]
    error = np.asarray(round_trip_error(x, back.x))
    assert error[0] < 0.1 and np.isnan(error[1])


def test_too_few_steps_are_a_failure():
    law, x = LAWS["vp"], np.array([[0.1, 0.2, 0.3]], np.float32)
    short = jax.jit(lambda x: encode(law, DATA.predict(law), x, Solver(max_steps=4)))(x)
    assert short.failed.tolist() == [True] and np.isnan(short.z).all()


def test_denoising_ends_with_the_mean_of_the_data(x64):
    law, eps = LAWS["ve"], 0.3  # where the noise is not small
    predict, x = DATA.predict(law), at_eps(LAWS["ve"], DATA, 4, 0.3)
    z = DATA.flow_map(law, x, eps, law.t1) / float(law.prior_std())
    run = jax.jit(lambda z: [decode(law, predict, z, Adams(128), eps, flag) for flag in (0, 1)])
    plain, denoised = jax.device_get(run(z))
    np.testing.assert_allclose(denoised.x, predict(x, eps).x0, atol=1e-5)
    np.testing.assert_array_equal(denoised.nfe, plain.nfe + 1)
    assert np.abs(denoised.x - plain.x).max() > 1e-2


def test_round_trip_error_is_a_root_mean_square():
    x = np.zeros((2, 2, 2))
    back = np.array([[[1.0, 1.0], [1.0, -1.0]], [[4.0, 0.0], [0.0, 0.0]]])
    np.testing.assert_allclose(round_trip_error(x, back), [1.0, 2.0])


def test_temperature():
    np.testing.assert_array_equal(temperature(np.array([1.0, -2.0]), 0.5), [0.5, -1.0])
    for tau in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"temperature is {tau}"):
            temperature(np.ones(2), tau)


def test_fixed_steps_need_a_law_that_is_known():
    run = jax.jit(lambda law, x: encode(law, DATA.predict(law), x, Adams(8)).z)
    with pytest.raises(ValueError, match="laid out when the program is built"):
        run(LAWS["vp"], np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="order is 9"):
        encode(LAWS["vp"], DATA.predict(LAWS["vp"]), np.zeros((1, 3), np.float32), Adams(8, 9))
