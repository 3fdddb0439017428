"""Missing data: a mode either works without them or names the data, their place and the remedy."""

import pytest

from builders.experiment import build
from builders.sources import needs_data
from configs.base import base

READ = ("train", "eval", "fid_stats", "encode", "interpolate")
RESTORE, EDIT = {"guidance.method": "mmps"}, {"edit.method": "sdedit"}
# The mode, the changed keys, and whether the mode reads examples.
CASES = [
    *((mode, {}, True) for mode in READ),
    ("decode", {}, False),
    ("decode", {"sampling.teleport_sigma": 1.0}, False),
    ("sample", {}, False),
    ("sample", {"sampling.teleport_sigma": 1.0}, True),
    ("sample", {"guidance.method": "classifier"}, False),
    ("sample", RESTORE, True),
    ("sample", {**RESTORE, "guidance.dataset": "train"}, True),
    ("sample", {**RESTORE, "guidance.dataset": "pictures"}, False),
    ("sample", {**RESTORE, "guidance.measurement": "y.npz"}, False),
    ("sample", EDIT, True),
    ("sample", {**EDIT, "edit.images": "pictures"}, False),
]


@pytest.mark.parametrize("mode, changes, read", CASES, ids=str)
def test_what_is_read(mode, changes, read):
    config = base("vp", "mlp", "digits")
    config.update_from_flattened_dict(changes)
    assert needs_data(config, mode) == read


def config_of(kind, path):
    config = base("vp", "mlp", kind)
    config.data.path = path
    if kind == "image_folder":
        config.data.image_size = (8, 8)
    return config


# For each dataset, the name of the data and the remedy in the error.
KINDS = {
    "tfds": ("tfds cifar10", "tfds build"),
    "image_folder": ("image_folder", "folder of image files"),
    "npz": ("npz", "numpy.savez"),
    "idx": ("idx", "IDX files"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changes", [{}, RESTORE, EDIT], ids=str)
def test_a_path_that_is_not_there(tmp_path, kind, changes):
    config = config_of(kind, str(tmp_path / "nowhere"))
    config.update_from_flattened_dict(changes)
    mode = "sample" if changes else "train"
    with pytest.raises(FileNotFoundError) as error:
        build(config, needs_data(config, mode))
    name, mend = KINDS[kind]
    for words in (f"{name}, are not there", str(tmp_path / "nowhere"), mend, "--config.data.path"):
        assert words in str(error.value)


@pytest.mark.parametrize(
    "kind, path", [("tfds", "nowhere"), ("image_folder", "nowhere"), ("image_folder", "")]
)
@pytest.mark.parametrize("mode", ["sample", "decode"])
def test_modes_that_go_on_without(tmp_path, kind, path, mode):
    """`build` succeeds without the data, and only reading an example raises the error."""
    config = config_of(kind, path and str(tmp_path / path))
    made = build(config, needs_data(config, mode))
    assert made.shape == ((32, 32, 3) if kind == "tfds" else (8, 8, 3))
    with pytest.raises(FileNotFoundError, match=r"are not there.*--config\.data\.path=PATH"):
        made.test.fetch([0])


@pytest.mark.parametrize("kind", ["npz", "idx"])
def test_a_size_that_only_the_data_know(tmp_path, kind):
    config = config_of(kind, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"nowhere.*the size of one must be known"):
        build(config, needs_data(config, "sample"))
