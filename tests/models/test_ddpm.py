"""DDPM against NCSN++ with the same options; its size, options and dropout."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import DDPM, NCSNpp

TINY = {"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()}


def batch(*shape, seed=0):
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return x, np.linspace(3.0, 900.0, shape[0], dtype=np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {"resamp_with_conv": True, "attn_resolutions": (4,)},
        {"resamp_with_conv": False, "conditional": False, "centered": False, "nonlinearity": "elu"},
    ],
)
def test_equals_the_same_choice_of_ncsnpp(options, draw, jit, rel):
    """DDPM equals NCSNpp with DDPM's options, from 128 channels on, where both have 32 groups.

    Tests of NCSNpp compare it with the original.
    """
    options = {"nf": 128, "ch_mult": (1, 1), "num_res_blocks": 1, "attn_resolutions": (), **options}
    successor = NCSNpp(
        **options,
        fir=False,
        skip_rescale=False,
        resblock_type="ddpm",
        progressive_input="none",
        embedding_type="positional",
    )
    x, labels = batch(2, 4, 2, 3)
    params = draw(successor, x, labels)["params"]
    renamed = {key.replace("pp_", "_"): value for key, value in params.items()}
    expected = jit(successor.apply)({"params": params}, x, labels)
    y = jit(DDPM(**options).apply)({"params": renamed}, x, labels)
    assert rel(y, expected) < 1e-5


def test_published_size():
    """The number of parameters for CIFAR-10 is that of the original's parameter tree."""
    x, labels = jnp.zeros((1, 32, 32, 3)), jnp.ones(1)
    shapes = jax.eval_shape(DDPM().init, jax.random.key(0), x, labels)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 35_218_947


def test_every_normalization_has_its_layers():
    x, labels = batch(1, 4, 4, 1)

    def first_norm(name):
        model = DDPM(**TINY, normalization=name)
        shapes = jax.eval_shape(model.init, jax.random.key(0), x, labels)["params"]
        block = shapes["ResnetBlockDDPM_0"]
        assert set(shapes["AttnBlock_0"]) - {f"NIN_{i}" for i in range(4)} < set(block)
        return sorted(set(block) - {"Conv_0", "Conv_1", "Dense_0"})

    def twice(layer):
        return [f"{layer}_0", f"{layer}_1"]

    assert first_norm("GroupNorm") == twice("GroupNorm")
    assert first_norm("InstanceNorm++") == twice("InstanceNorm2dPlus")
    assert first_norm("VarianceNorm") == twice("VarianceNorm2d")


def test_scale_by_sigma_dropout_and_bfloat16(draw, jit, rel):
    x, _ = batch(2, 4, 4, 1)
    labels = np.array([0, 1])
    model = DDPM(**TINY, dropout=0.5)
    variables = draw(model, x, labels)
    y = np.asarray(jit(model.apply)(variables, x, labels))  # needs no key

    ladder = {"scale_by_sigma": True, "num_scales": 2, "sigma_min": 0.5, "sigma_max": 4.0}
    scaled = jit(dataclasses.replace(model, **ladder).apply)(variables, x, labels)
    assert rel(scaled, y / np.array([4.0, 0.5])[:, None, None, None]) < 1e-6

    key = {"dropout": jax.random.key(0, impl="rbg")}
    train = jit(lambda: model.apply(variables, x, labels, train=True, rngs=key))()
    assert np.abs(train - y).max() > 0.01

    half = jit(dataclasses.replace(model, dtype=jnp.bfloat16).apply)(variables, x, labels)
    assert half.dtype == jnp.float32
    assert 1e-4 < rel(half, y) < 0.05


def test_refusals():
    with pytest.raises(ValueError, match="normalization 'none'; known: "):
        DDPM(**TINY, normalization="none").check((8, 8, 3))
    with pytest.raises(ValueError, match="nonlinearity 'silu'; known: "):
        DDPM(**TINY, nonlinearity="silu").check((8, 8, 3))
    with pytest.raises(ValueError, match=r"8x6.*multiples of 8"):
        DDPM().check((8, 6, 3))
