"""`sampling.method = "own"`: the solver that suits one trained network, measured once and kept.

The recipe lies in `solvers/own_N.json` of the workdir, N being the number of evaluations. Either
`fitted` measures it at the first use, in the time of some hundred samples, or
`tools.search_solver --workdir` searched longer. It is used as long as the law, the network's
settings, the end `sampling.eps` and the guidance are those for which it was found.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from builders.experiment import Experiment
from parallel.processes import on_lead
from samplers.schedules.recipe import Recipe, load_recipe, run_recipe, save_recipe
from sde_lib import example_keys, fold_in, split
from sde_lib.prediction import PredictFn
from search.choose import choose

# Starts of the measurement are other ones than those of samples with the same seed.
OF_MEASUREMENT = 7


class Trials(NamedTuple):
    """What solvers are compared on: the network as samples see it, starts at t1 `(K, ...)`, and
    their conditions, None where there are none."""

    predict: PredictFn
    x: Array
    cond: Any


def fitted(experiment: Experiment, params: Any, workdir: Path, step: int, say=print) -> Experiment:
    """The experiment with the measured sampler if `sampling.method` is "own"; else unchanged.

    Args:
        params: averaged parameters of the checkpoint `step`.
        say: called with a line on what is measured or used.

    Raises:
        ValueError: for a file that holds no recipe, or a network whose own flow is not finite.
    """
    section = experiment.config.sampling
    if section.method != "own" or experiment.recipe is not None:
        return experiment
    on_lead(lambda: find_or_measure(experiment, params, workdir, step, say))
    # Every process of a job reads the file that the first one wrote.
    recipe, _ = load_recipe(recipe_file(experiment, workdir))
    sample = run_recipe(experiment.path, recipe, section.eps)
    return dataclasses.replace(experiment, sample=sample, recipe=recipe)


def find_or_measure(experiment: Experiment, params: Any, workdir: Path, step: int, say) -> None:
    """Make sure that the workdir has a recipe: keep the present one, or measure a new one."""
    section, file = experiment.config.sampling, recipe_file(experiment, workdir)
    meant = meant_for(experiment)
    if file.is_file():
        recipe, about = load_recipe(file)
        if about.get("for") == meant:
            say(f"Solver: {named(recipe)}, from {file}.")
            return
        say(f"{file} was found for another law, end, network or guidance; it is replaced.")
    say(f"Comparing solvers of {section.steps} evaluations on {section.own.starts} trajectories.")
    predict, x, cond = trials(experiment, params, section.own.starts)
    recipe, about = choose(
        experiment.path, predict, x, section.steps, section.eps, cond, section.batch_size
    )
    say(f"Solver: {named(recipe)}, {about['grid']}; error {about['error']} per dimension.")
    keep(experiment, workdir, step, recipe, about)


def keep(experiment: Experiment, workdir: Path, step: int, recipe: Recipe, about: dict) -> Path:
    """Write a recipe to the file that `fitted` reads."""
    file = recipe_file(experiment, workdir)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_recipe(file, recipe, {**about, "step": step, "for": meant_for(experiment)})
    return file


def trials(experiment: Experiment, params: Any, count: int, first: int = 0) -> Trials:
    """Starts number `first` and on, drawn from the prior, under the classes of those samples."""
    indices = jnp.arange(first, first + count)
    keys, _ = split(fold_in(example_keys(experiment.config.eval.seed, indices), OF_MEASUREMENT), 2)
    x = experiment.path.prior_sample(keys, (count, *experiment.shape))
    classes = experiment.classes
    if classes is None:
        return Trials(experiment.predict(params), x, None)
    return Trials(classes.predict(params, classes.own), x, classes.label(indices))


def recipe_file(experiment: Experiment, workdir: Path) -> Path:
    """The file of the recipe for the number of evaluations `sampling.steps`."""
    return Path(workdir) / "solvers" / f"own_{experiment.config.sampling.steps}.json"


def meant_for(experiment: Experiment) -> str:
    """A digest of all settings on which the best solver depends, apart from the checkpoint."""
    settings = experiment.settings.to_dict()
    what = {key: settings[key] for key in ("sde", "model", "prediction", "data", "guidance")}
    text = json.dumps({**what, "eps": settings["sampling"]["eps"]}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def named(recipe: Recipe) -> str:
    """A short description of a recipe."""
    weights = recipe.predictor == "weighted"
    told = {"steps": len(recipe.lam) - 1} if weights else recipe.options
    options = ", ".join(f"{key} {value}" for key, value in told.items())
    end = ", with the last denoising" if recipe.denoise else ""
    return f"{recipe.predictor} ({options}){end}" if options else f"{recipe.predictor}{end}"
