"""Images from which a run starts: examples of a split, or the user's pictures."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from data import Source
from data.pictures import read_pictures


def given_images(experiment, where: str, seeds: range, keys: jax.Array) -> jax.Array:
    """Return the images with the numbers `seeds`, (n, ...), in units of the model.

    Args:
        where: "train" or "test", or the path of a picture or of a folder of pictures, which are
            numbered in the order of their names.
        keys: (n,), for the dequantisation of examples. Pictures are not dequantised: a picture
            takes the middle of its level, or a value between two levels of the data.

    Raises:
        ValueError: for a path without pictures, pictures with continuous data, or a number beyond
            the last image.
    """
    source = given_source(experiment, where)
    check_rows(seeds, where, source.size)
    raw = source.fetch(np.asarray(seeds))
    scaler = experiment.scaler
    if where in ("train", "test"):
        return scaler.to_model(keys, jnp.asarray(raw))
    level = jnp.asarray(raw / 255.0 * (scaler.levels - 1), jnp.float32)
    return scaler.affine(level + 0.5 * scaler.dequantize)


def given_source(experiment, where: str) -> Source:
    """The source of `given_images`: a split, or pictures.

    Raises:
        ValueError: for a path without pictures, or pictures with continuous data.
    """
    if where in ("train", "test"):
        return {"test": experiment.test, "train": experiment.train}[where]
    if experiment.scaler.levels == 0:
        raise ValueError(
            f"{where} should be pictures, and the data are continuous, without a black and a "
            "white; take 'train' or 'test'."
        )
    return read_pictures(Path(where), experiment.shape)


def check_rows(seeds: range, where: str, size: int) -> None:
    """Check that the numbers `seeds` are below `size`, the number of examples in `where`.

    Raises:
        ValueError: for numbers beyond the last example.
    """
    if seeds.stop > size:
        raise ValueError(
            f"--seeds ends at {seeds.stop - 1} and {where} has examples 0 to {size - 1}; give "
            "numbers of those."
        )
