"""Networks beside the one that is trained for sampling: teachers, and further players.

A loss declares them (`losses.needs`). `teachers` are runs of before, named by their workdirs in
`loss.<name>.<teacher>`, and `players` are sections of their own, `players.<name>`.
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
import sde_lib
from builders.checks import choose
from builders.model import build_model
from builders.steps import naming
from builders.stored import stored_config
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
    build: Callable, config: ConfigDict, path: sde_lib.AffinePath, shape: tuple[int, ...]
) -> dict[str, Teacher]:
    """The teachers of the loss. Their workdirs are read when a training needs them, so that a
    trained run goes without.

    Args:
        build: `(config, reads_data) -> Experiment`, which itself knows this function.

    Raises:
        ValueError: for a teacher that is not named. On its first use also for a workdir that is
            none, or a teacher of other states.
        CheckpointError: on its first use, where the workdir has no checkpoint.
    """
    make, found = choose("loss.name", config.loss.name, losses.LOSSES), {}
    for name in losses.needs_of(make).teachers:
        key = f"loss.{config.loss.name}.{name}"
        workdir = config.loss[config.loss.name][name]
        if not workdir:
            raise ValueError(
                f"{key} is empty; train a teacher and name its workdir with --config.{key}=DIR."
            )
        run = functools.cache(
            functools.partial(read_teacher, build, key, Path(workdir), config, path, shape)
        )
        found[name] = Teacher(
            lambda params, run=run: run().predict(params),
            lambda run=run, workdir=workdir: restore_ema(run(), Path(workdir).absolute())[1],
        )
    return found


def read_teacher(build: Callable, key: str, workdir: Path, config, path, shape) -> Any:
    """The experiment of a teacher, from its workdir."""
    try:
        theirs = stored_config(workdir)
    except ValueError as error:
        raise ValueError(f"{key} is {workdir}. {error}") from None
    if theirs.model.name not in models.MODELS:
        raise ValueError(
            f"{key} is {workdir}, whose model.name is {theirs.model.name!r}, which predicts "
            "nothing of the data; name a run of a network that does."
        )
    other = build(theirs, reads_data=False)
    for name, ours, found in (
        ("the law", path, other.path),
        ("data.centered", config.data.centered, theirs.data.centered),
        ("the shape of an example", shape, other.shape),
    ):
        if str(ours) != str(found):
            raise ValueError(
                f"{key} is {workdir}, with {name} {found}, and this run has {ours}; both must see "
                "the same states: name a teacher with this run's."
            )
    return other


class Beside(NamedTuple):
    """Another player: its network, `init(key) -> params`, and how it is trained."""

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
    """What a loss's constructor is given of them, by the names of its arguments."""
    return {
        **{name: teacher.predict for name, teacher in teachers.items()},
        **{name: player.network for name, player in players.items()},
    }
