"""The released sets of weights: which network they are of, and where they are.

Nothing is downloaded. A file's name ends in the first eight hex digits of its SHA-256, and a file
that is found by name must have that hash: features of other weights would give a plausible number
that compares with nothing.
"""

import os
from pathlib import Path
from typing import NamedTuple

from evaluation.spaces.inception.network import InceptionV3
from evaluation.store.batches import sha256

VARIABLE = "SCOREFIELD_WEIGHTS"
DEFAULT = "~/.cache/scorefield"


class Release(NamedTuple):
    """`label` begins the ids of its feature spaces; `scores` names the logits of its probabilities.

    `shift` is how its code maps levels v of 0 to 255 to about [-1, 1]: `(v - shift) / shift`.
    """

    label: str
    network: InceptionV3
    url: str
    shift: float
    scores: str

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def digest(self) -> str:
        """The first eight hex digits of the file's SHA-256, as its name tells them."""
        return Path(self.file).stem.rsplit("-", 1)[1]


RELEASES = {
    "inception": Release(
        "inception-2015",
        InceptionV3(1008, "mean_inside", "max"),
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        128.0,
        "logits_unbiased",
    ),
    "inception_v3": Release(
        "inception-v3",
        InceptionV3(1000, "mean_padded", "mean_padded"),
        "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
        127.5,
        "logits",
    ),
}


def find_weights(release: Release, weights: str = "") -> tuple[Path, str]:
    """The file with the weights of a release, and the first eight hex digits of its SHA-256.

    Args:
        weights: a folder that holds the file; or a file, which is taken whatever its hash; empty
            for the folder `SCOREFIELD_WEIGHTS`, or `~/.cache/scorefield` where that is not set.

    Raises:
        FileNotFoundError: there is no such file or folder, or no file of that name in the folder.
        ValueError: the file in the folder has another hash than its name says.
    """
    given = Path(weights or os.environ.get(VARIABLE) or DEFAULT).expanduser()
    if given.is_file():
        return given, sha256(given)[:8]
    path = given / release.file
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {release.file} in {given}: get it from {release.url} (its SHA-256 begins "
            f"{release.digest}) and put it there, or name the file or its folder in eval.weights "
            f"or {VARIABLE}."
        )
    digest = sha256(path)
    if not digest.startswith(release.digest):
        raise ValueError(
            f"{path} has the SHA-256 {digest[:8]}..., and its name says {release.digest}...: copy "
            f"it again from {release.url}, or name the file itself in eval.weights to use it all "
            "the same."
        )
    return path, digest[:8]
