"""Solvers among which a recipe is chosen: published methods on grids that scale with the data.

`size` is the standard deviation of the data per dimension. The noise levels that matter most are
those at which samples decide between modes. These levels are some share of `size`, which depends on
the data, so there are grids that are dense at many shares, from a twentieth to more than the whole.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import samplers
from samplers.schedules.coefficients import Coefficients, coefficients
from samplers.schedules.recipe import Recipe
from sde_lib import AffinePath

METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ddim", {}),
    ("heun", {}),
    *(("dpm_multistep", {"order": 2, "form": form}) for form in ("noise", "data")),
    ("unipc", {"order": 1, "form": "noise", "variant": "b1"}),
    ("unipc", {"order": 2, "form": "data"}),
    ("unipc", {"order": 3, "form": "noise"}),
    *(("adams_bashforth", {"order": order, "form": "data", "basis": "lam"}) for order in (3, 4)),
    ("adams_bashforth", {"order": 3, "form": "noise", "basis": "rho"}),
)
# Orders of `velocity_ab`, whose sigma_data is one of these multiples of the data's size.
ORDERS, SIZES = (3, 4), (1.0, 2.0, 4.0)
# Shares of the data's size around which a tangent grid is densest, and its exponents.
MIDDLES, EXPONENTS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6), (1.0, 1.75, 3.0, 5.0)
KARRAS = (3.0, 5.0, 7.0, 10.0)


class Candidate(NamedTuple):
    """A recipe, a readable name of its grid, and its table of weights."""

    recipe: Recipe
    grid: str
    table: Coefficients


def grids(path: AffinePath, steps: int, eps: float, size: float) -> dict[str, np.ndarray]:
    """Grids of that many steps, `(steps + 1,)` times in float64, by their names."""
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        make = lambda name, **own: np.asarray(samplers.make_grid(name, path, steps, eps, **own))
        found = {"uniform_lam": make("uniform_lam")}
        for rho in KARRAS:
            found[f"karras, rho {rho:g}"] = make("karras", rho=rho)
        for share in MIDDLES:
            for rho in EXPONENTS:
                own = {"rho": rho, "sigma_mid": share * size}
                name = f"tangent, rho {rho:g}, sigma_mid {share * size:.3g}"
                found[name] = make("tangent", **own)
    return found


def methods(size: float) -> list[tuple[str, dict[str, Any]]]:
    """All methods `(predictor, options)` for data of that size."""
    sizes = [float(f"{share * size:.3g}") for share in SIZES]
    turned = [{"order": k, "sigma_data": s} for k in ORDERS for s in sizes]
    return [*METHODS, *(("velocity_ab", own) for own in turned)]


def candidates(path: AffinePath, nfe: int, eps: float, size: float) -> list[Candidate]:
    """Every method on every grid, with and without the last denoising, of `nfe` evaluations."""
    found = []
    for predictor, options in methods(size):
        method, runs = samplers.PREDICTORS[predictor](path, **options), []
        for denoise in (False, True):
            steps, rest = divmod(nfe - denoise, method.nfe)
            if steps and not rest:
                runs.append((grids(path, steps, eps, size), denoise))
        given = [(np.stack(list(grid.values())), denoise) for grid, denoise in runs]
        for (grid, denoise), tables in zip(runs, coefficients(path, method, given)):
            for name, ts, *table in zip(grid, grid.values(), *tables):
                recipe = Recipe(predictor, dict(options), nodes(path, ts), denoise)
                found.append(Candidate(recipe, name, Coefficients(*table)))
    return found


def nodes(path: AffinePath, ts: np.ndarray) -> tuple[float, ...]:
    """`lam` of times, in float64."""
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        return tuple(map(float, path.lam(jnp.asarray(ts, jnp.float64))))
