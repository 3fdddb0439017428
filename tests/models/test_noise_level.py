"""Classifiers of noise levels: the scaling of their input, and their shapes."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.noise_level import NoiseLevelCNN, NoiseLevelMLP, to_unit_size
from training.state import parameter_count


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_unit_size():
    """The input is `y / sqrt(1 + mean y^2)` per example; the features are the root's log, log^2."""
    y = normal(4, 3, 2, 1) * np.array([1e-3, 1.0, 50.0, 1e4], np.float32)[:, None, None, None]
    unit, features = map(np.asarray, jax.jit(to_unit_size)(y))
    size = np.sqrt(1.0 + np.mean(y.astype(np.float64) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(unit, y / size[:, None, None, None], rtol=1e-6)
    np.testing.assert_allclose(features[:, 0], np.log(size), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(features[:, 1], np.log(size) ** 2, rtol=1e-5, atol=1e-9)


def conv(fan_in, fan_out):
    return 9 * fan_in * fan_out + fan_out


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (28, 28, 1)])
def test_the_convolutions_are_the_papers(shape):
    """Convolutions have 32, 64, 128, 256 channels; the head of 1000 also gets the size features."""
    model = NoiseLevelCNN()
    widths = (shape[-1], 32, 64, 128, 256)
    count = sum(conv(a, b) for a, b in pairwise(widths)) + (256 + 2 + 1) * 1000
    y = np.zeros((2, *shape), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), y)
    assert parameter_count(variables["params"]) == count
    assert jax.eval_shape(model.apply, variables, y).shape == (2, 1000)


def draw_params(model, y, seed=0):
    """Return random parameters of variance 1 / fan_in, without compiling `init`."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), y)["params"]
    scale = lambda leaf: np.prod(leaf.shape[:-1]) ** -0.5 if len(leaf.shape) > 1 else 0.1
    return jax.tree.map(lambda v: np.float32(scale(v) * rng.standard_normal(v.shape)), shapes)


def test_average_pooling_and_no_other_look_at_the_place(jit):
    """The convolutional network equals its definition in loops, on 5x6 pixels."""
    model, y = NoiseLevelCNN(levels=7, widths=(3, 4, 2)), normal(2, 5, 6, 2)
    params = draw_params(model, y)
    found = jit(model.apply)({"params": params}, y)
    h, size = (np.asarray(v, np.float64) for v in jax.jit(to_unit_size)(y))
    for i in range(3):
        kernel, bias = (params[f"Conv_{i}"][k].astype(np.float64) for k in ("kernel", "bias"))
        padded = np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        out = np.zeros((*h.shape[:3], kernel.shape[-1]))
        for r in range(h.shape[1]):
            for c in range(h.shape[2]):
                patch = padded[:, r : r + 3, c : c + 3]
                out[:, r, c] = np.maximum(np.tensordot(patch, kernel, 3) + bias, 0.0)
        rows, columns = out.shape[1] // 2, out.shape[2] // 2
        h = out
        if rows and columns:
            h = np.zeros((2, rows, columns, out.shape[3]))
            for r in range(rows):
                for c in range(columns):
                    h[:, r, c] = out[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean(axis=(1, 2))
    features = np.concatenate([h.mean(axis=(1, 2)), size], axis=1)
    expected = features @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_perceptron_takes_any_shape_and_drops_out_in_training_only(jit):
    y, model = normal(3, 8, 8, 1), NoiseLevelMLP(levels=11, width=16, depth=2, dropout=0.5)
    params = draw_params(model, y)
    run = jit(lambda y: model.apply({"params": params}, y))
    flat, images = map(np.asarray, (run(y.reshape(3, 64)), run(y)))
    assert images.shape == (3, 11) and images.dtype == jnp.float32
    np.testing.assert_array_equal(flat, images)
    drop = lambda key: model.apply({"params": params}, y, train=True, rngs={"dropout": key})
    one, other = (np.asarray(jit(drop)(jax.random.key(seed, impl="rbg"))) for seed in (0, 1))
    assert np.any(one != other) and np.any(one != images)


def test_refusals():
    with pytest.raises(ValueError, match="levels is 1"):
        NoiseLevelMLP(levels=1).check()
    with pytest.raises(ValueError, match="takes images"):
        NoiseLevelCNN().check((64,))
    with pytest.raises(ValueError, match="relu"):
        NoiseLevelCNN(nonlinearity="rellu").check((8, 8, 1))
