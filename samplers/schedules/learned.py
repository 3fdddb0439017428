"""The nodes of searched schedules as a time grid for any sampler.

`configs/solvers/` holds schedules that a search found (`tools/search_solver.py`), one file for each
number of evaluations. Much of their gain comes from the nodes alone, which any sampler may use.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.interpolate import PchipInterpolator

from samplers.schedules.schedule import load, nodes
from sde_lib import AffinePath

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "solvers"


def schedule_file(name: str, folder: Path = FOLDER) -> Path:
    """The file of a schedule, from its path or its name in `configs/solvers/`, e.g. "digits_10".

    Raises:
        ValueError: if neither exists.
    """
    for path in (Path(name), folder / f"{name}.json"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in folder.glob("*.json"))) or "none"
    raise ValueError(
        f"There is no schedule {name!r}; give the path of its JSON file, or one of the names in "
        f"configs/{folder.name}: {known}."
    )


def found(name: str = "digits", folder: Path = FOLDER) -> dict[int, Path]:
    """The files `name_N.json` of a folder, by their number of evaluations N.

    Raises:
        ValueError: if there is no such file.
    """
    files = {}
    for path in sorted(folder.glob(f"{name}_*.json")):
        if match := re.fullmatch(rf"{re.escape(name)}_([0-9]+)\.json", path.name):
            files[int(match[1])] = path
    if not files:
        raise ValueError(f"There is no schedule {name}_N.json in {folder}; search for one first.")
    return files


def learned(path: AffinePath, steps: int, eps: float, name: str = "digits") -> Array:
    """The nodes of the schedule whose number of steps is nearest, `(steps + 1,)` times.

    If no schedule has this number of steps, the nodes are interpolated monotonically (PCHIP) in
    their index. The nodes are noise levels `c / a` of data in [-1, 1], so they serve every law.
    Nodes beyond the law's `t1` or `eps` are left out, and the two ends are set to `t1` and `eps`.

    Raises:
        ValueError: if there is no schedule of this name.
    """
    lams = [np.asarray(nodes(load(file))) for file in found(name).values()]
    lam = min(lams, key=lambda lam: abs(np.log((len(lam) - 1) / steps)))
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        first, last = np.asarray(path.lam(jnp.asarray([path.t1, eps], jnp.float64)))
        inner = lam[1:-1]
        lam = np.concatenate([[first], inner[(inner > first) & (inner < last)], [last]])
        if len(lam) != steps + 1:
            at = np.linspace(0.0, 1.0, steps + 1)
            lam = PchipInterpolator(np.linspace(0.0, 1.0, len(lam)), lam)(at)
        ts = np.array(path.t_of_lam(jnp.asarray(lam)))
    ts[0], ts[-1] = path.t1, eps
    return jnp.asarray(ts, float)
