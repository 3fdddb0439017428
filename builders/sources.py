"""The section `data` of a config as a training and a test split."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import data
import exact
import losses
import restoration
from builders.aliases import modernised
from builders.checks import check_classes, check_data, choose
from builders.constructors import arguments_of
from builders.steps import naming

MOMENTS_BATCH = 1000


def build_sources(config: ConfigDict, reads_data: bool) -> tuple[data.Source, data.Source]:
    """Return training and test split, checked against the config.

    If the data are missing and `reads_data` is false, the splits are placeholders with a shape and
    no data (`data.unread`).

    Raises:
        ValueError: the data and the config do not fit.
        FileNotFoundError: the data are missing, and needed or of unknown size.
    """
    try:
        train, test = build_data(config.data)
    except FileNotFoundError as error:
        shape, why = data.stated_shape(config.data), absence(config.data, str(error))
        if reads_data:
            raise FileNotFoundError(why) from error
        if shape is None:
            raise FileNotFoundError(
                f"{why} No example is read here, but the size of one must be known, and the config "
                "does not state it."
            ) from error
        name = called(config.data)
        return tuple(data.unread(name, split, shape, why) for split in ("train", "test"))
    check_data(config, train, test)
    check_classes(config, train, test)
    return train, test


def needs_data(config: ConfigDict, mode: str) -> bool:
    """Whether a mode of the program reads examples; other modes need only their size."""
    if mode == "decode":
        return False
    if mode != "sample":
        return True
    config = modernised(config)
    section, splits = config.guidance, ("train", "test")
    measured = section.method in restoration.METHODS and not section.measurement
    return (
        (measured and section.dataset in splits)
        or (config.edit.method != "none" and config.edit.images in splits)
        or config.sampling.pc.teleport_sigma > 0
    )


def absence(section: ConfigDict, error: str, name: str = "data") -> str:
    """The error sentence for missing data: their name, where they were sought, what to do."""
    mend = f"--config.{name}.path=PATH"
    text = f"The data of this config, {called(section)}, are not there. {error}"
    return text if mend in text else f"{text} {mend} says where they lie."


def called(section: ConfigDict) -> str:
    """The name of the data of a config."""
    name = section.get("name", "")
    return f"{section.dataset} {name}" if name else section.dataset


def build_data(section: ConfigDict) -> tuple[data.Source, data.Source]:
    """Load the training and the test split.

    Raises:
        FileNotFoundError: the data are missing, or `data.path` is empty.
        ValueError: as the loader of the data.
    """
    splits = ("train", section.get("eval_split", "test"))
    return tuple(load_split("data", section, split) for split in splits)


def load_split(name: str, section: ConfigDict, split: str) -> data.Source:
    """Load one split of the data of a section, `data` or `data2`."""
    _, given = arguments_of(name, section)
    if section.dataset in ("idx", "image_folder", "npz") and not section.path:
        raise FileNotFoundError(
            f"{name}.path is empty; {name}.dataset = {section.dataset!r} reads a file or folder: "
            f"give it with --config.{name}.path=PATH."
        )
    with naming(name, given):
        return data.load(section.dataset, split, **given)


def build_second(config: ConfigDict, train: data.Source, reads_data: bool) -> data.Source | None:
    """The source of the second ends of pairs, from the section `data2`; None if there is none.

    Raises:
        ValueError: for a loss that needs pairs and has none, a loss without pairs and a second
            source, or examples of another shape.
        FileNotFoundError: the data are missing, and `reads_data` is true.
    """
    name, section = config.loss.name, config.data2
    wanted = losses.needs_of(choose("loss.name", name, losses.LOSSES)).second
    if section.dataset == "none":
        if wanted and reads_data and train.fetch_x1 is None:
            raise ValueError(
                f"loss.name is {name!r}, which trains on pairs, {train.name} has no second ends, "
                "and data2.dataset is 'none'; name their source in the section data2."
            )
        return None
    if not wanted:
        raise ValueError(
            f"data2.dataset is {section.dataset!r}, and loss.name = {name!r} reads no second ends; "
            "set data2.dataset='none', or choose a loss that trains on pairs."
        )
    try:
        second = load_split("data2", section, "train")
    except FileNotFoundError as error:
        if not reads_data:
            return None
        raise FileNotFoundError(absence(section, str(error), "data2")) from error
    if second.shape != train.shape:
        raise ValueError(
            f"{second.name} of data2 has examples of shape {second.shape}, and {train.name} of "
            f"data {train.shape}; the two ends of a pair must have the same."
        )
    return second


def data_moments(
    train: data.Source, scaler: data.Scaler, flip: bool, rank: int | None
) -> exact.GaussianMoments:
    """Mean and covariance of the training data in units of the model, read once in batches.

    With `flip` each image enters a second time, mirrored. `rank` is that of the covariance; None
    for the full covariance.
    """

    def batches():
        for first in range(0, train.size, MOMENTS_BATCH):
            raw = train.fetch(np.arange(first, min(first + MOMENTS_BATCH, train.size)))
            image = np.asarray(scaler.to_model(jax.random.key(first), jnp.asarray(raw)))
            yield image
            if flip and image.ndim == 4:
                yield image[:, :, ::-1]

    return exact.moments(batches(), rank)
