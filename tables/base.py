"""The parts of a table: cells, each with a model, changes of its config, and published figures.

A table is written once and serves two scales. The scales differ in models, data and numbers of
steps, and use the same code.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SCALES = ("laptop", "paper")
# Figures of a cell, and their names in a heading.
FIGURES = {"frechet": "Fréchet", "inception_score": "IS", "bits": "bits/dim"}


class Model(NamedTuple):
    """A network: a config file, and its changes for training. `name` is the model's folder."""

    name: str
    config: str
    changes: Mapping[str, Any] = {}


class Cell(NamedTuple):
    """One place in a table.

    `changes` are changes of the config by flat keys, which leave the trained network as it is. The
    keys of `published` are the figures to measure; each value is the paper's figure, or None if
    the paper has none.
    """

    row: str
    column: str
    model: Model
    changes: Mapping[str, Any]
    published: Mapping[str, float | None]


class Table(NamedTuple):
    """A table: `caption` says what is measured, on which data, and where it was published."""

    name: str
    caption: str
    cells: list[Cell]


class Setting(NamedTuple):
    """Settings of a scale, for all its tables.

    `changes` are made to every config. `samples` and `seeds` are those of a Frechet distance, which
    is measured to the training images, in the first feature space of `eval.features`.
    """

    samples: int
    seeds: tuple[int, ...]
    changes: Mapping[str, Any]


SETTINGS = {
    # As many samples as training images, in the feature space of a classifier of digits.
    "laptop": Setting(1500, (0, 1, 2), {"eval.features": ("classifier",)}),
    # The feature network and the resize of the published figures.
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
    """Return a model of digits that a laptop trains in minutes."""
    return Model(f"digits_{law}", f"configs/digits_{law}.py")


def released(config: str) -> Model:
    """Return the model of a released checkpoint, imported under the name of its config."""
    return Model(config.removesuffix(".py").replace("/", "_"), f"configs/{config}")
