"""Networks and parameters of the original score_sde (yang-song/score_sde, JAX), converted.

The modules in `models/` have the options, class names and order of layers of the original, so its
parameters fit by path. One difference: up to flax 0.3.5 the `scale` and `bias` of GroupNorm had
shape (1, 1, 1, C) instead of (C,).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from models import MODELS
from models.options import check_choice

NETWORKS = ("ncsnpp", "ddpm", "ncsnv2_64", "ncsnv2_128", "ncsnv2_256", "ncsn")
# Fields of the modules here that the original's `model` section does not have.
OWN = {"parent", "name", "centered", "dtype", "remat"}
# Fields that a config may lack: the output without dropout and with given parameters does not
# depend on them, or no config of the original states them.
OPTIONAL = {"dropout", "init_scale", "fourier_scale", "num_classes"}
# Options that the original reads in any case of letters.
ANY_CASE = {
    "nonlinearity",
    "resblock_type",
    "progressive",
    "progressive_input",
    "progressive_combine",
    "embedding_type",
}


class Fit(NamedTuple):
    """Result of `fit`. Paths are joined by slashes.

    - params: the leaves that agree, nested like the target and in its shapes;
    - missing: paths that only the target has; unexpected: those that only the source has;
    - mismatched: (path, shape in the source, shape in the target).
    """

    params: dict[str, Any]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def problem(self) -> str | None:
        """Return the first difference in words, or None if all parameters fit."""
        if self.missing:
            return f"{self.missing[0]} is missing ({len(self.missing)} such)"
        if self.unexpected:
            return f"{self.unexpected[0]} is not in the network ({len(self.unexpected)} such)"
        if self.mismatched:
            path, found, wanted = self.mismatched[0]
            return f"{path} has shape {found}, not {wanted} ({len(self.mismatched)} such)"
        return None


def fit(source: Mapping[str, Any], target: Mapping[str, Any]) -> Fit:
    """Bring parameters with the original's names and shapes to the tree and shapes of `target`.

    Args:
      source: nested dict of arrays.
      target: nested dict of arrays or `jax.ShapeDtypeStruct`s, such as
        `jax.eval_shape(module.init, key, x, cond)["params"]`.
    """
    found, wanted = flatten_dict(dict(source)), flatten_dict(dict(target))
    params, mismatched = {}, []
    for path in sorted(found.keys() & wanted.keys()):
        leaf, shape = found[path], tuple(wanted[path].shape)
        if np.shape(leaf) == (1, 1, 1, *shape) and len(shape) == 1:
            leaf = leaf.reshape(shape)
        if np.shape(leaf) == shape:
            params[path] = leaf
        else:
            mismatched.append(("/".join(path), np.shape(leaf), shape))
    return Fit(
        unflatten_dict(params),
        _paths(wanted.keys() - found.keys()),
        _paths(found.keys() - wanted.keys()),
        tuple(mismatched),
    )


def model_of(config: Mapping[str, Any]) -> tuple[nn.Module, str]:
    """Return the network of an original config, and the original's name of its second argument.

    Args:
      config: the sections `data`, `model` and `training` as nested dicts; a tuple may be a list.
        Keys that the original's network does not read are ignored, as in the original.

    Returns:
      The module, and "time_cond" for `ncsnpp` or "labels" for the others.

    Raises:
      ValueError: an option is absent or unknown, or the image size is not legal.
    """
    data, model = _section(config, "data"), _section(config, "model")
    name = _read(model, "model", "name")
    check_choice("model.name", name, NETWORKS)
    constructor = MODELS[name]
    options = {"centered": _read(data, "data", "centered")}
    for field in dataclasses.fields(constructor):
        if field.name not in OWN and (field.name in model or field.name not in OPTIONAL):
            options[field.name] = _value(field.name, _read(model, "model", field.name))
    if options.get("embedding_type") == "fourier":
        _check_continuous(_section(config, "training"))
    module = constructor(**options)
    size = _read(data, "data", "image_size")
    module.check((size, size, data.get("num_channels", 3)))
    return module, "time_cond" if name == "ncsnpp" else "labels"


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name) if isinstance(config, Mapping) else None
    if not isinstance(section, Mapping):
        raise ValueError(f"The config has no section {name!r}; the original's networks need it.")
    return section


def _read(section: Mapping[str, Any], where: str, key: str) -> Any:
    if key not in section:
        raise ValueError(f"The config lacks {where}.{key}, which the original's network needs.")
    return section[key]


def _value(key: str, value: Any) -> Any:
    """Return an option's value as the constructors in `models/` take it."""
    if key == "fir_kernel":
        return _taps(value)
    if key in ANY_CASE and isinstance(value, str):
        return value.lower()
    return tuple(value) if isinstance(value, list) else value


def _taps(kernel: Any) -> tuple[float, ...]:
    """Return the taps of a FIR kernel, which the original may give as a matrix or a single tap.

    The filters here are separable, so a matrix must be the outer product of one list with itself.
    They have at least two taps, so a single tap becomes the middle one of three.

    Raises:
      ValueError: the matrix is not such an outer product.
    """
    taps = np.asarray(kernel, np.float64)
    if taps.ndim == 2:
        matrix, taps = taps, taps.sum(axis=0)
        product = np.outer(taps, taps)
        if matrix.shape != product.shape or not np.allclose(matrix * matrix.sum(), product):
            raise ValueError(
                f"model.fir_kernel {kernel!r} is not the outer product of a list with itself; "
                "only such filters are supported."
            )
    if taps.size == 1:
        return (0.0, float(taps[0]), 0.0)
    return tuple(taps.tolist())


def _check_continuous(training: Mapping[str, Any]) -> None:
    if not _read(training, "training", "continuous"):
        raise ValueError(
            "model.embedding_type 'fourier' with training.continuous False: the original has "
            "Fourier features for continuous training only."
        )


def _paths(keys: Any) -> tuple[str, ...]:
    return tuple(sorted("/".join(key) for key in keys))
