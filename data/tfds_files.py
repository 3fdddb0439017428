"""The folder of a prepared TFDS data set, and a check that the data set is complete.

Only directories and files are looked at. A request to TFDS for a data set that is not prepared
would start a download, which retries for minutes before it fails.
"""

import os
import pathlib
import re

from data.source import unknown


def version_folder(dataset: str, data_dir: str) -> pathlib.Path:
    """The folder data_dir/name[/config]/version of the prepared data set `name[/config][:version]`.

    Without a version the latest one is taken. Without a `data_dir` the data folder is
    $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
        ValueError: for a name that TFDS does not know, a missing config, or incomplete data.
        FileNotFoundError: if the data set, or this version of it, is not prepared.
    """
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = pathlib.Path(data_dir or default).expanduser()
    name, _, version = dataset.partition(":")
    home = root / name
    versions = _versions(home)
    if version and version in versions:
        return home / version
    if versions and not version:
        return home / max(versions, key=lambda v: [int(number) for number in v.split(".")])
    if versions:
        raise FileNotFoundError(
            f"Version {version} of {name} is not prepared in {home}: there is "
            f"{', '.join(sorted(versions))}."
        )
    prepare = (
        f"prepare it once, where TensorFlow is installed, by `tfds build {dataset} "
        f"--file_format=array_record --data_dir={root}`, or by tfds.builder('{dataset}', "
        f"data_dir='{root}', file_format='array_record').download_and_prepare()."
    )
    if home.is_dir():
        configs = sorted(child.name for child in home.iterdir() if _versions(child))
        if configs:
            raise ValueError(
                f"{name} has configs: say which, e.g. '{name}/{configs[0]}'. Prepared in {home}: "
                f"{', '.join(configs)}."
            )
        left = sorted(child.name for child in home.iterdir())
        if left:
            raise ValueError(
                f"{home} holds no finished data set, only {', '.join(left)}: a preparation or a "
                f"copy was broken off; remove what is there and {prepare}"
            )
    _check_known(name, root)
    raise FileNotFoundError(f"No prepared {dataset} in {home}: {prepare}")


def _versions(home: pathlib.Path) -> list[str]:
    """The complete versions in a folder: those with dataset_info.json, which TFDS writes last."""
    found = home.glob("*/dataset_info.json")
    return [v.parent.name for v in found if re.fullmatch(r"\d+\.\d+\.\d+", v.parent.name)]


def _check_known(name: str, root: pathlib.Path) -> None:
    import tensorflow_datasets as tfds

    here = list(root.iterdir()) if root.is_dir() else []
    prepared = [child.name for child in here if child.is_dir() and child.name != "downloads"]
    known = {*tfds.list_builders(with_community_datasets=False), *prepared}
    stem = name.split("/")[0]
    if stem not in known:
        raise ValueError(unknown("TFDS data set", stem, known))


def check_files(builder, split: str, dataset: str) -> None:
    """Check that all files of the split are complete and in a format that is read by index.

    Args:
        builder: a TFDS builder of the prepared data set.
        split: a split of the data set, or a part of one.
        dataset: name of the data set in error sentences.

    Raises:
        ValueError: a file is missing, damaged or in another format; the sentence names it.
    """
    mend = "remove the folder and prepare it again"
    suffix = builder.info.file_format.file_suffix
    if suffix != "array_record":
        raise ValueError(
            f"{dataset} in {builder.data_dir} is prepared as {suffix}: only array_record can be "
            f"read by index; {mend} with file_format='array_record'."
        )
    from array_record.python.array_record_module import ArrayRecordReader

    for part in builder.info.splits[split].file_instructions:
        path = pathlib.Path(part.filename)
        if not path.is_file():
            raise ValueError(f"{dataset} is half there: {path} is missing; {mend}.")
        try:
            n = ArrayRecordReader(str(path)).num_records()
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is damaged ({error}); {mend}.") from error
        # A file that is cut short opens without an error and returns empty records later.
        if n != part.examples_in_shard:
            raise ValueError(
                f"{path} is damaged: it holds {n} examples of {part.examples_in_shard}; {mend}."
            )
