"""Divergence estimators, what they cost, and bits per dimension."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian, Mixture

from likelihood import DIVERGENCES, bits_per_dim, log_likelihood
from likelihood.divergence import exact
from samplers import Solver
from sde_lib import VP, example_keys, parametrize

KEY = jax.random.key(0)
LAW = VP()
PLANE = Mixture(
    np.array([0.3, 0.7]), np.array([[-1.0, 0.5, 0.0], [0.8, -0.3, 0.4]]), np.array([0.3, 0.5])
)
MIX = np.random.default_rng(0).standard_normal((12, 12)) / 2


def coupled(x):
    """A field on (B, 2, 2, 3) whose Jacobian has no structure."""
    flat = x.reshape(x.shape[0], -1)
    return (jnp.tanh(flat @ MIX) + 0.1 * flat**2).reshape(x.shape)


def images(n=5):
    return jnp.asarray(np.random.default_rng(1).standard_normal((n, 2, 2, 3)))


def true_traces(field, x):
    """By the full Jacobian of each example."""
    flat = lambda y: field(y.reshape(1, *x.shape[1:])).ravel()
    return jax.jit(jax.vmap(lambda y: jnp.trace(jax.jacfwd(flat)(y.ravel()))))(x)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_is_the_field_and_shapes_are_stated(name):
    for probes in (1, 4):
        divergence, x = DIVERGENCES[name](probes), images()
        e = divergence.probes(KEY, x)
        value, div = jax.jit(lambda x, e, d=divergence: d.evaluate(coupled, x, e))(x, e)
        np.testing.assert_allclose(value, coupled(x), rtol=1e-6)
        assert div.shape == (divergence.num_estimates, 5)
        assert e.shape == ({"exact": 0, "hutch_pp": 2 * probes}.get(name, probes), *x.shape)


def test_exact_is_the_trace_of_the_jacobian(x64):
    divergence, x = DIVERGENCES["exact"](), images()
    div = divergence.evaluate(coupled, x, divergence.probes(KEY, x))[1][0]
    np.testing.assert_allclose(div, true_traces(coupled, x), rtol=1e-12)
    assert divergence.stderr(div[:1], 12) == 0.0


def test_exact_in_blocks(x64):
    """Twelve dimensions, five at a time."""
    x = images()
    whole, parts = DIVERGENCES["exact"](), exact(block=5)
    run = lambda d: jax.jit(lambda x: d.evaluate(coupled, x, d.probes(KEY, x))[1])(x)
    np.testing.assert_allclose(run(parts), run(whole), rtol=1e-13)


def test_all_orthogonal_probes_are_exact(x64):
    """With as many as dimensions the mean is the trace; fewer are at right angles, of length
    sqrt(D)."""
    x = images(3)
    divergence = DIVERGENCES["orthogonal"](12)
    e = divergence.probes(KEY, x)
    gram = jnp.einsum("kbd,jbd->bkj", e.reshape(12, 3, 12), e.reshape(12, 3, 12))
    np.testing.assert_allclose(gram, np.broadcast_to(12.0 * np.eye(12), (3, 12, 12)), atol=1e-11)
    div = divergence.evaluate(coupled, x, e)[1]
    np.testing.assert_allclose(jnp.mean(div, axis=0), true_traces(coupled, x), rtol=1e-12)
    assert jnp.std(div) > 0.1 and divergence.stderr(div[:, 0], 12) == 0.0
    with pytest.raises(ValueError, match="num_probes is 13 and an example has 12 dimensions"):
        DIVERGENCES["orthogonal"](13).probes(KEY, x)


def test_hutch_pp_on_a_jacobian_of_low_rank(x64):
    """Rank 3 and 4 directions: exact, whatever the probes. Full rank with a few large parts: less
    than a tenth of the variance of signs at the same number of tangents."""
    rng = np.random.default_rng(3)
    low, x = rng.standard_normal((12, 3)), images(1)
    thin = low @ rng.standard_normal((3, 12))
    steep = low @ low.T + 0.05 * rng.standard_normal((12, 12))

    def draws(name, probes, matrix):
        divergence = DIVERGENCES[name](probes)
        field = lambda x: (x.reshape(-1, 12) @ matrix).reshape(x.shape)
        draw = lambda k: jnp.mean(divergence.evaluate(field, x, divergence.probes(k, x))[1])
        return jax.jit(jax.vmap(draw))(jax.random.split(KEY, 500))

    np.testing.assert_allclose(draws("hutch_pp", 4, thin), np.trace(thin), rtol=1e-9)
    ours, signs = draws("hutch_pp", 4, steep), draws("rademacher", 12, steep)
    assert jnp.var(ours) < 0.1 * jnp.var(signs)
    assert abs(jnp.mean(ours) - np.trace(steep)) < 4 * jnp.std(ours) / 500**0.5


def test_hutch_pp_knows_its_error(x64):
    """Given the subspace the estimates are independent and unbiased, so the mean squared stderr is
    the variance of the means. Their law is not Student's: few dimensions are left."""
    divergence, x, groups = DIVERGENCES["hutch_pp"](3), images(1), 4000

    @jax.jit
    @jax.vmap
    def estimate(key):
        div = divergence.evaluate(coupled, x, divergence.probes(key, x))[1][:, 0]
        return jnp.mean(div), divergence.stderr(div, 12)

    means, stderrs = estimate(jax.random.split(KEY, groups))
    assert abs(jnp.mean(means) - true_traces(coupled, x)[0]) < 4 * jnp.std(means) / groups**0.5
    np.testing.assert_allclose(jnp.mean(stderrs**2), jnp.var(means), rtol=0.15)


def test_rademacher_is_exact_where_the_jacobian_is_diagonal(x64):
    field, x = lambda x: jnp.sin(x) + x**3, images()
    truth = jnp.sum((jnp.cos(x) + 3 * x**2).reshape(5, -1), axis=1)
    for probes in (1, 3):
        divergence = DIVERGENCES["rademacher"](probes)
        draw = lambda x, d=divergence: d.evaluate(field, x, d.probes(KEY, x))[1]
        np.testing.assert_allclose(jax.jit(draw)(x), np.tile(truth, (probes, 1)), rtol=1e-12)


@pytest.mark.parametrize("name", ["rademacher", "gaussian", "orthogonal"])
def test_hutchinson_is_unbiased_and_knows_its_error(name, x64):
    """Over 4000 groups of 8 probes: the mean is the trace within its error, and the distances of
    the groups from it, in units of the stderr each group reports, have the law of Student's t with
    7 degrees of freedom: variance 7 / 5."""
    divergence, x, groups = DIVERGENCES[name](8), images(1), 4000

    @jax.jit
    @jax.vmap
    def estimate(key):
        div = divergence.evaluate(coupled, x, divergence.probes(key, x))[1][:, 0]
        return jnp.mean(div), divergence.stderr(div, x[0].size)

    means, stderrs = estimate(jax.random.split(KEY, groups))
    truth = true_traces(coupled, x)[0]
    assert abs(jnp.mean(means) - truth) < 4 * jnp.std(means) / groups**0.5
    z = (means - truth) / stderrs
    # the variance of the variance of t_7 is 6 / (7 - 4) + 2 in units of it, over the groups
    assert abs(jnp.var(z) / (7 / 5) - 1.0) < 4 * (4 / groups) ** 0.5
    assert np.isnan(DIVERGENCES[name](1).stderr(means[:1], 12))


def test_rademacher_has_the_lower_variance(x64):
    """By `2 sum_i J_ii^2`, the part of the diagonal, which signs do not see."""
    x = images(1)
    spread = {}
    for name in ("rademacher", "gaussian"):
        divergence = DIVERGENCES[name](1)
        draw = lambda k, d=divergence: d.evaluate(coupled, x, d.probes(k, x))[1]
        spread[name] = float(jnp.var(jax.jit(jax.vmap(draw))(jax.random.split(KEY, 8000))))
    J = jax.jacfwd(lambda y: coupled(y.reshape(x.shape)).ravel())(x.ravel())
    S = np.asarray(J + J.T) / 2
    off = 2 * (np.sum(S**2) - np.sum(np.diag(S) ** 2))
    np.testing.assert_allclose(spread["rademacher"], off, rtol=0.1)
    np.testing.assert_allclose(spread["gaussian"], 2 * np.sum(S**2), rtol=0.1)


def count(jaxpr, name):
    """How often a primitive stands in a jaxpr, inner ones included."""
    total = 0
    is_jaxpr = lambda value: hasattr(value, "eqns")
    for eqn in jaxpr.eqns:
        total += eqn.primitive.name == name
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=is_jaxpr):
            inner = getattr(value, "jaxpr", value)
            total += count(inner, name) if is_jaxpr(inner) else 0
    return total


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("probes", [1, 4])
def test_one_network_evaluation_for_value_and_divergence(name, probes):
    """`erf` marks the network; its derivative is an exponential. One forward pass has one marker,
    whatever the number of probes; a value and a derivative computed apart would have two."""
    divergence = DIVERGENCES[name](probes)
    network = lambda x, cond: jax.lax.erf(x @ MIX[:6, :6])
    predict = parametrize("eps", LAW, network)
    field = lambda x: predict(x, jnp.asarray(0.5)).velocity

    def evaluate(x, e):
        return divergence.evaluate(field, x, e)

    x = jnp.ones((2, 6))
    jaxpr = jax.make_jaxpr(evaluate)(x, divergence.probes(KEY, x))
    assert count(jaxpr.jaxpr, "erf") == 1
    # and the counter does count: two calls, two markers
    assert count(jax.make_jaxpr(lambda x: network(network(x, 0), 0))(x).jaxpr, "erf") == 2


@pytest.mark.parametrize("name, probes", [("rademacher", 1), ("gaussian", 3)])
def test_nfe_is_the_number_of_network_calls(name, probes):
    """Counted on the host: the forward pass runs once per evaluation of the pair (x, log p)."""
    calls = []

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return PLANE.predict(LAW)(x, t)

    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3)), jnp.float32)
    run = jax.jit(
        lambda x: log_likelihood(KEY, LAW, predict, x, divergence=DIVERGENCES[name](probes))
    )
    nfe = np.asarray(jax.block_until_ready(run(x)).nfe)
    jax.effects_barrier()
    assert nfe.shape == (3,) and nfe.max() == len(calls) > 20


def test_example_does_not_depend_on_its_batch():
    """Same key and image beside others: no difference, or float rounding."""
    divergence = DIVERGENCES["gaussian"](2)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.float32)
    keys = example_keys(0, jnp.arange(4))
    run = jax.jit(
        lambda keys, x: log_likelihood(keys, LAW, PLANE.predict(LAW), x, divergence=divergence)
    )
    first, second = run(keys, x), run(keys, x.at[1:].multiply(5.0))
    np.testing.assert_array_equal(first.logp[0], second.logp[0])
    np.testing.assert_array_equal(first.nfe[0], second.nfe[0])
    order = jnp.asarray([2, 0, 3, 1])
    np.testing.assert_allclose(run(keys[order], x[order]).logp, first.logp[order], rtol=1e-5)
    # its probe is its own: the same image four times, four estimates
    same = run(keys, jnp.tile(x[:1], (4, 1)))
    assert len(np.unique(np.asarray(same.logp))) == 4 and np.all(same.stderr > 0)


def test_estimates_scatter_about_the_exact_value_by_their_stderr(x64):
    """One image, 400 keys, 8 probes each: unbiased, and the stderr is that of the scatter.

    In twelve dimensions a single estimate is nearly normal, so half of the distances in units of
    stderr should be below 0.711, the quartile of Student's t with 7 degrees of freedom.
    """
    A = np.random.default_rng(2).standard_normal((12, 12)) / 3
    data = Gaussian(np.zeros(12), A @ A.T + 0.1 * np.eye(12))
    x = jnp.asarray(np.tile(data.draw(np.random.default_rng(0), 1), (400, 1)))
    predict, solver = data.predict(LAW), Solver(rtol=1e-5, atol=1e-5)
    result = jax.jit(
        lambda x: log_likelihood(
            KEY, LAW, predict, x, divergence=DIVERGENCES["rademacher"](8), solver=solver
        )
    )(x)
    error = result.logp - data.logp(LAW, x, LAW.t0)
    assert jnp.std(error) > 0.1, "without scatter there is nothing to judge"
    assert abs(jnp.mean(error)) < 4 * jnp.std(error) / 400**0.5
    assert abs(np.mean(abs(error / result.stderr) < 0.711) - 0.5) < 4 * 0.5 / 400**0.5


def test_failure_is_reported():
    divergence = DIVERGENCES["rademacher"](1)
    x = jnp.asarray([[0.1, 0.2, 0.3], [0.1, jnp.nan, 0.3], [0.5, 0.2, 0.1]])

    @jax.jit
    def run(tolerance):
        solver = Solver("heun", tolerance, tolerance, max_steps=60)
        return log_likelihood(KEY, LAW, PLANE.predict(LAW), x, divergence=divergence, solver=solver)

    for tolerance, failed in ((1e-2, [False, True, False]), (1e-6, [True] * 3)):
        result = run(tolerance)
        np.testing.assert_array_equal(result.failed, failed)
        np.testing.assert_array_equal(np.isnan(result.logp), failed)


def test_bits_of_a_uniform_law():
    """256 equal levels are 8 bits, 17 are log2(17), however the data are scaled and shaped."""
    dims = 48
    for levels in (2, 17, 256):
        for low, high in ((0.0, 1.0), (-1.0, 1.0), (-3.0, 5.0)):
            width = high - low
            logp = -dims * np.log(width)  # uniform density on the scaled cube
            bits = bits_per_dim(jnp.full((3,), logp), dims, np.log(width / levels))
            np.testing.assert_allclose(bits, np.log2(levels), rtol=1e-6)


def test_bits_of_a_two_level_law_bound_its_entropy():
    """A dequantised coin: the density on [0, 1] is 2 p or 2 (1 - p), the mean bits its entropy."""
    p = 0.2
    u = np.random.default_rng(0).random(200_000) < p
    logp = np.log(np.where(u, 2 * p, 2 * (1 - p)))
    bits = bits_per_dim(jnp.asarray(logp), 1, np.log(1 / 2))
    entropy = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    assert abs(np.mean(bits) - entropy) < 4 * np.std(bits) / len(u) ** 0.5
