"""Compare our networks with arrays recorded from the original score_sde.

python -m tools.check_goldens DIR [--optimised]

A golden is an .npz file with `params/<path>`, input `x`, `time_cond` or `labels`, output `y`, the
gradient `dy_dx` of `sum(y**2)` by x, and `config`, the original's options as JSON. Each golden gets
one line with the largest errors, `max|a - b| / max|b|`; other files get a line and are skipped. The
exit status is 0 only if there is at least one golden and all goldens are within the limits.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from builders.places import place
from tools.original import fit, model_of

LIMIT_Y, LIMIT_DX = 3e-5, 1e-4
# The networks run for microseconds and compile for seconds, so XLA skips its optimisations.
QUICK = {"xla_backend_optimization_level": 0}
PREFIX = "params/"


class Verdict(NamedTuple):
    """One line of the report. `status` is "ok", "FAIL" or "skip"."""

    status: str
    text: str


def main(argv: list[str] | None = None) -> int:
    """Print the report and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.check_goldens", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("directory", type=place, metavar="DIR")
    parser.add_argument("--optimised", action="store_true", help="compile as for training: slower")
    args = parser.parse_args(argv)
    if not args.directory.is_dir():
        print(f"There is no directory {args.directory}.")
        return 1
    counts = dict.fromkeys(("ok", "FAIL", "skip"), 0)
    for name, verdict in verdicts(args.directory, None if args.optimised else QUICK):
        counts[verdict.status] += 1
        print(f"{verdict.status:4}  {name:58}  {verdict.text}", flush=True)
    print(
        f"{counts['ok']} within the limits (y {LIMIT_Y:.0e}, dy_dx {LIMIT_DX:.0e}), "
        f"{counts['FAIL']} failed, {counts['skip']} skipped."
    )
    if not counts["ok"] + counts["FAIL"]:
        print(f"No golden in {args.directory}: no .npz file there has {PREFIX}... in it.")
    return 0 if counts["ok"] and not counts["FAIL"] else 1


def verdicts(directory: Path, compiler_options: dict | None) -> Iterator[tuple[str, Verdict]]:
    """Yield (file name, verdict) for every file of a directory, sorted by name."""
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        if path.suffix != ".npz":
            yield path.name, Verdict("skip", "not an .npz file")
            continue
        try:
            yield path.name, check(path, compiler_options)
        # An error in one file must not hide the verdicts on the others.
        except Exception as error:
            yield path.name, Verdict("FAIL", one_line(error))


def check(path: Path, compiler_options: dict | None = None) -> Verdict:
    """Return the verdict on one file.

    Raises:
      ValueError: the file is damaged, or the original could not run its config.
    """
    golden = read(path)
    source = {
        tuple(key.removeprefix(PREFIX).split("/")): value
        for key, value in golden.items()
        if key.startswith(PREFIX)
    }
    if not source:
        return Verdict("skip", f"no golden of a network: no {PREFIX}... in it")
    module, cond_key = model_of(json.loads(str(entry(golden, "config"))))
    x, cond, y, dy_dx = (entry(golden, key) for key in ("x", cond_key, "y", "dy_dx"))
    target = jax.eval_shape(module.init, jax.random.key(0), x, cond)["params"]
    fitted = fit(unflatten_dict(source), target)
    if fitted.problem():
        return Verdict("FAIL", f"parameters: {fitted.problem()}")
    found = evaluate(module, fitted.params, x, cond, compiler_options)
    errors = [relative_error(*pair) for pair in zip(found, (y, dy_dx))]
    # Written so that a nan fails: comparisons with nan are False.
    good = errors[0] <= LIMIT_Y and errors[1] <= LIMIT_DX
    return Verdict("ok" if good else "FAIL", "y {:.1e}  dy_dx {:.1e}".format(*errors))


def evaluate(module, params, x, cond, compiler_options) -> tuple[np.ndarray, np.ndarray]:
    """Return the output `y` without dropout, and the gradient of `sum(y**2)` by x."""

    def energy(x, params, cond):
        y = module.apply({"params": params}, x, cond, train=False)
        return jnp.sum(y**2), y

    run = jax.jit(jax.value_and_grad(energy, has_aux=True), compiler_options=compiler_options)
    with jax.default_matmul_precision("highest"):
        (_, y), gradient = run(x, params, cond)
    return np.asarray(y), np.asarray(gradient)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return `max|found - expected| / max|expected|`, in float64; nan if either has a nan.

    Raises:
      ValueError: the shapes differ.
    """
    if found.shape != expected.shape:
        raise ValueError(f"The network gives an array {found.shape}, the file {expected.shape}.")
    difference = np.abs(np.float64(found) - np.float64(expected)).max()
    # For expected zeros the relative error is 0 where all found are zeros, and inf otherwise.
    return float(difference / np.abs(np.float64(expected)).max()) if difference else 0.0


def read(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a file by name. Raises ValueError for a file that cannot be read."""
    try:
        with np.load(path) as file:
            return dict(file)
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"damaged, or not an .npz file: {error}") from error


def entry(golden: dict[str, np.ndarray], key: str) -> np.ndarray:
    if key not in golden:
        raise ValueError(f"The file has no {key!r}, which a golden needs.")
    return golden[key]


def one_line(error: Exception) -> str:
    """Return an error's message as one line; other errors than ValueError with their type."""
    message = " ".join(str(error).split())[:300]
    return message if type(error) is ValueError else f"{type(error).__name__}: {message}"


if __name__ == "__main__":
    sys.exit(main())
