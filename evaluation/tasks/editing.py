"""`--mode sample` with `edit.method`: images of a split, or pictures, edited several times each.

The noise for image i comes from `example_keys(eval.seed, i)` and does not depend on the batch.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from evaluation.report.images import to_levels
from evaluation.report.pictures import grid, save_png
from evaluation.tasks.given import given_images
from evaluation.tasks.sampling import (
    arrays_of,
    depend_on_each_other,
    in_shares,
    own_parameters,
    pictured,
)
from parallel.mesh import by_device
from parallel.processes import is_lead
from sde_lib import example_keys, fold_in, several, split
from sde_lib.prediction import bound
from whole_files import put, put_arrays

SHOWN = 8  # edits of an image in the picture
ROWS = 16


class Edited(NamedTuple):
    """Images `image` (n, ...) and their edits `x` (n, K, ...), in units of the model.

    `nfe` is the mean over edits; `labels` (K,) are the classes of the edits of an image, or None.
    """

    image: np.ndarray
    x: np.ndarray
    nfe: float
    labels: np.ndarray | None


def edit(experiment, editing, params: Any, seeds: range) -> Edited:
    """Edit the images with the numbers `seeds`, `edit.samples` times each.

    With `guidance.label = -1` the edits of an image go through the classes in turn.
    """
    section, classes = experiment.config.edit, experiment.classes
    keys = fold_in(example_keys(experiment.config.eval.seed, np.asarray(seeds)), 3)
    data_keys, own_keys = split(keys, 2)
    image = given_images(experiment, section.images, seeds, data_keys)
    n, k = len(image), section.samples
    which, turn = np.repeat(np.arange(n), k), np.tile(np.arange(k, dtype=np.int32), n)
    draws = several(own_keys, k)
    label = turn if classes is None else classes.label(turn)

    def batch(params, own, keys, x, label):
        guided = predict = experiment.predict(params)
        if classes is not None:
            guided = bound(classes.predict(params, own), label)
        if editing.source_label >= 0:
            predict = bound(predict, jnp.full_like(label, editing.source_label))
        return arrays_of(editing.run(keys, predict, guided, x))

    size = min(experiment.config.sampling.batch_size, n * k)
    together = depend_on_each_other(experiment.config.sampling)
    run, own = by_device(batch, shared=2, together=together), own_parameters(experiment)
    part = lambda keys, x, label: run(params, own, keys, x, label)
    x, nfe, _ = in_shares(part, size, draws, image[which], label)
    labels = None if classes is None else np.asarray(label[:k])
    return Edited(np.asarray(image), x.reshape(n, k, *image.shape[1:]), float(nfe.mean()), labels)


def run_editing(
    editing, experiment, params: Any, workdir: Path, step: int, seeds: range
) -> dict[str, Any]:
    """Write `edited/step_<step>/<method>_<first>-<last>` as npz, png and json.

    The report has three measures, of levels in [0, 1]: `changed`, the RMS difference between an
    edit and its image where the image is edited; `changed_kept`, the RMS difference where the image
    is kept (None without a mask); `spread`, the standard deviation over the edits of an image where
    it is edited (None for a single edit).

    Raises:
        ValueError: for numbers beyond the last image, or edits that are not finite.
    """
    section = experiment.config.edit
    found = edit(experiment, editing, params, seeds)
    finite = np.isfinite(found.x).reshape(*found.x.shape[:2], -1).all(axis=-1)
    if not finite.all():
        raise ValueError(
            f"{(~finite).sum()} of {finite.size} edits are not finite: the guide is too strong for "
            "the steps; lower edit.METHOD.content or guidance.scale, or raise sampling.steps."
        )
    folder = workdir / "edited" / f"step_{step}"
    name = f"{section.method}_{seeds.start}-{seeds.stop - 1}"
    levels, unit = to_levels(experiment.scaler, found.x)
    _, image = to_levels(experiment.scaler, found.image)
    report = {
        "step": step,
        "images": [seeds.start, seeds.stop - 1],
        "edit": experiment.settings.edit.to_dict(),
        "guidance": experiment.settings.guidance.to_dict(),
        "sampling": experiment.settings.sampling.to_dict(),
        "nfe": found.nfe,
        **changes(editing.keep, image, unit),
    }
    if is_lead():
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"arr_0": levels, "image": found.image, "indices": np.asarray(seeds)}
        told = {} if found.labels is None else {"labels": found.labels}
        put_arrays(folder / f"{name}.npz", **arrays, **told)
        put(folder / f"{name}.json", json.dumps(report, indent=2) + "\n")
        if pictured(experiment):
            columns = np.concatenate([image[:ROWS, None], unit[:ROWS, :SHOWN]], axis=1)
            rows = columns.reshape(-1, *experiment.shape)
            save_png(folder / f"{name}.png", grid(rows, columns=columns.shape[1]))
    shown = ("nfe", "changed", "changed_kept", "spread")
    return {**{key: report[key] for key in shown}, "folder": str(folder)}


def changes(keep: np.ndarray | None, image: np.ndarray, x: np.ndarray) -> dict[str, float | None]:
    """`changed`, `changed_kept` and `spread`, see `run_editing`; x is `(n, K, ...)`."""
    kept = np.zeros(image.shape[1:], bool) if keep is None else keep
    square = (x - image[:, None]) ** 2
    rms = lambda where: float(np.sqrt(square[:, :, where].mean())) if where.any() else None
    varied = x.shape[1] > 1 and not kept.all()
    return {
        "changed": rms(~kept),
        "changed_kept": rms(kept),
        "spread": float(x.std(axis=1, ddof=1)[:, ~kept].mean()) if varied else None,
    }
