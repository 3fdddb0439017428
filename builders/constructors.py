"""Sections that hold the arguments of one constructor, which they name: `sde`, `model`, `data` and
`optim`.

The arguments and their defaults are read off the signature, so a new law, network or kind of data
is its file and one line of `sde_lib.SDES`, `models.MODELS` or `data.SOURCES`.
"""

from collections import ChainMap
from typing import Any

import data
import models
import sde_lib
from builders.sections import options
from training.optimizer import OPTIMIZERS

# Views: an entry that is added to a table is in them too.
LAWS = ChainMap(sde_lib.SDES, sde_lib.TABLED)
NETWORKS = ChainMap(models.MODELS, models.CLASSIFIERS, models.NOISE_LEVELS)
# What a loss trains, if not the networks of `models.MODELS`.
TRAINS = {"classification": models.CLASSIFIERS, "noise_level": models.NOISE_LEVELS}
# Fields of networks that other sections say: `data.centered`, `sde.sigma_min`.
ELSEWHERE = ("centered", "sigma_min", "sigma_max")


def law_section(name: str) -> dict[str, Any]:
    """The numbers of a law, with its defaults."""
    return {"name": name, **options(LAWS[name])}


def network_section(name: str) -> dict[str, Any]:
    """The options of a network, with its defaults; the dtype by its name."""
    return {"name": name, **options(NETWORKS[name], ELSEWHERE), "dtype": "float32"}


def data_section(name: str) -> dict[str, Any]:
    """The options of a kind of data, with its defaults, and the split that is held out where data
    have several."""
    split = {"eval_split": "test"} if name == "tfds" else {}
    return {"dataset": name, **options(data.SOURCES[name]), **split}


def optimizer_section(name: str) -> dict[str, Any]:
    """The options of an optimizer, with its defaults."""
    return {"optimizer": name, **options(OPTIMIZERS[name])}


def trained(loss: str) -> dict[str, Any]:
    """The networks that a loss trains, by name."""
    return TRAINS.get(loss, models.MODELS)


def loss_of(network: str, continuous: bool) -> str:
    """The loss that a network is trained with where no other is named."""
    usual = "denoising" if continuous else "discrete"
    return next((loss for loss, networks in TRAINS.items() if network in networks), usual)
