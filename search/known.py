"""Published solvers written as schedules: the first population of a search, and test targets."""

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from samplers.grids import make_grid
from samplers.schedules.schedule import Schedule, Step, check
from sde_lib import AffinePath

GRIDS = ("tangent", "karras", "uniform_lam")
# DPM-Solver multistep: the factor of its one derivative, or of its two.
DPM = {1: (), 2: ("b2",), 3: (0.0, "half")}


def multistep(
    lam: Sequence[float],
    order: int = 1,
    form: str = "noise",
    kind: str = "adams",
    denoise: bool = False,
) -> Schedule:
    """A multistep schedule on the nodes `lam`, with the last `order` outputs (fewer at the start).

    Order 1 is DDIM. Kinds: "adams" is the polynomial through the points (`adams_bashforth`), "dpm"
    has the weights of DPM-Solver and DPM-Solver++ (up to order 3), and "b1" and "b2" are UniPC with
    its corrector.
    """
    steps = []
    for i, end in enumerate(lam[1:]):
        n = min(order, i + 1)
        relax, fixed = (), {}
        if kind == "dpm":
            relax = DPM[n]
        elif kind != "adams":
            # UniPC differs from the polynomial if there are exactly two points.
            relax = (kind,) if n == 2 else ()
            if i < len(lam) - 2:
                fixed = {"corrector": "pseudo", "corrector_relax": (kind,) if n == 1 else ()}
        steps.append(Step(float(end), form, order=n, relax=relax, **fixed))
    return check(Schedule(float(lam[0]), tuple(steps), denoise=denoise))


def single(
    lam: Sequence[float], order: int = 2, form: str = "noise", denoise: bool = False
) -> Schedule:
    """DPM-Solver in single steps of order 2 or 3, with stages evenly spaced in lam in each step."""
    steps = []
    for begin, end in pairwise(lam):
        stage = lambda k, begin=begin, end=end: float(begin + (end - begin) * k / order)
        steps.append(Step(stage(1), form))
        if order == 2:
            # Its factor 1/2 on the slope is phi_1 / (2 phi_2) of the whole step, UniPC's b2.
            steps.append(Step(float(end), form, -2, 2, (1,), ("b2",)))
        else:
            steps.append(Step(stage(2), form, -2, 2, (1,)))
            steps.append(Step(float(end), form, -3, 2, (1,)))
    return check(Schedule(float(lam[0]), tuple(steps), denoise=denoise))


def baselines(path: AffinePath, nfe: int, eps: float) -> list[tuple[str, Schedule]]:
    """DDIM, DPM-Solver++ 2M and UniPC of orders 1 to 3, both forms, on three grids, with and
    without the last denoising, each of `nfe` evaluations: `(name, schedule)`."""
    found = []
    for grid in GRIDS:
        for denoise in (False, True):
            lam = grid_nodes(path, grid, nfe - denoise, eps)
            end = f"{grid} + denoise" if denoise else grid
            for form in ("noise", "data"):
                methods = [("ddim", 1, "adams"), ("dpm_multistep 2", 2, "dpm")]
                methods += [(f"unipc {p} {b}", p, b) for p in (1, 2, 3) for b in ("b1", "b2")]
                for name, order, kind in methods:
                    schedule = multistep(lam, order, form, kind, denoise)
                    found.append((f"{name} {form}, {end}", schedule))
    return found


def grid_nodes(path: AffinePath, grid: str, steps: int, eps: float) -> np.ndarray:
    """`lam` of a grid, in float64."""
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return np.asarray(path.lam(jnp.asarray(make_grid(grid, path, steps, eps), jnp.float64)))
