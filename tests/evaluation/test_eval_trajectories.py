"""The geometry of trajectories against closed forms and reference values for the 8x8 digits.

The reference values and their problem are in `benchmarks/samplers/geometry.py`. The values were
computed independently, with other starts.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Gaussian
from scipy import stats
from scipy.special import logsumexp

from benchmarks.samplers import geometry
from evaluation.tasks.recording import record
from evaluation.tasks.trajectories import (
    chord,
    curves,
    deviation,
    energy_distance,
    principal_shares,
    summary,
    trajectory,
    turning,
)
from exact.empirical import empirical_predict, points, posterior
from samplers import ddim, make_grid
from sde_lib import EDM, VE, VP, SubVP

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
LAW = EDM(t0=0.01, t1=20.0)
TELL = jax.jit(posterior)


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


@pytest.fixture(scope="module")
def digits():
    """The reference run with the optimal denoiser, and a run with the denoiser of the Gaussian that
    has the data's moments."""
    with jax.enable_x64(True):
        return geometry.measure()


@pytest.fixture(scope="module")
def numbers(digits):
    return summary(digits.deviation.optimal, digits.told)


@pytest.mark.optimised
def test_the_reference_figures(digits):
    """Each value is within 4 standard errors of the difference of two such means, plus half of the
    last digit of the reference."""
    rows = geometry.rows(digits)
    assert sum(len(row.found) for row in rows) == 24
    for row in rows:
        assert np.all(row.errors() < 4.0), row
    levels = [20.0, 4.1, 2.2, 1.1, 0.51, 0.22]
    sigma = digits.deviation.optimal.sigma[geometry.JUMP_NODES]
    np.testing.assert_allclose(sigma, levels, rtol=0.02)


def test_an_error_is_in_standard_errors_and_after_rounding():
    row = geometry.Row("a", ["0.30", "2"], np.array([0.315, 2.4]), np.array([0.01, 0.1]))
    np.testing.assert_allclose(row.errors(), [0.01 / 0.01 / np.sqrt(2.0), 0.0], atol=1e-9)


def test_the_summary_is_of_the_curves(digits, numbers):
    """The command's summary agrees with the rows of the benchmark for the same run."""
    chords, _, largest, _, _, _, price, shares, nearest = (
        row.found for row in geometry.rows(digits)[:9]
    )
    assert numbers["state"]["chord"] == pytest.approx(chords[0])
    assert numbers["state"]["largest_deviation_to_chord"] == pytest.approx(largest[0])
    to_end = np.array(numbers["denoised"]["to_end"])[geometry.JUMP_NODES]
    np.testing.assert_allclose(to_end, price)
    np.testing.assert_allclose(numbers["state"]["principal_shares"], shares)
    assert numbers["nearest"]["state_end"] == pytest.approx(nearest[0])


def test_the_density_rises_with_every_step(numbers):
    """At a fixed bandwidth the density rises in all 11700 steps, and from states to outputs."""
    assert numbers["falls"] == {"of": 11700, "step": 0, "denoised": 0}


def test_densities_are_compared_at_the_bandwidth_of_the_earlier_node(digits):
    """In the middle of the runs the densities agree with a kernel density estimate written here."""
    data, optimal, told = digits.data, digits.deviation.optimal, digits.told
    node, sigma = 20, optimal.sigma[20]

    def logp(y):
        d2 = np.sum((y[:, None] - data[None]) ** 2, axis=2)
        norm = np.log(len(data)) + 32 * np.log(2 * np.pi * sigma**2)
        return logsumexp(-d2 / (2 * sigma**2), axis=1) - norm

    here = logp(optimal.y[node])
    np.testing.assert_allclose(told["density_logp"][node], here, rtol=1e-10)
    step = logp(optimal.y[node + 1]) - here
    np.testing.assert_allclose(told["density_step"][node], step, rtol=1e-8)
    gain = logp(optimal.d[node]) - here
    np.testing.assert_allclose(told["density_denoised"][node], gain, rtol=1e-8)
    apart = np.linalg.norm(optimal.d[node][:, None] - data[None], axis=2)
    np.testing.assert_array_equal(told["density_index"][node], apart.argmin(1))
    np.testing.assert_allclose(told["density_distance"][node], apart.min(1), rtol=1e-7, atol=1e-9)


@pytest.mark.optimised
def test_it_still_rises_with_a_denoiser_that_is_off_but_not_with_one_far_off(digits):
    """If `|D - D*| <= |D* - x|`, the density rises to the output and along the way to it.

    At 0.9 of this bound neither steps nor outputs lower the density. At 1.5 every output lowers it
    and no step does. A step goes only `r = 1 - sigma' / sigma` of the way, so it lowers the density
    first at `(1 - r)^2 + 1.5^2 r^2 > 1`.
    """
    assert geometry.displaced(digits, 0.9) == (0, 0)
    assert geometry.displaced(digits, 1.5) == (0, 39 * geometry.RUNS)
    sigma = digits.deviation.optimal.sigma
    r = 1.0 - sigma[1:] / sigma[:-1]
    assert np.all((1.0 - r) ** 2 + 1.5**2 * r**2 < 1.0)


def test_the_optimal_run_ends_on_a_training_example_and_the_gaussian_one_does_not(digits):
    """The last output is the training example `index`, and the distance of the last state is
    measured from it. The Gaussian run ends, in the median, more than 2 away from any example."""
    optimal, told = digits.deviation.optimal, digits.told
    index = told["density_index"][-1]
    np.testing.assert_allclose(optimal.d[-1], digits.data[index], atol=1e-12)
    assert told["density_distance"][-1].max() < 1e-12
    radius = np.linalg.norm(optimal.y[-1] - digits.data[index], axis=1)
    np.testing.assert_allclose(told["density_state_distance"][-1], radius, rtol=1e-9)
    end = TELL(LAW, digits.ready, digits.deviation.learned.d[-1], 0.01)
    assert np.median(end.distance) > 2.0


def test_both_near_the_end_all_the_way(digits, numbers):
    assert np.all(np.diff(numbers["state"]["to_end"]) < 0)
    moving = np.diff(numbers["denoised"]["to_end"])
    # Below 0.2 every output is constant, and the distance is the noise left at the end.
    sigma = digits.deviation.optimal.sigma[1:]
    assert np.all(moving[sigma > 0.2] < 0) and np.all(np.abs(moving[-10:]) < 1e-4)


def test_states_have_the_norm_of_data_with_noise(digits):
    """Along the flow `E|y_n|^2 = E|x0|^2 + sigma_n^2 D`. The error of 40 Euler steps is 2 %. The
    outputs start at the norm of the data's mean and end at the norm of examples."""
    low, high = geometry.magnitude(digits)
    assert 0.97 < low < high < 1.01
    norm = digits.told["norm_denoised"].mean(1)
    assert norm[0] == pytest.approx(np.linalg.norm(digits.data.mean(0)), rel=0.01)
    examples = np.linalg.norm(digits.data[digits.told["density_index"][-1]], axis=1)
    assert norm[-1] == pytest.approx(examples.mean())


def test_score_deviation(digits):
    """The deviation is about zero at large noise, where all data look Gaussian. At small noise it
    is as large as distances between data. It grows before the states of the two runs differ."""
    found, optimal = digits.deviation, digits.deviation.optimal
    assert found.denoiser[0].mean() < 0.02 and found.paths[0].max() == 0.0
    assert np.all(np.diff(found.outputs.mean(1)[:24]) > 0)
    assert found.denoiser[-1].mean() > 2.0
    assert np.all(found.paths.mean(1)[1:30] < found.outputs.mean(1)[1:30])
    # At the same state the outputs differ as the formulas of the two denoisers do.
    node = 20
    y = found.learned.y[node]
    d = np.sum((y[:, None] - digits.data[None]) ** 2, axis=2) / (2 * optimal.sigma[node] ** 2)
    share = np.exp(d.min(1, keepdims=True) - d)
    best = share @ digits.data / share.sum(1, keepdims=True)
    apart = np.linalg.norm(found.learned.d[node] - best, axis=1)
    np.testing.assert_allclose(found.denoiser[node], apart, rtol=1e-9)


def test_curves_are_those_of_every_law():
    """At equal noise levels VP, sub-VP and VE have the same path in x / a, so the same curves."""
    data, sigma = points(normal(40, 5), block=16), np.geomspace(20.0, 0.05, 16)
    y = 20.0 * normal(7, 5)

    @jax.jit
    def run(data, y):
        told = []
        for law in (VE(), VP(), SubVP()):
            ts = law.t_of_lam(-jnp.log(sigma))
            x = law.coeffs(ts[0]).a * y
            told.append(record(KEY, empirical_predict(law, data), ddim(law), x, ts))
        return told

    laws = (VE(), VP(), SubVP())
    paths = [trajectory(law, found) for law, found in zip(laws, run(data, y))]
    told = [curves(path, data) for path in paths]
    np.testing.assert_allclose(paths[1].sigma, sigma, rtol=1e-10)
    for name, first in told[0].items():
        for other in told[1:]:
            np.testing.assert_allclose(other[name], first, rtol=1e-6, atol=1e-9, err_msg=name)


def test_deviation_on_gaussian_data():
    """Along a direction of variance L a state is scaled by `sqrt((L + sigma^2) / (L + sigma_T^2))`.

    The recorded path has Euler steps on a fine grid. Its deviation from the chord agrees with that
    of the exact curve to first order in the step.
    """
    L, U = np.linalg.eigh(np.array([[2.0, 0.3], [0.3, 0.1]]))
    data = Gaussian(np.array([0.4, -0.7]), (U * L) @ U.T)
    errors = []
    for steps in (200, 400):
        ts = make_grid("karras", LAW, steps, 0.01)
        x = 20.0 * normal(20, 2)
        run = jax.jit(lambda x, ts=ts: record(KEY, data.predict(LAW), ddim(LAW), x, ts))
        path = trajectory(LAW, run(x))
        gain = np.sqrt((L + path.sigma[:, None] ** 2) / (L + 20.0**2))
        exact = data.mean + (gain[:, None] * ((x - data.mean) @ U)[None]) @ U.T
        # The distance from a line in the plane is a cross product divided by the chord.
        rest, ends = exact - exact[-1], exact[0] - exact[-1]
        truth = np.abs(rest[..., 0] * ends[:, 1] - rest[..., 1] * ends[:, 0]) / chord(exact)
        errors.append(np.max(np.abs(deviation(path.y) - truth)) / np.max(truth))
    assert errors[1] < 0.02 and 1.7 < errors[0] / errors[1] < 2.3, errors


def test_curvature_is_the_change_of_the_denoiser():
    """`d2y / dsigma2 = -(1 / sigma) dD / dsigma`.

    The slope of an Euler step is exactly `(y_n - D_n) / sigma_n`. For a mixture's flow the second
    differences agree with the formula to first order in the step.
    """
    defects = []
    for steps in (200, 400, 800):
        ts = np.linspace(3.0, 0.3, steps + 1)
        x = np.array([[-2.0], [0.3], [2.5]])
        run = jax.jit(lambda x, ts=ts: record(KEY, M1.predict(LAW), ddim(LAW), x, ts))
        path = trajectory(LAW, run(x))
        sigma, h = path.sigma[:, None, None], path.sigma[0] - path.sigma[1]
        slope = np.diff(path.y, axis=0) / np.diff(sigma, axis=0)
        np.testing.assert_allclose(slope, (path.y - path.d)[:-1] / sigma[:-1], rtol=1e-8, atol=1e-9)
        bend = (path.y[2:] - 2 * path.y[1:-1] + path.y[:-2]) / h**2
        change = (path.d[:-2] - path.d[2:]) / (2 * h)
        defects.append(np.max(np.abs(bend + change / sigma[1:-1])) / np.max(np.abs(bend)))
    ratios = np.array(defects[:-1]) / defects[1:]
    assert np.all(np.abs(ratios - 2.0) < 0.2) and defects[-1] < 0.02, (defects, ratios)


def test_known_curves():
    """A half circle has a known height, turning and two principal directions. A straight line has
    no deviation and one direction."""
    angle = np.linspace(0.0, np.pi, 61)
    arc = np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)[:, None]
    np.testing.assert_allclose(deviation(arc)[:, 0], np.sin(angle), atol=1e-12)
    np.testing.assert_allclose(chord(arc), 2.0)
    np.testing.assert_allclose(turning(arc), np.pi / 60, rtol=1e-9)
    shares = principal_shares(arc)
    assert shares[0, 0] < 0.9 and shares[1, 0] == pytest.approx(1.0, abs=1e-12)
    line = np.linspace(3.0, 1.0, 9)[:, None, None] * np.array([1.0, 2.0, 2.0])
    assert deviation(line).max() < 1e-12 and principal_shares(line)[0, 0] == pytest.approx(1.0)
    assert np.isnan(turning(np.zeros((4, 1, 3)))).all()
    # After a corner the path is at rest and moves only by rounding, so its turning is nan.
    corner = np.array([[2.0, 0], [1, 0], [1, 1], [1, 1 + 1e-7], [1 + 1e-7, 1 + 1e-7]])[:, None]
    np.testing.assert_allclose(turning(corner)[:, 0], [np.pi / 2, np.nan, np.nan])


def test_energy_distance_of_numbers():
    """SciPy's energy distance of numbers is the root of the squared distance. It counts all pairs,
    including those of an example with itself, so it is corrected here."""
    x, y = normal(80), 0.3 + 1.5 * normal(140)[60:]
    pairs = lambda v: np.abs(v[:, None] - v[None]).sum() / len(v) ** 2 / (len(v) - 1)
    biased = stats.energy_distance(x, y) ** 2
    found = energy_distance(x[:, None], y[:, None])
    np.testing.assert_allclose(found, biased - pairs(x) - pairs(y), rtol=1e-9)


def test_a_grid_per_example_is_refused():
    wrong = type("", (), {"t": np.ones((3, 2))})
    with pytest.raises(ValueError, match="one grid for all"):
        trajectory(LAW, wrong)
