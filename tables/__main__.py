"""Compute a table of a paper.

    python -m tables table1 [--scale laptop|paper] [--out runs/tables] [--models DIR]

At laptop scale, missing models are trained by this command, on scikit-learn's digits. At paper
scale the models are imported checkpoints in DIR, one folder each (`python -m
tools.import_score_sde`). Both scales compute the same cells in the same way. Finished cells are
kept, so the same command goes on after a stop at any moment. The command writes
OUT/<table>_<scale>.md and .json.
"""

import xla_flags  # noqa: F401, I001 - sets XLA's flags before jax is imported

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tables import TABLES
from tables.base import SCALES, SETTINGS, Table
from tables.cells import References, finished
from tables.models import make_ready
from tables.render import markdown
from training.checkpoint import CheckpointError
from training.stop import Stopped
from programs import keep_programs
from whole_files import put
from builders.places import place


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES, help="which one")
    parser.add_argument("--scale", choices=SCALES, default="laptop")
    parser.add_argument("--out", type=place, default=Path("runs/tables"))
    parser.add_argument("--models", type=place, help="folder of the models; OUT/models by default")
    args = parser.parse_args(arguments)
    out = args.out.absolute()
    models = args.models.absolute() if args.models else out / "models"
    keep_programs(out)
    try:
        make(TABLES[args.table](args.scale), args.scale, out, models)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        raise SystemExit(stopped.status) from None
    except (ValueError, OSError, CheckpointError) as error:
        raise SystemExit(f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def make(table: Table, scale: str, out: Path, models: Path) -> list[dict[str, Any]]:
    """Compute the missing cells one by one, and write the table after each cell.

    Raises:
        CheckpointError: at paper scale, naming the first model without a checkpoint.
    """
    ready = {cell.model.name: cell.model for cell in table.cells}
    # All models come first, so that a missing one is reported before hours of work on the others.
    workdirs = {name: make_ready(model, scale, models) for name, model in ready.items()}
    results: list[dict[str, Any] | None] = [None] * len(table.cells)
    references, name = References(), f"{table.name}_{scale}"
    for i, cell in enumerate(table.cells):
        setting, workdir = SETTINGS[scale], workdirs[cell.model.name]
        results[i] = finished(cell, setting, workdir, out / name, references)
        figures = ", ".join(f"{key} {results[i][key]:.4g}" for key in cell.published)
        print(f"{cell.row}, {cell.column}: {figures}", flush=True)
        text = markdown(table, results)
        put(out / f"{name}.md", text)
        put(out / f"{name}.json", json.dumps([r for r in results if r], indent=1) + "\n")
    print(text)
    return results


if __name__ == "__main__":
    main()
