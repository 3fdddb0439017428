"""Checkpoints of score_sde's PyTorch code (`.pth`), under the names of its JAX code.

The saved dict holds `model` (a state dict whose keys begin with `module.all_modules.<i>`), `ema`
(a list of arrays without names), `optimizer` (Adam's state by number) and `step`. The PyTorch code
and the JAX code build their layers in the order in which the forward pass calls them. So the i-th
layer with parameters is the same layer in both; inside a layer the names are the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from data.torch_file import load
from tools.original_state import OriginalState, checked, setting, steps

# Transposition of a weight by its number of axes, from (out, in) and (out, in, height, width).
AXES = {2: (1, 0), 4: (2, 3, 1, 0)}
PARTS = {"model": Mapping, "ema": Mapping, "optimizer": Mapping, "step": (int, float, np.ndarray)}


def read_pytorch(path: Path, layers: Sequence[str]) -> OriginalState:
    """Read the training state from a checkpoint of the PyTorch code.

    Args:
        path: the file.
        layers: names of the top-level Flax modules with parameters, in the order of the forward
            pass.

    Raises:
        ValueError: the file cannot be read, is not such a checkpoint, lacks a part, or holds a
            value that no training state can have.
    """
    saved = load(path)
    found = saved if isinstance(saved, Mapping) else {}
    wrong = [key for key, kind in PARTS.items() if not isinstance(found.get(key), kind)]
    if wrong:
        held = ", ".join(map(str, list(found)[:8])) or f"a {type(saved).__name__}"
        raise ValueError(
            f"{path} is not a training state of score_sde: it lacks {', '.join(wrong)}; it holds "
            f"{held}."
        )
    try:
        return checked(_state(found, layers, path), path)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a training state of score_sde: its parts are of other kinds "
            f"({type(error).__name__}: {error})."
        ) from error


def _state(saved: Mapping[str, Any], layers: Sequence[str], path: Path) -> OriginalState:
    model = {key.removeprefix("module."): leaf for key, leaf in saved["model"].items()}
    params = {key: leaf for key, leaf in model.items() if key.startswith("all_modules.")}
    _check_network(path, model, params)
    names = flax_names(params, layers)

    def tree(leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return unflatten_dict({names[key]: to_flax(key, leaf) for key, leaf in leaves.items()})

    mu, nu, adam_step = _moments(saved["optimizer"], params, path)
    return OriginalState(
        step=steps(saved["step"], "step", path),
        adam_step=adam_step,
        params=tree(params),
        ema_params=tree(_averages(saved["ema"], params, path)),
        mu=tree(mu),
        nu=tree(nu),
        rng=None,
        settings={"training.ema_rate": setting(saved["ema"]["decay"], "ema decay", path)},
        left_out=(
            *(f"model/{key}" for key in model if key not in params),
            *(str(key) for key in saved if key not in PARTS),
        ),
    )


def flax_names(
    params: Mapping[str, np.ndarray], layers: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the path in the JAX code for every parameter `all_modules.<i>.<name>...`.

    Layers beyond the last of `layers` keep their PyTorch name, so that `fit` reports them as
    unexpected.
    """
    numbers = dict.fromkeys(key.split(".")[1] for key in params)
    ours = {i: layers[n] if n < len(layers) else f"all_modules.{i}" for n, i in enumerate(numbers)}
    names = {}
    for key, leaf in params.items():
        _, number, *inner, last = key.split(".")
        # The convolution that is fused with a FIR filter names its kernel `weight` in both codes.
        if last == "weight" and not (inner and inner[-1].startswith("Conv2d")):
            last = "scale" if leaf.ndim == 1 else "kernel"
        names[key] = (ours[number], *inner, last)
    return names


def to_flax(key: str, leaf: np.ndarray) -> np.ndarray:
    """Return a parameter, or a moment of a parameter, with the axes of the JAX code.

    Convolutions are transposed from OIHW to HWIO, matrices of dense layers from (out, in) to
    (in, out). The matrix `W` of a 1x1 layer (NIN) is (in, out) in both codes.
    """
    axes = AXES.get(leaf.ndim) if key.endswith(".weight") else None
    return leaf if axes is None else leaf.transpose(axes)


def _is_frozen(key: str, leaf: np.ndarray) -> bool:
    """Whether a parameter is the frequencies of a Fourier embedding, which are not trained and have
    no average."""
    return key.endswith(".W") and leaf.ndim == 1


def _averages(ema: Mapping, params: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Return the averages by name; the file has a list, in the order of the trained parameters."""
    trained = [key for key, leaf in params.items() if not _is_frozen(key, leaf)]
    averages = ema.get("shadow_params", ())
    if len(averages) != len(trained):
        raise ValueError(
            f"{path} holds {len(averages)} averages (ema) of {len(trained)} trained parameters; "
            "there must be one of each."
        )
    named = {**params, **dict(zip(trained, averages, strict=True))}
    _check_shapes("average", named, params, path)
    return named


def _moments(
    optimizer: Mapping, params: Mapping[str, np.ndarray], path: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """Return Adam's two moments by name, and its count of updates.

    The file numbers Adam's states in the order of the parameters. A parameter that is not trained
    has no state; its moments are zeros.
    """
    groups, states = optimizer.get("param_groups", ()), optimizer.get("state", {})
    numbers = [number for group in groups for number in group["params"]]
    if len(numbers) != len(params):
        raise ValueError(
            f"{path} holds an optimizer of {len(numbers)} parameters for a model of {len(params)}; "
            "it must be of the same."
        )
    moments = {"exp_avg": {}, "exp_avg_sq": {}}
    for number, (key, leaf) in zip(numbers, params.items(), strict=True):
        if number not in states and not _is_frozen(key, leaf):
            raise ValueError(f"{path} holds no state of Adam for {key}; it cannot be resumed.")
        for name, named in moments.items():
            state = states.get(number)
            named[key] = np.zeros_like(leaf) if state is None else state[name]
    for name, named in moments.items():
        _check_shapes(name, named, params, path)
    return *moments.values(), max(
        steps(state["step"], "step of Adam", path) for state in states.values()
    )


def _check_shapes(what: str, named: Mapping, params: Mapping, path: Path) -> None:
    """Raise ValueError if an average or moment, found by its number, has another shape."""
    for key, leaf in params.items():
        if np.shape(named[key]) != leaf.shape:
            raise ValueError(
                f"{path} is damaged: the {what} of {key} has shape {np.shape(named[key])}, the "
                f"parameter {leaf.shape}."
            )


def _check_network(path: Path, model: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Raise ValueError for a network that is not `ncsnpp` or `ddpm`.

    As released, the PyTorch code of NCSN and NCSNv2 fails while it builds the network. Once this
    is corrected, the network still differs from that of the JAX code: dilated convolutions are not
    padded, interpolation aligns the corners, and variances are the unbiased ones.
    """
    if any(key.startswith(("res1.", "refine1.")) for key in model):
        raise ValueError(
            f"{path} holds an NCSN or NCSNv2 of the PyTorch code, which is another function of its "
            "parameters than that of the JAX code; only ncsnpp and ddpm are imported from it."
        )
    if not params or not all(isinstance(leaf, np.ndarray) for leaf in params.values()):
        raise ValueError(
            f"{path} holds no arrays called module.all_modules.<i>...: its model is not an ncsnpp "
            "or ddpm of score_sde."
        )
