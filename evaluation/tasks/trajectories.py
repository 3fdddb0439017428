"""The geometry of sampling runs: how states and denoiser outputs move from noise to data.

Chen et al. 2023 (arXiv 2305.19947). For any law the paths are looked at in `y = x / a` over
`sigma = c / a`, where the flow ODE is `dy / dsigma = (y - D) / sigma` and all laws give one curve;
in x the shrinking a of VP would bend them. The states `y_n` are the sampling trajectory, the
outputs `D_n = D(y_n, sigma_n)` the denoising trajectory, and an Euler step is a blend of the two,

    y_{n-1} = (sigma_{n-1} / sigma_n) y_n + (1 - sigma_{n-1} / sigma_n) D_n.

Everything here is NumPy in float64 on the host; only densities go through the device. A trajectory
is `(T, B, D)`, T nodes from noise to data.
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

DIRECTIONS = 3  # principal directions reported; a path hardly leaves them
STILL = 1e-5  # of the norm: a shorter step is rounding in float32 and has no direction


class Trajectory(NamedTuple):
    """`sigma` `(T,)`, falling; `y` and `d` `(T, B, D)`, states `x / a` and denoiser outputs."""

    sigma: np.ndarray
    y: np.ndarray
    d: np.ndarray


class Densities(NamedTuple):
    """What the data set says of a trajectory, log densities in nats.

    Each comparison is at one bandwidth, `sigma_n` of the node it starts from: densities at two
    bandwidths have two normalisations. `logp` `(T, B)` is `log p_n(y_n)`; `step` `(T - 1, B)` is
    `log p_n(y_{n+1}) - log p_n(y_n)`; `denoised` `(T, B)` is `log p_n(D_n) - log p_n(y_n)`.
    `index` and `distance` `(T, B)` tell of the training example nearest to D_n, `state_distance`
    of the one nearest to y_n.
    """

    logp: np.ndarray
    step: np.ndarray
    denoised: np.ndarray
    index: np.ndarray
    distance: np.ndarray
    state_distance: np.ndarray


def trajectory(path: AffinePath, recording: Recording) -> Trajectory:
    """A recorded run in `y = x / a` over `sigma = c / a`.

    Raises:
        ValueError: for a grid per example, whose nodes do not stand side by side.
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
    """Angle between one increment and the next in radians, `(T - 2, B)`; nan where one is nought.

    Outputs that have settled still move in their last digits, at any angle.
    """
    steps, norms = np.diff(y, axis=0), np.linalg.norm(y, axis=-1, keepdims=True)
    lengths = np.linalg.norm(steps, axis=-1, keepdims=True)
    lengths[lengths <= STILL * np.maximum(norms[1:], norms[:-1])] = np.nan
    units = steps / lengths
    # Right to rounding at small angles, where an arccos is not.
    difference, total = units[1:] - units[:-1], units[1:] + units[:-1]
    return 2.0 * np.arctan2(np.linalg.norm(difference, axis=-1), np.linalg.norm(total, axis=-1))


def principal_shares(y: np.ndarray, directions: int = DIRECTIONS) -> np.ndarray:
    """Share of a path's variance in its first principal directions, cumulative, `(directions, B)`.

    The variance over the nodes of one path, each node with the same weight.
    """
    centred = np.moveaxis(y - y.mean(0), 1, 0)
    variances = np.linalg.svd(centred, compute_uv=False) ** 2
    shares = np.cumsum(variances, axis=1) / np.sum(variances, axis=1, keepdims=True)
    return shares[:, :directions].T


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """`2 E|x - y| - E|x - x'| - E|y - y'|` of two sets `(n, D)`, `(m, D)`, unbiased.

    Szekely & Rizzo 2013; it is the squared MMD of the kernel `-|x - y|`.
    """
    return mmd_squared(x, y, lambda a, b: -cdist(a, b))[0]


def densities(points: Points, path: Trajectory) -> Densities:
    """Log densities and nearest examples of a trajectory under the data's kernel density."""
    after = np.concatenate([path.y[1:], path.y[-1:]])
    rows = zip(path.sigma, path.y, after, path.d)
    found = (jax.device_get(_at_node(points, *row)) for row in rows)
    told = Densities(*map(np.stack, zip(*found)))
    return told._replace(step=told.step[:-1])


@jax.jit
def _at_node(points: Points, sigma: float, y: np.ndarray, after: np.ndarray, d: np.ndarray):
    """`Densities` of one node, `(B,)` each; `after` is the state of the next."""
    here, there, mean = (posterior(EDM(), points, v, sigma) for v in (y, after, d))
    gains = there.logp - here.logp, mean.logp - here.logp
    return Densities(here.logp, *gains, mean.nearest, mean.distance, here.distance)


def curves(path: Trajectory, points: Points | None = None) -> dict[str, np.ndarray]:
    """Everything that is drawn over sigma, by name, each `(T, B)` or one or two nodes shorter.

    Names end in `state` for the sampling trajectory and in `denoised` for the denoising one. With
    `points` the densities are among them, as `density_<field>`.
    """
    measures: dict[str, Callable] = {
        "deviation": lambda y: deviation(y) / np.maximum(chord(y), np.finfo(float).tiny),
        "norm": lambda y: np.linalg.norm(y, axis=-1),
        # From the end of the run, for D_n too: what a jump to D_n would change.
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
    """The numbers of `curves`, for a report; means and medians are over the runs.

    `to_end` is the mean distance from the end of the run at every node: for `denoised` the price of
    an ODE-Jump there. `falls` counts the moves that lower the density at their own bandwidth, of
    which the optimal denoiser makes none.
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
