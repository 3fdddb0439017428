"""Density and score of a law in one dimension, by its Fokker-Planck equation on a grid.

    dp / dt = - d/dx [f p - (G^2 p)' / 2]

A law without a kernel has no score in closed form. This solve gives the score in one dimension, and
so for data with independent coordinates. In space, the flux between cells is the exponential flux
of Scharfetter and Gummel (1969), of order 2. It conserves mass and the sign of p, and a stationary
density stays stationary to the order of the grid. In time, implicit Euler steps are extrapolated
once (in log p), which gives order 2. The solve runs once, in float64 on the host, and its result is
a pytree of three arrays.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from scipy.linalg import eigh_tridiagonal, solve_banded

from sde_lib.base import SDE, expand, total

# The least density. Below it log p has no correct digit left, and no sample is found there.
LEAST = 1e-300


@struct.dataclass
class GridDensity:
    """`log p_t(x)` at `times` `(m,)` and `grid` `(n,)`, even in x.

    `table` `(m, n)` holds log p in nats and `slopes` `(m, n - 1)` its derivative in the middle of
    the cells. The derivative is stored, because in float32 a difference over a cell has few digits.

    `score` and `logp` take states `(B, ...)` whose coordinates are independent and all have this
    density, and times `()` or `(B,)`. Between the nodes they are cubic in x and linear in t. Beyond
    the grid they have their values at its edge.
    """

    grid: Array
    times: Array
    table: Array
    slopes: Array

    def score(self, x: Array, t: Array) -> Array:
        """`d log p_t / dx` of each element."""
        return self._at(self.slopes, 0.5, x, t)

    def logp(self, x: Array, t: Array) -> Array:
        """Log density in nats, summed over all axes but the first: `(B,)`."""
        return total(self._at(self.table, 0.0, x, t))

    def _at(self, table: Array, offset: float, x: Array, t: Array) -> Array:
        first, last, n = self.grid[0], self.grid[-1], len(self.grid)
        column = (x - first) * (n - 1) / (last - first) - offset
        i, part = cell(column, table.shape[1])
        row = jnp.interp(jnp.asarray(t, x.dtype), self.times, jnp.arange(len(self.times)))
        j, share = (expand(v, x) for v in cell(row, table.shape[0]))
        table = jnp.asarray(table, x.dtype)
        value = 0.0
        for k, weight in zip((-1, 0, 1, 2), cubic_weights(part)):
            at = jnp.clip(i + k, 0, table.shape[1] - 1)
            value += weight * ((1.0 - share) * table[j, at] + share * table[j + 1, at])
        return value


def cell(place: Array, n: int) -> tuple[Array, Array]:
    """The interval of n nodes that contains a place, and the place as a fraction of it."""
    place = jnp.clip(place, 0.0, n - 1.0)
    i = jnp.minimum(jnp.floor(place), n - 2.0)
    return i.astype(jnp.int32), place - i


def cubic_weights(f: Array) -> tuple[Array, Array, Array, Array]:
    """Weights of the four nodes around `[0, 1]` at f in it, for the cubic with central differences
    as slopes (Keys 1981). The cubic and its derivative are continuous, so a solver meets no kinks
    and a divergence has no jumps."""
    outer = -0.5 * f * (1.0 - f) ** 2, -0.5 * f**2 * (1.0 - f)
    near = 1.0 + f**2 * (1.5 * f - 2.5), f * (0.5 + f * (2.0 - 1.5 * f))
    return outer[0], near[0], near[1], outer[1]


def fokker_planck(
    sde: SDE,
    logp: Callable[[np.ndarray], np.ndarray],
    grid: np.ndarray,
    times: np.ndarray,
    substeps: int = 4,
) -> GridDensity:
    """The law's density at each of `times`, from that of the data at `times[0]`.

    Args:
        logp: log density of the data in nats, `(n,) -> (n,)`, up to a constant.
        grid: `(n,)` even points. No mass flows through the ends, so the grid must be wide enough
            that there is none.
        times: `(m,)` rising; denser where p changes fast, since the score is linear in between.
        substeps: implicit steps between two times, in the coarser of the two solves.

    Raises:
        ValueError: for an uneven grid, times that do not rise, or a law with a matrix diffusion.
    """
    grid, times = np.asarray(grid, np.float64), np.asarray(times, np.float64)
    width = check_grid(grid)
    if times.ndim != 1 or len(times) < 2 or not np.all(np.diff(times) > 0.0):
        raise ValueError("The times must be two or more and rise strictly; sort them.")
    start = np.asarray(logp(grid), np.float64)
    start = start - np.max(start)
    start = start - np.log(np.sum(np.exp(start)) * width)
    h = np.repeat(np.diff(times), 2 * substeps) / (2 * substeps)
    # Added up from the start, so that every second time is one of the coarser solve.
    bands = _generators(sde, grid, times[0] + np.cumsum(h))
    fine = _march(start, h, bands, 2 * substeps)
    coarse = _march(start, 2.0 * h[1::2], tuple(band[1::2] for band in bands), substeps)
    table = np.concatenate([start[None], 2.0 * fine - coarse])
    return GridDensity(grid, times, table, np.diff(table) / width)


def spectral_gap(sde: SDE, grid: np.ndarray, t: float = 0.0) -> float:
    """The rate at which p approaches the stationary density of the law at t, as `exp(-gap t)`.

    The unit is 1 / time. The gap is the least eigenvalue above zero of the generator, which
    detailed balance makes symmetric.

    Raises:
        ValueError: as `fokker_planck`.
    """
    grid = np.asarray(grid, np.float64)
    check_grid(grid)
    lower, main, upper = (band[0] for band in _generators(sde, grid, np.asarray([t])))
    n = len(grid)
    values = eigh_tridiagonal(
        main, np.sqrt(lower * upper), eigvals_only=True, select="i", select_range=(n - 2, n - 1)
    )
    return float(-values[0])


def check_grid(grid: np.ndarray) -> float:
    """The width of a cell."""
    widths = np.diff(grid)
    if grid.ndim != 1 or len(grid) < 3 or not np.allclose(widths, widths[0]) or widths[0] <= 0.0:
        raise ValueError("The grid must be three or more even, rising points; take np.linspace.")
    return float(widths[0])


def _march(logp: np.ndarray, h: np.ndarray, generators: tuple, every: int) -> np.ndarray:
    """log p after each `every` of the implicit Euler steps h `(T,)`, `(T / every, n)`."""
    lower, main, upper = generators
    bands = np.zeros((len(h), 3, len(logp)))
    bands[:, 0, 1:] = -h[:, None] * upper
    bands[:, 1] = 1.0 - h[:, None] * main
    bands[:, 2, :-1] = -h[:, None] * lower
    p, kept = np.exp(logp), []
    for i, band in enumerate(bands):
        p = solve_banded((1, 1), band, p)
        if (i + 1) % every == 0:
            kept.append(p)
    return np.log(np.maximum(kept, LEAST))


def _generators(sde: SDE, grid: np.ndarray, ts: np.ndarray):
    """The diagonals of A in `dp / dt = A p` at each of `ts`: below `(T, n - 1)`, main, above."""
    if sde.diffusion_type == "matrix":
        raise ValueError("The law has a matrix diffusion; a density on a grid needs one dimension.")
    width, faces = grid[1] - grid[0], 0.5 * (grid[1:] + grid[:-1])

    def fields(t):
        half_g2 = lambda x: jnp.broadcast_to(0.5 * sde.diffusion(x, t) ** 2, x.shape)[:, 0]
        at = jnp.asarray(faces)[:, None]
        return sde.drift(at, t)[:, 0], half_g2(at), half_g2(jnp.asarray(grid)[:, None])

    with jax.enable_x64(True):
        drift, D, nodes = (np.asarray(v) for v in jax.jit(jax.vmap(fields))(jnp.asarray(ts)))
    w = (drift * width - np.diff(nodes)) / D
    right, left = D / width**2 * bernoulli(-w), D / width**2 * bernoulli(w)
    main = np.zeros((len(ts), len(grid)))
    main[:, :-1] -= right
    main[:, 1:] -= left
    return right, main, left


def bernoulli(w: np.ndarray) -> np.ndarray:
    """`w / (exp(w) - 1)`, 1 at w = 0."""
    safe = np.where(w == 0.0, 1.0, w)
    return np.where(w == 0.0, 1.0, safe / np.expm1(safe))
