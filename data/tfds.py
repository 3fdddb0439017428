"""TensorFlow Datasets that were prepared before, read without TensorFlow and without the network.

TFDS serves a prepared data set by index (`as_data_source`) if its files are array_record. To
prepare one usually needs TensorFlow, once and on any machine; here nothing is ever downloaded.
"""

import re

import numpy as np

from data.folder_files import digest_of_files
from data.resize import Size, as_pair, fit
from data.source import Source, check_split, unknown
from data.tfds_files import check_files, version_folder

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
) -> Source:
    """One split of a prepared TFDS data set.

    Args:
        split: "train", "test", or what TFDS understands, such as "train[:90%]" or "train+test".
        name: "cifar10", with a config "lsun/bedroom", with a version "cifar10:3.0.2"; without
            a version the latest one that is prepared.
        path: where TFDS keeps its data; if empty, $TFDS_DATA_DIR, or ~/tensorflow_datasets.
        image_size, crop: as for `image_folder`; 8-bit images only. Images of varying size need
            `image_size`.
        image_key: the feature to read: uint8 or uint16 is discrete, float32 continuous.
        label_key: the feature with integer labels, usually "label". Empty reads no labels: they
            lie among the images, so to collect them all files are read once.

    Raises:
        ValueError: for an unknown data set, split or feature, or data that are only half there or
            in another format.
        FileNotFoundError: if the data set is known but not prepared in `path`.
    """
    size, crop = as_pair("image_size", image_size), as_pair("crop", crop)
    folder = version_folder(name, path)
    # The import is slow, and only this loader needs the package.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    _check_split(name, split, builder.info.splits)
    check_files(builder, split, name)
    features = builder.info.features
    for key in filter(None, (image_key, label_key)):
        if key not in features:
            raise ValueError(unknown(f"feature of {name}", key, features))
    source = builder.as_data_source(split)
    dtype = np.dtype(features[image_key].np_dtype)
    shape = _shape(name, image_key, features[image_key].shape, dtype, size, crop)

    def fetch(indices: np.ndarray) -> np.ndarray:
        records = source.__getitems__([int(i) for i in indices])
        examples = (np.asarray(record[image_key], dtype) for record in records)
        if size is None and crop is None:
            return np.stack(list(examples))
        return np.stack([fit(example, size, crop) for example in examples])

    return Source(
        name=f"tfds/{builder.info.full_name}",
        split=split,
        fetch=fetch,
        labels=_labels(tfds, builder, split, label_key) if label_key else None,
        size=len(source),
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


def _labels(tfds, builder, split: str, key: str) -> np.ndarray:
    features = builder.info.features
    if features[key].shape or not np.issubdtype(features[key].np_dtype, np.integer):
        raise ValueError(
            f"Feature '{key}' is {features[key]}: labels must be one integer an example; choose "
            "another `label_key`."
        )
    images = [k for k, feature in features.items() if isinstance(feature, tfds.features.Image)]
    raw = builder.as_data_source(split, decoders={k: tfds.decode.SkipDecoding() for k in images})
    return np.array([record[key] for record in raw], np.int32)
