"""Prediction kinds (the meaning of a network's output), for every law, against definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_law import AnyLaw

from sde_lib import KINDS, SDES, VP, parametrize
from sde_lib.prediction import CONDITIONING, condition, from_score, kinds, prediction_of

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
LAWS = {name: law() for name, law in SDES.items()}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
number = {id(law): i for i, law in enumerate(LAWS.values())}
SIGMA_DATA = 0.7


def problem(law, n=12):
    """Return data, noise, times from t0 to t1, and the states that they make."""
    rng = np.random.default_rng(0)
    x0, z = rng.standard_normal((2, n, 2, 3))
    t = np.union1d(np.geomspace(law.t0, law.t1, n // 2), np.linspace(0.13, 0.9, n // 2))
    a, c = (np.asarray(v)[:, None, None] for v in law.coeffs(t))
    return x0, z, t, a * x0 + c * z


def of_any_law(f):
    """Return `f(law, *arrays)` as one program for all laws."""
    run = jax.jit(lambda which, *given: f(AnyLaw(LAWS.values(), which), *given))
    return lambda law, *given: jax.device_get(run(number[id(law)], *given))


@of_any_law
def through_all(law, x0, z, t, x):
    table, out = kinds(SIGMA_DATA), {}
    for first in KINDS:
        pair = table[first].decode(law, x, t, table[first].target(law, x0, z, t))
        for second in KINDS:
            again = table[second].target(law, *pair, t)
            out[first, second] = (*pair, *table[second].decode(law, x, t, again))
    return out


@laws
def test_every_kind_round_trips_through_every_other(law):
    """The target of one kind, decoded, encoded as another kind and decoded again, gives (x0, eps).

    The tolerance on x0 is that of `x0 = (x - c eps) / a`, with data of a 5000th of the size of x
    (VE).
    """
    x0, z, t, x = problem(law)
    for names, (x0_1, eps_1, x0_2, eps_2) in through_all(law, x0, z, t, x).items():
        for got in (x0_1, x0_2):
            np.testing.assert_allclose(got, x0, rtol=1e-7, atol=1e-8, err_msg=str(names))
        for got in (eps_1, eps_2):
            np.testing.assert_allclose(got, z, rtol=1e-7, atol=1e-8, err_msg=str(names))


@of_any_law
def targets_and_definitions(law, x0, z, t, x):
    table = kinds(SIGMA_DATA)

    def log_kernel(x, x0, t):
        a, c = law.coeffs(t)
        return -0.5 * jnp.sum((x - a * x0) ** 2) / c**2

    # v is the derivative of x by u on the circle (a, c) = r (cos u, sin u), at fixed r.
    def on_circle(u):
        a, c = law.coeffs(t)
        r = jnp.hypot(a, c)[:, None, None]
        u = (jnp.arctan2(c, a) + u)[:, None, None]
        return r * (jnp.cos(u) * x0 + jnp.sin(u) * z)

    defined = {
        "score": jax.vmap(jax.grad(log_kernel))(x, x0, t),
        "velocity": jax.jvp(lambda t: law.marginal(x0, z, t), (t,), (jnp.ones_like(t),))[1],
        "v": jax.jvp(on_circle, (0.0,), (1.0,))[1],
    }
    return {kind: table[kind].target(law, x0, z, t) for kind in KINDS}, defined


@laws
def test_targets_are_what_their_names_say(law):
    """Each target equals its definition; derivatives in a definition are by autodiff."""
    x0, z, t, x = problem(law)
    target, defined = targets_and_definitions(law, x0, z, t, x)
    np.testing.assert_array_equal(target["eps"], z)
    np.testing.assert_array_equal(target["x0"], x0)
    np.testing.assert_allclose(target["score"], defined["score"], rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(target["velocity"], defined["velocity"], rtol=1e-12)
    np.testing.assert_allclose(target["v"], defined["v"], rtol=1e-9, atol=1e-12)


@of_any_law
def edm_sees_and_makes(law, x0, z, times):
    entry = kinds(SIGMA_DATA)["edm"]
    at = lambda t: (entry.scale_in(law, law.marginal(x0, z, t), t), entry.target(law, x0, z, t))
    return jax.lax.map(at, times)


@laws
def test_edm_network_sees_and_makes_unit_variance(law):
    """Input and target of kind "edm" have variance one at every noise level.

    This is the principle of Karras et al. 2022, section 5. It holds for data of standard deviation
    sigma_data.
    """
    rng = np.random.default_rng(0)
    n = 40_000
    x0, z = SIGMA_DATA * rng.standard_normal((n, 1)), rng.standard_normal((n, 1))
    times = np.geomspace(max(law.t0, 1e-3), law.t1, 4)
    for inputs, targets in zip(*edm_sees_and_makes(law, x0, z, times)):
        for value in (inputs, targets):
            assert abs(np.var(value) - 1.0) < 4 * np.sqrt(2 / n)
        # Input and target are uncorrelated.
        assert abs(np.mean(inputs * targets)) < 4 / np.sqrt(n)


@of_any_law
def slopes_and_scales(law, x0, z, t, x):
    found = {}
    for kind, entry in kinds(SIGMA_DATA).items():
        raw = jnp.asarray(entry.target(law, x0, z, t))
        decode = lambda f, entry=entry: entry.decode(law, x, t, f)[1]
        _, slope = jax.jvp(decode, (raw,), (jnp.ones_like(raw),))
        scale = jnp.broadcast_to(entry.eps_scale(law, t)[:, None, None], x.shape)
        found[kind] = abs(slope), scale
    return found


@laws
def test_eps_scale_is_the_derivative_of_the_noise(law):
    for kind, (slope, scale) in slopes_and_scales(law, *problem(law)).items():
        np.testing.assert_allclose(slope, scale, rtol=1e-9, err_msg=kind)


@of_any_law
def completed(law, x0, eps, t, x):
    return prediction_of(law, x, t, x0, eps), law.f(t), law.g2(t)


@laws
def test_velocity_is_the_flow_of_the_score(law):
    """`a' x0 + c' eps = f x - g^2 score / 2`, also for predictions that are wrong."""
    x0, eps, t, x = problem(law)
    prediction, f, g2 = completed(law, x0, eps, t, x)
    f, g2 = f[:, None, None], g2[:, None, None]
    flow = f * x - 0.5 * g2 * prediction.score
    size = abs(f * x) + abs(0.5 * g2 * prediction.score)
    assert np.all(abs(prediction.velocity - flow) < 1e-9 * size)


@of_any_law
def parametrized(law, x0, z, t, x):
    found = {}
    for kind, entry in kinds(SIGMA_DATA).items():
        seen = []

        def network(y, cond, entry=entry, seen=seen):
            seen.append((y, cond))
            return entry.target(law, x0, z, t)

        prediction = parametrize(kind, law, network, "t", SIGMA_DATA)(x, t)
        assert len(seen) == 1
        found[kind] = prediction, seen[0]
    return found


@laws
def test_parametrize_gives_the_network_its_input_and_reads_its_output(law):
    """With a network that returns the target of (x0, z), the prediction is (x0, z)."""
    x0, z, t, x = problem(law)
    c = np.asarray(law.coeffs(t).c)
    for kind, (prediction, (y, cond)) in parametrized(law, x0, z, t, x).items():
        np.testing.assert_allclose(prediction.x0, x0, rtol=1e-7, atol=1e-8, err_msg=kind)
        np.testing.assert_allclose(prediction.eps, z, rtol=1e-7, atol=1e-8, err_msg=kind)
        np.testing.assert_array_equal(cond, t)
        if kind != "edm":
            np.testing.assert_array_equal(y, x)
        np.testing.assert_allclose(prediction.score, -z / c[:, None, None], rtol=1e-6, atol=1e-8)


def test_from_score_is_tweedie():
    law = VP()
    x, t = np.ones((3, 2)), np.float64(0.3)
    a, c = (float(v) for v in law.coeffs(t))
    prediction = jax.jit(from_score(law, lambda x, t: -0.25 * x))(x, t)
    np.testing.assert_allclose(prediction.x0, (1 - 0.25 * c**2) / a * x)
    np.testing.assert_allclose(prediction.score, -0.25 * x)


@of_any_law
def told_of(law, x, t):
    return {name: condition(name, law, x, t, 8) for name in CONDITIONING}


@laws
def test_conditioning(law):
    """The network's second argument has one number per example, in at least float32."""
    t = 0.5 * law.t1
    told = told_of(law, np.zeros((4, 2), jnp.bfloat16), t)
    a, c = (float(v) for v in law.coeffs(np.float64(t)))
    expected = {
        "t": t,
        "label": 999.0 * t / law.t1,
        "sigma": c / a,
        "lam": np.log(a / c),
        "c_noise": np.log(c / a) / 4,
        "step": 3.5,
        "level": 4.0,
    }
    assert told.keys() == expected.keys(), "a new conditioning needs a line here"
    for name, value in told.items():
        assert value.shape == (4,) and value.dtype == np.float32
        np.testing.assert_allclose(value, np.full(4, expected[name]), rtol=1e-5, atol=1e-6)


def test_a_bfloat16_network_does_not_coarsen_the_coefficients():
    """The network's output is converted to the precision of x before coefficients are applied."""
    law = VP()
    x, t = np.ones((2, 3), np.float32), np.array([1e-5, 0.5], np.float32)
    predict = parametrize("eps", law, lambda x, cond: x.astype(jnp.bfloat16))
    prediction = jax.device_get(jax.jit(predict)(x, t))
    assert {value.dtype for value in prediction} == {np.dtype("float32")}
    c = np.asarray(law.coeffs(t).c)
    np.testing.assert_allclose(prediction.score, -1.0 / c[:, None] * np.ones((2, 3)), rtol=1e-6)


@of_any_law
def decoded_noise(law, x0, z, t):
    x = law.marginal(x0, z, t)
    table = kinds(SIGMA_DATA).items()
    return {kind: entry.decode(law, x, t, entry.target(law, x0, z, t))[1] for kind, entry in table}


@laws
def test_noise_is_decoded_well_in_float32_near_the_data(law):
    """All kinds but "x0" give eps to rounding at t0; "x0" divides by c, which is small there."""
    with jax.enable_x64(False):
        x0, z = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
        t = np.full(5, law.t0, np.float32)
        c = float(law.coeffs(t).c[0])
        for kind, eps in decoded_noise(law, x0, z, t).items():
            limit = 1e-6 / c if kind == "x0" else 5e-6
            np.testing.assert_allclose(eps, z, atol=limit, err_msg=kind)


@pytest.mark.parametrize("beta_max", [200.0, 400.0])
def test_edm_where_the_noise_drowns_the_data(beta_max):
    """Kind "edm" is right where c / a is 5e21 or overflows: x0 is `sigma_data F`, and eps is x.

    In float32 the square of c / a overflows in both cases.
    """
    law, t = VP(0.1, beta_max), jnp.float32(1.0)
    x, raw = jnp.float32([[0.5, -2.0]]), jnp.float32([[0.3, 1.1]])
    edm = kinds(SIGMA_DATA)["edm"]
    x0, eps = edm.decode(law, x, t, raw)
    np.testing.assert_allclose(x0, SIGMA_DATA * raw, rtol=1e-6)
    for found in (eps, edm.scale_in(law, x, t)):
        np.testing.assert_allclose(found, x, rtol=1e-6)
    np.testing.assert_allclose(edm.target(law, x0, eps, t), raw, rtol=1e-6)
