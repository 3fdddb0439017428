"""An Inception-v3 with released weights, run over images in batches."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy.special import softmax

from data import padded_batches
from data.torch_file import load
from evaluation.spaces.inception import resize as resizing
from evaluation.spaces.inception.import_torch import params_from_torch
from evaluation.spaces.inception.network import InceptionV3, Outputs
from evaluation.spaces.inception.releases import RELEASES, Release, find_weights
from models.options import check_choice

BATCH_SIZE = 32


@dataclass(frozen=True)
class Inception:
    """A network, its weights, and the resize of images to its size.

    Fields:
      id: label of the release, hash of the weights, resize: `inception-2015-6726825d-clean`.
      params: parameters of `release.network`.
      resize: a name in RESIZES.
    """

    id: str
    release: Release
    params: Any
    resize: str

    def outputs(self, images: np.ndarray, batch_size: int = BATCH_SIZE) -> Outputs:
        """Outputs of the network for images (N, H, W, 1 or 3) in [0, 1], converted to float64.

        Raises:
            ValueError: images of another shape.
        """
        batches = padded_batches(len(images), min(batch_size, len(images)))
        found, running = [], None
        for indices, mask in batches:
            x = self.prepare(images[indices])
            # The device computes the last batch while the host resizes this one.
            found += read(running)
            running = forward(self.release.network, self.params, x), mask
        parts = zip(*found, *read(running))
        return Outputs(*(np.concatenate(part).astype(np.float64) for part in parts))

    def features(self, images: np.ndarray) -> np.ndarray:
        """`pool3`, (N, 2048) float64."""
        return self.outputs(images).pool3

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities of the classes, (N, 1008 or 1000) float64.

        Those of the graph of 2015 are computed without the last layer's bias, as in the code of
        Salimans et al. 2016.
        """
        return self.both(images)[1]

    def both(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`features` and `probabilities` in one pass."""
        found = self.outputs(images)
        return found.pool3, softmax(getattr(found, self.release.scores), axis=1)

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """Images (N, H, W, 1 or 3) in [0, 1] to the network's input, (N, 299, 299, 3) float32."""
        levels = 255 * resizing.to_side(images, self.resize, resizing.SIDE)
        # pytorch-fid scales by 2 x - 1; the graph and clean-fid scale by (levels - 128) / 128.
        shift = 127.5 if self.resize == "legacy_pytorch" else self.release.shift
        return (levels - np.float32(shift)) / np.float32(shift)


def load_inception(
    name: str = "inception", *, weights: str = "", resize: str = "clean"
) -> Inception:
    """Load the network `name` of RELEASES, with the weights that `find_weights` finds.

    Raises:
        ValueError: the name or the resize is unknown, or the file holds other weights.
        FileNotFoundError: there is no file with the weights.
    """
    check_choice("Inception network", name, RELEASES)
    check_choice("resize", resize, resizing.RESIZES)
    release = RELEASES[name]
    path, digest = find_weights(release, weights)
    params = params_from_torch(load(path), release.network, str(path))
    return Inception(f"{release.label}-{digest}-{resize}", release, jax.device_put(params), resize)


@functools.partial(jax.jit, static_argnums=0)
def forward(network: InceptionV3, params: Any, x: jax.Array) -> Outputs:
    return network.apply({"params": params}, x)


def read(running: tuple[Outputs, np.ndarray] | None) -> list[list[np.ndarray]]:
    """Return the unmasked rows of a batch on the host; this waits for the device."""
    if running is None:
        return []
    outputs, mask = running
    return [[np.asarray(part)[mask] for part in outputs]]
