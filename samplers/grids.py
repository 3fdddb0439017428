"""Time grids as plain data: `(N + 1,)` times falling from `t1` to `eps`, both included.

A grid of N steps has N steps: no time occurs twice. Indices are never computed from times.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.schedules.learned import learned
from samplers.schedules.two_stage_grid import two_stage
from sde_lib import AffinePath, check_data_left


def uniform(path: AffinePath, steps: int, eps: float) -> Array:
    """Even in t, the grid of Song et al. 2021."""
    return jnp.linspace(path.t1, eps, steps + 1)


def uniform_lam(path: AffinePath, steps: int, eps: float) -> Array:
    """Even in the half log-SNR (Lu et al. 2022, DPM-Solver, section 3.4)."""
    lam = jnp.linspace(path.lam(jnp.asarray(path.t1)), path.lam(jnp.asarray(eps)), steps + 1)
    return pin(path, path.t_of_lam(lam), eps)


def quadratic(path: AffinePath, steps: int, eps: float) -> Array:
    """Even in sqrt(t), denser towards the data (Song, Meng, Ermon 2021, DDIM, appendix D.2)."""
    return pin(path, jnp.linspace(path.t1**0.5, eps**0.5, steps + 1) ** 2, eps)


def karras(path: AffinePath, steps: int, eps: float, rho: float = 7.0) -> Array:
    """Even in `sigma^(1 / rho)`, `sigma = c / a` (Karras et al. 2022, eq. 5)."""
    ends = jnp.exp(-path.lam(jnp.asarray([path.t1, eps])) / rho)
    sigma = jnp.linspace(ends[0], ends[1], steps + 1) ** rho
    return pin(path, path.t_of_sigma(sigma), eps)


def tangent(
    path: AffinePath, steps: int, eps: float, rho: float = 1.75, sigma_mid: float = 0.35
) -> Array:
    """Even in the angle `atan((sigma / sigma_mid)^(1 / rho))`, `sigma = c / a`.

    The grid is densest in log sigma around `sigma_mid`, where samples choose among the data, and
    sparse at both ends, where the flow is nearly straight. `rho = sigma_mid = 1` is the cosine
    schedule (Nichol & Dhariwal 2021), whose `sigma` is the tangent of an even angle; a large rho
    gives a grid even in lam. The defaults were chosen on 8x8 digits in [-1, 1] at few steps, and
    need not suit other data.
    """
    lam = path.lam(jnp.asarray([path.t1, eps]))
    ends = jnp.arctan(jnp.exp(-(lam + jnp.log(sigma_mid)) / rho))
    log_tan = jnp.log(jnp.tan(jnp.linspace(ends[0], ends[1], steps + 1)))
    return pin(path, path.t_of_lam(-jnp.log(sigma_mid) - rho * log_tan), eps)


def pin(path: AffinePath, ts: Array, eps: float) -> Array:
    """The grid with its ends set to exactly t1 and eps, since rounding may have moved them."""
    return ts.at[0].set(path.t1).at[-1].set(eps)


GRIDS: dict[str, Callable[..., Array]] = {
    "uniform": uniform,
    "uniform_lam": uniform_lam,
    "quadratic": quadratic,
    "karras": karras,
    "tangent": tangent,
    "two_stage": two_stage,
    "learned": learned,
}


# Grids that are formulas in the numbers of a law, and therefore work on traced numbers too.
FORMULAS = ("uniform", "uniform_lam", "quadratic", "karras", "tangent")


def make_grid(name: str, path: AffinePath, steps: int, eps: float, **options: float) -> Array:
    """Return the grid called `name`, `(steps + 1,)` times, after checking it.

    `options` are the keyword arguments of the grid, such as `rho`. If the law is an argument of a
    jitted function, its numbers are unknown while tracing: only the grids of `FORMULAS` are
    available, and the grid is not checked.

    Raises:
        ValueError: for fewer than one step, an `eps` outside (0, t1), times that do not fall
            strictly (more steps than float32 can tell apart), or a grid outside `FORMULAS` for a
            traced law.
    """
    if steps < 1:
        raise ValueError(f"sampling.steps is {steps}; a sampler needs at least 1.")
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((path, eps))):
        if name not in FORMULAS:
            raise ValueError(
                f"The grid {name!r} reads numbers of the law, which is an argument of a jitted "
                f"function; make the grid outside, or take one of {', '.join(FORMULAS)}."
            )
        return GRIDS[name](path, steps, eps, **options)
    if name in ("uniform_lam", "karras"):
        check_data_left(path, f"the grid {name!r}")
    if not 0.0 < eps < path.t1:
        raise ValueError(
            f"sampling.eps is {eps}; the end of sampling must lie between 0 and t1 = {path.t1}."
        )
    # The check below reads the times, so they must be concrete numbers under `jit` too.
    with jax.ensure_compile_time_eval():
        ts = GRIDS[name](path, steps, eps, **options)
    if not np.all(np.diff(np.asarray(ts)) < 0):
        raise ValueError(
            f"The grid {name!r} with {steps} steps down to eps = {eps} repeats a time in "
            f"{ts.dtype}; take fewer steps."
        )
    return ts
