"""A folder of image files, each read with Pillow when it is needed."""

import pathlib

import numpy as np
from PIL import Image

from data.folder_files import SUFFIXES, digest_of_files, in_test, listed, split_folders
from data.headers import read_headers
from data.image_file import MODES, printable, read_picture
from data.resize import Size, as_pair, fit
from data.source import Source, check_split
from data.workers import shared_out


def load(
    split: str,
    path: str = "",
    image_size: Size = (),
    num_channels: int = 0,
    *,
    convert: bool = False,
    crop: Size = (),
    class_folders: bool = False,
    holdout: float = 0.1,
    workers: int = -1,
) -> Source:
    """Images uint8 (H, W, C), 256 levels, of all files below a folder, in the order of their names.

    If the folder has a subfolder `train` and one named `test`, `val`, `valid` or `validation`, in
    lower or upper case, they are the splits. Otherwise about the fraction `holdout` of the files is
    the test split. The choice depends on a hash of each file's path below the folder, so a file
    stays in its split when other files are added.

    The headers of all files are read at once, so that a wrong file is found before training, and
    kept for the next run (`data.headers`).

    Args:
        split: "train" or "test".
        path: the folder; files are found at any depth, hidden files are ignored.
        image_size: a side or (H, W): the largest central part of that aspect is resized to it,
            antialiased. Empty: all images must have one size.
        num_channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; 0 takes the number of the first
            image. An image with another number is an error, unless `convert` is set.
        convert: convert images to `num_channels`, which must be given. Alpha is dropped.
        crop: central part in pixels, a side or (H, W), taken before resizing (140 for CelebA in
            many papers).
        class_folders: labels are the numbers, from 0, of the sorted topmost subfolders.
        holdout: fraction for the test split, at least 0 and below 1.
        workers: threads that decode the images of a batch; 1 decodes them one after another. -1
            takes one a core, 16 at most, and fewer for images below 500 x 500 (`data.workers`). The
            batches are the same.

    Raises:
        ValueError: for an unknown split, one split folder without the other, or a file that does
            not fit; the sentence names the file. `fetch` raises it too, for a file that is damaged
            or has changed its size.
        FileNotFoundError: if the folder is missing or has no images for the split.
    """
    check_split("image_folder", split, ("train", "test"))
    size, crop = as_pair("image_size", image_size), as_pair("crop", crop)
    channels = num_channels or None
    if channels not in (None, *MODES) or (convert and channels is None):
        raise ValueError(
            f"num_channels={num_channels}, convert={convert}: num_channels must be 1, 2, 3 or 4, "
            "and be given for `convert`."
        )
    root, files, classes = _files(path, split, holdout, class_folders)
    sizes, found = read_headers(root, split, files, workers)
    if not convert:
        channels = _common("channels", root, files, found, channels)
    if crop is not None:
        _check_crop(root, files, sizes, crop)
    size = size or crop or _common("(height, width)", root, files, sizes, None)
    labels = None
    if class_folders:
        numbers = {name: i for i, name in enumerate(classes)}
        labels = np.array([numbers[_class_of(root, file)] for file in files], np.int32)

    def fetch(indices: np.ndarray) -> np.ndarray:
        return np.stack([fit(picture(i), size, crop) for i in indices])

    def picture(i: int) -> Image.Image:
        found = read_picture(root / files[i], channels)
        if (now := (found.height, found.width)) != (before := tuple(sizes[i].tolist())):
            raise ValueError(
                f"{printable(root / files[i])} has (height, width) {now} and had "
                f"{before} when the run began: put the picture back, or begin a new run."
            )
        return found

    return Source(
        name=f"image_folder/{pathlib.Path(path).expanduser().resolve().name}",
        split=split,
        fetch=shared_out(fetch, (*size, channels), np.uint8, workers, sizes.prod(1).mean()),
        labels=labels,
        size=len(files),
        shape=(*size, channels),
        levels=256,
        digest=lambda: digest_of_files(root, files),
    )


def _files(path, split, holdout, class_folders):
    """Return the folder, the sorted paths of the split's files below it, and the sorted classes."""
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"No folder {root}: `path` must name a folder of image files.")
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout={holdout}: a fraction of at least 0 and below 1 is needed.")
    if splits := split_folders(root):
        seen = {}
        found = {name: listed(folder, seen) for name, folder in splits.items()}
        folders = [(splits[name], files) for name, files in found.items()]
        root, files = splits[split], found[split]
        rule = f"put some into {root}"
    else:
        found = listed(root)
        folders = [(root, found)]
        files = [file for file in found if in_test(file, holdout) == (split == "test")]
        rule = f"{len(found)} lie there, holdout={holdout}; add some or change `holdout`"
    if not files:
        kinds = ", ".join(sorted(SUFFIXES))
        raise FileNotFoundError(f"No images ({kinds}) for split '{split}' in {root}: {rule}.")
    classes = {_class_of(folder, f) for folder, files_ in folders for f in files_ if class_folders}
    return root, files, sorted(classes)


def _class_of(root: pathlib.Path, file: str) -> str:
    head, slash, _ = file.partition("/")
    if not slash:
        raise ValueError(
            f"{printable(root / file)} lies in no subfolder: with class_folders=True every image "
            "must lie in the subfolder of its class."
        )
    return head


def _check_crop(root, files, sizes, crop):
    small = np.flatnonzero((sizes < crop).any(axis=1))
    if len(small):
        raise ValueError(
            f"{printable(root / files[small[0]])} has (height, width) "
            f"{tuple(sizes[small[0]].tolist())}: crop={crop} must fit into every image; crop less "
            "or remove it."
        )


def _common(what, root, files, values, wanted):
    """The one value that all files share: `wanted`, or that of the first file."""
    plain = lambda value: tuple(value.tolist()) if value.ndim else int(value)
    origin = f"{printable(root / files[0])} has" if wanted is None else f"{what}={wanted} asks for"
    wanted = plain(values[0]) if wanted is None else wanted
    mend = "give `num_channels` and convert=True" if what == "channels" else "give `image_size`"
    others = np.flatnonzero((values != wanted).reshape(len(values), -1).any(axis=1))
    if len(others):
        raise ValueError(
            f"{printable(root / files[others[0]])} has {what} {plain(values[others[0]])}, but "
            f"{origin} {wanted}: all images must agree; remove it, or {mend}."
        )
    return wanted
