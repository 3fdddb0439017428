"""A solver for few evaluations as data: a predictor, its options and its nodes.

`search.choose` finds a recipe for one trained network, and `solvers/own_N.json` in the workdir
holds it. Nodes are half log signal-to-noise ratios `lam`, rising.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import samplers
from samplers.base import SampleFn, Sampler, SampleResult, sample
from sde_lib import AffinePath
from sde_lib.prediction import Cond, PredictFn
from whole_files import put


class Recipe(NamedTuple):
    """`predictor` is a name of `PREDICTORS`; `lam` are the N + 1 nodes; with `denoise` the run ends
    with the conditional mean of the data at the last node, by one more evaluation."""

    predictor: str
    options: dict[str, Any]
    lam: tuple[float, ...]
    denoise: bool = False


def method_of(recipe: Recipe, path: AffinePath) -> Sampler:
    """The fixed-step method of a recipe.

    Raises:
        ValueError: for a predictor that is not known, or an option that it refuses.
    """
    if recipe.predictor not in samplers.PREDICTORS:
        raise ValueError(
            f"The recipe's predictor is {recipe.predictor!r}; it must be one of "
            f"{', '.join(samplers.PREDICTORS)}."
        )
    try:
        return samplers.PREDICTORS[recipe.predictor](path, **recipe.options)
    except TypeError as error:
        raise ValueError(f"The recipe's options {recipe.options} do not fit: {error}.") from None


def times(recipe: Recipe, path: AffinePath, eps: float) -> np.ndarray:
    """`(N + 1,)` falling times; the ends are put at the law's `t1` and at `eps`.

    Raises:
        ValueError: if the nodes do not rise, or an end does not lie beyond its neighbour.
    """
    lam = np.asarray(recipe.lam, np.float64)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        ts = np.array(path.t_of_lam(jnp.asarray(lam)))
    ts[0], ts[-1] = path.t1, eps
    if len(ts) < 2 or not (np.all(np.diff(lam) > 0.0) and np.all(np.diff(ts) < 0.0)):
        raise ValueError(
            f"The recipe's nodes {recipe.lam} give the times {ts}, which do not fall from "
            f"t1 = {path.t1} to eps = {eps}; choose one for this law and this eps."
        )
    return ts


def run_recipe(path: AffinePath, recipe: Recipe, eps: float) -> SampleFn:
    """The sampler of a recipe: its predictor down its nodes, from `path.t1` to `eps`.

    Raises:
        ValueError: as `method_of` and `times`.
    """
    method, ts = method_of(recipe, path), times(recipe, path, eps)

    def run(
        key: Array, predict: PredictFn, x: Array, cond: Cond = None, *, collect=None, frames=None
    ) -> SampleResult:
        given = jnp.asarray(ts, jnp.promote_types(x.dtype, jnp.float32))
        return sample(key, predict, method, x, given, collect, recipe.denoise, frames, cond=cond)

    return run


def save_recipe(file: str | Path, recipe: Recipe, about: dict[str, Any]) -> None:
    """Writes JSON; `about` says how the recipe was found and for what."""
    put(file, json.dumps({"about": about, **recipe._asdict()}, indent=1) + "\n")


def load_recipe(file: str | Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and what the file says about it.

    Raises:
        ValueError: for a file that holds no recipe, with its name.
    """
    try:
        data = json.loads(Path(file).read_text(encoding="utf-8"))
        about = data.pop("about")
        recipe = Recipe(**{**data, "lam": tuple(map(float, data["lam"]))})
        right = isinstance(recipe.options, dict) and isinstance(recipe.denoise, bool)
        if not (right and isinstance(about, dict) and np.all(np.isfinite(recipe.lam))):
            raise ValueError("a value is of the wrong type")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{file} holds no recipe of a solver ({error}); delete it to have one measured anew."
        ) from None
    return recipe, about
