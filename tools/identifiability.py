"""Compare the codes that two networks, trained independently, give the same images.

python -m tools.identifiability --config A.py --workdir RUN_A \\
    --other_config B.py --other_workdir RUN_B [--count 128] [--out FILE.json]

The code of an example (`likelihood/latents.py`) depends only on the law and on the scores of the
data, so networks of other seeds, widths or architectures should give the same code ("uniquely
identifiable encoding", Song et al. 2021, section 4.3 and appendix D.5). Both networks encode the
same test images with the same dequantisation noise. Each figure is Pearson's correlation of two
codes over the dimensions of an image, as mean and standard error over images:

    same         codes of one image by the two networks
    different    code of an image by one network, and of the next image by the other: the chance
                 level
    gaussian     codes of one image by the first network, and by the closed-form flow of Gaussian
                 data of the same moments: what is reached without any network
    redrawn      codes of one image by the first network, with two draws of the dequantisation
                 noise: how much of the code belongs to the image rather than to this noise

The values of a run's `config.json` replace those of the config file, so flags given in training
need not be repeated. Writes `identifiability.json`, by default in the first workdir.
"""

import xla_flags  # noqa: F401, I001 - sets XLA's flags before jax is imported

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from builders.experiment import Experiment, build
from builders.sources import data_moments
from evaluation.metrics.errors import mean_and_stderr
from builders.stored import understood
from evaluation.tasks.codes import dequantised, encode_data
from evaluation.tasks.evaluate import strict
from likelihood.latents import Latents
from exact.gaussian import gaussian_flow
from tools.describe import load
from training.checkpoint import CheckpointError
from training.restore import restore_ema
from training.workdir import MEANING, claim, flatten, read_config
from whole_files import put
from builders.places import place

MOST_DIMENSIONS = 4096  # of the covariance for `gaussian`, which is left out for larger data


def compare(
    one: Experiment, one_params: Any, other: Experiment, other_params: Any, count: int
) -> dict[str, Any]:
    """Return the correlations listed above and the distances of codes, over `count` test images.

    Raises:
        ValueError: the laws, data or scalings differ; `count` exceeds the number of test images;
            or fewer than two images have both codes.
    """
    check(one, other, count)
    indices, seed = np.arange(count), one.config.eval.seed
    raw = one.test.fetch(indices)
    x, redrawn = (dequantised(one, raw, indices, seed + i) for i in (0, 1))
    ours, again = halves(encode_data(one, one_params, np.concatenate([x, redrawn])))
    theirs = encode_data(other, other_params, x)
    kept = ~(ours.failed | theirs.failed)
    a, b = (codes.z[kept].reshape(kept.sum(), -1).astype(np.float64) for codes in (ours, theirs))
    if len(a) < 2:
        raise ValueError(f"Only {len(a)} of {count} images have both codes; a comparison needs 2.")
    # Root mean squares of differences: two independent codes are sqrt(2) apart.
    rms = lambda v: float(np.sqrt(np.mean(v**2)))
    found = {
        "images": len(a),
        "failed": int(np.sum(~kept)),
        "same": told(correlations(a, b)),
        "different": told(correlations(a, np.roll(b, 1, axis=0))),
        # As in the figure of the paper: over images, in each dimension.
        "by_dimension": told(correlations(a.T, b.T)),
        "rms_difference": rms(a - b),
        "rms_difference_different": rms(a - np.roll(b, 1, axis=0)),
        "nfe": [float(ours.nfe.mean()), float(theirs.nfe.mean())],
    }
    if a.shape[1] <= MOST_DIMENSIONS:
        gaussian = gaussian_codes(one, x)[kept]
        found["gaussian"] = told(correlations(a, gaussian))
    if one.bits_scaler.dequantize:
        both = kept & ~again.failed
        pair = (codes.z[both].reshape(both.sum(), -1) for codes in (ours, again))
        found["redrawn"] = told(correlations(*pair))
    return found


def halves(codes: Latents) -> tuple[Latents, Latents]:
    """Return the codes of the first half of the examples, and of the second half."""
    n = len(codes.failed) // 2
    return Latents(*(v[:n] for v in codes)), Latents(*(v[n:] for v in codes))


def check(one: Experiment, other: Experiment, count: int) -> None:
    """Raise ValueError if laws, data or scalings differ, or if there are too few images."""
    leaves = [jax.tree.leaves(e.path) for e in (one, other)]
    same_law = jax.tree.structure(one.path) == jax.tree.structure(other.path)
    if not same_law or not all(np.array_equal(x, y) for x, y in zip(*leaves)):
        raise ValueError(
            f"The laws are {one.path} and {other.path}; codes are one only under one law."
        )
    if one.test.fingerprint != other.test.fingerprint or one.bits_scaler != other.bits_scaler:
        raise ValueError(
            f"The test data are {one.test.name} ({one.bits_scaler}) and {other.test.name} "
            f"({other.bits_scaler}); compare runs on the same data, scaled alike."
        )
    if not 2 <= count <= one.test.size:
        raise ValueError(f"--count is {count}; it must lie between 2 and {one.test.size}.")


def gaussian_codes(experiment: Experiment, x: np.ndarray) -> np.ndarray:
    """Return codes `(n, D)` by the exact flow of a Gaussian with the training data's moments."""
    path, eps = experiment.path, jnp.float32(experiment.config.likelihood.eps)
    model = data_moments(experiment.train, experiment.bits_scaler, False, None)
    end = gaussian_flow(path, model, jnp.asarray(x), eps, jnp.float32(path.t1))
    return np.asarray(end / path.prior_std()).reshape(len(x), -1)


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's correlations `(n,)` of the rows of `a` and `b`, both `(n, D)`."""
    a, b = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.sum(a * b, axis=1) / norms


def told(values: np.ndarray) -> dict[str, float]:
    return dict(zip(("mean", "stderr"), mean_and_stderr(values)))


def config_of(file: Path, workdir: Path) -> ConfigDict:
    """Return the config file's config, with values from `config.json` of the run.

    These are the values of the sections that give the parameters their meaning, and the seed.

    Raises:
        ValueError: the run's config has other keys, for instance those of another law.
    """
    config, stored = load(file), workdir / "config.json"
    if stored.exists():
        known = flatten(config.to_dict())
        theirs = flatten(read_config(stored))
        taken = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in theirs.items()
            if key in known and key.split(".")[0] in (*MEANING, "seed")
        }
        config.update_from_flattened_dict(taken)
        claim(workdir, config, training=False, read=understood)
    return config


def main(argv: list[str] | None = None) -> None:
    given = parse(argv)
    runs = (given.config, given.workdir), (given.other_config or given.config, given.other_workdir)
    try:
        restored = []
        for file, workdir in runs:
            experiment = build(config_of(file, workdir.absolute()))
            restored += [experiment, restore_ema(experiment, workdir.absolute())[1]]
        found = compare(*restored, given.count)
    except (ValueError, OSError, CheckpointError) as error:
        raise SystemExit(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    out = given.out or given.workdir / "identifiability.json"
    found["runs"] = [[str(part) for part in run] for run in runs]
    put(out, json.dumps(strict(found), indent=2, allow_nan=False) + "\n")
    for name in ("same", "different", "gaussian", "redrawn"):
        if name in found:
            print(f"{name:<12}{found[name]['mean']:.4f} ± {found[name]['stderr']:.4f}")
    print(
        f"RMS difference of codes {found['rms_difference']:.3f}, of different images "
        f"{found['rms_difference_different']:.3f}; {found['images']} images\nwrote {out}"
    )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=place, required=True, help="config file of the first run")
    parser.add_argument("--workdir", type=place, required=True, help="of the first run")
    parser.add_argument(
        "--other_config", type=place, help="of the second; that of the first if not"
    )
    parser.add_argument("--other_workdir", type=place, required=True, help="of the second run")
    parser.add_argument("--count", type=int, default=128, help="test images, from the first on")
    parser.add_argument("--out", type=place, help="file of the numbers")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
