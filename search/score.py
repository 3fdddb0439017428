"""The score of a schedule: its distance to known trajectories, on several networks.

The reference of a network is its own flow ODE, solved with many steps. A search therefore needs no
data, only the prediction function and starts. One compiled run serves all schedules of a length.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from samplers.base import sample
from samplers.exponential.tableau import WIDTH, Structure, structure, tabulate
from samplers.exponential.unified import drive
from samplers.exponential.unipc import unipc
from samplers.grids import make_grid
from samplers.schedules.schedule import Schedule, nodes
from sde_lib import AffinePath, rms
from sde_lib.prediction import PredictFn

DEPTH = WIDTH + 1
# Starts to the node before the newest, and one more for their correctors.
STATES = 3


class Trajectories(NamedTuple):
    """A network, starts `x` `(B, ...)` at t1, and the `ends` of its flow, denoised at eps."""

    predict: PredictFn
    x: Array
    ends: Array


class Candidate(NamedTuple):
    """A schedule as arrays: nodes `lam` `(N + 1,)`, its structure, and `denoise`."""

    lam: np.ndarray
    parts: Structure
    denoise: np.ndarray


def trajectories(
    path: AffinePath, predict: PredictFn, x: Array, eps: float, steps: int = 400
) -> Trajectories:
    """Trajectories from x, solved by UniPC of order 3 in `steps` steps even in lam, and denoised at
    eps."""
    ts = make_grid("uniform_lam", path, steps, eps)
    method = unipc(path, 3, "data")
    solve = lambda x: sample(jax.random.key(0), predict, method, x, ts, denoise=True).x
    return Trajectories(predict, x, jax.jit(solve)(x))


def candidate(schedule: Schedule) -> Candidate:
    return Candidate(
        np.asarray(nodes(schedule), np.float64),
        structure(schedule),
        np.asarray(schedule.denoise),
    )


def stacked(candidates: Sequence[Candidate]) -> Candidate:
    """Candidates of equal length stacked along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *candidates)


def distances(path: AffinePath, paths: Trajectories, candidate: Candidate, denoise: bool) -> Array:
    """The RMS difference per pixel to the true end, `(B,)`; differentiable in the nodes and the
    relaxations."""
    lam = jnp.asarray(candidate.lam)
    ts = path.t_of_lam(lam)
    a, c = path.coeffs(ts)
    table = tabulate(lam, a, c, ts, candidate.parts, DEPTH)
    # A search has one evaluation a step, so no corrector evaluates the network again.
    table = table._replace(again=np.zeros(len(ts) - 1, bool))
    x, _ = drive(paths.predict, paths.x, table, (STATES, DEPTH, DEPTH))
    out = paths.predict(x, ts[-1]).x0 if denoise else x
    return rms(out - paths.ends)


def scorer(
    path: AffinePath, sets: Sequence[Trajectories], batch: int = 16
) -> Callable[[Sequence[Schedule]], np.ndarray]:
    """Return the function `schedules -> (S, sets)` of median distances.

    Schedules of equal length and `denoise` are run in blocks of `batch`. A schedule that diverges
    has an infinite distance.
    """

    def one(candidate: Candidate, denoise: bool):
        found = [jnp.median(distances(path, v, candidate, denoise)) for v in sets]
        return jnp.stack(found)

    def many(candidates: Candidate, denoise: bool):
        return jax.lax.map(lambda c: one(c, denoise), candidates)

    run = jax.jit(many, static_argnames="denoise")

    def score(schedules: Sequence[Schedule]) -> np.ndarray:
        out = np.full((len(schedules), len(sets)), np.inf)
        groups = {}
        for i, schedule in enumerate(schedules):
            groups.setdefault((len(schedule.steps), schedule.denoise), []).append(i)
        for (_, denoise), members in groups.items():
            for k in range(0, len(members), batch):
                some = members[k : k + batch]
                # The block is padded with its first member, so that every run has one shape.
                filled = some + [some[0]] * (batch - len(some))
                block = stacked([candidate(schedules[i]) for i in filled])
                out[some] = np.asarray(run(block, denoise))[: len(some)]
        return np.where(np.isfinite(out), out, np.inf)

    return score
