"""How far samples are from data, beside how far data are from data, and beside the baseline.

Every distance is to the test split. `train_test` is the floor: what as many real images score.
"""

from typing import Any

import numpy as np

from evaluation.features import Features, FeatureSpace, accuracy, feature_space
from evaluation.frechet import Moments, frechet_distance, frechet_with_stderr
from evaluation.mmd import gaussian_mmd, kid, median_bandwidth

BLOCKS = 10


def distances(space: FeatureSpace, images: dict[str, np.ndarray], test: np.ndarray) -> dict:
    """Frechet distance, KID and Gaussian MMD of each set to the test images, in one space.

    Args:
        images: name to (n, H, W, C) floats in [0, 1].
        test: likewise.

    Returns:
        `{"frechet": {"<name>_test": value, "<name>_test_stderr": ...}, "kid": ..., "mmd": ...}`.
        The Frechet distance is biased upwards by the size of both sets: compare equal sizes only.
    """
    reference = features(space, test)
    moments, bandwidth = Moments.of(reference), median_bandwidth(reference)
    result: dict[str, Any] = {"frechet": {}, "kid": {}, "mmd": {"bandwidth": bandwidth}}
    for name, x in images.items():
        found = features(space, x)
        key = f"{name}_test"
        n_blocks = min(BLOCKS, len(x))
        size = len(x) // n_blocks
        blocks = [
            Moments.of(Features(space.id, found.values[i * size : (i + 1) * size]))
            for i in range(n_blocks)
        ]
        result["frechet"][key] = frechet_distance(Moments.of(found), moments)
        result["frechet"][f"{key}_stderr"] = frechet_with_stderr(blocks, moments)[1]
        for metric, value in (
            ("kid", kid(found, reference)),
            ("mmd", gaussian_mmd(found, reference, bandwidth)),
        ):
            result[metric][key] = value.value
            result[metric][f"{key}_stderr"] = value.stderr
    return result


def features(space: FeatureSpace, images: np.ndarray) -> Features:
    return Features(space.id, space.extract(images))


def spaces_for(experiment, train_unit: np.ndarray) -> list[tuple[FeatureSpace, dict]]:
    """The feature spaces of `eval.features`, with what a report says of each."""
    found = []
    for name in experiment.config.eval.features:
        space = feature_space(name, train_unit, experiment.train.labels)
        facts = {"name": space.name, "id": space.id}
        if space.classify is not None and experiment.test.labels is not None:
            test_unit = unit_images(experiment.test)
            facts["test_accuracy"] = accuracy(space, test_unit, experiment.test.labels)
        found.append((space, facts))
    return found


def unit_images(source, limit: int | None = None) -> np.ndarray:
    """The first `limit` examples of a split, or all, in [0, 1] on the data's lattice."""
    raw = source.fetch(np.arange(min(limit or source.size, source.size)))
    return raw.astype(np.float64) / (source.levels - 1) if source.levels else raw
