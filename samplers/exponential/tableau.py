"""The coefficients of a solver schedule: every step is linear in past states and outputs.

Let s be the node that a step starts from, `F_j` the other outputs, `r_j = (lam_j - lam_s) / h`
their places, and theta the completed part of the step. The derivative `d^k F / d theta^k` is
estimated by `D_k = sum_j w_kj (F_j - F_s)`, with weights from

    sum_j w_kj r_j^i / i! = [i == k],   i = 1, ..., m_k

(exact for polynomials of degree m_k). A step is the Taylor expansion of `exponential/integrals.py`
with the relaxations R_k (Liu et al. 2024, arXiv 2312.07243, section 3),

    x_t = ratio x_s + weight (phi_1 F_s + sum_k R_k phi_{k+1} D_k)

This is one row `(3, K)` of weights on the last K states, noises and data, newest first.

Everything is vectorised over the steps and runs in NumPy and in JAX: in NumPy and float64 for
sampling, in JAX for a search that differentiates with respect to the nodes.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from samplers.exponential.adams_bashforth import POINTS, WEIGHTS
from samplers.schedules.schedule import RELAXATIONS, Schedule, Step, nodes, points_of
from sde_lib import AffinePath, check_data_left

# The corrector of order 5 has four derivatives, each from at most four other points.
WIDTH = 4


class Rule(NamedTuple):
    """The decisions of N steps: `data` (the form) and `start` (the slot of s, 0 the newest) `(N,)`;
    for each derivative `(N, WIDTH)` the number of `points` (0: not used) and the relaxation, by its
    `kind` (0: `1 + c h`) and c."""

    data: np.ndarray
    start: np.ndarray
    points: np.ndarray
    kind: np.ndarray
    c: np.ndarray


class Structure(NamedTuple):
    """The rules of the predictors and correctors of N steps; `corrected` `(N,)`, whether a step has
    a corrector; `again` `(N,)`, whether its corrector evaluates the network again."""

    predict: Rule
    correct: Rule
    corrected: np.ndarray
    again: np.ndarray


class Table(NamedTuple):
    """The table that the sampler runs, node by node: times `(N + 1,)`; rows `(N, 3, K)`, `correct`
    for the state at a node once the output there is known, and `predict` for the state at the next
    node; `again` `(N,)`, whether the corrected state is evaluated again."""

    ts: np.ndarray
    correct: np.ndarray
    predict: np.ndarray
    again: np.ndarray


def structure(schedule: Schedule) -> Structure:
    """The discrete decisions of a schedule as arrays of numbers."""
    steps = schedule.steps
    predict = [_rule(step, 0, points_of(step), step.relax) for step in steps]
    correct = [
        _rule(step, 1, correcting_points(step), step.corrector_relax)
        if step.corrector != "none"
        else _rule(step, 1, (), ())
        for step in steps
    ]
    return Structure(
        *(Rule(*map(np.asarray, zip(*rules))) for rules in (predict, correct)),
        np.asarray([step.corrector != "none" for step in steps]),
        np.asarray([step.corrector == "implicit" for step in steps]),
    )


def correcting_points(step: Step) -> tuple[int, ...]:
    """The numbers of points of a step's corrector. The output at the end of the step is one more
    point for each derivative, and allows one more derivative."""
    counts = points_of(step)
    return tuple(m + 1 for m in (*counts, counts[-1] if counts else 0))


def _rule(step: Step, moved: int, points, relax) -> tuple:
    fill = lambda values: (*values, *(0,) * (WIDTH - len(values)))
    kind = [RELAXATIONS.index(f) + 1 if isinstance(f, str) else 0 for f in relax]
    c = [0.0 if isinstance(f, str) else float(f) for f in relax]
    c = (*c, *(0.0,) * (WIDTH - len(c)))
    return step.form == "data", moved - step.start - 1, fill(points), fill(kind), c


def slots(parts: Structure) -> int:
    """K, the number of past nodes that the steps use."""
    deepest = 1
    for rule, there in ((parts.predict, True), (parts.correct, parts.corrected)):
        most = rule.points.max(axis=1)
        oldest = np.maximum(rule.start, most - (most <= rule.start))
        deepest = max(deepest, int(np.max(np.where(there, oldest, 0))) + 1)
    return deepest


def rows(lam, a, c, arrive, newest, rule: Rule, depth: int):
    """The weights `(N, 3, depth)` that form the states at the nodes `arrive` `(N,)` from states and
    outputs at the nodes `newest` `(N,)` and before."""
    xp = lam.__array_namespace__()
    place = np.arange(WIDTH)[None]
    # Slots of the other outputs, newest first, without the slot of the start.
    other = place + (place >= rule.start[:, None])
    start = newest - rule.start
    h = lam[arrive] - lam[start]
    r = (lam[xp.maximum(newest[:, None] - other, 0)] - lam[start][:, None]) / h[:, None]
    z = xp.where(rule.data, -h, h)
    phi = phis(z)
    factor = relaxation(rule, h, phi) * phi[:, 1:]
    on_other = xp.sum(factor[:, :, None] * estimates(r, rule.points), axis=1)
    on_start = phi[:, 0] - xp.sum(on_other, axis=1)
    at = np.arange(depth)[None]
    is_start = rule.start[:, None] == at
    outputs = xp.where(is_start, on_start[:, None], 0.0)
    outputs = outputs + xp.sum((other[:, :, None] == at[None]) * on_other[:, :, None], axis=1)
    weight = xp.where(rule.data, a[arrive] * h, -c[arrive] * h)[:, None]
    ratio = xp.where(rule.data, c[arrive] / c[start], a[arrive] / a[start])[:, None]
    data = rule.data[:, None]
    parts = (
        xp.where(is_start, ratio, 0.0),
        xp.where(data, 0.0, weight * outputs),
        xp.where(data, weight * outputs, 0.0),
    )
    return xp.stack(parts, axis=1)


def phis(z):
    """`phi_{k+1}(z) = int_0^1 exp((1 - theta) z) theta^k / k! dtheta`, k = 0 to 4: `(N, 5)`."""
    xp = z.__array_namespace__()
    powers = np.stack([POINTS**k / math.factorial(k) for k in range(WIDTH + 1)], axis=1)
    return (WEIGHTS[None] * xp.exp((1.0 - POINTS)[None] * z[:, None])) @ powers


def relaxation(rule: Rule, h, phi):
    """R_k `(N, WIDTH)`: `1 + c h`; `1 / (2 phi_2)` (b1), `phi_1 / (2 phi_2)` (b2) or 1/2 (half)."""
    xp = h.__array_namespace__()
    b1 = 0.5 / phi[:, 1:2]
    factor = 1.0 + rule.c * h[:, None]
    for number, value in enumerate((b1, phi[:, :1] * b1, 0.5), 1):
        factor = xp.where(rule.kind == number, value, factor)
    return factor


def estimates(r, points):
    """The weights `w_kj` `(N, WIDTH, WIDTH)` of points j in derivatives k, at places `r` `(N, j)`;
    0 for points and derivatives that are not used."""
    xp = r.__array_namespace__()
    i = np.arange(1, WIDTH + 1)
    factorials = np.asarray([math.factorial(n) for n in i])
    vandermonde = r[:, None] ** i[None, :, None] / factorials[None, :, None]
    inside = (i[None, None] <= points[:, :, None])[..., None]
    both = inside & xp.swapaxes(inside, -1, -2)
    # The matrix is the identity outside its m_k by m_k corner, so one solve serves every m_k.
    systems = xp.where(both, vandermonde[:, None], np.eye(WIDTH)[None, None])
    right = xp.broadcast_to(np.eye(WIDTH)[None, :, :, None], (*systems.shape[:3], 1))
    return xp.where(points[:, :, None] > 0, xp.linalg.solve(systems, right)[..., 0], 0.0)


def tabulate(lam, a, c, ts, parts: Structure, depth: int) -> Table:
    """The table of a structure on the nodes `lam` `(N + 1,)`, with the law's coefficients a and c
    and times ts at these nodes, each `(N + 1,)`."""
    xp = lam.__array_namespace__()
    n = np.arange(len(parts.corrected))
    predict = rows(lam, a, c, n + 1, n, parts.predict, depth)
    if len(n) == 1:
        correct = predict[:0]
    else:
        rule = Rule(*(v[:-1] for v in parts.correct))
        correct = rows(lam, a, c, n[1:], n[1:], rule, depth)
    keep = np.zeros((1, 3, depth))
    keep[0, 0, 0] = 1.0
    done = parts.corrected[:-1, None, None]
    correct = xp.concatenate([xp.asarray(keep), xp.where(done, correct, keep)])
    again = xp.concatenate([np.zeros(1, bool), parts.again[:-1]])
    return Table(ts, correct, predict, again)


def table_of(
    path: AffinePath, schedule: Schedule, eps: float | None = None, depth: int | None = None
) -> Table:
    """The table of a schedule for a law, in float64.

    The first node is moved to the law's `t1` and, if `eps` is given, the last node to eps. All
    other nodes keep the noise levels at which they were found. `depth` sets K, for tables that must
    have equal shapes; by default K is the number of past nodes that the steps use.

    Raises:
        ValueError: if an end does not lie beyond its neighbouring node.
    """
    check_data_left(path, "a schedule in lam")
    lam = np.asarray(nodes(schedule), np.float64)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        ends = path.lam(jnp.asarray([path.t1, path.t1 if eps is None else eps], jnp.float64))
        lam[0] = ends[0]
        if eps is not None:
            lam[-1] = ends[1]
        check_ends(path, lam, eps)
        ts = np.array(path.t_of_lam(jnp.asarray(lam)))
        a, c = (np.asarray(v) for v in path.coeffs(jnp.asarray(ts)))
    ts[0] = path.t1
    if eps is not None:
        ts[-1] = eps
    parts = structure(schedule)
    return tabulate(lam, a, c, ts, parts, depth or slots(parts))


def check_ends(path: AffinePath, lam: np.ndarray, eps: float | None) -> None:
    if eps is not None and not lam[-1] > lam[-2]:
        raise ValueError(
            f"eps = {eps} lies at lam = {lam[-1]:.4g} and the schedule's node before the last at "
            f"{lam[-2]:.4g}; take a smaller eps."
        )
    if not lam[1] > lam[0]:
        raise ValueError(
            f"The law starts at lam = {lam[0]:.4g} and the schedule's second node is at "
            f"{lam[1]:.4g}; take a schedule for a law with as little noise at t1 = {path.t1}."
        )
