"""The kinetic-optimal law: its energy, its optimality, and its use like any other law."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Empirical, Gaussian
from flax import struct
from rk4 import errors
from scipy.integrate import simpson, solve_ivp
from scipy.interpolate import CubicSpline, PchipInterpolator
from scipy.optimize import minimize

from exact.separation import Separation, estimate, gaussian_gamma
from likelihood import log_likelihood
from likelihood.divergence import exact
from losses import denoising_loss
from samplers import Solver, ddim, heun, sample
from sde_lib import VP, AffinePath, Coeffs, Flow
from sde_lib.kinetic import Kinetic, energy, rise, solve, turn
from tools.describe import load
from tools.kinetic_path import table, training_data, write

DIGITS = Path(__file__).parents[2] / "configs" / "paths" / "digits.json"
KEY = jax.random.key(0)
ENDS = (1e-6, 1.0 - 1e-6)
# gamma is smooth, goes from 0.5 to 0.33, and stays far from the floor.
SPECTRUM = np.array([3.0, 1.5, 0.9, 0.4, 0.2]) / 9.0 * 0.67 * 5 / 0.6667


@struct.dataclass
class Trigonometric(AffinePath):
    """The law with `a = cos(pi t / 2)` and `c = sin(pi t / 2)`."""

    t0: float = ENDS[0]
    t1: float = ENDS[1]

    def coeffs(self, t):
        return Coeffs(jnp.cos(np.pi / 2 * t), jnp.sin(np.pi / 2 * t))

    def t_of_lam(self, lam):
        return 2 / np.pi * jnp.arctan(jnp.exp(-lam))


def smooth_gamma(theta):
    """Return the exact gamma of Gaussian data with variance in 5 of 10 directions, and a mean."""
    return gaussian_gamma(theta, SPECTRUM, dims=10)


@pytest.fixture(scope="module")
def smooth():
    theta = np.linspace(0.0, np.pi / 2, 801)
    return Kinetic.from_gamma(theta, smooth_gamma(theta), t0=ENDS[0], t1=ENDS[1])


def bound_of(law):
    return 4.0 * np.sin(law.table.length / 2) ** 2


def polar(law, t):
    a, c = (np.asarray(v) for v in law.coeffs(jnp.asarray(t)))
    return np.hypot(a, c), np.arctan2(c, a)


def test_without_a_table_it_is_the_straight_path(x64):
    t = np.linspace(*ENDS, 101)
    every = jax.jit(lambda law: (law.coeffs(t), law.lam(t), law.f(t), law.g2(t)))
    truth = jax.tree.leaves(every(Flow()))
    for law in (Kinetic(), Kinetic.from_gamma([0.3, 1.0], [1.0, 1.0])):
        for ours, theirs in zip(jax.tree.leaves(every(law)), truth):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_ends_and_monotone_signal_to_noise(smooth, x64):
    t = np.concatenate([np.geomspace(1e-6, 0.4, 300), 1 - np.geomspace(0.59, 1e-6, 300)])
    for law in (smooth, Kinetic.from_file(DIGITS, *ENDS)):
        run = jax.jit(
            lambda t, law=law: (
                law.coeffs(np.array([0.0, 1.0])),
                law.lam(t),
                law.t_of_lam(law.lam(t)),
            )
        )
        (a, c), lam, back = jax.device_get(run(t))
        np.testing.assert_allclose(a, [1.0, 0.0], atol=1e-12)
        np.testing.assert_allclose(c, [0.0, law.table.scale], atol=1e-12)
        assert np.all(np.diff(lam) < 0.0)
        np.testing.assert_allclose(back, t, rtol=1e-11)
        np.testing.assert_allclose(1 - back, 1 - t, rtol=1e-9)


def test_spline_meets_its_nodes_and_slopes(smooth, x64):
    """`turn` inverts `rise`, and the slope of `rise` is sqrt(gamma).

    At the nodes the spline is exact. Between them its error is of fourth order, far below the error
    of slopes from differences of 64 nodes.
    """
    table = smooth.table
    for half in (0, 1):
        near = np.bool_(half == 0)
        angle, phi = (np.asarray(v[half]) for v in (table.angle, table.phi))
        fine = np.linspace(1e-9, angle[-1], 500)

        @jax.jit
        def run(angle, fine, near=near):
            up = partial(rise, table, near)
            return up(angle), turn(table, near, up(fine)), jax.vmap(jax.grad(up))(fine)

        at_nodes, back, slope = jax.device_get(run(angle, fine))
        np.testing.assert_allclose(at_nodes, phi, atol=1e-15)
        np.testing.assert_allclose(back, fine, rtol=1e-11)
        truth = np.sqrt(smooth_gamma(fine if half == 0 else np.pi / 2 - fine))
        np.testing.assert_allclose(slope, truth, rtol=1e-5)


def test_published_equation_of_the_optimum(smooth, x64):
    """The law solves Theorem 3.1, `r^2 th' = sqrt((b - b^2 / 4) / gamma)`, as Runge-Kutta does."""
    b = bound_of(smooth)
    r2 = lambda t: 1.0 - b * t * (1.0 - t)
    rate = lambda t, th: np.sqrt((b - b**2 / 4) / smooth_gamma(th)) / r2(t)
    t = np.linspace(0.0, 1.0, 41)
    found = solve_ivp(rate, (0.0, 1.0), [0.0], "DOP853", t, rtol=1e-11, atol=1e-12)
    r, angle = polar(smooth, t)
    np.testing.assert_allclose(angle, found.y[0], atol=2e-7)
    assert abs(found.y[0, -1] - np.pi / 2) < 2e-7
    np.testing.assert_allclose(r**2, r2(t), rtol=1e-12)


def test_least_energy_of_all_splines(smooth, x64):
    """The energy along the law is b, and no spline of r and the angle has less.

    A minimisation over such splines from another start finds the same energy and the same path.
    """
    b = bound_of(smooth)
    np.testing.assert_allclose(energy(smooth, smooth_gamma), b, rtol=1e-5)
    knots, t = np.linspace(0.0, 1.0, 9), np.linspace(0.0, 1.0, 201)

    def path(free):
        r = CubicSpline(knots, np.concatenate([[1.0], free[:7], [1.0]]))
        angle = CubicSpline(knots, np.concatenate([[0.0], free[7:], [np.pi / 2]]))
        return r, angle

    def cost(free):
        r, angle = path(free)
        turning = r(t) ** 2 * angle(t, 1) ** 2 * smooth_gamma(angle(t))
        return simpson(r(t, 1) ** 2 + turning, x=t)

    start = np.concatenate([np.ones(7), np.pi / 2 * knots[1:-1]])
    best = minimize(cost, start, method="BFGS")
    assert cost(start) > 1.1 * b
    assert abs(best.fun - b) < 1e-3 * b
    for ours, theirs in zip(polar(smooth, t), path(best.x)):
        np.testing.assert_allclose(ours, theirs(t), atol=5e-3)


@pytest.mark.parametrize("name", ["trig", "flow", "kinetic"])
def test_energy_is_that_of_the_exact_field(name, x64):
    """The energy equals `E |u|^2` by quadrature over x and t of the field itself.

    The data are two points at -1 and 1, so gamma follows from `E[x0 | x] = tanh(x / sigma^2)`.
    """
    z, w = np.polynomial.hermite_e.hermegauss(200)
    w = w / w.sum()

    def gamma(theta):
        sigma = np.tan(theta)[..., None]
        error = (1.0 - np.tanh((1.0 + sigma * z) / sigma**2)) ** 2 @ w
        return 1.0 - error / np.sin(theta) ** 2

    points = Empirical(np.array([[-1.0], [1.0]]))
    theta = np.pi / 2 * np.linspace(0.01, 0.999, 200)
    kinetic = Kinetic.from_gamma(theta, gamma(theta), t0=ENDS[0], t1=ENDS[1])
    law = {"trig": Trigonometric(), "flow": Flow(*ENDS), "kinetic": kinetic}[name]
    nodes, weights = np.polynomial.legendre.leggauss(200)
    # Nodes are denser at the noise, where the field of the optimal law changes fastest.
    root = 0.5 * (nodes + 1.0)
    t, share = 1.0 - root**2, weights * root

    @jax.jit
    @jax.vmap
    def square(t):
        a, c = law.coeffs(t)
        u = points.predict(law)((a + c * z)[:, None], t).velocity[:, 0]
        return u**2 @ w

    direct = share @ np.asarray(square(t))
    np.testing.assert_allclose(energy(law, gamma), direct, rtol=1e-4)


@pytest.mark.optimised
def test_published_and_computed_energies(x64):
    """L and energies of three paths equal figures computed independently, for another draw.

    The data are centred draws of a Gaussian. The figures are L, the energies of the optimal, the
    straight and the trigonometric path, and the distance of a from 1 - t. As n / sqrt(D) falls, the
    optimal path tends to the straight one, whose energy is 2.
    """
    figures = {
        (200, 64): (1.261, 1.391, 1.615, 1.863),
        (50, 784): (1.498, 1.855, 1.905, 2.319),
    }
    off_straight = {(200, 64): 0.26, (50, 784): 0.067}
    t = np.linspace(*ENDS, 501)
    found = {}
    for size in [(200, 2), *figures]:
        law, *found[size] = drawn_energies(*size)
        if size in figures:
            np.testing.assert_allclose(found[size], figures[size], rtol=2e-3)
            off = np.abs(np.asarray(law.coeffs(t).a) - (1.0 - t)).max()
            np.testing.assert_allclose(off, off_straight[size], rtol=0.03)
    for length, best, straight, trig in found.values():
        assert best < min(straight, trig)
        # Where gamma falls to zero, its floor of 1e-4 adds up to 0.01 to L.
        assert best - 1e-4 < 4 * np.sin(length / 2) ** 2 < best + 1e-3
    plane = found[200, 2]
    assert 0.05 < plane[1] < 0.12 and 0.15 < plane[3] < 0.21 and 0.5 < plane[2] < 0.6


def drawn_energies(n, dims):
    """Return the optimal law, L, and the energies of the three paths."""
    x = np.random.default_rng(0).standard_normal((n, dims))
    found = estimate(x - x.mean(0), 64, 4000)
    gamma = PchipInterpolator(found.theta, np.clip(found.gamma, 0.0, 1.0))
    law = Kinetic.from_gamma(*found[:2], t0=ENDS[0], t1=ENDS[1], floor=1e-4)
    energies = [energy(path, gamma) for path in (law, Flow(*ENDS), Trigonometric())]
    return law, law.table.length, *energies


@pytest.mark.parametrize("n, dims", [(2, 1024), (4, 4096)])
def test_bound_on_the_energy_that_few_points_lose(n, dims, x64):
    """Theorem 4.2: the marginal energy is at most `6 M^2 n / sqrt(D)` below the conditional energy.

    It is never above the conditional energy. M is the largest rate of a and c.
    """
    x = np.random.default_rng(0).standard_normal((n, dims))
    found = estimate(x, 40, 1000)
    gamma = PchipInterpolator(found.theta, found.gamma)
    for path, rate in ((Flow(*ENDS), 1.0), (Trigonometric(), np.pi / 2)):
        kept, whole = energy(path, gamma), energy(path, np.ones_like)
        # `int a'^2 + c'^2` in closed form.
        np.testing.assert_allclose(whole, 2.0 if rate == 1.0 else rate**2, rtol=1e-4)
        assert 0.0 < whole - kept < 6.0 * rate**2 * n / dims**0.5 < 0.4 * whole


def test_scale_belongs_to_the_data(x64):
    """A law for data k times as large has k times the noise, and the same energy relative to it."""
    theta = np.linspace(0.0, np.pi / 2, 101)
    one = Kinetic.from_gamma(theta, smooth_gamma(theta))
    two = Kinetic.from_gamma(theta, smooth_gamma(theta), scale=2.0)
    t = np.linspace(1e-5, 0.999, 20)
    every = jax.jit(lambda law: (law.coeffs(t), law.lam(t), law.t_of_lam(law.lam(t))))
    (a, c), lam, _ = jax.device_get(every(one))
    expected = a, 2.0 * c, lam - np.log(2.0), t
    for got, want in zip(jax.tree.leaves(every(two)), expected):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)
    energies = energy(one, smooth_gamma), energy(two, smooth_gamma, 2.0)
    np.testing.assert_allclose(*energies, rtol=1e-9)


def test_digits_table_is_of_the_training_digits():
    """The table that the config names agrees with a new estimate from other draws."""
    stated = json.loads(DIGITS.read_text())
    data = training_data(load(DIGITS.parents[1] / "digits_vp.py"), 50_000, seed=1)
    assert len(data) == stated["examples"] == 1500
    found = estimate(data, 12, 1500, seed=2)
    gamma = np.interp(found.theta, stated["theta"], stated["gamma"])
    bar = np.hypot(found.stderr, np.interp(found.theta, stated["theta"], stated["stderr"]))
    assert np.all(np.abs(found.gamma - gamma) < 4 * bar + 5e-4)
    np.testing.assert_allclose(found.scale, stated["scale"], rtol=1e-3)
    law = Kinetic.from_file(DIGITS)
    np.testing.assert_allclose(law.table.length, stated["length"], atol=1e-5)
    np.testing.assert_allclose(bound_of(law), stated["energy"], atol=1e-5)


def test_file_goes_round(tmp_path, smooth):
    theta = np.linspace(0.0, np.pi / 2, 30)
    found = Separation(theta, smooth_gamma(theta), np.zeros(30), 0.7)
    law = Kinetic.from_gamma(theta, found.gamma, 0.7)
    write(tmp_path / "deep" / "table.json", table(found, law, data="none"))
    read = Kinetic.from_file(tmp_path / "deep" / "table.json", 1e-4, 0.99)
    assert (read.t0, read.t1, read.table.scale) == (1e-4, 0.99, 0.7)
    np.testing.assert_allclose(read.table.phi, law.table.phi, atol=1e-7)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no table .*tools.kinetic_path"),
        ("{", "cannot be read"),
        ('{"theta": [0, 1]}', "cannot be read .*gamma"),
        ('{"theta": [0, 1], "gamma": [1], "scale": 1}', "is wrong.*shape"),
    ],
)
def test_files_that_are_refused(tmp_path, content, message):
    path = tmp_path / "table.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        Kinetic.from_file(path)


@pytest.mark.parametrize(
    "theta, gamma, kwargs, message",
    [
        ([0.0, 1.0], [1.0], {}, "one gamma for each"),
        ([1.0, 0.5], [1.0, 1.0], {}, "rise"),
        ([0.0, 2.0], [1.0, 1.0], {}, "pi / 2"),
        ([0.0, 1.0], [1.0, 1.1], {}, "gamma is 1.1"),
        ([0.0, 1.0], [1.0, np.nan], {}, "gamma is nan"),
        ([0.0, 1.0], [1.0, 1.0], {"floor": 0.0}, "floor is 0.0"),
        ([0.0, 1.0], [1.0, 1.0], {"scale": -1.0}, "scale -1.0"),
    ],
)
def test_numbers_that_are_refused(theta, gamma, kwargs, message):
    with pytest.raises(ValueError, match=message):
        solve(theta, gamma, **kwargs)


def test_same_rescaled_path_as_other_laws(x64):
    """In `x / a`, at the same log-SNR, DDIM on a mixture gives the same states for every law."""
    y = np.exp(3.0) * np.random.default_rng(0).standard_normal((20, 1))

    @jax.jit
    def run(y, lam):
        ends = []
        for law in (Kinetic.from_file(DIGITS), VP()):
            ts = law.t_of_lam(lam)
            a, predict, sampler = law.coeffs(ts).a, M1.predict(law), ddim(law)
            ends.append(sample(KEY, predict, sampler, a[0] * y, ts).x / a[-1])
        return ends

    np.testing.assert_allclose(*run(y, np.linspace(-3.0, 3.0, 21)), atol=1e-12, rtol=1e-11)


def test_velocity_samples_and_weighs_gaussian_data(x64):
    """Heun's method on the velocity converges to the flow map at order 2; log p is good to 1e-5."""
    law = Kinetic.from_file(DIGITS, t1=0.95)
    data = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
    start = float(law.prior_std()) * np.random.default_rng(0).standard_normal((6, 2))
    truth = data.flow_map(law, start, law.t1, 1e-3)
    found = errors(law, data, heun, (64, 256), 1e-3, start, truth)
    assert abs(np.log(found[0] / found[1]) / np.log(4.0) - 2.0) < 0.1
    x, solver = start[:2] + 0.3, Solver("tsit5", 1e-7, 1e-7, variable="lam")
    end = lambda y: data.logp(law, y, law.t1)
    run = jax.jit(
        lambda x: log_likelihood(
            KEY, law, data.predict(law), x, divergence=exact(), solver=solver, prior_logp=end
        )
    )
    np.testing.assert_allclose(run(x).logp, data.logp(law, x, law.t0), atol=1e-5)


def test_flow_matching_finds_the_velocity():
    """The loss of kind "velocity" has its minimum at the mean and spread of the data.

    There its gradient is zero within four standard errors; at other values it is not.
    """
    law, mean, std = Kinetic.from_file(DIGITS), 0.5, 0.8

    def network(params, x, t, dropout_key):
        del dropout_key
        (a, c), rates = law.coeffs(t[:, None]), law.rates(t[:, None])
        d, v = x - a * params[0], a**2 * params[1] ** 2 + c**2
        x0 = params[0] + a * params[1] ** 2 / v * d
        return rates.a * x0 + rates.c * c / v * d

    loss = denoising_loss(law, network, "velocity", "t", stratify=True)

    @jax.vmap
    def gradients(key):
        data_key, key = jax.random.split(key)
        batch = {"x0": mean + std * jax.random.normal(data_key, (64, 2))}
        places = jnp.array([[mean, std], [mean + 0.1, std], [mean, 1.1 * std]])
        return jax.vmap(jax.grad(lambda p: loss(p, None, key, batch)[0]))(places)

    found = np.asarray(jax.jit(lambda: gradients(jax.random.split(KEY, 400)))(), np.float64)
    score = found.mean(0) / (found.std(0) / 400**0.5)
    assert np.all(np.abs(score[0]) < 4.0) and np.abs(score[1, 0]) > 8.0 and score[2, 1] > 8.0


def test_a_table_is_a_constant_of_the_program():
    """The only leaves are t0 and t1, so the law is traced, mapped and hashed like any other."""
    law = Kinetic.from_file(DIGITS)
    assert jax.tree.leaves(law) == [law.t0, law.t1]
    assert law == Kinetic.from_file(DIGITS) and hash(law) == hash(Kinetic.from_file(DIGITS))
    traced = jax.jit(lambda law, t: law.coeffs(t))(law, 0.5)
    np.testing.assert_allclose(traced, law.coeffs(0.5), rtol=1e-6)
