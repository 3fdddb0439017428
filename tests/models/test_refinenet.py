"""The parts of NCSN and NCSNv2: pooling, interpolation, initial values; sizes, labels, dtype."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import maximum_filter, uniform_filter

from models import MODELS, NCSNv2_64
from models.backbone import ConvMeanPool
from models.embeddings import noise_level
from models.pooling import max_pool, mean_pool
from models.refinenet import bilinear_upsample, convolve

SMALL = {"nf": 4, "num_scales": 10}


def image(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 2, 1, 2)], ids=str)
def test_pools(shape, jit):
    x = image(*shape)
    expected = maximum_filter(x, (1, 5, 5, 1), mode="constant", cval=-np.inf)
    np.testing.assert_array_equal(jit(max_pool)(x), expected)
    expected = uniform_filter(np.float64(x), (0, 5, 5, 0), mode="constant")
    np.testing.assert_allclose(jit(mean_pool)(x), expected, atol=1e-6)


def test_the_gradient_of_a_maximum_goes_to_the_largest(jit):
    x, weights = image(2, 8, 6, 3), image(2, 8, 6, 3, seed=1)
    gradient = jit(jax.grad(lambda x: jnp.sum(weights * max_pool(x))))(x)
    expected = np.zeros(x.shape)
    for b, i, j, c in np.ndindex(*x.shape):
        top, left = max(i - 2, 0), max(j - 2, 0)
        window = x[b, top : i + 3, left : j + 3, c]
        k, l = np.unravel_index(window.argmax(), window.shape)
        expected[b, top + k, left + l, c] += weights[b, i, j, c]
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 1, 2, 2)], ids=str)
def test_bilinear(shape, jit):
    x = image(*shape)
    b, h, w, c = shape
    resize = lambda x: jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")
    found, expected = jit(lambda x: (bilinear_upsample(x), resize(x)))(x)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_conv_mean_pool(load, jit, rel):
    g = load("layers")
    params = {"Conv_0": {"kernel": g["conv3x3/kernel"], "bias": g["conv3x3/bias"]}}
    y = jit(ConvMeanPool(4).apply)({"params": params}, g["x"])
    assert rel(y, g["convmeanpool_out"]) < 1e-5


def test_initial_values_are_those_of_pytorch():
    class Host(nn.Module):
        @nn.compact
        def __call__(self, x):
            return convolve(x, 400, dtype=jnp.float32)

    x = np.ones((1, 4, 4, 25), np.float32)
    params = jax.device_get(jax.jit(Host().init)(jax.random.key(0), x))["params"]["Conv_0"]
    bound = 1 / math.sqrt(9 * 25)
    for leaf in params.values():
        assert np.abs(leaf).max() <= bound
        assert leaf.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert leaf.mean() == pytest.approx(0, abs=0.1 * bound)


def test_noise_levels(load):
    """The noise levels fall from sigma_max to sigma_min, as in the original."""
    level = jax.jit(lambda i: noise_level(i, 0.01, 1.0, 10))
    levels = np.asarray(level(np.arange(10)))
    np.testing.assert_allclose(levels, np.geomspace(1.0, 0.01, 10), rtol=1e-5)
    np.testing.assert_allclose(level(np.array([3.0], np.float32)), levels[3:4])


def test_output_is_divided_by_the_level(draw, jit, rel):
    """NCSNv2 divides its output by the noise level of the label, its only use of the label.

    An image's output does not depend on other images of the batch.
    """
    x, labels = image(2, 8, 4, 5), np.array([2, 9])
    model = NCSNv2_64(**SMALL, sigma_max=3.0)
    variables = draw(model, x, labels)
    apply = jit(model.apply)
    run = lambda *given: np.asarray(apply(*given))
    y = run(variables, x, labels)
    z = run(variables, x[::-1], np.array([0, 0]))[::-1]
    ratios = np.array([3.0, 3.0]) / np.geomspace(3.0, 0.01, 10)[labels]
    assert rel(y, z * ratios[:, None, None, None]) < 1e-5


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2_64", "ddpm"])
def test_remat_and_dtypes(name):
    """Blocks with `remat` keep their names; convolutions use `dtype`, statistics use float32."""
    x, labels = image(2, 8, 8, 3), np.array([1, 7])
    plain, model = (MODELS[name](**SMALL, dtype=jnp.bfloat16, remat=on) for on in (False, True))
    tree = jax.eval_shape(model.init, jax.random.key(0), x, labels)
    assert tree == jax.eval_shape(plain.init, jax.random.key(0), x, labels)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype("float32")}
    ops = list(primitives(jax.make_jaxpr(model.apply)(tree, x, labels).jaxpr))
    assert {op for op, _ in ops} & {"remat", "remat2", "checkpoint"}
    assert {dtype for op, dtype in ops if op == "conv_general_dilated"} == {np.dtype(jnp.bfloat16)}
    assert {dtype for op, dtype in ops if op in ("rsqrt", "reduce_sum")} == {np.dtype("float32")}


def primitives(jaxpr):
    """Yield (name, output dtype) of every operation, also of those inside calls."""
    for eqn in jaxpr.eqns:
        if eqn.outvars:
            yield eqn.primitive.name, eqn.outvars[0].aval.dtype
        for inner in jax.core.jaxprs_in_params(eqn.params):
            yield from primitives(inner)


# Parameters of the original networks with 128 features, from their trees; 10 labels for ncsn.
COUNTS = {
    "ncsnv2_64": 33_970_563,
    "ncsnv2_128": 83_445_379,
    "ncsnv2_256": 94_132_611,
    "ncsn": 34_428_675,
}
UNITS = {"ncsnv2_64": 2, "ncsnv2_128": 4, "ncsnv2_256": 8, "ncsn": 2}


@pytest.mark.parametrize("name", COUNTS)
def test_published_size(name):
    x, labels = np.zeros((1, 32, 32, 3), np.float32), np.zeros(1, int)
    shapes = jax.eval_shape(MODELS[name]().init, jax.random.key(0), x, labels)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == COUNTS[name]


@pytest.mark.parametrize("name", UNITS)
def test_legal_sizes(name):
    model, unit = MODELS[name](**SMALL), UNITS[name]
    x, labels = np.zeros((1, 3 * unit, unit, 2), np.float32), np.zeros(1, np.float32)
    y, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x, labels)
    assert y.shape == x.shape
    with pytest.raises(ValueError, match=f"multiples of {unit} to be halved"):
        model.check((3 * unit, unit + 1, 3))
    with pytest.raises(ValueError, match="multiples of"):
        jax.eval_shape(model.init, jax.random.key(0), x[:, 1:], labels)


@pytest.mark.parametrize("name", UNITS)
@pytest.mark.parametrize(
    "option, value", [("interpolation", "nearest"), ("normalization", "none"), ("nonlinearity", "")]
)
def test_unknown_option(name, option, value):
    with pytest.raises(ValueError, match=f"Unknown {option} '{value}'; known: "):
        MODELS[name](**{option: value}).check((8, 8, 3))
