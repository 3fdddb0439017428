"""Divergence estimators: values, errors and cost; and bits per dimension."""

import functools

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
keys = jax.jit(lambda n: jax.random.split(KEY, n), static_argnums=0)


def coupled(x):
    """Evaluate a field on (B, 2, 2, 3) whose Jacobian has no structure."""
    flat = x.reshape(x.shape[0], -1)
    return (jnp.tanh(flat @ MIX) + 0.1 * flat**2).reshape(x.shape)


def images(n=5):
    return np.random.default_rng(1).standard_normal((n, 2, 2, 3))


def jacobians(x):
    """Return the Jacobians of `coupled` in closed form, `(B, 12, 12)`."""
    flat = np.float64(x).reshape(len(x), 12)
    slope = 1.0 - np.tanh(flat @ MIX) ** 2
    return slope[:, :, None] * MIX.T + 0.2 * flat[:, :, None] * np.eye(12)


def true_traces(x):
    return np.trace(jacobians(x), axis1=1, axis2=2)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_is_the_field_and_shapes_are_stated(name):
    x = np.float32(images())
    flat = x.reshape(5, 12)
    field = (np.tanh(flat @ MIX) + 0.1 * flat**2).reshape(x.shape)

    @jax.jit
    def run(x):
        found = []
        for probes in (1, 4):
            divergence = DIVERGENCES[name](probes)
            e = divergence.probes(KEY, x)
            found.append((e, *divergence.evaluate(coupled, x, e)))
        return found

    for probes, (e, value, div) in zip((1, 4), jax.device_get(run(x))):
        np.testing.assert_allclose(value, field, rtol=1e-5, atol=1e-6)
        assert div.shape == (DIVERGENCES[name](probes).num_estimates, 5)
        assert e.shape == ({"exact": 0, "hutch_pp": 2 * probes}.get(name, probes), *x.shape)


def test_exact_is_the_trace_of_the_jacobian(x64):
    """The exact divergence is the trace, at once and in blocks (12 dimensions, five at a time)."""
    x, whole, parts = images(), DIVERGENCES["exact"](), exact(block=5)

    @jax.jit
    def run(x):
        div, in_blocks = (d.evaluate(coupled, x, d.probes(KEY, x))[1] for d in (whole, parts))
        return div[0], in_blocks, whole.stderr(div[:1], 12)

    div, in_blocks, stderr = jax.device_get(run(x))
    np.testing.assert_allclose(div, true_traces(x), rtol=1e-12)
    np.testing.assert_allclose(in_blocks, div[None], rtol=1e-13)
    assert stderr == 0.0


def test_all_orthogonal_probes_are_exact(x64):
    """With as many orthogonal probes as dimensions, the mean is the trace.

    Fewer probes are orthogonal too, with length sqrt(D).
    """
    x, divergence = images(3), DIVERGENCES["orthogonal"](12)

    @jax.jit
    def run(x):
        e = divergence.probes(KEY, x)
        div = divergence.evaluate(coupled, x, e)[1]
        return e, div, divergence.stderr(div[:, 0], 12)

    e, div, stderr = jax.device_get(run(x))
    gram = np.einsum("kbd,jbd->bkj", e.reshape(12, 3, 12), e.reshape(12, 3, 12))
    np.testing.assert_allclose(gram, np.broadcast_to(12.0 * np.eye(12), (3, 12, 12)), atol=1e-11)
    np.testing.assert_allclose(np.mean(div, axis=0), true_traces(x), rtol=1e-12)
    assert np.std(div) > 0.1 and stderr == 0.0
    with pytest.raises(ValueError, match="num_probes is 13 and an example has 12 dimensions"):
        jax.eval_shape(DIVERGENCES["orthogonal"](13).probes, KEY, x)


def test_hutch_pp_on_a_jacobian_of_low_rank(x64):
    """Hutch++ with 4 directions is exact for a Jacobian of rank 3, with any probes.

    For a Jacobian of full rank with a few large eigenvalues, its variance is less than a tenth of
    that of Rademacher probes with the same number of tangents.
    """
    rng = np.random.default_rng(3)
    low, x = rng.standard_normal((12, 3)), images(1)
    thin = low @ rng.standard_normal((3, 12))
    steep = low @ low.T + 0.05 * rng.standard_normal((12, 12))

    def draw(name, probes, matrix, k):
        divergence = DIVERGENCES[name](probes)
        field = lambda x: (x.reshape(-1, 12) @ matrix).reshape(x.shape)
        return jnp.mean(divergence.evaluate(field, x, divergence.probes(k, x))[1])

    @jax.jit
    @jax.vmap
    def draws(k):
        ours = [draw("hutch_pp", 4, matrix, k) for matrix in (thin, steep)]
        return *ours, draw("rademacher", 12, steep, k)

    exactly, ours, signs = jax.device_get(draws(keys(500)))
    np.testing.assert_allclose(exactly, np.trace(thin), rtol=1e-9)
    assert np.var(ours) < 0.1 * np.var(signs)
    assert abs(np.mean(ours) - np.trace(steep)) < 4 * np.std(ours) / 500**0.5


@pytest.fixture(scope="module")
def groups():
    """Return `name -> (means, stderrs, first)` of 4000 groups of 8 probes (3 for hutch_pp).

    `first` has the estimate of the first probe of each group. All are float64.
    """

    @functools.cache
    def run(name):
        divergence, x = DIVERGENCES[name](3 if name == "hutch_pp" else 8), images(1)

        @jax.jit
        @jax.vmap
        def estimate(key):
            div = divergence.evaluate(coupled, x, divergence.probes(key, x))[1][:, 0]
            return jnp.mean(div), divergence.stderr(div, 12), div[0]

        return jax.device_get(estimate(keys(4000)))

    return run


def test_hutch_pp_knows_its_error(groups, x64):
    """The mean square of the reported stderr is the variance of the means, and there is no bias.

    Given the subspace, the estimates are independent and unbiased. Their distances from the truth
    do not have Student's law, because few dimensions are left outside the subspace.
    """
    means, stderrs, _ = groups("hutch_pp")
    assert abs(np.mean(means) - true_traces(images(1))[0]) < 4 * np.std(means) / 4000**0.5
    np.testing.assert_allclose(np.mean(stderrs**2), np.var(means), rtol=0.15)


def test_rademacher_is_exact_where_the_jacobian_is_diagonal(x64):
    field, x = lambda x: jnp.sin(x) + x**3, images()
    truth = np.sum((np.cos(x) + 3 * x**2).reshape(5, -1), axis=1)
    few, more = (DIVERGENCES["rademacher"](probes) for probes in (1, 3))
    run = jax.jit(lambda x: [d.evaluate(field, x, d.probes(KEY, x))[1] for d in (few, more)])
    for probes, found in zip((1, 3), run(x)):
        np.testing.assert_allclose(found, np.tile(truth, (probes, 1)), rtol=1e-12)


@pytest.mark.parametrize("name", ["rademacher", "gaussian", "orthogonal"])
def test_hutchinson_is_unbiased_and_knows_its_error(name, groups, x64):
    """Over 4000 groups of 8 probes the mean is the trace, and the reported errors are right.

    The distances of the groups from the trace, in units of each group's stderr, have Student's t
    law with 7 degrees of freedom, whose variance is 7 / 5.
    """
    means, stderrs, _ = groups(name)
    truth = true_traces(images(1))[0]
    assert abs(np.mean(means) - truth) < 4 * np.std(means) / 4000**0.5
    z = (means - truth) / stderrs
    # The sample variance of t_7 has the relative variance (6 / (7 - 4) + 2) / groups.
    assert abs(np.var(z) / (7 / 5) - 1.0) < 4 * (4 / 4000) ** 0.5
    assert np.isnan(DIVERGENCES[name](1).stderr(means[:1], 12))


def test_rademacher_has_the_lower_variance(groups, x64):
    """The variance of a Rademacher probe is lower by `2 sum_i J_ii^2`, the part of the diagonal.

    The variances are those of the first probe of each group.
    """
    spread = {name: np.var(groups(name)[2]) for name in ("rademacher", "gaussian")}
    (J,) = jacobians(images(1))
    S = (J + J.T) / 2
    off = 2 * (np.sum(S**2) - np.sum(np.diag(S) ** 2))
    np.testing.assert_allclose(spread["rademacher"], off, rtol=0.1)
    np.testing.assert_allclose(spread["gaussian"], 2 * np.sum(S**2), rtol=0.1)


def count(jaxpr, name):
    """Return how often a primitive occurs in a jaxpr, including inner jaxprs."""
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
    """Value and divergence need one forward pass, for any number of probes.

    The network contains one `erf`, whose derivative is an exponential. So a pass for the value and
    the derivative has one `erf`; two separate passes would have two.
    """
    divergence = DIVERGENCES[name](probes)
    network = lambda x, cond: jax.lax.erf(x @ MIX[:6, :6])
    predict = parametrize("eps", LAW, network)
    field = lambda x: predict(x, jnp.asarray(0.5)).velocity

    def evaluate(x, e):
        return divergence.evaluate(field, x, e)

    x, e = np.ones((2, 6), np.float32), jax.eval_shape(divergence.probes, KEY, np.ones((2, 6)))
    jaxpr = jax.make_jaxpr(evaluate)(x, e)
    assert count(jaxpr.jaxpr, "erf") == 1
    # The counter finds two in two calls.
    assert count(jax.make_jaxpr(lambda x: network(network(x, 0), 0))(x).jaxpr, "erf") == 2


@pytest.fixture(scope="module")
def counted():
    """Return `(keys, x) -> LogLik` with two Gaussian probes, and a list of the network's calls."""
    calls, divergence = [], DIVERGENCES["gaussian"](2)

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return PLANE.predict(LAW)(x, t)

    run = jax.jit(lambda k, x: log_likelihood(k, LAW, predict, x, divergence=divergence))
    return lambda k, x: jax.device_get(run(k, x)), calls


def test_nfe_is_the_number_of_network_calls(counted):
    """The network runs once per evaluation of the pair (x, log p), counted on the host."""
    run, calls = counted
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    jax.effects_barrier()
    calls.clear()
    nfe = run(example_keys(0, np.arange(4)), x).nfe
    jax.effects_barrier()
    assert nfe.shape == (4,) and nfe.max() == len(calls) > 20


def test_example_does_not_depend_on_its_batch(counted):
    """An example with the same key and image in another batch differs at most by rounding."""
    run, _ = counted
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    far = np.concatenate([x[:1], 5.0 * x[1:]])
    own = example_keys(0, np.arange(4))
    first, second = run(own, x), run(own, far)
    np.testing.assert_array_equal(first.logp[0], second.logp[0])
    np.testing.assert_array_equal(first.nfe[0], second.nfe[0])
    order = np.array([2, 0, 3, 1])
    moved = run(example_keys(0, order), x[order])
    np.testing.assert_allclose(moved.logp, first.logp[order], rtol=1e-5)
    # Each example has its own probe: the same image four times gives four estimates.
    same = run(own, np.tile(x[:1], (4, 1)))
    assert len(np.unique(same.logp)) == 4 and np.all(same.stderr > 0)


def test_estimates_scatter_about_the_exact_value_by_their_stderr(x64):
    """Estimates of log p with 8 probes, for 400 keys, are unbiased, and their stderr is right.

    In twelve dimensions a single estimate is nearly normal. So half of the distances, in units of
    stderr, should be below 0.711, the upper quartile of Student's t with 7 degrees of freedom.
    """
    A = np.random.default_rng(2).standard_normal((12, 12)) / 3
    data = Gaussian(np.zeros(12), A @ A.T + 0.1 * np.eye(12))
    x = np.tile(data.draw(np.random.default_rng(0), 1), (400, 1))
    predict, solver = data.predict(LAW), Solver(rtol=1e-5, atol=1e-5)
    result = jax.jit(
        lambda x: log_likelihood(
            KEY, LAW, predict, x, divergence=DIVERGENCES["rademacher"](8), solver=solver
        )
    )(x)
    error = np.asarray(result.logp) - data.logp(LAW, x, LAW.t0)
    assert np.std(error) > 0.1, "without scatter there is nothing to judge"
    assert abs(np.mean(error)) < 4 * np.std(error) / 400**0.5
    assert abs(np.mean(abs(error / result.stderr) < 0.711) - 0.5) < 4 * 0.5 / 400**0.5


def test_failure_is_reported():
    divergence = DIVERGENCES["rademacher"](1)
    x = np.array([[0.1, 0.2, 0.3], [0.1, np.nan, 0.3], [0.5, 0.2, 0.1]], np.float32)

    @jax.jit
    def run(tolerance):
        solver = Solver("heun", tolerance, tolerance, max_steps=60)
        return log_likelihood(KEY, LAW, PLANE.predict(LAW), x, divergence=divergence, solver=solver)

    for tolerance, failed in ((1e-2, [False, True, False]), (1e-6, [True] * 3)):
        result = run(tolerance)
        np.testing.assert_array_equal(result.failed, failed)
        np.testing.assert_array_equal(np.isnan(result.logp), failed)


def test_bits_of_a_uniform_law():
    """256 equal levels give 8 bits and 17 give log2(17), for any scaling and shape of the data."""
    dims = 48
    for levels in (2, 17, 256):
        for low, high in ((0.0, 1.0), (-1.0, 1.0), (-3.0, 5.0)):
            width = high - low
            logp = -dims * np.log(width)  # uniform density on the scaled cube
            bits = bits_per_dim(np.full(3, logp), dims, np.log(width / levels))
            np.testing.assert_allclose(bits, np.log2(levels), rtol=1e-6)


def test_bits_of_a_two_level_law_bound_its_entropy():
    """The mean bits of a dequantised coin are its entropy.

    The density on [0, 1] is 2 p on one half and 2 (1 - p) on the other.
    """
    p = 0.2
    u = np.random.default_rng(0).random(200_000) < p
    logp = np.log(np.where(u, 2 * p, 2 * (1 - p)))
    bits = bits_per_dim(logp, 1, np.log(1 / 2))
    entropy = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    assert abs(np.mean(bits) - entropy) < 4 * np.std(bits) / len(u) ** 0.5
