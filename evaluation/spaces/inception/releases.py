"""The released sets of weights: their networks, their addresses, and the search for their files.

Nothing is downloaded. The name of a file ends in the first eight hex digits of its SHA-256. A file
that is found by its name must have this hash, because other weights would give plausible distances
that compare with no published number.
"""

import os
from pathlib import Path
from typing import NamedTuple

from evaluation.spaces.inception.network import InceptionV3
from evaluation.store.batches import sha256

VARIABLE = "SCOREFIELD_WEIGHTS"
DEFAULT = "~/.cache/scorefield"


class Release(NamedTuple):
    """A released set of weights.

    `label`: beginning of the ids of its feature spaces. `shift`: levels v from 0 to 255 are mapped
    to about [-1, 1] by `(v - shift) / shift`, as in the released code. `scores`: the field of
    `Outputs` whose softmax gives the class probabilities.
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
        """The first eight hex digits of the file's SHA-256, from the name of the file."""
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
    """Find the file with the weights of a release; return it and eight hex digits of its SHA-256.

    Args:
        weights: the folder of the file, or a file, which may have any hash. Empty for the folder in
            the environment variable `SCOREFIELD_WEIGHTS`, or `~/.cache/scorefield` if the variable
            is not set.

    Raises:
        FileNotFoundError: there is no such file or folder, or no file of that name in the folder.
        ValueError: the hash of the file in the folder differs from the one in its name.
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
