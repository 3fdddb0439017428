"""Helpers of the network tests: reference files, quick compilation, parameters without `init`."""

import functools
import json
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

GOLDENS = Path(__file__).parent / "goldens"
QUICK = {"xla_backend_optimization_level": 0}
if version("jaxlib") == "0.10.2":  # other releases may refuse these options
    QUICK |= {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}


def _load(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def load():
    """Return `load(name)`, which reads the arrays of a reference file."""
    return functools.cache(_load)


@pytest.fixture(scope="session")
def load_params(load):
    """Return `load_params(name)`: a file's parameters as a tree, GroupNorm's in shape (C,)."""

    def params(name):
        flat = {}
        for key, value in load(name).items():
            if key.startswith("params/"):
                path = tuple(key.split("/")[1:])
                flat[path] = value.reshape(-1) if "GroupNorm" in key else value
        return unflatten_dict(flat)

    return params


@pytest.fixture(scope="session")
def load_options(load):
    """Return `load_options(name, known)`: the constructor arguments of a file's configuration."""

    def options(name, known):
        config = json.loads(str(load(name)["config"]))
        values = {**config["model"], "centered": config["data"]["centered"]}
        return {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in values.items()
            if key in known
        }

    return options


@pytest.fixture(scope="session")
def jit():
    """Return `jax.jit` with little optimisation.

    The networks run for microseconds and compile for seconds. XLA's earlier code generator, with
    one LLVM module, halves the time of compiling.
    """
    return functools.partial(jax.jit, compiler_options=QUICK)


@pytest.fixture(scope="session")
def draw():
    """Return `draw(module, x, cond)`: random parameters in the shapes of `init`, none of them zero.

    Kernels have variance 1 / fan_in, and scales are about one. Drawing is quicker than compiling
    `init`, and no branch is hidden by a zero initialiser.
    """

    @functools.cache
    def tree(module, *inputs):
        return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]

    def params(module, x, cond, seed=0):
        rng = np.random.default_rng(seed)
        shapes = tree(module, *(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (x, cond)))
        flat = {}
        for path, leaf in flatten_dict(shapes).items():
            value = rng.standard_normal(leaf.shape)
            if len(leaf.shape) > 1:
                value *= np.prod(leaf.shape[:-1]) ** -0.5
            else:
                value = value * 0.1 + (path[-1] == "scale")
            flat[path] = value.astype(np.float32)
        return {"params": unflatten_dict(flat)}

    return params


@pytest.fixture(scope="session")
def rel():
    """Return the function `rel(a, b)`, which is `max |a - b| / max |b|`."""
    return lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max()
