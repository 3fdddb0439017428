"""The grid of five-step inference: its end is chosen by noise level, its nodes by time.

"Hyperparameters are all you need" (arXiv 2510.02390; the numbers from its released code). With
`K(n, low, high, rho)` the n nodes of Karras et al. 2022, eq. 5, falling from high to low:

    1.  S = K(n0, sigma_min, sigma_max, rho0);   the run ends at S_k, well above sigma_min
    2.  t_i = K(N + 1, time of S_k, time of sigma_max, 1.2)

n0, rho0 and k set only the end of the run. The inner nodes are almost even in time. The authors
leave the noise that remains at the end to the decoder of their latents. In pixel space the
conditional mean of the data removes that noise: `sample(..., denoise=True)`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import EDM, VP, AffinePath
from sde_lib.ranges import one_of

RHO_TIME = 1.2


class Recipe(NamedTuple):
    """The numbers of a recipe: `steps` N, `nodes` n0, `rho` rho0, `kept` k, and the `order` of the
    solver. Order 1 is DDIM; order 2 is DPM-Solver++ 2M, which keeps its order on the last step."""

    steps: int
    nodes: int
    rho: float
    kept: int
    order: int


# The released recipes for Stable Diffusion 1.5 and SDXL, with classifier-free guidance of 5 to 7.5.
RECIPES: dict[str, Recipe] = {
    "sd15_8": Recipe(8, 12, 7.0, 9, 2),
    "sd15_8_shorter": Recipe(8, 12, 7.0, 8, 2),
    "sd15_6": Recipe(6, 8, 5.0, 6, 1),
    "sd15_5": Recipe(5, 8, 5.0, 6, 1),
    "sd15_4": Recipe(4, 8, 5.0, 5, 1),
    "sdxl_8": Recipe(8, 12, 12.0, 10, 2),
    "sdxl_8_shorter": Recipe(8, 12, 12.0, 9, 2),
    "sdxl_6": Recipe(6, 8, 5.0, 6, 1),
    "sdxl_5": Recipe(5, 8, 5.0, 6, 1),
    "sdxl_4": Recipe(4, 8, 5.0, 6, 1),
}


def other_recipe(steps: int, nodes: int, rho: float = 10.0) -> Recipe:
    """The rule for a number of steps without a recipe: the first `steps` of `nodes - 1` intervals.

    For SDXL take rho = 12.
    """
    return Recipe(steps, nodes, rho, steps, 1)


def K(n: int, low: float, high: float, rho: float) -> np.ndarray:
    """`(high^(1/rho) + i / (n - 1) (low^(1/rho) - high^(1/rho)))^rho`, `(n,)` float64, i = 0 up.

    The ends are exactly high and low. rho = 1 gives even spacing.

    Raises:
        ValueError: for fewer than two nodes, a rho not above 0, or ends not 0 <= low < high.
    """
    if n < 2 or not rho > 0.0 or not 0.0 <= low < high:
        raise ValueError(
            f"A grid of {n} nodes from {high} to {low} with rho = {rho} was asked for; it needs 2 "
            "nodes or more, 0 <= low < high and rho > 0."
        )
    nodes = np.linspace(high ** (1.0 / rho), low ** (1.0 / rho), n) ** rho
    nodes[0], nodes[-1] = high, low
    return nodes


def end_level(recipe: Recipe, low: float, high: float) -> float:
    """`S_k`, the noise level `c / a` at which the run ends, for a law with levels low to high.

    Raises:
        ValueError: for a k that is not an interval of the n0 nodes.
    """
    if not 1 <= recipe.kept < recipe.nodes:
        raise ValueError(
            f"kept is {recipe.kept} of {recipe.nodes} nodes; it must lie between 1 and "
            f"{recipe.nodes - 1}."
        )
    return float(K(recipe.nodes, low, high, recipe.rho)[recipe.kept])


def early_end(path: AffinePath, recipe: Recipe, lowest: float) -> float:
    """The time at which a run by this recipe ends, to pass to `two_stage` as eps.

    `lowest` is the time of sigma_min, at which a run without an early end would stop. The recipes
    were tuned for noise levels from 0.029 to 14.6; on a law with more noise they end elsewhere.
    """
    with jax.ensure_compile_time_eval():
        high, low = levels(path, [path.t1, lowest])
        return float(path.t_of_sigma(end_level(recipe, low, high)))


def two_stage(
    path: AffinePath,
    steps: int,
    eps: float,
    rho: float = RHO_TIME,
    clock: AffinePath | None = None,
    recipe: str = "",
) -> Array:
    """`(steps + 1,)` times from t1 to eps, or to the earlier end of a recipe.

    Args:
        recipe: a name in `RECIPES`, whose `early_end` is the last node; empty for eps itself.

    The nodes are `K` in the time of the law `clock`, converted to times of `path` at equal `c / a`.
    By default `clock` is `path` itself; in the time of VE the nodes are then almost even in log
    sigma. For EDM the default clock is VP, because EDM's own time is the noise level, and nearly
    all of that range is large noise.
    """
    if recipe:
        one_of(tuple(RECIPES), recipe=recipe)
        eps = early_end(path, RECIPES[recipe], eps)
    if clock is None:
        clock = VP() if isinstance(path, EDM) else path
    with jax.ensure_compile_time_eval():
        if clock is path:
            ts = jnp.asarray(K(steps + 1, eps, float(path.t1), rho))
        else:
            lam = path.lam(jnp.asarray([path.t1, eps]))
            high, low = (float(t) for t in clock.t_of_lam(lam))
            ts = path.t_of_lam(clock.lam(jnp.asarray(K(steps + 1, low, high, rho))))
        return ts.at[0].set(path.t1).at[-1].set(eps)


def levels(path: AffinePath, times) -> list[float]:
    return [float(level) for level in path.sigma(jnp.asarray(times))]


class Discrete(NamedTuple):
    """Nodes of a chain, float64: `index` `(N + 1,)`, real-valued levels for the network, and
    `sigma` `(N + 1,)`, noise levels `c / a`, which are the times of `EDM` for the run."""

    index: np.ndarray
    sigma: np.ndarray


def scaled_linear(
    beta_start: float = 0.00085, beta_end: float = 0.012, num: int = 1000
) -> np.ndarray:
    """`abar` `(num,)` of latent diffusion, whose sqrt(beta) is even (Rombach et al. 2022)."""
    return np.cumprod(1.0 - np.linspace(beta_start**0.5, beta_end**0.5, num) ** 2)


def sigma_of(abar: np.ndarray) -> np.ndarray:
    """`c / a = sqrt((1 - abar) / abar)`."""
    return np.sqrt((1.0 - abar) / abar)


def index_of_sigma(abar: np.ndarray, sigma) -> np.ndarray:
    """The real-valued level of a noise level, with log sigma linear between neighbours."""
    return np.interp(np.log(sigma), np.log(sigma_of(abar)), np.arange(len(abar)))


def sigma_of_index(abar: np.ndarray, index) -> np.ndarray:
    """The noise level of a real-valued level, with abar linear between neighbours.

    As in the released code, this inverts `index_of_sigma` exactly only at integer levels.
    """
    return sigma_of(np.interp(index, np.arange(len(abar)), abar))


def discrete(abar: np.ndarray, recipe: Recipe) -> Discrete:
    """The grid on a chain `abar` `(num,)`, with the least noise at level 0. A run starts from
    `sigma[0] z`."""
    sigma = sigma_of(abar)
    end = end_level(recipe, float(sigma[0]), float(sigma[-1]))
    last = float(index_of_sigma(abar, end))
    index = K(recipe.steps + 1, last, len(abar) - 1.0, RHO_TIME)
    return Discrete(index, sigma_of_index(abar, index))


def discrete_to_the_end(abar: np.ndarray, nodes: int) -> Discrete:
    """The released grid without the early stop: `K(nodes, 1, num - 1, 1.2)` and level 0 itself."""
    index = np.append(K(nodes, 1.0, len(abar) - 1.0, RHO_TIME), 0.0)
    return Discrete(index, sigma_of_index(abar, index))
