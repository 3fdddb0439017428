"""The two-stage grid: the published nodes of the released recipes, and runs that stop early."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian
from rk4 import padded, runge_kutta

from samplers import ddim, dpm_multistep, sample
from samplers.schedules.two_stage_grid import (
    RECIPES,
    K,
    Recipe,
    discrete,
    discrete_to_the_end,
    early_end,
    end_level,
    index_of_sigma,
    other_recipe,
    scaled_linear,
    sigma_of,
    sigma_of_index,
    two_stage,
)
from sde_lib import EDM, SDES, VP

KEY = jax.random.key(0)
LAWS = {name: law() for name, law in SDES.items()}
ABAR = scaled_linear()

# Fractional levels and noise levels of the released code on the scaled-linear table.
PRINTED = {
    "sd15_8": (
        (999, 857.32, 719.44, 585.86, 457.19, 334.35, 218.70, 112.73, 22.68),
        (14.6146, 6.7121, 3.6076, 2.1723, 1.4045, 0.9366, 0.6169, 0.3725, 0.1472),
    ),
    "sd15_6": (
        (999, 809.57, 627.31, 453.54, 290.38, 141.71, 18.32),
        (14.6146, 5.3409, 2.5230, 1.3877, 0.8052, 0.4374, 0.1320),
    ),
    "sd15_5": (
        (999, 772.51, 556.68, 354.19, 169.97, 18.32),
        (14.6146, 4.5188, 1.9615, 1.0010, 0.5015, 0.1320),
    ),
    "sdxl_8": ((999, 852.30, 709.71, 571.76, 439.18, 313.02, 194.95, 88.17, 3.18), (14.6146,)),
}


@pytest.mark.parametrize("name", PRINTED)
def test_printed_grids(name):
    index, sigma = PRINTED[name]
    ours = discrete(ABAR, RECIPES[name])
    np.testing.assert_allclose(ours.index, index, atol=0.005)
    np.testing.assert_allclose(ours.sigma[: len(sigma)], sigma, atol=5e-5)
    assert len(ours.index) == len(ours.sigma) == RECIPES[name].steps + 1


def test_end_of_the_sdxl_recipe():
    """The node S_k is .0598, as published; the run ends slightly above.

    It ends at the noise level that is read back from the node's index by the other interpolation.
    """
    recipe, sigma = RECIPES["sdxl_8"], sigma_of(ABAR)
    assert round(end_level(recipe, sigma[0], sigma[-1]), 4) == 0.0598
    np.testing.assert_allclose(discrete(ABAR, recipe).sigma[-1], 0.0598, rtol=3e-3)


def test_scaled_linear_table():
    sigma = sigma_of(ABAR)
    np.testing.assert_allclose(sigma[[0, -1]], [0.02917, 14.6146], atol=5e-5)
    assert ABAR.shape == (1000,) and ABAR[0] == 1.0 - 0.00085


@pytest.mark.parametrize(("low", "high", "rho"), [(18.32, 999.0, 1.2), (0.029, 14.6, 7.0)])
def test_nodes(low, high, rho):
    nodes = K(9, low, high, rho)
    assert nodes.shape == (9,) and nodes[0] == high and nodes[-1] == low
    assert np.all(np.diff(nodes) < 0.0)
    steps = np.diff(nodes ** (1.0 / rho))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-10)
    np.testing.assert_allclose(K(9, low, high, 1.0), np.linspace(high, low, 9))


def test_fractional_levels():
    """Fractional levels lie between their neighbours, and are continuous.

    The two interpolations agree on whole levels.
    """
    at = np.linspace(0.0, 999.0, 7993)
    sigma, table = sigma_of_index(ABAR, at), sigma_of(ABAR)
    below, above = np.floor(at).astype(int), np.ceil(at).astype(int)
    assert np.all((table[below] <= sigma * (1 + 1e-12)) & (sigma <= table[above] * (1 + 1e-12)))
    whole = np.arange(1000)
    np.testing.assert_allclose(sigma_of_index(ABAR, whole), table, rtol=1e-12)
    np.testing.assert_allclose(index_of_sigma(ABAR, table), whole, atol=1e-9)
    for side in (-1e-9, 1e-9):
        near = sigma_of_index(ABAR, whole[1:-1] + side)
        np.testing.assert_allclose(near, table[1:-1], rtol=1e-8)
    back = index_of_sigma(ABAR, sigma)
    assert 1e-4 < np.max(np.abs(back - at)) < 0.1


def test_first_stage_chooses_the_end_alone():
    """n0, rho0 and k of the first stage determine only the end; the nodes are the second stage's.

    Its rho of 1.2 moves nodes by at most a twentieth of the range, compared with rho = 1.
    """
    for nodes, rho, kept in ((12, 7.0, 9), (12, 7.0, 8), (12, 3.0, 9), (30, 7.0, 9)):
        grid = discrete(ABAR, Recipe(8, nodes, rho, kept, 2)).index
        np.testing.assert_allclose(grid, K(9, grid[-1], 999.0, 1.2), rtol=1e-12)
    # If stage 1 ends at sigma_min, the second stage has the whole range for every rho0.
    last = [discrete(ABAR, Recipe(8, 12, rho, 11, 2)).index[-2:] for rho in (2.0, 7.0)]
    np.testing.assert_allclose(last[0], last[1], rtol=1e-9)
    grid = discrete(ABAR, RECIPES["sd15_8"]).index
    moved = np.abs(grid - np.linspace(grid[0], grid[-1], len(grid))) / 999.0
    assert 0.04 < moved.max() < 0.06 and moved[0] == moved[-1] == 0.0


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_grid_of_a_law(law):
    """A grid has exact ends, in float32 too, and is even in t^(1 / 1.2).

    t is the law's own time, for EDM that of VP.
    """
    for steps in (1, 5, 1000):
        ts = two_stage(law, steps, 2e-3)
        assert ts.shape == (steps + 1,) and ts.dtype == jnp.float32
        assert ts[0] == jnp.float32(law.t1) and ts[-1] == jnp.float32(2e-3)
        assert np.all(np.diff(ts) < 0.0)
    with jax.enable_x64(True):
        ts = two_stage(law, 10, 2e-3)
        time = VP().t_of_lam(law.lam(ts)) if isinstance(law, EDM) else ts
        steps = np.diff(time ** (1 / 1.2))
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_end_of_a_law():
    """The end of a grid has the noise level S_k; for EDM the time is S_k itself."""
    recipe = RECIPES["sd15_5"]
    level = (80 ** (1 / 5) + 6 / 7 * (0.002 ** (1 / 5) - 80 ** (1 / 5))) ** 5
    with jax.enable_x64(True):
        np.testing.assert_allclose(early_end(EDM(), recipe, 0.002), level, rtol=1e-10)
        for law in LAWS.values():
            low, high = (float(jnp.exp(-law.lam(jnp.asarray(t)))) for t in (2e-3, law.t1))
            at = jnp.exp(-law.lam(jnp.asarray(early_end(law, recipe, 2e-3))))
            np.testing.assert_allclose(at, end_level(recipe, low, high), rtol=1e-7)


def test_stops_early_then_denoises(x64):
    """A run stops early, and one more evaluation removes the noise of the last level.

    For data of std S, `x - x0` is `sigma^2 / (S^2 + sigma^2)` times what the steps left of the
    start. Under EDM, DDIM's steps are Euler's in sigma.
    """
    law, data, var = EDM(), Gaussian.scalar(0.3, 0.05, dims=16), 0.05**2
    sigma = discrete(ABAR, RECIPES["sd15_5"]).sigma
    predict = data.predict(law)
    x = jnp.asarray(0.3 + sigma[0] * np.random.default_rng(0).standard_normal((500, 16)))

    @partial(jax.jit, static_argnums=1)
    def run(x, denoise):
        return sample(KEY, predict, ddim(law), x, jnp.asarray(sigma), None, denoise)

    noisy, clean = run(x, False), run(x, True)
    assert noisy.nfe == 5 and clean.nfe == 6
    np.testing.assert_allclose(clean.x, predict(noisy.x, sigma[-1]).x0, atol=1e-12)
    pull = sigma**2 / (var + sigma**2)
    left = sigma[0] * np.prod(1.0 - (1.0 - sigma[1:] / sigma[:-1]) * pull[:-1]) * pull[-1]
    size = np.sqrt(np.mean((noisy.x - clean.x) ** 2))
    # The tolerance is three standard errors of a standard deviation over 8000 values.
    assert abs(size / left - 1.0) < 3.0 / np.sqrt(16000)
    assert 0.9 < size / sigma[-1] < 1.0
    euler = x
    for here, there in pairwise(sigma):
        euler = euler + (there - here) * (euler - predict(euler, here).x0) / here
    np.testing.assert_allclose(noisy.x, euler, rtol=1e-12)


@pytest.mark.parametrize(("method", "order"), [(ddim, 1), (dpm_multistep, 2)])
def test_order_at_the_early_end(method, order, x64):
    """With many steps to a fixed early end, runs converge to the flow's state with their order."""
    law = VP()
    eps = early_end(law, RECIPES["sd15_5"], 1e-3)
    assert eps > 0.05
    start = jnp.asarray(np.random.default_rng(0).standard_normal((100, 1)))
    ts = jnp.repeat(padded([two_stage(law, n, eps) for n in (64, 128, 256)]), 100, axis=1)

    @jax.jit
    def end_and_truth(x, ts):
        run = sample(KEY, M1.predict(law), method(law), jnp.tile(x, (3, 1)), ts)
        return run.x.reshape(3, 100), runge_kutta(law, M1, x, eps, 400)[:, 0]

    end, truth = end_and_truth(start, ts)
    error = np.sqrt(np.mean((end - truth[None]) ** 2, axis=1))
    slopes = np.log2(error[:-1] / error[1:])
    assert np.all(np.abs(slopes - order) < 0.2), (error, slopes)


def test_without_the_early_stop():
    grid = discrete_to_the_end(ABAR, 10)
    np.testing.assert_array_equal(grid.index, [*K(10, 1.0, 999.0, 1.2), 0.0])
    np.testing.assert_allclose(grid.sigma[[0, -1]], sigma_of(ABAR)[[-1, 0]])


def test_recipes():
    """Recipes have order 1 (DDIM) up to six steps, and order 2 (2M) for eight."""
    for name, recipe in RECIPES.items():
        assert int(name.split("_")[1]) == recipe.steps
        assert recipe.order == (2 if recipe.steps > 6 else 1)
        assert discrete(ABAR, recipe).sigma[-1] > 1.5 * sigma_of(ABAR)[0]
    end = end_level(other_recipe(10, 16), 0.03, 14.6)
    expected = (14.6**0.1 + 10 / 15 * (0.03**0.1 - 14.6**0.1)) ** 10
    np.testing.assert_allclose(end, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: K(1, 0.1, 1.0, 7.0), "A grid of 1 nodes .* 2 nodes or more"),
        (lambda: K(5, 1.0, 0.5, 7.0), "from 0.5 to 1.0 .* 0 <= low < high"),
        (lambda: K(5, 0.1, 1.0, 0.0), "rho = 0.0 .* rho > 0"),
        (lambda: end_level(Recipe(5, 8, 5.0, 8, 1), 0.1, 1.0), "kept is 8 of 8 .* 1 and 7"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
