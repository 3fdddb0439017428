"""The geometry of sampling runs: how states and denoiser outputs move from noise to data.

Chen et al. 2023 (arXiv 2305.19947). The paths are `y = x / a` as functions of `sigma = c / a`. In
these variables the flow ODE is `dy / dsigma = (y - D) / sigma`, and all laws give one curve; in x
the decreasing a of VP would bend the paths. The states `y_n` are the sampling trajectory, the
outputs `D_n = D(y_n, sigma_n)` the denoising trajectory. An Euler step is a weighted mean of both,

    y_{n-1} = (sigma_{n-1} / sigma_n) y_n + (1 - sigma_{n-1} / sigma_n) D_n.

All computations are NumPy in float64 on the host, except densities, which are computed on the
device. A trajectory is `(T, B, D)`, with T nodes from noise to data.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.spatial.distance import cdist

from evaluation.metrics.mmd import mmd_squared
from evaluation.tasks.recording import Recording
from exact.empirical import Points, posterior
from sde_lib import EDM, AffinePath

DIRECTIONS = 3  # principal directions reported; they contain nearly all of a path's variance
STILL = 1e-5  # of the norm: a shorter step is float32 rounding, and its direction means nothing


class Trajectory(NamedTuple):
    """`sigma` `(T,)`, decreasing; `y` `(T, B, D)`, states `x / a`; `d` `(T, B, D)`, outputs D."""

    sigma: np.ndarray
    y: np.ndarray
    d: np.ndarray


class Densities(NamedTuple):
    """Log densities (nats) of a trajectory under the data's kernel density, and nearest examples.

    p_n is the kernel density with bandwidth `sigma_n`. Densities are compared at one bandwidth, the
    one of the first node, because their normalisation depends on the bandwidth.

    logp: `(T, B)`, `log p_n(y_n)`.
    step: `(T - 1, B)`, `log p_n(y_{n+1}) - log p_n(y_n)`.
    denoised: `(T, B)`, `log p_n(D_n) - log p_n(y_n)`.
    index, distance: `(T, B)`, number and distance of the training example nearest to D_n.
    state_distance: `(T, B)`, distance of the training example nearest to y_n.
    """

    logp: np.ndarray
    step: np.ndarray
    denoised: np.ndarray
    index: np.ndarray
    distance: np.ndarray
    state_distance: np.ndarray


def trajectory(path: AffinePath, recording: Recording) -> Trajectory:
    """Convert a recorded run to `y = x / a` over `sigma = c / a`.

    Raises:
        ValueError: the examples of the run have grids of their own, `t` `(T, B)`.
    """
    if recording.t.ndim != 1:
        raise ValueError(
            f"The times have the shape {recording.t.shape}; curves over sigma need one grid for "
            "all examples."
        )
    a = np.asarray(path.coeffs(recording.t).a, np.float64)
    flat = lambda v: np.asarray(v, np.float64).reshape(*v.shape[:2], -1)
    sigma = np.asarray(path.sigma(recording.t), np.float64)
    return Trajectory(sigma, flat(recording.x) / a[:, None, None], flat(recording.x0))


def chord(y: np.ndarray) -> np.ndarray:
    """Distance from the first node to the last, `(B,)`."""
    return np.linalg.norm(y[0] - y[-1], axis=-1)


def deviation(y: np.ndarray) -> np.ndarray:
    """Distance of every node from the line through the two ends, `(T, B)`; 0 at both."""
    unit = (y[0] - y[-1]) / np.maximum(chord(y), np.finfo(float).tiny)[:, None]
    rest = y - y[-1]
    return np.linalg.norm(rest - np.sum(rest * unit, -1, keepdims=True) * unit, axis=-1)


def turning(y: np.ndarray) -> np.ndarray:
    """Angle between one increment and the next, in radians, `(T - 2, B)`.

    The angle is nan if one of the two increments is shorter than STILL times the norm: outputs that
    have converged still change in their last digits, in arbitrary directions.
    """
    steps, norms = np.diff(y, axis=0), np.linalg.norm(y, axis=-1, keepdims=True)
    lengths = np.linalg.norm(steps, axis=-1, keepdims=True)
    lengths[lengths <= STILL * np.maximum(norms[1:], norms[:-1])] = np.nan
    units = steps / lengths
    # This formula is accurate at small angles, where an arccos is not.
    difference, total = units[1:] - units[:-1], units[1:] + units[:-1]
    return 2.0 * np.arctan2(np.linalg.norm(difference, axis=-1), np.linalg.norm(total, axis=-1))


def principal_shares(y: np.ndarray, directions: int = DIRECTIONS) -> np.ndarray:
    """Cumulative share of a path's variance in its first principal directions, `(directions, B)`.

    The variance is over the nodes of one path, which have equal weights.
    """
    centred = np.moveaxis(y - y.mean(0), 1, 0)
    variances = np.linalg.svd(centred, compute_uv=False) ** 2
    shares = np.cumsum(variances, axis=1) / np.sum(variances, axis=1, keepdims=True)
    return shares[:, :directions].T


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """`2 E|x - y| - E|x - x'| - E|y - y'|` of two sets `(n, D)`, `(m, D)`, unbiased.

    Szekely & Rizzo 2013; equal to the squared MMD with the kernel `-|x - y|`.
    """
    return mmd_squared(x, y, lambda a, b: -cdist(a, b))[0]


def densities(points: Points, path: Trajectory) -> Densities:
    """Return `Densities` of a trajectory under the kernel density of `points`."""
    after = np.concatenate([path.y[1:], path.y[-1:]])
    rows = zip(path.sigma, path.y, after, path.d)
    found = (jax.device_get(_at_node(points, *row)) for row in rows)
    told = Densities(*map(np.stack, zip(*found)))
    return told._replace(step=told.step[:-1])


@jax.jit
def _at_node(points: Points, sigma: float, y: np.ndarray, after: np.ndarray, d: np.ndarray):
    """`Densities` of one node, `(B,)` each; `after` is the state of the next node."""
    here, there, mean = (posterior(EDM(), points, v, sigma) for v in (y, after, d))
    gains = there.logp - here.logp, mean.logp - here.logp
    return Densities(here.logp, *gains, mean.nearest, mean.distance, here.distance)


def curves(path: Trajectory, points: Points | None = None) -> dict[str, np.ndarray]:
    """The curves over sigma that are drawn, by name; each `(T, B)` or one or two nodes shorter.

    Names end in `state` for the sampling trajectory and in `denoised` for the denoising trajectory.
    With `points` the fields of `Densities` are added, as `density_<field>`.
    """
    measures: dict[str, Callable] = {
        "deviation": lambda y: deviation(y) / np.maximum(chord(y), np.finfo(float).tiny),
        "norm": lambda y: np.linalg.norm(y, axis=-1),
        # Distance to the end of the run; for D_n, the change of the result by a jump to D_n.
        "to_end": lambda y: np.linalg.norm(y - path.y[-1], axis=-1),
        "turning": turning,
    }
    both = {"state": path.y, "denoised": path.d}
    found = {f"{m}_{k}": f(y) for m, f in measures.items() for k, y in both.items()}
    if points is not None:
        told = densities(points, path)._asdict()
        found |= {f"density_{name}": value for name, value in told.items()}
    return found


def summary(path: Trajectory, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of a report from the result of `curves`; means and medians are over the runs.

    `to_end` is the mean distance to the end of the run at every node; for `denoised` it is the
    error of an ODE-Jump at that node. `falls` counts the moves that lower the density at their own
    bandwidth; the optimal denoiser makes no such move.
    """
    result: dict[str, Any] = {"nodes": len(path.sigma), "runs": path.y.shape[1]}
    result["sigma"] = path.sigma.tolist()
    for kind, y in (("state", path.y), ("denoised", path.d)):
        result[kind] = {
            "chord": float(np.mean(chord(y))),
            "largest_deviation_to_chord": float(np.mean(found[f"deviation_{kind}"].max(0))),
            "principal_shares": np.mean(principal_shares(y), axis=1).tolist(),
            "to_end": np.mean(found[f"to_end_{kind}"], axis=1).tolist(),
        }
    if "density_step" in found:
        result["falls"] = {
            "of": int(found["density_step"].size),
            "step": int(np.sum(found["density_step"] < 0)),
            "denoised": int(np.sum(found["density_denoised"][:-1] < 0)),
        }
        result["nearest"] = {
            "state_end": float(np.median(found["density_state_distance"][-1])),
            "denoised_end": float(np.median(found["density_distance"][-1])),
        }
    return result
