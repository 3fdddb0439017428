"""A config as an `Experiment`: all parts of a run, each section built by its own builder.

Every error of a config is raised here, before anything is compiled or written.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array
from ml_collections import ConfigDict

import data
import likelihood
import samplers
import sde_lib
from builders.aliases import modernised
from builders.beside import build_players, build_teachers, given_to_loss
from builders.checks import check_combinations, check_numbers, classes_told
from builders.constructors import whole_data
from builders.levels import build_levels, restored_levels
from builders.likelihood import build_flow_solver, build_likelihood
from builders.model import build_logits, build_model, build_predict
from builders.path import build_path
from builders.places import expanded
from builders.sampling import build_sampler
from builders.sections import pruned, used
from builders.sources import build_second, build_sources, data_moments
from builders.steps import Known
from builders.stored import understood
from builders.training import build_losses, build_optimizer, build_preprocessing
from data.source import unknown
from losses.denoising import LossFn
from losses.needs import MAIN
from samplers.base import SampleFn
from samplers.schedules.recipe import Recipe
from sde_lib.classifier import LogitsFn
from sde_lib.levels import Levels
from sde_lib.prediction import PredictFn
from training.step import Player


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run. All functions are pure and do not read the config.

    - `loss(params, others, key, batch)`: the batch is as the loader returns it, in raw levels.
    - `predict(params) -> PredictFn`: the network without dropout. Its condition is the class of
      each example, (B,), for a network that gets classes. For a classifier, or a network of the
      noise level, `predict(params)` raises ValueError.
    - `logits(params) -> LogitsFn`: for a classifier of noisy states; None for other networks.
    - `levels`: the noise levels that a network of the noise level distinguishes; None for other
      networks.
    - `sample(key, predict, x, cond=None)`: x is a draw of the prior at `t1`.
    - `log_likelihood(key, predict, x, cond=None)`: nats of scaled data, by `flow_solver`, which
      also solves for codes.
    - `classes`: guidance of samples to classes, added by `build_classes`; None for none.
    - `recipe`: the measured solver of `sampling.method = "own"`, added by `fitted`; else None.
    - `second`: the source of the second ends of pairs; None for none.
    - `others`: networks that are trained with this one, by name: `init(key) -> params` and a
      `Player`. `frozen()` reads the parameters of networks that are not trained, by name. Losses
      get both.
    - `scaler`: the scaler of training. `bits_scaler`: the same with dequantisation, which bits/dim
      needs.
    """

    config: ConfigDict
    path: sde_lib.AffinePath
    model: Any
    shape: tuple[int, ...]
    scaler: data.Scaler
    bits_scaler: data.Scaler
    train: data.Source
    test: data.Source
    loss: LossFn
    tx: optax.GradientTransformation
    predict: Callable[..., PredictFn]
    logits: Callable[[Any], LogitsFn] | None
    sample: SampleFn
    flow_solver: samplers.Solver | likelihood.Adams
    log_likelihood: Callable[..., likelihood.LogLik]
    levels: Levels | None = None
    classes: Any = None
    recipe: Recipe | None = None
    others: Mapping[str, tuple[Callable[[Array], Any], Player]] = dataclasses.field(
        default_factory=dict
    )
    frozen: Callable[[], Mapping[str, Any]] = dict
    second: data.Source | None = None

    @property
    def settings(self) -> ConfigDict:
        """The config without the sections of methods that it does not use, as it is saved."""
        return pruned(self.config)

    def stored(self, file: Path) -> dict[str, Any]:
        """Read a `config.json` of this version or an older one, in the form of `settings`."""
        return understood(file)

    @property
    def num_classes(self) -> int:
        """The number of classes that the network gets as input or distinguishes; 0 for none."""
        return classes_told(self.config)

    def init_params(self, key: Array) -> Any:
        x, cond = jnp.zeros((1, *self.shape)), jnp.ones((1,))
        return self.model.init(key, x, cond)["params"]


def build(config: ConfigDict, reads_data: bool = True) -> Experiment:
    """Build all parts of a run.

    Args:
        config: as `configs/base.py` makes it; keys may have old names.
        reads_data: with False, missing data are no error if the config states the size of an image,
            which is all that sampling needs.

    Raises:
        ValueError: for an unknown name, a number out of range, or an invalid combination.
        FileNotFoundError: the data are missing.
    """
    config = whole_data(modernised(expanded(config)))
    check_numbers(config)
    path = build_path(config.sde)
    check_combinations(config)
    train, test = build_sources(config, reads_data)
    return assemble(config, path, train, test, build_second(config, train, reads_data))


def replaced(experiment: Experiment, section: str, **values: Any) -> Experiment:
    """Return the same experiment with other values in one section of its config.

    Data and network are kept, so `section` must be one that a trained network does not depend on:
    "sampling", "likelihood", "eval", "latents", "guidance" or "edit".

    Raises:
        ValueError: for a key that the section does not have, or an invalid value.
    """
    config = experiment.config.copy_and_resolve_references()
    choices = [key for key in values if key in config[section]]
    for key in (*choices, *(key for key in values if key not in choices)):
        place = place_of(section, config[section], key)
        try:
            place[key] = values[key]
        except TypeError as error:
            raise ValueError(f"{section}.{key} is {values[key]!r}: {error}.") from None
    config = modernised(config)
    check_numbers(config)
    check_combinations(config)
    sources = experiment.train, experiment.test, experiment.second
    return assemble(config, experiment.path, *sources)


def place_of(name: str, section: ConfigDict, key: str) -> ConfigDict:
    """The section that has a key: the section `name` itself, or that of a method it uses."""
    methods = [section[method] for method in sorted(used(name, section))]
    for place in (section, *methods):
        if key in place:
            return place
    known = [known for place in (section, *methods) for known in place]
    raise ValueError(unknown(f"key of {name}", key, known))


def assemble(
    config: ConfigDict,
    path: sde_lib.AffinePath,
    train: data.Source,
    test: data.Source,
    second: data.Source | None = None,
) -> Experiment:
    """Build an experiment from a checked config, its law and its data."""
    scaler = build_scaler(config.data, train)
    model = build_model(config, train.shape)
    teachers = build_teachers(build, config, train.shape)
    players = build_players(config, train.shape)
    prepare = build_preprocessing(config.data, scaler, second and build_scaler(config.data, second))
    losses = build_losses(config, path, model, prepare, given_to_loss(teachers, players))
    rank = config.sampling.pc.teleport_rank or None
    moments = lambda: data_moments(train, scaler, config.data.random_flip, rank)
    levels = partial(restored_levels, build, path, train.shape, config.data.centered)
    known = Known(config.training.continuous, moments, levels)
    return Experiment(
        config=config,
        path=path,
        model=model,
        shape=train.shape,
        scaler=scaler,
        bits_scaler=scaler.replace(dequantize=train.levels > 0),
        train=train,
        test=test,
        loss=losses[MAIN],
        tx=build_optimizer(config.optim, config.training.n_iters),
        predict=build_predict(config, path, model),
        logits=build_logits(config, path, model),
        sample=build_sampler(config.sampling, path, known),
        flow_solver=build_flow_solver(config.likelihood),
        log_likelihood=build_likelihood(config.likelihood, path),
        levels=build_levels(config, path),
        others={name: (each.init, each.player(losses[name])) for name, each in players.items()},
        frozen=lambda: {name: teacher.params() for name, teacher in teachers.items()},
        second=second,
    )


def build_scaler(section: ConfigDict, source: data.Source) -> data.Scaler:
    """The border between the levels of a source and the model."""
    return data.Scaler(source.levels, section.centered, section.uniform_dequantization)
