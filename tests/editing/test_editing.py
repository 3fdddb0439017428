"""Editing: noise by region, energies, time travel and SDEdit, on data with known laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Empirical, Gaussian
from linear_gaussian import EPS, LAWS, PAIR, PRIOR, D, covariance_error

from editing import Travel, edit_grid, flow_edit, regional, sdedit, time_travel
from guidance import energy_guidance
from operators import blur
from samplers import Span, State, ancestral, ddim, heun, make_grid, sample
from sde_lib import VP, DoubleWell

KEY = jax.random.key(0)
ETA = np.array([1.0, 0.0])


def without_drift(path, eta):
    """Return a wrong sampler, which adds noise without reducing the direction term."""

    def step(key, predict, state, span):
        t, s = span.t, span.s
        x, prediction = state.x, predict(state.x, t)
        a, c = path.coeffs(s)
        std = eta * path.forward_step(s, t).q * c / path.coeffs(t).c
        return State(a * prediction.x0 + c * prediction.eps + std * path.noise(key, x))

    return ddim(path)._replace(step=step)


def from_the_prior(sampler, law, eps, n):
    """Return samples of PAIR in 300 steps from exact starts, as float64."""
    ts = make_grid("uniform_lam", law, 300, eps)
    start = np.random.default_rng(0).multivariate_normal(*PAIR.moments(law, law.t1), n)
    run = jax.jit(lambda x: sample(KEY, PAIR.predict(law), sampler, x, ts).x)
    return np.asarray(run(start), np.float64)


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_noise_by_region_keeps_the_law(name):
    """Noise by region keeps the law, with correlations of noisy and noiseless coordinates."""
    law, n = LAWS[name], 10_000
    mean, cov = PAIR.moments(law, EPS[name])
    x = from_the_prior(regional(law, ETA), law, EPS[name], n)
    assert np.all(np.abs(np.cov(x.T) - cov) < 4.0 * covariance_error(cov, n))
    assert np.all(np.abs(x.mean(0) - mean) < 4.0 * np.sqrt(np.diag(cov) / n))


def test_noise_without_its_drift_widens_the_law():
    """The test above would notice noise without its drift."""
    x = from_the_prior(without_drift(VP(), ETA), VP(), EPS["vp"], 1000)
    assert np.cov(x.T)[0, 0] > 2.0 * PAIR.moments(VP(), EPS["vp"])[1][0, 0]


def test_the_ends_of_eta(x64):
    """eta = 1 is ancestral sampling and eta = 0 is DDIM; each coordinate has its own eta."""
    law, x = VP(), np.random.default_rng(0).standard_normal((3, 2))
    samplers = {
        "one": regional(law, 1.0),
        "zero": regional(law, np.zeros(2)),
        "mixed": regional(law, np.array([0.3, 0.7])),
        "half": regional(law, ETA),
        "later": regional(law, lambda t: jnp.where(t > 0.45, ETA, 0.0)),
        "ancestral": ancestral(law),
        **{eta: ddim(law, eta) for eta in (0.0, 0.3, 0.7)},
    }
    step = jax.jit(
        lambda t, s: [
            each.step(KEY, PAIR.predict(law), State(x), Span(t, s)).x for each in samplers.values()
        ]
    )
    high, low = (dict(zip(samplers, jax.device_get(step(t, 0.8 * t)))) for t in (0.5, 0.4))
    np.testing.assert_allclose(high["one"], high["ancestral"], rtol=1e-9)
    np.testing.assert_allclose(high["zero"], high[0.0], rtol=1e-12)
    np.testing.assert_allclose(high["mixed"][:, 0], high[0.3][:, 0], rtol=1e-12)
    np.testing.assert_allclose(high["mixed"][:, 1], high[0.7][:, 1], rtol=1e-12)
    np.testing.assert_allclose(high["later"], high["half"], rtol=1e-12)
    np.testing.assert_allclose(low["later"], low[0.0], rtol=1e-12)


@pytest.mark.parametrize(("name", "solver", "order"), [("flow", ddim, 1), ("ve", heun, 3)])
def test_inverting_and_regenerating_returns(name, solver, order, x64):
    """Inverting and regenerating returns the image, with an error of the order of a round trip.

    Each solver has another law. A test below has a flow edit on VP.
    """
    law, x = LAWS[name], PRIOR.draw(np.random.default_rng(0), 8)
    predict, errors = PRIOR.predict(law), []
    for steps in (64, 128):
        ts = edit_grid(law, 0.6, steps=steps, grid="uniform_lam", eps=EPS[name])
        run = lambda x, ts=ts: flow_edit(law, predict, predict, x, ts, solver=solver(law))
        result = jax.device_get(jax.jit(run)(x))
        errors.append(np.abs(result.x - x).max())
        assert result.nfe == 2 * steps * solver(law).nfe
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)
    assert 1e-9 < errors[1] < 0.1


def test_two_flows_carry_from_one_law_to_another(x64):
    """Going up one Gaussian's flow and down another's is the composition of their flow maps."""
    law, eps, strength = VP(), 1e-3, 0.7
    other = Gaussian(np.array([-1.0, 0.3]), np.array([[0.3, -0.1], [-0.1, 0.6]]))
    x = PAIR.draw(np.random.default_rng(0), 5)
    ts = edit_grid(law, strength, steps=200, grid="uniform_lam", eps=eps)
    run = lambda x: flow_edit(law, PAIR.predict(law), other.predict(law), x, ts).x
    up = PAIR.flow_map(law, x, eps, strength)
    np.testing.assert_allclose(jax.jit(run)(x), other.flow_map(law, up, strength, eps), atol=1e-3)


def travel(law, x, ts, repeats, guide=None, every=1, **options):
    """Run DDIM with repeats of the steps between t = 0.3 and 0.7."""
    predict, travel = PAIR.predict(law), Travel((0.3, 0.7), repeats, every)
    return time_travel(KEY, law, predict, ddim(law), x, ts, travel=travel, guide=guide, **options)


def test_time_travel_alone_changes_nothing(x64):
    """Time travel without a guide changes nothing, up to an error that falls like one over steps.

    The number of evaluations is the stated one.
    """
    law, x = VP(), np.random.default_rng(0).standard_normal((8, 2))
    moved, plain = [], []
    for steps in (50, 100):
        ts = make_grid("uniform_lam", law, steps, 1e-3)
        run = lambda x, ts: (
            *(travel(law, x, ts, repeats) for repeats in (1, 4)),
            sample(KEY, PAIR.predict(law), ddim(law), x, ts).x,
        )
        once, often, untravelled = jax.device_get(jax.jit(run)(x, ts))
        np.testing.assert_allclose(once.x, untravelled, rtol=1e-13)
        window = int(0.4 * steps)
        assert (once.nfe, often.nfe) == (steps, steps + 3 * 2 * window)
        moved.append(np.abs(often.x - once.x).max())
        plain.append(np.abs(once.x - PAIR.flow_map(law, x, law.t1, 1e-3)).max())
    # Each of the three returns adds the errors of a step back and a step down.
    assert 1e-5 < moved[1] < moved[0] < 6.0 * plain[0]
    assert np.log2(moved[0] / moved[1]) == pytest.approx(1.0, abs=0.2)


def test_more_repeats_lower_the_energy():
    """The energy falls with more repeats: no guide, one pass, some repeats, and all eight times.

    In the third run every other step of the window is taken three times, and the run ends with the
    conditional mean.
    """
    law, target = VP(), 2.5
    x = np.random.default_rng(0).standard_normal((64, 2))
    energy = lambda x0: 0.5 * (x0[:, 0] - target) ** 2
    ts = make_grid("uniform_lam", law, 40, 1e-3)

    def run(x, weight, repeats, **options):
        guide = energy_guidance(law, lambda x0, t: weight * energy(x0), 0.2)
        return travel(law, x, ts, repeats, guide, **options)

    once = jax.jit(lambda x, weight: run(x, weight, 1))
    half = jax.jit(lambda x: run(x, 1.0, 3, every=2, denoise=True))
    often = jax.jit(lambda x: run(x, 1.0, 8))
    found = jax.device_get([once(x, 0.0), once(x, 1.0), half(x), often(x)])
    assert np.all(np.diff([energy(each.x).mean() for each in found]) < -0.05)
    assert found[2].nfe == 40 + 8 * 2 * 2 + 1


def test_an_energy_is_a_likelihood(x64):
    """The guide of the energy `|y - x0|^2 / (2 n^2)` is DPS.

    An energy of the state x adds its gradient to the score. A scale of zero changes nothing.
    """
    law, t, noise = VP(), 0.4, 0.3
    y = np.array([0.3, -1.0])
    x = np.random.default_rng(0).standard_normal((3, 2))
    predict = PAIR.predict(law)
    energy = lambda x, t: 0.5 * jnp.sum((x - y) ** 2, axis=1) / noise**2
    through = lambda x: -energy(predict(x, t).x0, t).sum()
    guides = {
        of: [
            energy_guidance(law, energy, 0.7, of=of, plain_eps=kept)(predict)
            for kept in (False, True)
        ]
        for of in ("x0", "x")
    }
    still = energy_guidance(law, energy, 0.0)(predict)

    def run(x):
        found = {of: [guide(x, t) for guide in pair] for of, pair in guides.items()}
        return predict(x, t), jax.grad(through)(x), still(x, t), found

    plain, gradient, still, found = jax.device_get(jax.jit(run)(x))
    for of, pull in (("x0", gradient), ("x", (y - x) / noise**2)):
        guided, kept = found[of]
        np.testing.assert_allclose(guided.score, plain.score + 0.7 * pull, rtol=1e-10)
        a, c = (float(v) for v in law.coeffs(t))
        np.testing.assert_allclose(a * guided.x0 + c * guided.eps, x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(kept.eps, plain.eps, rtol=1e-14)
        np.testing.assert_allclose(kept.x0, guided.x0, rtol=1e-14)
    np.testing.assert_allclose(still.score, plain.score)


def test_windows():
    """A window in time or in log-SNR applies for each example's time.

    Energies that are not finite outside the window do no harm.
    """
    law, t, x = VP(), np.array([0.2, 0.5, 0.8]), np.ones((3, 2))
    energy = lambda x, t: jnp.sum(x, axis=1) / (t < 0.7)
    lam = tuple(float(law.lam(u)) for u in (0.6, 0.4))
    guides = [
        energy_guidance(law, energy, 1.0, of="x", **options)(PAIR.predict(law))
        for options in ({"window": (0.4, 0.6)}, {"window": lam, "variable": "lam"})
    ]
    run = lambda x, t: [each(x, t).score for each in (PAIR.predict(law), *guides)]
    plain, *guided = jax.device_get(jax.jit(run)(x, t))
    for score in guided:
        wanted = [[0.0, 0.0], [-1.0, -1.0], [0.0, 0.0]]
        np.testing.assert_allclose(score - plain, wanted, atol=1e-5)


def test_regional_gradients(x64):
    """An edit's gradient is zero where m = 0, and a mask lowers the change outside.

    With a content energy the gradients are blended by m.
    """
    law, x = VP(), np.random.default_rng(0).standard_normal((16, D))
    ts = make_grid("uniform_lam", law, 60, 1e-3)
    edit = lambda x0, t: 0.5 * jnp.sum((x0 - 3.0) ** 2, axis=1)
    content = lambda x0, t: 0.5 * jnp.sum((x0 + 1.0) ** 2, axis=1)
    predict, m = PRIOR.predict(law), np.array([1.0, 1.0, 0.25, 0.0, 0.0, 0.0])
    guides = [
        energy_guidance(law, edit),
        energy_guidance(law, content),
        energy_guidance(law, edit, content=content, mask=m),
        energy_guidance(law, edit, mask=m),
    ]
    pull = lambda x: [guide(predict)(x, 0.5).score - predict(x, 0.5).score for guide in guides]
    one, two, both, masked = jax.device_get(jax.jit(pull)(x))
    np.testing.assert_allclose(both, m * one + (1 - m) * two, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(masked[:, 3:], 0.0, atol=1e-12)
    assert np.abs(one[:, 3:]).min() > 1e-3

    @jax.jit
    def ends(x, weight):
        energy = lambda x0, t: weight * edit(x0, t)
        guides = [energy_guidance(law, energy, 0.3, mask=mask) for mask in (None, m)]
        return [sample(KEY, guide(predict), ddim(law), x, ts).x for guide in guides]

    plain, (free, tied) = jax.device_get([ends(x, 0.0)[0], ends(x, 1.0)])
    free, tied = free - plain, tied - plain
    outside = [np.linalg.norm(v[:, 3:]) for v in (free, tied)]
    assert outside[1] < 0.7 * outside[0] and np.linalg.norm(tied[:, :2]) > 0.1


SIZE, LEVELS = 16, (0.0, 0.5, 1.0)


def picture(row, column, level):
    """Return an image of a blob, and a stripe at the lower edge that an edit should keep."""
    i, j = np.mgrid[:SIZE, :SIZE]
    image = np.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * 1.5**2))
    image[-2:] = level
    return image


def test_a_blob_is_moved():
    """An edit moves the blob to the minimum of an energy of blurred images, and keeps the rest."""
    law, eps = VP(), 1e-3
    places = [(r, c) for r in range(3, 11) for c in range(3, 13)]
    labels = [(r, c, level) for r, c in places for level in LEVELS]
    data = Empirical(np.stack([picture(*label).ravel() for label in labels]))
    predict = data.predict(law)
    sources, target = [(4, 4, 0.5), (9, 4, 1.0), (8, 8, 0.0)], (5, 11)
    images = np.stack([picture(*label) for label in sources])[..., None]
    wanted = picture(*target, 0.0)[None, ..., None]
    smooth = blur((SIZE, SIZE, 1), 1.0).forward
    near = np.zeros((SIZE, SIZE, 1))
    near[:-3] = 1.0
    distance = lambda x, y, m: jnp.sum(m * (smooth(x) - smooth(y)) ** 2, axis=(1, 2, 3))
    ts = np.asarray(make_grid("uniform_lam", law, 50, eps))
    first, last = ts[10], ts[20]

    @jax.jit
    def run(images, weight):
        """Edit the images; with weight 0 there is neither an edit nor noise."""
        edit = lambda x0, t: weight * distance(x0, wanted, near)
        content = lambda x0, t: weight * distance(x0, images, 1.0 - near)
        eta = lambda t: weight * jnp.where((last < t) & (t <= first), 0.4, 0.0) * near
        up = sample(KEY, predict, heun(law), images, ts[::-1]).x
        guide = energy_guidance(law, edit, 4.0, content=content, mask=near)
        return time_travel(
            KEY, law, predict, regional(law, eta), up, ts,
            travel=Travel(), guide=guide, denoise=True,
        ).x  # fmt: skip

    kept, moved = (np.asarray(run(images, weight)).reshape(3, -1) for weight in (0.0, 1.0))
    find = lambda x: [labels[i] for i in ((x[:, None] - data.points) ** 2).sum(-1).argmin(1)]
    assert find(kept) == sources
    assert find(moved) == [(*target, level) for _, _, level in sources]
    exact = np.stack([picture(*target, level).ravel() for _, _, level in sources])
    assert np.abs(moved - exact).max() < 0.05


LAW, TS, X = VP(), np.linspace(1.0, 1e-3, 11), np.zeros((2, 2))
FLAT = lambda x, t: jnp.sum(x, axis=1)
EXACT = PAIR.predict(LAW)
go = lambda ts=TS, **options: time_travel(
    KEY, LAW, EXACT, ddim(LAW), X, ts, travel=Travel(**options)
)
edit = lambda strength, keep=None, **options: sdedit(
    KEY, LAW, EXACT, ddim(LAW), X, edit_grid(LAW, strength, **options), keep=keep
)
CASES = [
    (lambda: regional(LAW, 1.5), r"eta goes from 1.5 to 1.5"),
    (lambda: regional(LAW, np.array([0.0, -1.0])), r"eta goes from -1.0 to 0.0"),
    (lambda: regional(DoubleWell(), 0.5), r"DoubleWell has no coeffs\(t\)"),
    (lambda: go(window=(0.5, 0.2)), r"The window is \(0.5, 0.2\)"),
    (lambda: go(window=(0.5, 1.2)), r"rising parts of the grid"),
    (lambda: go(repeats=0), "repeats is 0 and every 1"),
    (lambda: go(every=0), "repeats is 3 and every 0"),
    (lambda: go(np.stack([TS, TS], 1)), r"shape \(11, 2\)"),
    (lambda: energy_guidance(DoubleWell(), FLAT), r"DoubleWell has no coeffs\(t\)"),
    (lambda: energy_guidance(LAW, FLAT, np.nan), "scale of an energy is nan"),
    (lambda: energy_guidance(LAW, FLAT, of="eps"), "An energy is of 'eps'"),
    (lambda: energy_guidance(LAW, FLAT, variable="sigma"), "variable is 'sigma'"),
    (lambda: energy_guidance(LAW, FLAT, content=FLAT), "no mask; say where"),
    (lambda: energy_guidance(LAW, FLAT, mask=np.array([0.0, 2.0])), "mask goes from 0 to 2"),
    (lambda: energy_guidance(LAW, FLAT, window=(1.0, 0.0)), r"The window is \(1.0, 0.0\)"),
    (lambda: edit(0.0), "strength is 0.0; in units of 'part' .* at most 1"),
    (lambda: edit(1.2), "strength is 1.2"),
    (lambda: edit(1e4, unit="sigma"), "in units of 'sigma' .* at most 152"),
    (lambda: edit(0.5, unit="steps"), "unit is 'steps'; it must be one of part, sigma"),
    (lambda: edit(0.5, eps=0.6), "sampling.eps is 0.6"),
    (lambda: edit(0.5, keep=np.ones(3)), r"mask has shape \(3,\)"),
    (lambda: flow_edit(DoubleWell(), EXACT, EXACT, X, TS), r"DoubleWell has no coeffs\(t\)"),
]


@pytest.mark.parametrize(("build", "message"), CASES)
def test_each_refusal_has_its_sentence(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
