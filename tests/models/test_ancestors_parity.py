"""DDPM, NCSNv2 and NCSN equal the original networks: parameter tree, output and gradients."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from models import MODELS

FILES = {
    "ddpm_small_activations": "ddpm",
    "ncsnv2_64_small_activations": "ncsnv2_64",
    "ncsnv2_64_nearest_centered_1ch": "ncsnv2_64",
    "ncsnv2_64_variancenorm_lrelu": "ncsnv2_64",
    "ncsn_cond_instancenormpp": "ncsn",
}


@pytest.fixture(params=FILES)
def name(request):
    return request.param


@pytest.fixture
def model(name, load_options):
    constructor = MODELS[FILES[name]]
    known = {field.name for field in dataclasses.fields(constructor)} - {"name"}
    return constructor(**load_options(name, known))


def test_tree_output_and_gradients(name, model, load, load_params, jit, rel):
    g, params = load(name), load_params(name)
    ours = jax.eval_shape(model.init, jax.random.key(0), g["x"], g["labels"])["params"]
    assert shapes(ours) == shapes(params)

    def energy(params, x):
        y = model.apply({"params": params}, x, g["labels"])
        return jnp.sum(y**2), y

    run = jit(jax.value_and_grad(energy, argnums=(0, 1), has_aux=True))
    (_, y), (param_grads, x_grad) = run(params, g["x"])
    assert rel(y, g["y"]) < 3e-5
    assert rel(x_grad, g["dy_dx"]) < 1e-4

    norms = json.loads(str(g["param_grad_norms"]))
    # The bias of a key shifts all logits of a row alike, and the bias of a convolution before a
    # norm shifts all pixels. Such gradients are zero up to rounding, so their relative error means
    # nothing.
    floor = 1e-6 * max(norms.values())
    for path, grad in flatten_dict(jax.device_get(param_grads)).items():
        norm, expected = np.linalg.norm(grad), norms["/".join(path)]
        assert norm == pytest.approx(expected, rel=1e-4, abs=floor), path


@pytest.mark.parametrize("name", ["ncsnv2_64_variancenorm_lrelu"], indirect=True)
def test_bfloat16(name, model, load, load_params, jit, rel):
    g = load(name)
    half = dataclasses.replace(model, dtype=jnp.bfloat16)
    y = jit(half.apply)({"params": load_params(name)}, g["x"], g["labels"])
    assert y.dtype == jnp.float32
    assert 1e-4 < rel(y, g["y"]) < 0.05


def shapes(tree):
    return {"/".join(path): leaf.shape for path, leaf in flatten_dict(tree).items()}
