"""A recipe whose nodes and weights are fitted by gradient through its sampler and the network.

On a grid, any multistep method is a table of weights (`samplers/exponential/weighted.py`). A recipe
therefore goes on as that table, and its nodes and its weights move together.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from samplers.base import sample
from samplers.exponential.weighted import by_rows
from samplers.schedules.coefficients import coefficients
from samplers.schedules.recipe import Recipe, method_of, times
from sde_lib import AffinePath, rms
from search.refine import FLOOR
from search.score import Trajectories

# The loss of numbers whose run is not finite: the line search comes back from there.
REFUSED = 1e3


class Knobs(NamedTuple):
    """The fitted numbers: logarithms of the step lengths in lam `(N,)`, and for each step the
    factor and the weights of `weighted`, `(N, N + 1)`."""

    gaps: Array
    rows: Array


def fit_weights(
    path: AffinePath, known: Trajectories, recipe: Recipe, eps: float, steps: int = 300
) -> Recipe:
    """The recipe as the method `weighted`, with its inner nodes and all weights moved by L-BFGS.

    The lengths of the steps in `lam` are shares of the whole by a softmax, so nodes stay in order.
    The loss is the mean logarithm of the distances to the true ends. Unlike the mean of the
    distances, this loss is not dominated by a few starts at the border between two modes. The best
    of all iterates is returned, so by this loss the result is never worse than the recipe. On other
    starts it may be worse, if there are many weights for the numbers known of the truth.

    Raises:
        ValueError: for a method of several evaluations a step.
    """
    lam = jnp.asarray(recipe.lam, known.x.dtype)
    first = Knobs(jnp.log(jnp.diff(lam)), jnp.asarray(rows_of(path, recipe, eps), lam.dtype))
    some = np.tri(*first.rows.shape, k=1)

    def nodes(gaps: Array) -> Array:
        inner = jnp.cumsum(jax.nn.softmax(gaps))[:-1]
        return lam.at[1:-1].set(lam[0] + (lam[-1] - lam[0]) * inner)

    def loss(knobs: Knobs, x: Array, ends: Array) -> Array:
        method, ts = by_rows(path, knobs.rows * some), path.t_of_lam(nodes(knobs.gaps))
        out = sample(jax.random.key(0), known.predict, method, x, ts, denoise=recipe.denoise).x
        return jnp.mean(jnp.log(rms(out - ends) + FLOOR))

    found = descend(loss, first, (known.x, known.ends), steps)
    inner = np.asarray(nodes(found.gaps), np.float64)[1:-1]
    rows = [row[: i + 2] for i, row in enumerate(np.asarray(found.rows, np.float64).tolist())]
    lam = (recipe.lam[0], *map(float, inner), recipe.lam[-1])
    return Recipe("weighted", {"weights": rows}, lam, recipe.denoise)


def descend(loss: Callable, knobs: Knobs, data: tuple[Array, ...], steps: int) -> Knobs:
    """The best of at most `steps` iterates of L-BFGS, by SciPy. Its line search ends the descent
    where rounding hides any further fall of the loss."""
    flat, unravel = ravel_pytree(knobs)
    slope_of = jax.jit(jax.value_and_grad(lambda v, data: loss(unravel(v), *data)))
    best = [np.inf, flat]

    def at(v: np.ndarray) -> tuple[float, np.ndarray]:
        given = jnp.asarray(v, flat.dtype)
        value, slope = slope_of(given, data)
        if not np.isfinite(value) or not np.all(np.isfinite(slope)):
            return REFUSED, np.zeros_like(v)
        if value < best[0]:
            best[:] = float(value), given
        return float(value), np.asarray(slope, np.float64)

    options = {"maxiter": steps, "maxcor": 20, "ftol": 1e-7, "gtol": 1e-6}
    minimize(at, np.asarray(flat, np.float64), jac=True, method="L-BFGS-B", options=options)
    return unravel(best[1])


def rows_of(path: AffinePath, recipe: Recipe, eps: float) -> np.ndarray:
    """The numbers of `weighted` for a multistep recipe, `(N, N + 1)` in float64.

    Raises:
        ValueError: for a method of several evaluations a step.
    """
    method, ts = method_of(recipe, path), times(recipe, path, eps)
    if method.nfe != 1:
        raise ValueError(
            f"The recipe's predictor {recipe.predictor!r} makes {method.nfe} evaluations a step; "
            "weights are fitted from a method of one."
        )
    (table,) = coefficients(path, method, [(ts[None], False)])
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        a, c = (np.asarray(v) for v in path.coeffs(jnp.asarray(ts)))
    states = without_noise(np.asarray(table.rows[0], np.float64), a, c)
    kept = c[1:] / c[:-1]
    # x_s = factor kept x_t + gain sum_j w_j x0_j, and x_T is in no other term than the first.
    factors = states[1:, :1] / states[:-1, :1]
    inner = (states[1:, 1:] - factors * states[:-1, 1:]) / (a[1:] - kept * a[:-1])[:, None]
    return np.concatenate([factors / kept[:, None], inner], axis=1)


def without_noise(rows: np.ndarray, a: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Rows of weights of x_T, of the N data and of the N noises `(N + 1, 1 + 2 N)`, as rows of
    weights of x_T and of the data alone, `(N + 1, 1 + N)`, by `eps_j = (x_j - a_j x0_j) / c_j`."""
    n = len(rows) - 1
    found = rows[:, : 1 + n].copy()
    for k in range(n + 1):
        for j in range(k):
            share = rows[k, 1 + n + j] / c[j]
            found[k] += share * found[j]
            found[k, 1 + j] -= share * a[j]
    return found


def fit_kinds(ranked: list[Recipe], fit: Callable[[Recipe], Recipe], count: int) -> list[Recipe]:
    """The best recipe of each of the first `count` kinds, fitted. Recipes that differ in their
    nodes alone are one kind, as their fits end near each other. Methods of several evaluations a
    step are passed over."""
    kinds = {}
    for recipe in ranked:
        if recipe.predictor != "heun":
            kinds.setdefault((recipe.predictor, str(recipe.options), recipe.denoise), recipe)
    return [fit(recipe) for recipe in list(kinds.values())[:count]]
