"""The section `sde` of a config as a law of noise."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

import sde_lib
from builders.checks import choose
from builders.constructors import LAWS
from builders.sections import options

# Of |log(c / a)|: the square of exp(43.6) is the largest float32 but for a factor of 5.
LARGEST = 43.6
PROGRAM = Path(__file__).resolve().parents[1]


def build_path(section: ConfigDict) -> sde_lib.AffinePath:
    name = section.name.lower()
    law = choose("sde.name", sde_lib.ALIASES.get(name, name), LAWS)
    known = options(law)
    kwargs = {key: value for key, value in section.items() if key != "name"}
    if set(known) != set(kwargs):
        raise ValueError(
            f"sde.name is {section.name!r}, whose numbers are {', '.join(sorted(known))}, but the "
            f"section has {', '.join(sorted(kwargs))}; start from a config file of that law."
        )
    if not 0.0 < kwargs["t0"] < kwargs["t1"]:
        raise ValueError(f"sde.t0 = {section.t0} must lie between 0 and sde.t1 = {section.t1}.")
    if name in ("flow", "kinetic") and not kwargs["t1"] < 1.0:
        raise ValueError(
            f"sde.t1 = {section.t1} must be below 1, where the drift of {name!r} is infinite."
        )
    for low, high in (("beta_min", "beta_max"), ("sigma_min", "sigma_max")):
        if low in kwargs and not 0.0 < kwargs[low] < kwargs[high]:
            raise ValueError(
                f"sde.{low} = {kwargs[low]} must lie between 0 and sde.{high} = {kwargs[high]}."
            )
    if "table" in kwargs:
        return law(**{**kwargs, "table": table_file(section.table)})
    path = law(**kwargs)
    check_range(path, kwargs)
    return path


def check_range(path: sde_lib.AffinePath, numbers: dict) -> None:
    """Raises:
    ValueError: for a law whose noise-to-signal ratio c / a, whose square samplers and losses take,
        leaves the range of float32 at either end.
    """
    lam = np.asarray(path.lam(np.asarray([path.t0, path.t1], np.float32)), np.float64)
    if np.all(np.abs(lam) < LARGEST):
        return
    name = next((key for key in ("beta_max", "sigma_max") if key in numbers), "t1")
    first, last = np.exp(-lam)
    raise ValueError(
        f"sde.{name} = {numbers[name]} makes the noise {first:.3g} times the data at t0 and "
        f"{last:.3g} times at t1; float32 holds the square of what lies between "
        f"{np.exp(-LARGEST):.1g} and {np.exp(LARGEST):.1g} only, so lower it."
    )


def table_file(name: str) -> Path:
    """The file of a law's table: from the current folder, or else from that of the program."""
    if not name:
        raise ValueError(
            "sde.table is empty; make a table with `python -m tools.kinetic_path --config FILE "
            "--out TABLE.json` and name it with --config.sde.table=TABLE.json."
        )
    return next((p for p in (Path(name), PROGRAM / name) if p.is_file()), Path(name))
