"""A config as an `Experiment`: all that a run is made of, each section by a builder of its own.

Everything that can be refused is refused here, before anything is compiled or written.
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
from sde_lib.classifier import LogitsFn
from sde_lib.levels import Levels
from sde_lib.prediction import PredictFn
from training.step import Player


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a run is made of. All functions are pure; none knows of the config.

    - `loss(params, others, key, batch)`: batch as the loader gives it, raw levels included.
    - `predict(params) -> PredictFn`: the network without dropout; its condition is the class of
      each example, (B,), where it knows any.
    - `logits(params) -> LogitsFn` where the network is a classifier of noisy states, and None where
      it is not. A classifier predicts nothing else: the functions below then raise ValueError.
    - `levels`: the noise levels that a network tells apart, which predicts nothing else either, and
      None for other networks.
    - `sample(key, predict, x, cond=None)`: x from the prior at `t1`.
    - `log_likelihood(key, predict, x, cond=None)`: nats of scaled data, by `flow_solver`, as codes
      are.
    - `classes`, the guidance of samples to classes, which `build_classes` adds; None for none.
    - `second`, the source of the second ends of pairs, and None where there is none.
    - `others`, networks that are trained beside this one, by name: `init(key) -> params` and how
      they are trained. `frozen()`, parameters by name of networks that are not trained, which a
      training reads. Losses are told both.
    - `scaler` is that of training; `bits_scaler` always dequantises, as bits/dim needs.
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
    others: Mapping[str, tuple[Callable[[Array], Any], Player]] = dataclasses.field(
        default_factory=dict
    )
    frozen: Callable[[], Mapping[str, Any]] = dict
    second: data.Source | None = None

    @property
    def settings(self) -> ConfigDict:
        """The config with the sections that it uses and no others, as it is written down."""
        return pruned(self.config)

    def stored(self, file: Path) -> dict[str, Any]:
        """What the `config.json` of a run, of this version or an older one, holds as `settings`."""
        return understood(file)

    @property
    def num_classes(self) -> int:
        """Classes that the network is told, or tells apart; 0 for none."""
        return classes_told(self.config)

    def init_params(self, key: Array) -> Any:
        x, cond = jnp.zeros((1, *self.shape)), jnp.ones((1,))
        return self.model.init(key, x, cond)["params"]


def build(config: ConfigDict, reads_data: bool = True) -> Experiment:
    """Builds all parts of a run.

    With `reads_data` false, images that are not on the disk are no error where the config states
    their size, which is all that sampling needs.

    Raises:
        ValueError: for a name that is not known, or a number out of range. One sentence.
    """
    config = whole_data(modernised(expanded(config)))
    check_numbers(config)
    path = build_path(config.sde)
    check_combinations(config)
    train, test = build_sources(config, reads_data)
    return assemble(config, path, train, test, build_second(config, train, reads_data))


def replaced(experiment: Experiment, section: str, **values: Any) -> Experiment:
    """The same experiment with other values in one section of its config.

    Data and network stay as they are, so `section` is one that says what is done with a trained
    network: "sampling", "likelihood", "eval", "latents", "guidance" or "edit".

    Raises:
        ValueError: for a key that the section does not have, or a value that no run can have.
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
    """Where a key of a section belongs: to the section itself, or to a method that it uses."""
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
    """An experiment of a checked config, its law and its data."""
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
