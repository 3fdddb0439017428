"""A solver schedule as plain data: every decision of an exponential integrator, step by step.

The decisions are those of Liu et al. 2024 (A Unified Sampling Framework for Solver Searching of
Diffusion Probabilistic Models, arXiv 2312.07243). Nodes are half log signal-to-noise ratios `lam`,
so one schedule serves every law: `sigma = c / a = exp(-lam)`. `exponential/tableau.py` turns a
schedule into coefficients and `unified.py` runs them.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from samplers.exponential.integrals import check_form
from whole_files import put

MAX_ORDER = 4
MAX_START = 4
CORRECTORS = ("none", "pseudo", "implicit")
# Factors of a derivative. b1 and b2 are UniPC's, for the first derivative only; b2 is also the one
# of DPM-Solver-2. half is the factor of DPM-Solver 3M on its second derivative.
RELAXATIONS = ("b1", "b2", "half")

Relaxation = str | float


class Step(NamedTuple):
    """One step, to the node `lam`, from an earlier node s, with `h = lam - lam_s > 0`.

    - `form`: the prediction that is expanded, "noise" or "data".
    - `start`: s is the node `-start` evaluations back; -1 is the newest node (multistep). An older
      node gives the steps between the stages of a single-step method.
    - `order`: the number of terms of the Taylor expansion about s, 1 to 4.
    - `points`: for each derivative k = 1, ..., order - 1, how many other outputs estimate it,
      newest first, from k to 3; by default `order - 1` each.
    - `relax`: for each derivative a factor, either `1 + c h` for a number c, or a name of
      `RELAXATIONS`; derivatives without an entry are exact.
    - `corrector`: "pseudo" repeats the step with order + 1 once the output at its end is known, and
      keeps that output; "implicit" evaluates the network again at the corrected state.
    - `corrector_relax`: the factors in the corrector, which has one derivative more than the step.
    """

    lam: float
    form: str = "noise"
    start: int = -1
    order: int = 1
    points: tuple[int, ...] = ()
    relax: tuple[Relaxation, ...] = ()
    corrector: str = "none"
    corrector_relax: tuple[Relaxation, ...] = ()


class Schedule(NamedTuple):
    """The steps of a run, starting from the node `first`.

    - `analytic`: take the mean of the data as the output at the first node, without an evaluation.
    - `denoise`: end with the conditional mean at the last node, for one more evaluation.
    """

    first: float
    steps: tuple[Step, ...]
    analytic: bool = False
    denoise: bool = False


def nodes(schedule: Schedule) -> tuple[float, ...]:
    """`lam` at the N + 1 nodes, rising."""
    return (schedule.first, *(step.lam for step in schedule.steps))


def evaluations(schedule: Schedule) -> int:
    """NFE: one for each step, one more for each implicit corrector and for the last denoising, and
    one less for an analytic first step."""
    again = sum(step.corrector == "implicit" for step in schedule.steps)
    return len(schedule.steps) + again + schedule.denoise - schedule.analytic


def points_of(step: Step) -> tuple[int, ...]:
    return step.points or (step.order - 1,) * (step.order - 1)


def check(schedule: Schedule) -> Schedule:
    """Return the schedule unchanged if it can be run.

    Raises:
        ValueError: for a schedule without steps, or for its first invalid step.
    """
    if not schedule.steps:
        raise ValueError("The schedule has no steps; give at least one.")
    before = schedule.first
    for i, step in enumerate(schedule.steps):
        _check_step(step, i, before, last=i == len(schedule.steps) - 1)
        before = step.lam
    return schedule


def _check_step(step: Step, i: int, before: float, last: bool) -> None:
    def need(right: bool, what: str) -> None:
        if not right:
            raise ValueError(f"Step {i + 1} of the schedule {what}.")

    need(step.lam > before, f"ends at lam = {step.lam}, but nodes must rise above {before}")
    check_form(step.form)
    far = min(MAX_START, i + 1)
    need(
        -far <= step.start <= -1,
        f"starts at {step.start}; it must lie between {-far} and -1, the nodes there are",
    )
    top = min(MAX_ORDER, i + 1)
    need(
        1 <= step.order <= top,
        f"has order {step.order}; it must lie between 1 and {top}, the points there are",
    )
    need(
        len(step.points) in (0, step.order - 1),
        f"has points {step.points}; order {step.order} needs {step.order - 1} of them",
    )
    for k, count in enumerate(points_of(step), 1):
        most = min(MAX_ORDER - 1, i)
        need(
            k <= count <= most,
            f"estimates derivative {k} from {count} points; take {k} to {most}",
        )
    need(
        step.corrector in CORRECTORS,
        f"has the corrector {step.corrector!r}; take one of {', '.join(CORRECTORS)}",
    )
    need(
        not (last and step.corrector != "none"),
        f"is the last and has the corrector {step.corrector!r}; the last one takes none",
    )
    _check_relax(need, step.relax, step.order - 1)
    _check_relax(need, step.corrector_relax, step.order)


def _check_relax(need, relax: tuple[Relaxation, ...], most: int) -> None:
    need(len(relax) <= most, f"has {len(relax)} relaxations for {most} derivatives")
    for k, factor in enumerate(relax, 1):
        known = factor in RELAXATIONS if isinstance(factor, str) else abs(factor) < float("inf")
        need(known, f"has the relaxation {factor!r}; take a number or {', '.join(RELAXATIONS)}")
        need(
            k == 1 or factor not in ("b1", "b2"),
            f"has the relaxation {factor!r} on derivative {k}; it belongs to the first",
        )


def from_dict(data: dict[str, Any]) -> Schedule:
    """The schedule of a dictionary made by `to_dict`. The key "about" holds notes and is ignored.

    Raises:
        ValueError: for a key that is unknown or missing, a value of the wrong type, or a schedule
            that cannot be run.
    """
    rest = {key: value for key, value in data.items() if key != "about"}
    _check_keys(rest, Schedule, "The schedule")
    steps = []
    for i, step in enumerate(rest["steps"]):
        _check_keys(step, Step, f"Step {i + 1} of the schedule")
        steps.append(Step(**{k: tuple(v) if isinstance(v, list) else v for k, v in step.items()}))
    return check(Schedule(**{**rest, "steps": tuple(steps)}))


# The allowed types of each key's value.
_TYPES = {
    **dict.fromkeys(("first", "lam"), (int, float)),
    **dict.fromkeys(("start", "order"), int),
    **dict.fromkeys(("form", "corrector"), str),
    **dict.fromkeys(("analytic", "denoise"), bool),
    **dict.fromkeys(("steps", "points", "relax", "corrector_relax"), (list, tuple)),
}


def _check_keys(data: dict[str, Any], kind: type, what: str) -> None:
    for key in data:
        if key not in kind._fields:
            known = ", ".join(kind._fields)
            raise ValueError(f"{what} has the key {key!r}, which is not one of {known}.")
        wrong = not isinstance(data[key], _TYPES[key])
        if wrong or (isinstance(data[key], bool) and _TYPES[key] is not bool):
            raise ValueError(f"{what} has {key} = {data[key]!r}, which is of the wrong type.")
    for key in kind._fields:
        if key not in kind._field_defaults and key not in data:
            raise ValueError(f"{what} lacks the key {key!r}.")


def to_dict(schedule: Schedule) -> dict[str, Any]:
    """The schedule as plain data, without the fields that have their default values."""
    steps = [_short(step) for step in schedule.steps]
    return {**_short(schedule), "steps": steps}


def _short(record) -> dict[str, Any]:
    kept = record._asdict().items()
    return {key: v for key, v in kept if v != record._field_defaults.get(key, ...)}


def load(path: str | Path) -> Schedule:
    """Read a schedule from a JSON file.

    Raises:
        ValueError: for a file that is missing or holds no schedule; the message names the file.
    """
    try:
        data = json.loads(Path(path).read_text())
        if not isinstance(data, dict):
            raise ValueError("it holds no table of names and values.")
        return from_dict(data)
    except (OSError, ValueError) as error:
        raise ValueError(f"The schedule {path} cannot be used: {error}") from None


def save(path: str | Path, schedule: Schedule, about: dict[str, Any] | None = None) -> None:
    """Write a schedule as JSON, one step a line; `about` holds notes for readers."""
    data = to_dict(check(schedule))
    steps = ",\n  ".join(json.dumps(step) for step in data.pop("steps"))
    head = json.dumps({"about": about or {}, **data}, indent=1)
    put(path, f'{head[:-2]},\n "steps": [\n  {steps}\n ]\n}}\n')
