"""NCSNpp equals the original network: parameter tree, output and gradients."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from models.ncsnpp import NCSNpp

FIELDS = {field.name for field in dataclasses.fields(NCSNpp)}
FILES = [
    "ncsnpp_ve_cont_fir_biggan_inres_fourier",
    "ncsnpp_vp_cont_ddpmpp",
    "ncsnpp_ddpmblock_fir_conv_outres_inres_norescale",
    "ncsnpp_ddpmblock_nofir_noconv_outskip_inskip_cat_1ch",
]


@pytest.fixture(params=FILES)
def name(request):
    return request.param


def test_parameter_tree(name, load, load_options, load_params):
    g = load(name)
    model = NCSNpp(**load_options(name, FIELDS))
    ours = jax.eval_shape(model.init, jax.random.key(0), g["x"], g["time_cond"])["params"]

    def shapes(tree):
        return {"/".join(path): leaf.shape for path, leaf in flatten_dict(tree).items()}

    assert shapes(ours) == shapes(load_params(name))


def test_output_and_gradients(name, load, load_options, load_params, jit, rel):
    g = load(name)
    model = NCSNpp(**load_options(name, FIELDS))

    def energy(params, x):
        y = model.apply({"params": params}, x, g["time_cond"])
        return jnp.sum(y**2), y

    run = jit(jax.value_and_grad(energy, argnums=(0, 1), has_aux=True))
    (_, y), (param_grads, x_grad) = run(load_params(name), g["x"])
    assert rel(y, g["y"]) < 3e-5
    assert rel(x_grad, g["dy_dx"]) < 1e-4

    norms = json.loads(str(g["param_grad_norms"]))
    # A shift of every key by the same amount does not change the softmax. So the gradient of the
    # key's bias is zero up to rounding, and its relative error means nothing.
    floor = 1e-6 * max(norms.values())
    for path, grad in flatten_dict(jax.device_get(param_grads)).items():
        norm, expected = np.linalg.norm(grad), norms["/".join(path)]
        assert norm == pytest.approx(expected, rel=1e-4, abs=floor), path
    if "fourier" in name:
        assert not param_grads["GaussianFourierProjection_0"]["W"].any()
