"""Properties of NCSNpp that need no reference: symmetry, options, dropout, dtype, remat, size."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from models import MODELS
from models.layers import Downsample, Upsample
from models.ncsnpp import NCSNpp

SMALL = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": ()}
TINY = {**SMALL, "ch_mult": (1,), "embedding_type": "positional"}


def batch(*shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return x, np.linspace(0.1, 20.0, shape[0], dtype=np.float32)


def map_kernels(f, variables):
    flat = flatten_dict(variables["params"])
    return {"params": unflatten_dict({path: f(path, leaf) for path, leaf in flat.items()})}


def primitives(jaxpr):
    """Yield (name, output dtype) of every operation, also of those inside calls."""
    for eqn in jaxpr.eqns:
        if eqn.outvars:
            yield eqn.primitive.name, eqn.outvars[0].aval.dtype
        for inner in jax.core.jaxprs_in_params(eqn.params):
            yield from primitives(inner)


@pytest.mark.parametrize("options", [{}, {"resblock_type": "ddpm", "progressive": "residual"}])
def test_image_that_is_not_square(options, draw, jit, rel):
    """Transposing an image that is not square, and every kernel, transposes the output.

    An image's output does not depend on other images of the batch. The number of channels stays
    five.
    """
    attention = {"attn_resolutions": (16, 8, 4)}  # at every level, for both orientations
    model = NCSNpp(**{**SMALL, **attention, **options, "fir_kernel": (1, 2, 5, 3)})
    x, sigma = batch(2, 16, 8, 5)
    variables = draw(model, x, sigma)
    turned = map_kernels(lambda _, k: k.swapaxes(0, 1) if k.ndim == 4 else k, variables)
    apply = jit(model.apply)
    run = lambda *given: np.asarray(apply(*given))
    y = run(variables, x, sigma)
    assert y.shape == x.shape
    assert rel(run(turned, x.swapaxes(1, 2), sigma), y.swapaxes(1, 2)) < 1e-5
    assert rel(y, run(variables, x.swapaxes(1, 2), sigma).swapaxes(1, 2)) > 0.1
    x[1] += 1.0
    assert rel(run(variables, x, sigma)[0], y[0]) < 1e-6


def test_attention_goes_by_the_height():
    x, sigma = batch(1, 16, 8, 1)

    def blocks(*resolutions):
        model = NCSNpp(**{**SMALL, "attn_resolutions": resolutions})
        shapes = jax.eval_shape(model.init, jax.random.key(0), x, sigma)["params"]
        return {name: shapes[name]["NIN_0"]["W"].shape[0] for name in shapes if "Attn" in name}

    # Heights are 16 with 8 channels and 8 with 16 channels, widths 8 and 4; the middle has 16.
    assert sorted(blocks().values()) == [16]
    assert sorted(blocks(4).values()) == [16]
    assert sorted(blocks(16).values()) == [8, 8, 16]
    assert sorted(blocks(8).values()) == [16, 16, 16]


def test_two_channels(draw, jit, rel):
    """Exchanging the channels of the input exchanges those of the output.

    The channels of all kernels that act on images are exchanged too.
    """
    options = {"progressive": "output_skip", "progressive_input": "input_skip", "fir": False}
    model = NCSNpp(**SMALL, **options)
    x, sigma = batch(2, 8, 8, 2)
    variables = draw(model, x, sigma)

    def exchange(path, leaf):
        if (len(path) == 2 and path[0].startswith("Conv_")) or path[0].startswith("Combine"):
            leaf = leaf[:, :, ::-1] if leaf.ndim == 4 and leaf.shape[2] == 2 else leaf
            leaf = leaf[..., ::-1] if leaf.shape[-1] == 2 else leaf
        return leaf

    apply = jit(model.apply)
    run = lambda *given: np.asarray(apply(*given))
    y = run(variables, x, sigma)
    assert rel(run(map_kernels(exchange, variables), x[..., ::-1], sigma), y[..., ::-1]) < 1e-5
    assert rel(y[..., 0], y[..., 1]) > 0.1


def test_residual_pyramids_replace_the_features(draw, jit, rel):
    """The second level of each residual pyramid resamples the sum formed at the first level.

    With two levels, as in the reference files, the output would not depend on this.
    """
    both = {"progressive_input": "residual", "progressive": "residual", "ch_mult": (1, 1, 1)}
    model = NCSNpp(**{**SMALL, **both})
    x, sigma = batch(2, 8, 8, 3)
    variables = draw(model, x, sigma)
    run = jit(lambda v: model.apply(v, x, sigma, capture_intermediates=True)[1])
    outputs = jax.device_get(run(variables))["intermediates"]

    def check(resample, name, *terms):
        total = sum(outputs[term]["__call__"][0] for term in terms) / math.sqrt(2)
        module = resample(fir=True, fir_kernel=(1, 3, 3, 1), with_conv=True)
        y = jit(module.apply)({"params": variables["params"][name]}, total)
        assert rel(y, outputs[name]["__call__"][0]) < 1e-5

    # Numbers of the blocks: a block and a halving at levels 0 and 1, a block at level 2, two in the
    # middle, two and a doubling at level 2, two at level 1.
    check(Downsample, "Downsample_1", "Downsample_0", "ResnetBlockBigGANpp_1")
    check(Upsample, "Upsample_1", "Upsample_0", "ResnetBlockBigGANpp_11")


def test_dropout_only_in_training(draw, jit):
    x, label = batch(2, 4, 4, 1)
    model = NCSNpp(**TINY, dropout=0.5)
    variables = draw(model, x, label)
    train = jit(lambda k: model.apply(variables, x, label, train=True, rngs={"dropout": k}))
    evaluate = jit(model.apply)(variables, x, label)  # needs no key
    keys = [jax.random.key(seed, impl="rbg") for seed in (0, 1)]
    evaluate, first, second = map(np.asarray, (evaluate, *map(train, keys)))
    assert np.abs(first - second).max() > 0.01
    assert np.abs(first - evaluate).max() > 0.01
    np.testing.assert_array_equal(first, train(keys[0]))
    without = NCSNpp(**TINY, dropout=0.0)
    without = jit(lambda: without.apply(variables, x, label, train=True))()
    np.testing.assert_allclose(without, evaluate, atol=1e-6)


@pytest.mark.parametrize("embedding_type", ["fourier", "positional"])
def test_scale_by_sigma(embedding_type, draw, jit, rel):
    x, _ = batch(3, 4, 4, 1)
    options = {**TINY, "embedding_type": embedding_type}
    noise = {"num_scales": 5, "sigma_min": 0.02, "sigma_max": 32.0}
    if embedding_type == "fourier":
        cond = sigma = np.array([0.1, 1.7, 40.0], np.float32)
    else:  # level i of a descending geometric list from 32 to 0.02 of length five
        cond, sigma = np.array([0, 1, 4]), np.array([32.0, 32.0 * (0.02 / 32) ** 0.25, 0.02])
    plain = NCSNpp(**options)
    variables = draw(plain, x, cond)
    y = np.asarray(jit(plain.apply)(variables, x, cond))
    scaled = NCSNpp(**options, scale_by_sigma=True, **noise)
    scaled = np.asarray(jit(scaled.apply)(variables, x, cond))
    assert rel(scaled * sigma[:, None, None, None], y) < 1e-5


def test_centered_and_unconditional(draw, jit, rel):
    x, label = batch(2, 4, 4, 1)
    model = NCSNpp(**TINY, conditional=False)
    variables = draw(model, x, label)
    assert "Dense_0" not in variables["params"]
    run = jit(model.apply)
    y = run(variables, x, label)
    np.testing.assert_array_equal(y, run(variables, x, label + 1))
    uncentred = NCSNpp(**TINY, conditional=False, centered=False)
    assert rel(jit(uncentred.apply)(variables, (x + 1) / 2, label), y) < 1e-5


def test_starts_at_zero(jit):
    x, label = batch(2, 4, 4, 1)
    model = NCSNpp(**TINY, init_scale=0.0)
    # Kernels have standard deviation 1e-5 over sqrt(fan); the last kernel sets the output's size.
    y, _ = jit(model.init_with_output)(jax.random.key(0, impl="rbg"), x, label)
    assert 0 < np.abs(y).max() < 1e-4


def test_bfloat16(draw, jit, rel):
    options = {**TINY, "progressive": "output_skip"}
    x, sigma = batch(2, 4, 4, 3)
    full, half = NCSNpp(**options), NCSNpp(**options, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), x, sigma)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("float32")}
    variables = draw(full, x, sigma)
    ops = list(primitives(jax.make_jaxpr(half.apply)(variables, x, sigma).jaxpr))
    assert {dtype for op, dtype in ops if op == "conv_general_dilated"} == {np.dtype(jnp.bfloat16)}
    assert {dtype for op, dtype in ops if op in ("exp", "rsqrt")} == {np.dtype("float32")}
    y = jit(half.apply)(variables, x, sigma)
    assert y.dtype == jnp.float32
    assert 1e-4 < rel(y, jit(full.apply)(variables, x, sigma)) < 0.05


def test_remat(draw, jit, rel):
    x, label = batch(2, 4, 4, 1)
    plain, remat = NCSNpp(**TINY), NCSNpp(**TINY, remat=True)
    variables = draw(plain, x, label)
    key = {"dropout": jax.random.key(0, impl="rbg")}

    def energy(model):
        return lambda v: jnp.sum(model.apply(v, x, label, train=True, rngs=key) ** 2)

    names = {name for name, _ in primitives(jax.make_jaxpr(energy(remat))(variables).jaxpr)}
    assert names & {"remat", "remat2", "checkpoint"}
    (e0, g0), (e1, g1) = (jit(jax.value_and_grad(energy(m)))(variables) for m in (plain, remat))
    assert rel(e1, e0) < 1e-6
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(g0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), g0, g1)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_strict_promotion_and_float64_mode(name):
    """Networks never broadcast ranks or promote types, and stay in float32 in jax's x64 mode."""
    options = {"nf": 8, "scale_by_sigma": True}
    if name == "ncsnpp":
        options |= {**SMALL, "embedding_type": "positional"}
    model = MODELS[name](**options if name != "mlp" else {"fourier_features": 2})
    x, label = np.ones((2, 8, 8, 3), np.float32), np.arange(2, dtype=np.int32)
    with (
        jax.enable_x64(True),
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
    ):
        y, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x, label)
    assert {leaf.dtype for leaf in jax.tree.leaves((y, variables))} == {np.dtype("float32")}


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("resblock_type", "bigan", "'biggan', 'ddpm'.*mean 'biggan'"),
        ("progressive", "skip", "'none', 'output_skip', 'residual'.*mean 'output_skip'"),
        ("progressive_input", True, "'none', 'input_skip', 'residual'"),
        ("progressive_combine", "concat", "'sum', 'cat'"),
        ("embedding_type", "Fourier", "mean 'fourier'"),
        ("nonlinearity", "silu", "'elu', 'relu', 'lrelu', 'swish'"),
    ],
)
def test_unknown_option(option, value, message):
    model = NCSNpp(**{**SMALL, option: value})
    with pytest.raises(ValueError, match=f"{option} {value!r}; known: .*{message}"):
        model.check((8, 8, 3))


def test_image_size_that_does_not_fit():
    model = NCSNpp(**{**SMALL, "ch_mult": (1, 1, 1)})
    x, sigma = batch(2, 8, 6, 1)
    with pytest.raises(ValueError, match=r"8x6.*multiples of 4.*height 8 and width 4 or 8"):
        model.check(x.shape)
    with pytest.raises(ValueError, match="multiples of 4"):
        jax.eval_shape(model.init, jax.random.key(0), x, sigma)
