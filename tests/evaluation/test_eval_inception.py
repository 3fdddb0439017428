"""The Inception networks against those of PyTorch, and the import of their weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inception_reference import (
    CLASSES,
    STORED,
    STRIDE,
    scaled_images,
    torch_network,
    torch_outputs,
    torch_state,
    weights,
)

from evaluation.spaces.inception.blocks import pool
from evaluation.spaces.inception.extractor import forward
from evaluation.spaces.inception.import_torch import params_from_torch, torch_shapes
from evaluation.spaces.inception.releases import RELEASES

TOLERANCE = 2e-6  # relative to the largest number of an output; float32 rounds by 6e-8


def parts(name, state, x):
    """Return the outputs of our network by name, with the weights of a state dict."""
    network = RELEASES[name].network
    params = params_from_torch(state, network, "the rule")
    found = forward(network, params, x)._asdict()
    return {key: np.asarray(value) for key, value in found.items()}


def assert_near(found, truth):
    assert np.abs(found - truth).max() < TOLERANCE * np.abs(truth).max()


@pytest.mark.parametrize("name", RELEASES)
def test_outputs_are_those_of_torch(name):
    """The outputs agree with those that torch computed in float64; see `inception_reference`."""
    found = parts(name, weights(torch_shapes(RELEASES[name].network)), scaled_images())
    stored = json.loads(STORED.read_text())[name]
    assert found["pool3"].shape == (2, 2048) and found["logits"].shape == (2, CLASSES[name])
    assert sorted(found) == sorted(stored)
    for key, truth in stored.items():
        assert_near(found[key][:, ::STRIDE], np.array(truth))


@pytest.mark.parametrize("name", RELEASES)
def test_against_torch(name):
    """Every key and every number agree with torch, if torch and torchvision are installed."""
    pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    module = torch_network(name)
    state = torch_state(module, name)
    assert {key: array.shape for key, array in state.items()} == torch_shapes(
        RELEASES[name].network
    )
    x = scaled_images()
    found, truth = parts(name, state, x), torch_outputs(name, module, x)
    for key, value in truth.items():
        assert_near(found[key], value)


def test_pools():
    """Pools computed by hand: in a corner four pixels lie inside the image, at an edge six."""
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    inside, padded, largest = (
        pool(x, kind)[0, ..., 0] for kind in ("mean_inside", "mean_padded", "max")
    )
    np.testing.assert_allclose(inside[0], [2.5, 3, 4, 4.5])
    np.testing.assert_allclose(padded[0], [10 / 9, 18 / 9, 24 / 9, 18 / 9])
    np.testing.assert_allclose(inside[1, 1:3], [5, 6])
    np.testing.assert_allclose(padded[1, 1:3], [5, 6])
    np.testing.assert_array_equal(largest, [[5, 6, 7, 7], [9, 10, 11, 11], [9, 10, 11, 11]])
    with pytest.raises(ValueError, match=r"'min'.*mean_inside"):
        pool(x, "min")


@pytest.mark.parametrize("shape", [(1, 75, 74, 3), (1, 75, 75, 1), (75, 75, 3)])
def test_images_that_are_no_input(shape):
    network = RELEASES["inception"].network
    with pytest.raises(ValueError, match="75 pixels"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape))


def shapes():
    return torch_shapes(RELEASES["inception_v3"].network)


def refused(state):
    with pytest.raises(ValueError) as error:
        params_from_torch(state, RELEASES["inception_v3"].network, "file.pth")
    text = str(error.value)
    assert text.startswith("file.pth is not an Inception-v3 of 1000 classes: it ")
    assert "\n" not in text and text.endswith(".")
    return text


def empty(**changes):
    """Return a state of zeros that take no memory. `changes` sets shapes; None drops a key."""
    sizes = {**shapes(), **{key.replace("__", "."): shape for key, shape in changes.items()}}
    zero = np.float32(0)
    return {key: np.broadcast_to(zero, shape) for key, shape in sizes.items() if shape is not None}


def test_what_only_training_needs_is_left_out():
    aux = {"AuxLogits__fc__weight": (1000, 768), "Mixed_5b__branch1x1__bn__num_batches_tracked": ()}
    params = params_from_torch(empty(**aux), RELEASES["inception_v3"].network, "file.pth")
    assert params["fc"]["kernel"].shape == (2048, 1000)
    assert "AuxLogits" not in params


def test_keys_and_shapes_must_fit():
    text = refused(empty(Mixed_7c__branch_pool__bn__running_var=None))
    assert text.endswith("it lacks Mixed_7c.branch_pool.bn.running_var.")
    assert refused(empty(head__weight=(1,))).endswith("it has in addition head.weight.")
    text = refused(empty(Mixed_6b__branch7x7_2__conv__weight=(128, 128, 7, 1)))
    assert text.endswith(
        "branch7x7_2.conv.weight is (128, 128, 7, 1) where (128, 128, 1, 7) is needed."
    )
    # The file of the other release has the same names.
    text = refused(empty(fc__weight=(1008, 2048), fc__bias=(1008,)))
    assert "fc.weight is (1008, 2048) where (1000, 2048) is needed" in text
    many = {key.replace(".", "__"): None for key in list(shapes())[:5]}
    assert "and 2 more; it has in addition a." in refused(empty(**many, a=()))
    for other in ([1, 2], {"state_dict": empty()}, {1: np.zeros(3)}):
        assert "more" in refused(other)
    assert "fc.bias is () where (1000,)" in refused({**empty(), "fc.bias": object()})
