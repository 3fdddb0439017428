"""What a table is made of: cells, each a model, how it is used, and what was published.

A table is written once and serves two scales, which differ in models, data and numbers of steps
and go through the same code.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SCALES = ("laptop", "paper")
# Figures of a cell, and their names in a heading.
FIGURES = {"frechet": "Fréchet", "inception_score": "IS", "bits": "bits/dim"}


class Model(NamedTuple):
    """A network: a config file and what of it is changed for training. `name` is its folder."""

    name: str
    config: str
    changes: Mapping[str, Any] = {}


class Cell(NamedTuple):
    """One place in a table.

    `changes` are of the config, by flat keys, and do not touch what was trained; `published` has
    the figures that are measured, each with its value in the paper, or None where it has none.
    """

    row: str
    column: str
    model: Model
    changes: Mapping[str, Any]
    published: Mapping[str, float | None]


class Table(NamedTuple):
    """`caption` says what is measured, on what, and where it was published."""

    name: str
    caption: str
    cells: list[Cell]


class Setting(NamedTuple):
    """What a scale says of all its tables.

    `changes` are made to every config; `samples` and `seeds` are those of a Frechet distance, which
    is to the training images in the first of `eval.features`.
    """

    samples: int
    seeds: tuple[int, ...]
    changes: Mapping[str, Any]


SETTINGS = {
    # As many as there are training images, in the space of a classifier of digits.
    "laptop": Setting(1500, (0, 1, 2), {"eval.features": ("classifier",)}),
    # The network and the resize of the published figures.
    "paper": Setting(
        50_000,
        (0,),
        {
            "eval.features": ("inception",),
            "eval.resize": "legacy_tensorflow",
            "eval.mixture": False,
        },
    ),
}
TableFn = Callable[[str], Table]


def digits(law: str) -> Model:
    """A model of digits that a laptop trains in minutes."""
    return Model(f"digits_{law}", f"configs/digits_{law}.py")


def released(config: str) -> Model:
    """A released checkpoint, imported under the name of its config."""
    return Model(config.removesuffix(".py").replace("/", "_"), f"configs/{config}")
