"""The law of least kinetic energy for given data (Shaul et al. 2023, arXiv 2306.06626).

In polar form, `(a, c / scale) = r (cos th, sin th)` with the data scaled to mean square 1, the
energy of the marginal velocity of a Gaussian path is (their section 3)

    E = int E |u|^2 / D dt = int r'^2 + r^2 th'^2 gamma(th) dt,

gamma from `exact/separation.py`. With `phi(th) = int_0^th sqrt(gamma)` the plane of (r, phi) is
flat, and the best path from (1, 0), the data, to (1, L), the noise, L = phi(pi / 2), is the
straight chord:

    phi(t) = atan2(t sin L, 1 - t + t cos L),   r^2 = 1 - b t (1 - t),   b = 2 (1 - cos L)

b is its energy. This solves the ODE of their theorem 3.1, `r^2 th' = sqrt((b - b^2 / 4) / gamma)`.
For gamma = 1 it is `a = 1 - t, c = t`.
"""

import json
import math
import numbers
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from scipy.integrate import simpson
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

from sde_lib.affine import AffinePath, Coeffs

# The least gamma. Where gamma is zero the best path turns at once, and its a' is infinite.
FLOOR = 1e-2
PIECES = 64  # of either half


class Table(NamedTuple):
    """phi as a function of the angle, in two halves that meet at `phi = L / 2`. The first row is
    measured from the data and the second from the noise, so that both ends keep their digits.

    `angle`, `phi` and `slope = sqrt(gamma)` have two rows of numbers each; angle and phi rise from
    0. `scale` is the root mean square of the data. All are plain numbers, so a table is hashable.
    """

    angle: tuple[tuple[float, ...], ...]
    phi: tuple[tuple[float, ...], ...]
    slope: tuple[tuple[float, ...], ...]
    scale: float = 1.0

    @property
    def length(self) -> float:
        return self.phi[0][-1] + self.phi[1][-1]


_HALF = ((0.0, np.pi / 4), (0.0, np.pi / 4))
STRAIGHT = Table(angle=_HALF, phi=_HALF, slope=((1.0, 1.0), (1.0, 1.0)))


@struct.dataclass
class Kinetic(AffinePath):
    """`a = r cos th`, `c = scale r sin th` on the chord of the module's text, th(phi) from a table.

    Between its nodes phi(th) is the monotone rational quadratic with the true slopes (Gregory and
    Delbourgo 1982). The interpolation is exact for quadratics and of fourth order otherwise. A
    square root inverts it, so `t_of_lam` is the inverse of `lam` to rounding. Without a table gamma
    is 1 and the law is `Flow`. Drift and diffusion are singular at t = 1, as those of `Flow` are.

    The table is static, a constant of the program, because subtracting its nodes in float32 would
    lose precision.
    """

    table: Table = struct.field(pytree_node=False, default=STRAIGHT)
    t0: float = 1e-5
    t1: float = 0.999

    @classmethod
    def from_gamma(
        cls,
        theta: np.ndarray,
        gamma: np.ndarray,
        scale: float = 1.0,
        t0: float = 1e-5,
        t1: float = 0.999,
        floor: float = FLOOR,
    ) -> "Kinetic":
        """The law for gamma `(M,)` at the angles theta `(M,)`, from the data; see `solve`."""
        return cls(solve(theta, gamma, scale, floor), t0, t1)

    @classmethod
    def from_file(cls, table: str | Path = "", t0: float = 1e-5, t1: float = 0.999) -> "Kinetic":
        """The law of a JSON file of `theta`, `gamma` and `scale`, as tools/kinetic_path.py writes.

        Raises:
            ValueError: for a file that is not there or does not hold these, or as `solve` does.
        """
        try:
            with open(table) as file:
                found = json.load(file)
            theta, gamma = (np.asarray(found[key], np.float64) for key in ("theta", "gamma"))
            scale = float(found["scale"])
        except FileNotFoundError:
            raise ValueError(
                f"There is no table {table}; make it with `python -m tools.kinetic_path`."
            ) from None
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The table {table} cannot be read ({error!r}); it must be a JSON object with "
                "theta, gamma and scale: make it with `python -m tools.kinetic_path`."
            ) from None
        try:
            return cls.from_gamma(theta, gamma, scale, t0, t1)
        except ValueError as error:
            raise ValueError(f"The table {table} is wrong. {error}") from None

    @property
    def drowns_data(self) -> bool:
        return isinstance(self.t1, numbers.Real) and self.t1 >= 1.0

    def coeffs(self, t: Array) -> Coeffs:
        return _coeffs(self.table, jnp.asarray(t))

    def lam(self, t: Array) -> Array:
        return _lam(self.table, jnp.asarray(t))

    def t_of_lam(self, lam: Array) -> Array:
        return _t_of_lam(self.table, jnp.asarray(lam))


# Compiled once for each table and shape, so that a call outside of a program costs as little as one
# of another law.
constant_table = partial(jax.jit, static_argnums=0)


@constant_table
def _coeffs(table: Table, t: Array) -> Coeffs:
    near, u, angle = place(table, t)
    r = jnp.sqrt(1.0 - 4.0 * math.sin(table.length / 2) ** 2 * u * (1.0 - u))
    along, across = r * jnp.cos(angle), r * jnp.sin(angle)
    a, c = jnp.where(near, along, across), jnp.where(near, across, along)
    return Coeffs(a, table.scale * c)


@constant_table
def _lam(table: Table, t: Array) -> Array:
    near, _, angle = place(table, t)
    return jnp.where(near, -1.0, 1.0) * jnp.log(jnp.tan(angle)) - math.log(table.scale)


@constant_table
def _t_of_lam(table: Table, lam: Array) -> Array:
    lam = lam + math.log(table.scale)
    near = lam >= -math.log(math.tan(table.angle[0][-1]))
    angle = jnp.arctan(jnp.exp(jnp.where(near, -lam, lam)))
    phi = rise(table, near, angle)
    # The radius at phi divides the chord in the ratio of these two sines.
    u = jnp.sin(phi) / (jnp.sin(phi) + jnp.sin(table.length - phi))
    return jnp.where(near, u, 1.0 - u)


def place(table: Table, t: Array) -> tuple[Array, Array, Array]:
    """Whether t is in the data's half, the time from that end, and the angle from its axis."""
    near = t <= 0.5
    u = jnp.where(near, t, 1.0 - t)
    L = table.length
    phi = jnp.arctan2(u * math.sin(L), 1.0 - 2.0 * math.sin(L / 2) ** 2 * u)
    return near, u, turn(table, near, phi)


def solve(theta: np.ndarray, gamma: np.ndarray, scale: float = 1.0, floor: float = FLOOR) -> Table:
    """The table of a law, from gamma at rising angles in [0, pi / 2], held at `floor` from below.

    sqrt(gamma) is interpolated monotonically (PCHIP), constant beyond the first and last angle;
    its integral is exact.

    Raises:
        ValueError: for numbers that no data have.
    """
    theta, gamma = np.asarray(theta, np.float64), np.asarray(gamma, np.float64)
    rising = theta.ndim == 1 and theta.size > 1 and np.all(np.diff(theta) > 0.0)
    if not rising or theta.shape != gamma.shape or theta[0] < 0.0 or theta[-1] > np.pi / 2 + 1e-6:
        raise ValueError(
            f"theta has the shape {theta.shape} and gamma {gamma.shape}; give 2 or more angles "
            "that rise within [0, pi / 2], and one gamma for each."
        )
    if not np.all(gamma <= 1.0 + 1e-9):
        raise ValueError(f"gamma is {np.max(gamma)} somewhere; it is at most 1 for any data.")
    if not (0.0 < floor <= 1.0 and 0.0 < scale < np.inf):
        raise ValueError(
            f"floor is {floor} and scale {scale}; floor must lie in (0, 1], scale be positive."
        )
    theta = np.minimum(theta, np.pi / 2)
    inside = (theta > 0.0) & (theta < np.pi / 2)
    slope = np.sqrt(np.clip(gamma, floor, 1.0))
    knots = np.concatenate([[0.0], theta[inside], [np.pi / 2]])
    slope = PchipInterpolator(knots, np.concatenate([slope[:1], slope[inside], slope[-1:]]))
    phi = slope.antiderivative()
    length = float(phi(np.pi / 2))
    middle = brentq(lambda angle: phi(angle) - length / 2, 0.0, np.pi / 2, xtol=1e-15)
    # Denser at the ends, where gamma of few dimensions rises within a hundredth.
    share = np.linspace(0.0, 1.0, PIECES + 1) ** 2
    angles = middle * share, (np.pi / 2 - middle) * share
    places = angles[0], np.pi / 2 - angles[1]
    phis = phi(places[0]), length - phi(places[1])
    phis[1][0] = 0.0
    plain = lambda rows: tuple(tuple(float(v) for v in row) for row in rows)
    return Table(plain(angles), plain(phis), plain(map(slope, places)), float(scale))


def rise(table: Table, near: Array, angle: Array) -> Array:
    """phi at an angle. Both are measured from the data if `near` is true, else from noise."""
    x, width, y, height, d0, d1 = piece(table, near, table.angle, angle)
    part, s = (angle - x) / width, height / width
    rest = part * (1.0 - part)
    return y + height * (s * part**2 + d0 * rest) / (s + (d0 + d1 - 2.0 * s) * rest)


def turn(table: Table, near: Array, phi: Array) -> Array:
    """The angle at phi: the inverse of `rise`, the smaller root of a quadratic equation."""
    x, width, y, height, d0, d1 = piece(table, near, table.phi, phi)
    s, done = height / width, phi - y
    bend = done * (d0 + d1 - 2.0 * s)
    A, B = height * (s - d0) + bend, height * d0 - bend
    return x + width * 2.0 * s * done / (B + jnp.sqrt(B**2 + 4.0 * A * s * done))


def piece(table: Table, near: Array, nodes, value: Array) -> Array:
    """The pieces around `value`: angle, its width, phi, its height, slope and slope at the end,
    `(6, ...)`."""
    ends = [np.asarray(row)[1:-1] for row in nodes]
    at = [jnp.searchsorted(row.astype(value.dtype), value, method="compare_all") for row in ends]
    x, y, d = (np.asarray(rows) for rows in table[:3])
    columns = (x[:, :-1], np.diff(x), y[:, :-1], np.diff(y), d[:, :-1], d[:, 1:])
    rows = np.stack([column.ravel() for column in columns], axis=1).astype(value.dtype)
    found = jnp.asarray(rows)[jnp.where(near, at[0], at[1] + x.shape[1] - 1)]
    return jnp.moveaxis(found, -1, 0)


def energy(
    path: AffinePath,
    gamma: Callable[[np.ndarray], np.ndarray],
    scale: float = 1.0,
    nodes: int = 4001,
) -> float:
    """Kinetic energy of the marginal velocity from t0 to t1, per dimension, in units of scale^2.

    `int ((a a' + c c')^2 + gamma (a c' - a' c)^2) / (a^2 + c^2) dt`, which is the polar form, by
    Simpson's rule over the log-SNR. With gamma = 1 it is the conditional energy `int a'^2 + c'^2`.
    The energy of VP grows without bound as t0 falls, like `beta_min log(1 / t0) / 4`.

    Args:
        path: for data of root mean square `scale`.
        gamma: of the angles `arctan(c / (a scale))`, in NumPy.
    """
    lam, (a, c), (da, dc) = jax.tree.map(np.float64, even_in_lam(path, nodes))
    c, dc = c / scale, dc / scale
    turning = a * dc - c * da
    density = ((a * da + c * dc) ** 2 + gamma(np.arctan2(c, a)) * turning**2) / (a**2 + c**2)
    # - dt / dlam = a c / (a c' - a' c)
    return float(simpson(density * a * c / turning, x=-lam))


@partial(jax.jit, static_argnums=1)
def even_in_lam(path: AffinePath, nodes: int) -> tuple[Array, Coeffs, Coeffs]:
    """`nodes` values of lam from t0 to t1, with the coefficients there and their rates."""
    lam = jnp.linspace(*path.lam(jnp.asarray([path.t0, path.t1])), nodes)
    t = jnp.clip(path.t_of_lam(lam), path.t0, path.t1)
    return lam, path.coeffs(t), path.rates(t)
