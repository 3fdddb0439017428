"""Prepared TensorFlow Datasets, read without TensorFlow and without the network.

TFDS reads a prepared data set by index (`as_data_source`) if its files are array_record. The
preparation usually needs TensorFlow, once and on any machine. This module never downloads data.
"""

import math
import pathlib
import re
from collections.abc import Callable

import numpy as np

from data import kept
from data.folder_files import digest_of_files
from data.resize import Size, as_pair, fit
from data.source import Source, check_split, unknown
from data.tfds_files import check_files, version_folder
from data.tfds_records import MEND, described, reader
from data.workers import shared_out

AT_ONCE = 1000  # records while labels are collected
LEVELS = {np.dtype(np.uint8): 256, np.dtype(np.uint16): 65536, np.dtype(np.float32): 0}


def load(
    split: str,
    name: str = "cifar10",
    path: str = "",
    *,
    image_size: Size = (),
    crop: Size = (),
    image_key: str = "image",
    label_key: str = "",
    workers: int = -1,
) -> Source:
    """One split of a prepared TFDS data set.

    Args:
        split: "train", "test", or what TFDS understands, such as "train[:90%]" or "train+test".
        name: "cifar10"; with a config, "lsun/bedroom"; with a version, "cifar10:3.0.2". Without a
            version, the latest prepared version is used.
        path: the data folder of TFDS; if empty, $TFDS_DATA_DIR, or ~/tensorflow_datasets.
        image_size, crop: as for `image_folder`; 8-bit images only. Images of varying size need
            `image_size`.
        image_key: the feature to read: uint8 or uint16 is discrete, float32 continuous.
        label_key: the feature with integer labels, usually "label". Empty reads no labels. Reading
            labels means reading all files once: array_record has no columns, a label lies in one
            message with its image, and the hash of a record covers both. The labels are kept for
            the next run (`data.kept`).
        workers: as for `image_folder`.

    Raises:
        ValueError: for an unknown data set, split or feature, or data that are incomplete or in
            another format.
        FileNotFoundError: if the data set is known but not prepared in `path`.
    """
    size, crop = as_pair("image_size", image_size), as_pair("crop", crop)
    folder = version_folder(name, path)
    # Imported here: the import is slow, and only this loader needs the package.
    import tensorflow_datasets as tfds

    builder = described(folder, lambda: tfds.builder_from_directory(folder))
    _check_split(name, split, builder.info.splits)
    check_files(builder, split, name)
    features = builder.info.features
    for key in filter(None, (image_key, label_key)):
        if key not in features:
            raise ValueError(unknown(f"feature of {name}", key, features))
    read = records(builder, split)
    dtype = np.dtype(features[image_key].np_dtype)
    stored = features[image_key].shape
    shape = _shape(name, image_key, stored, dtype, size, crop)
    pixels = math.inf if None in stored else math.prod(stored[:2])

    def fetch(indices: np.ndarray) -> np.ndarray:
        examples = [np.asarray(record[image_key], dtype) for record in read(indices)]
        if size is None and crop is None:
            check_shapes(examples)
            return np.stack(examples)
        return np.stack([fit(example, size, crop) for example in examples])

    def check_shapes(examples) -> None:
        wrong = {example.shape for example in examples} - {shape}
        if wrong:
            raise ValueError(
                f"{folder} is damaged: an example has shape {wrong.pop()}, where features.json "
                f"tells {shape}; {MEND}."
            )

    return Source(
        name=f"tfds/{builder.info.full_name}",
        split=split,
        fetch=shared_out(fetch, shape, dtype, workers, pixels),
        labels=_labels(tfds, builder, split, label_key, folder) if label_key else None,
        size=builder.info.splits[split].num_examples,
        shape=shape,
        levels=LEVELS[dtype],
        digest=lambda: digest_of_files(folder, sorted(p.name for p in folder.iterdir())),
    )


def _check_split(dataset: str, split: str, splits) -> None:
    check_split(dataset, re.split(r"[\[+]", split)[0], splits)
    try:
        size = splits[split].num_examples
    except ValueError as error:
        raise ValueError(
            f"TFDS cannot read the split '{split}' of {dataset}: write 'train', 'train[:90%]', "
            "'train[100:200]' or 'train+test'."
        ) from error
    if size == 0:
        raise ValueError(f"The split '{split}' of {dataset} is empty: take a larger part.")


def _shape(dataset, key, shape, dtype, size, crop) -> tuple[int, ...]:
    if dtype not in LEVELS:
        raise ValueError(
            f"Feature '{key}' of {dataset} is {dtype}: only {', '.join(map(str, LEVELS))} can be "
            "modelled; choose another `image_key`."
        )
    if size is None and crop is None:
        if None in shape:
            raise ValueError(
                f"Feature '{key}' of {dataset} has shape {shape}, None where sizes vary: give "
                "`image_size`."
            )
        return tuple(shape)
    if dtype != np.uint8 or len(shape) != 3 or shape[-1] is None:
        raise ValueError(
            f"Feature '{key}' of {dataset} is {dtype} of shape {shape}: `image_size` and `crop` "
            "are for uint8 images (H, W, C)."
        )
    return (*(size or crop), shape[-1])


def _labels(tfds, builder, split: str, key: str, folder: pathlib.Path) -> np.ndarray:
    features, size = builder.info.features, builder.info.splits[split].num_examples
    if features[key].shape or not np.issubdtype(features[key].np_dtype, np.integer):
        raise ValueError(
            f"Feature '{key}' is {features[key]}: labels must be one integer an example; choose "
            "another `label_key`."
        )
    place = folder.resolve()
    names = ("labels", (place, split, key))
    stamps = np.array([kept.stamp(path) for path in sorted(place.iterdir())], np.uint64)
    keeping = size >= kept.LEAST and stamps.all()
    if keeping:
        stored = kept.recalled(*names)
        if np.array_equal(stored.get("stamps"), stamps) and stored["labels"].shape == (size,):
            return stored["labels"]
    images = [k for k, feature in features.items() if isinstance(feature, tfds.features.Image)]
    read = records(builder, split, {k: tfds.decode.SkipDecoding() for k in images})
    parts = np.split(np.arange(size), range(AT_ONCE, size, AT_ONCE))
    labels = np.array([record[key] for part in parts for record in read(part)], np.int32)
    if keeping:
        kept.keep(*names, stamps=stamps, labels=labels)
    return labels


def records(builder, split: str, decoders=None) -> Callable:
    """`indices -> records` of a split; see `reader`."""
    source = builder.as_data_source(split, decoders=decoders)
    return reader(source, builder.info.splits[split].file_instructions, split)
