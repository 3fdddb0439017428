"""Networks beside the one that is trained for sampling: teachers, and further players.

A loss declares them (`losses.needs`). Teachers are earlier runs, whose workdirs are the values of
`loss.<name>.<teacher>`. Players have sections of their own, `players.<name>`.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

import losses
import models
from builders.checks import choose
from builders.model import build_model
from builders.runs import Asked, other_run, states_of
from builders.steps import naming
from builders.training import build_optimizer, network_of
from losses.denoising import LossFn
from sde_lib.prediction import PredictFn
from sde_lib.ranges import below_one, positive
from training.restore import restore_ema
from training.step import Player


class Teacher(NamedTuple):
    """`predict(params) -> PredictFn`, and `params()`, the averaged parameters of its workdir."""

    predict: Callable[[Any], PredictFn]
    params: Callable[[], Any]


def build_teachers(
    build: Callable, config: ConfigDict, shape: tuple[int, ...]
) -> dict[str, Teacher]:
    """The teachers of the loss. Their workdirs are read when training needs them, so a trained run
    can be used without its teachers.

    Args:
        build: `(config, reads_data) -> Experiment`, an argument because `build` calls this
        function.

    Raises:
        ValueError: if no workdir is given for a teacher. On the first use of a teacher also for a
            folder that is no workdir, or a teacher of other states.
        CheckpointError: on the first use of a teacher, if its workdir has no checkpoint.
    """
    name = config.loss.name
    teachers = losses.needs_of(choose("loss.name", name, losses.LOSSES)).teachers
    return {each: teacher(build, f"loss.{name}.{each}", config, shape) for each in teachers}


def teacher(build: Callable, key: str, config: ConfigDict, shape: tuple[int, ...]) -> Teacher:
    """The teacher whose workdir is the value of a key."""
    mend = f"train a teacher and name its workdir with --config.{key}=DIR."
    asked, workdir = Asked(key, "network that predicts data", models.MODELS, mend), config
    for part in key.split("."):
        workdir = workdir[part]
    if not workdir:
        raise ValueError(f"{key} is empty; {mend}")
    run = functools.cache(lambda: other_run(build, asked, workdir, states_of(config, shape)))
    return Teacher(
        lambda params: run().predict(params),
        lambda: restore_ema(run(), Path(workdir).absolute())[1],
    )


class Beside(NamedTuple):
    """A further player: `init(key) -> params`, its network, and its training."""

    network: Callable[..., Array]
    init: Callable[[Array], Any]
    player: Callable[[LossFn], Player]


def build_players(config: ConfigDict, shape: tuple[int, ...]) -> dict[str, Beside]:
    """The players that the loss declares, from the sections `players.<name>`.

    Raises:
        ValueError: for a section that is missing, or that the loss does not read.
    """
    name, given = config.loss.name, config.get("players", {})
    declared = losses.needs_of(choose("loss.name", name, losses.LOSSES)).players
    for player in declared:
        if player not in given:
            raise ValueError(
                f"loss.name is {name!r}, which trains a network {player!r} too, and there is no "
                f"section players.{player}; add one to the config file, with configs.base.player."
            )
    for player in given:
        if player not in declared:
            raise ValueError(
                f"The section players.{player} is set, and loss.name = {name!r} trains no such "
                "network; leave the section out, or choose its loss."
            )
    return {player: build_player(player, config, shape) for player in declared}


def build_player(name: str, config: ConfigDict, shape: tuple[int, ...]) -> Beside:
    """One player: its section has a network, an optimizer, an average, and its turns."""
    section = config.players[name]
    with naming(f"players.{name}", section):
        positive(every=section.every)
        below_one(ema_rate=section.ema_rate)
        model = build_model(config, shape, section.model)
        tx = build_optimizer(section.optim, -(-config.training.n_iters // section.every))
    init = lambda key: model.init(key, jnp.zeros((1, *shape)), jnp.ones((1,)))["params"]
    player = lambda loss: Player(loss, tx, section.ema_rate, section.every)
    return Beside(network_of(model), init, player)


def given_to_loss(
    teachers: Mapping[str, Teacher], players: Mapping[str, Beside]
) -> dict[str, Callable]:
    """The arguments of a loss constructor for teachers and players, by name."""
    return {
        **{name: teacher.predict for name, teacher in teachers.items()},
        **{name: player.network for name, player in players.items()},
    }
