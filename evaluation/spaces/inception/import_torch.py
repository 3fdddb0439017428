"""Import of state dicts of torchvision's Inception-v3, and of networks with the same names.

In a state dict a convolution is `<path>.conv.weight` (out, in, height, width), followed by
`<path>.bn.*` (out,), a BatchNorm with fixed statistics. Together they are one convolution with a
bias:

    y = gamma (W * x - m) / sqrt(v + 0.001) + beta = (s W) * x + (beta - s m)
    s = gamma / sqrt(v + 0.001)

The product s W is computed in float64, then rounded to float32.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from evaluation.spaces.inception.network import SMALLEST, InceptionV3

EPSILON = 1e-3
WEIGHTS = ("conv.weight", "fc.weight")
NORM = ("weight", "bias", "running_mean", "running_var")  # of `<path>.bn`


def params_from_torch(state: Any, network: InceptionV3, source: str) -> dict[str, Any]:
    """Return the parameters of `network` from a state dict of arrays.

    The auxiliary classifier `AuxLogits.*`, which is used in training only, and the counters
    `*.num_batches_tracked` are left out.

    Args:
        state: arrays by key.
        source: name of the file, for the error.

    Raises:
        ValueError: a key is missing or unknown, or an array has another shape; one error names all.
    """
    is_dict = isinstance(state, Mapping) and all(isinstance(key, str) for key in state)
    found = {key: leaf for key, leaf in state.items() if not left_out(key)} if is_dict else {}
    wanted = torch_shapes(network)
    missing = [key for key in wanted if key not in found]
    unknown = [key for key in found if key not in wanted]
    wrong = [
        f"{key} is {np.shape(found[key])} where {shape} is needed"
        for key, shape in wanted.items()
        if key in found and np.shape(found[key]) != shape
    ]
    faults = (("lacks", missing), ("has in addition", unknown), ("has other shapes:", wrong))
    told = [f"{what} {_few(items)}" for what, items in faults if items]
    if told:
        raise ValueError(
            f"{source} is not an Inception-v3 of {network.num_classes} classes: it "
            f"{'; it '.join(told)}."
        )
    layers = [key.removesuffix(".weight") for key in wanted if key.endswith(WEIGHTS)]
    return unflatten_dict({name: _folded(found, name) for name in layers}, sep=".")


@functools.cache
def torch_shapes(network: InceptionV3) -> Mapping[str, tuple[int, ...]]:
    """Every key of the state dict of this network, with the shape of its array."""
    x = jnp.zeros((1, SMALLEST, SMALLEST, 3))
    params = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    shapes = {}
    for path, leaf in flatten_dict(params).items():
        if path[-1] == "bias":
            continue
        name, out = ".".join(path[:-1]), leaf.shape[-1]
        shapes[f"{name}.weight"] = tuple(leaf.shape[i] for i in (-1, -2, *range(leaf.ndim - 2)))
        if name == "fc":
            shapes["fc.bias"] = (out,)
        else:
            norm = name.removesuffix("conv") + "bn"
            shapes |= {f"{norm}.{part}": (out,) for part in NORM}
    return MappingProxyType(shapes)


def left_out(key: str) -> bool:
    """Whether the network does not need the array of a state dict under this key."""
    return key.startswith("AuxLogits.") or key.endswith(".num_batches_tracked")


def _folded(state: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Kernel and bias of the layer `name`, `fc` or `<path>.conv`, in float32."""
    weight = np.asarray(state[f"{name}.weight"], np.float64)
    if name == "fc":
        kernel, bias = weight.T, state["fc.bias"]
    else:
        norm = name.removesuffix("conv") + "bn"
        gamma, beta, mean, var = (np.asarray(state[f"{norm}.{part}"], np.float64) for part in NORM)
        scale = gamma / np.sqrt(var + EPSILON)
        kernel, bias = weight.transpose(2, 3, 1, 0) * scale, beta - scale * mean
    return {"kernel": np.asarray(kernel, np.float32), "bias": np.asarray(bias, np.float32)}


def _few(items: list[str]) -> str:
    rest = len(items) - 3
    return ", ".join(items[:3]) + (f" and {rest} more" if rest > 0 else "")
