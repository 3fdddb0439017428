"""Editing: noise by region, energies, time travel and SDEdit, on data whose laws are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Empirical, Gaussian
from linear_gaussian import EPS, LAWS, PRIOR, D

from guidance import edit_time, energy_guidance, flow_edit, regional, sdedit, time_travel
from guidance.operators import blur
from samplers import State, ancestral, ddim, heun, make_grid, sample
from sde_lib import VE, VP, DoubleWell, example_keys

KEY = jax.random.key(0)
PAIR = Gaussian(np.array([0.5, -0.2]), np.array([[1.0, 0.8], [0.8, 1.0]]))
ETA = np.array([1.0, 0.0])


def without_drift(path, eta):
    """Wrong: the noise is added, and nothing taken from the direction for it."""

    def step(key, predict, state, t, s):
        x, prediction = state.x, predict(state.x, t)
        a, _, c = path.coeffs(s)
        std = eta * path.forward_step(s, t).q * c / path.coeffs(t).c
        return State(a * prediction.x0 + c * prediction.eps + std * path.noise(key, x))

    return ddim(path)._replace(step=step)


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_noise_by_region_keeps_the_law(name):
    """Correlations between a noisy and a noiseless coordinate included."""
    law, n = LAWS[name], 20_000
    ts = make_grid("uniform_lam", law, 300, EPS[name])
    mean, cov = PAIR.moments(law, law.t1)
    start = np.random.default_rng(0).multivariate_normal(mean, cov, n)
    start = jnp.asarray(start, jnp.float32)
    go = lambda sampler: jax.jit(lambda x: sample(KEY, PAIR.predict(law), sampler, x, ts).x)(start)
    mean, cov = PAIR.moments(law, EPS[name])
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    x = np.asarray(go(regional(law, ETA)), np.float64)
    assert np.all(np.abs(np.cov(x.T) - cov) < 4.0 * error)
    assert np.all(np.abs(x.mean(0) - mean) < 4.0 * np.sqrt(np.diag(cov) / n))
    wrong = np.cov(np.asarray(go(without_drift(law, ETA)), np.float64).T)
    assert wrong[0, 0] > 2.0 * cov[0, 0]


def test_the_ends_of_eta(x64):
    """1 is the posterior variance of ancestral sampling, 0 is DDIM; between them each for itself,
    with the same noise."""
    law, t, s = VP(), jnp.asarray(0.5), jnp.asarray(0.4)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    step = lambda sampler: sampler.step(KEY, PAIR.predict(law), State(x), t, s).x
    np.testing.assert_allclose(step(regional(law, 1.0)), step(ancestral(law)), rtol=1e-9)
    np.testing.assert_allclose(step(regional(law, np.zeros(2))), step(ddim(law)), rtol=1e-12)
    mixed = step(regional(law, np.array([0.3, 0.7])))
    np.testing.assert_allclose(mixed[:, 0], step(ddim(law, 0.3))[:, 0], rtol=1e-12)
    np.testing.assert_allclose(mixed[:, 1], step(ddim(law, 0.7))[:, 1], rtol=1e-12)
    later = regional(law, lambda t: jnp.where(t > 0.45, ETA, 0.0))
    np.testing.assert_allclose(step(later), step(regional(law, ETA)), rtol=1e-12)
    low = later.step(KEY, PAIR.predict(law), State(x), s, 0.5 * s).x
    plain = ddim(law).step(KEY, PAIR.predict(law), State(x), s, 0.5 * s).x
    np.testing.assert_allclose(low, plain, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "solver", "order"), [("vp", ddim, 1), ("ve", heun, 3), ("flow", heun, 3)]
)
def test_inverting_and_regenerating_returns(name, solver, order, x64):
    """The image comes back with an error that falls at the order of a round trip."""
    law = LAWS[name]
    x = jnp.asarray(PRIOR.draw(np.random.default_rng(0), 8))
    predict, errors = PRIOR.predict(law), []
    for steps in (64, 128):
        run = lambda x, steps=steps: flow_edit(
            law, predict, predict, x, 0.6, solver=solver(law), steps=steps, eps=EPS[name]
        )
        result = jax.jit(run)(x)
        errors.append(np.abs(result.x - x).max())
        assert result.nfe == 2 * steps * solver(law).nfe
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)
    assert 1e-9 < errors[1] < 0.1


def test_two_flows_carry_from_one_law_to_another(x64):
    """Up the flow of one Gaussian and down that of another: the composition of the closed maps."""
    law, eps, strength = VP(), 1e-3, 0.7
    other = Gaussian(np.array([-1.0, 0.3]), np.array([[0.3, -0.1], [-0.1, 0.6]]))
    x = jnp.asarray(PAIR.draw(np.random.default_rng(0), 5))
    run = lambda x: (
        flow_edit(law, PAIR.predict(law), other.predict(law), x, strength, steps=200, eps=eps).x
    )
    up = PAIR.flow_map(law, x, eps, strength)
    np.testing.assert_allclose(jax.jit(run)(x), other.flow_map(law, up, strength, eps), atol=1e-3)


def travel(law, x, ts, repeats, guide=None, window=(0.3, 0.7), sampler=ddim, **options):
    run = lambda x: time_travel(
        KEY,
        law,
        PAIR.predict(law),
        sampler(law),
        x,
        ts,
        guide=guide,
        window=window,
        repeats=repeats,
        **options,
    )
    return jax.jit(run)(x)


def test_time_travel_alone_changes_nothing(x64):
    """But for an error of the steps, that falls as their number; the cost is what is said."""
    law = VP()
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 2)))
    moved, plain = [], []
    for steps in (50, 100):
        ts = make_grid("uniform_lam", law, steps, 1e-3)
        once, often = (travel(law, x, ts, repeats) for repeats in (1, 4))
        np.testing.assert_array_equal(once.x, sample(KEY, PAIR.predict(law), ddim(law), x, ts).x)
        window = int(0.4 * steps)
        assert (once.nfe, often.nfe) == (steps, steps + 3 * 2 * window)
        moved.append(np.abs(often.x - once.x).max())
        plain.append(np.abs(once.x - PAIR.flow_map(law, x, ts[0], ts[-1])).max())
    # There and back is twice the error of a step, three times over.
    assert 1e-5 < moved[1] < moved[0] < 6.0 * plain[0]
    assert np.log2(moved[0] / moved[1]) == pytest.approx(1.0, abs=0.2)


def test_more_repeats_lower_the_energy():
    law, target = VP(), 2.5
    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, 2)), jnp.float32)
    energy = lambda x0, t: 0.5 * (x0[:, 0] - target) ** 2
    guide = energy_guidance(law, energy, 0.2)
    ts = make_grid("uniform_lam", law, 40, 1e-3)
    found = [travel(law, x, ts, repeats, guide).x for repeats in (1, 2, 4, 8)]
    energies = [float(jnp.mean(energy(x, None))) for x in found]
    assert np.all(np.diff(energies) < -0.05)
    alone = energy(travel(law, x, ts, 1).x, None).mean()
    assert energies[0] < alone
    # Every other step of the window only, and back to the conditional mean at the end.
    half = travel(law, x, ts, 3, guide, every=2, denoise=True)
    assert half.nfe == 40 + 8 * 2 * 2 + 1


def test_an_energy_is_a_likelihood(x64):
    """The guide of `|y - x0|^2 / (2 n^2)` is DPS, and of the state a sum of scores; no energy and a
    scale of zero leave the prediction."""
    law, t, noise = VP(), jnp.asarray(0.4), 0.3
    y = np.array([0.3, -1.0])
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)))
    predict = PAIR.predict(law)
    energy = lambda x, t: 0.5 * jnp.sum((x - y) ** 2, axis=1) / noise**2
    through = lambda x: -energy(predict(x, t).x0, t).sum()
    plain = predict(x, t)
    for of, gradient in (("x0", jax.grad(through)(x)), ("x", (y - x) / noise**2)):
        guided = energy_guidance(law, energy, 0.7, of=of)(predict)(x, t)
        np.testing.assert_allclose(guided.score, plain.score + 0.7 * gradient, rtol=1e-10)
        a, _, c = law.coeffs(t)
        np.testing.assert_allclose(a * guided.x0 + c * guided.eps, x, rtol=1e-9, atol=1e-12)
        kept = energy_guidance(law, energy, 0.7, of=of, plain_eps=True)(predict)(x, t)
        np.testing.assert_array_equal(kept.eps, plain.eps)
        np.testing.assert_array_equal(kept.x0, guided.x0)
    still = energy_guidance(law, energy, 0.0)(predict)(x, t)
    np.testing.assert_allclose(still.score, plain.score)


def test_windows():
    """Of time and of log-SNR, for a time each; what is not finite outside does no harm."""
    law, t = VP(), jnp.asarray([0.2, 0.5, 0.8])
    x = jnp.ones((3, 2))
    energy = lambda x, t: jnp.sum(x, axis=1) / (t < 0.7)
    plain = PAIR.predict(law)(x, t).score
    lam = tuple(float(law.lam(jnp.asarray(u))) for u in (0.6, 0.4))
    for options in ({"window": (0.4, 0.6)}, {"window": lam, "variable": "lam"}):
        guide = energy_guidance(law, energy, 1.0, of="x", **options)
        moved = guide(PAIR.predict(law))(x, t).score - plain
        np.testing.assert_allclose(moved, [[0.0, 0.0], [-1.0, -1.0], [0.0, 0.0]], atol=1e-5)


def test_regional_gradients(x64):
    """An edit has no part where m = 0, and a blend is a blend; a mask lowers the change outside."""
    law = VP()
    ts = make_grid("uniform_lam", law, 60, 1e-3)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((16, D)))
    edit = lambda x0, t: 0.5 * jnp.sum((x0 - 3.0) ** 2, axis=1)
    content = lambda x0, t: 0.5 * jnp.sum((x0 + 1.0) ** 2, axis=1)
    predict, m = PRIOR.predict(law), np.array([1.0, 1.0, 0.25, 0.0, 0.0, 0.0])
    t = jnp.asarray(0.5)
    pull = lambda guide: guide(predict)(x, t).score - predict(x, t).score
    one, two = (pull(energy_guidance(law, energy)) for energy in (edit, content))
    both = pull(energy_guidance(law, edit, content=content, mask=m))
    np.testing.assert_allclose(both, m * one + (1 - m) * two, rtol=1e-9, atol=1e-12)
    masked = pull(energy_guidance(law, edit, mask=m))
    np.testing.assert_allclose(masked[:, 3:], 0.0, atol=1e-12)
    assert np.abs(one[:, 3:]).min() > 1e-3
    go = lambda guide: jax.jit(lambda x: sample(KEY, guide(predict), ddim(law), x, ts).x)(x)
    plain = go(lambda predict: predict)
    change = lambda **options: go(energy_guidance(law, edit, 0.3, **options)) - plain
    free, tied = change(), change(mask=m)
    outside = [np.linalg.norm(v[:, 3:]) for v in (free, tied)]
    assert outside[1] < 0.7 * outside[0] and np.linalg.norm(tied[:, :2]) > 0.1


SIZE, LEVELS = 16, (0.0, 0.5, 1.0)


def picture(row, column, level):
    """A blob, and a stripe along the lower edge whose brightness an edit should keep."""
    i, j = np.mgrid[:SIZE, :SIZE]
    image = np.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * 1.5**2))
    image[-2:] = level
    return image


def test_a_blob_is_moved():
    """To where the energy of blurred images asks for it, with the rest as it was."""
    law, eps = VP(), 1e-3
    places = [(r, c) for r in range(3, 11) for c in range(3, 13)]
    labels = [(r, c, level) for r, c in places for level in LEVELS]
    data = Empirical(np.stack([picture(*label).ravel() for label in labels]))
    predict = data.predict(law)
    sources, target = [(4, 4, 0.5), (9, 4, 1.0), (8, 8, 0.0)], (5, 11)
    images = jnp.asarray(np.stack([picture(*label) for label in sources]), jnp.float32)[..., None]
    wanted = jnp.asarray(picture(*target, 0.0), jnp.float32)[None, ..., None]
    smooth = blur((SIZE, SIZE, 1), 1.0).forward
    near = np.zeros((SIZE, SIZE, 1))
    near[:-3] = 1.0
    distance = lambda x, y, m: jnp.sum(m * (smooth(x) - smooth(y)) ** 2, axis=(1, 2, 3))
    edit = lambda x0, t: distance(x0, wanted, near)
    content = lambda x0, t: distance(x0, images, 1.0 - near)
    ts = make_grid("uniform_lam", law, 50, eps)
    eta = lambda t: jnp.where((ts[20] < t) & (t <= ts[10]), 0.4, 0.0) * near

    def run(images, scale, eta):
        up = sample(KEY, predict, heun(law), images, ts[::-1]).x
        guide = energy_guidance(law, edit, scale, content=content, mask=near)
        return time_travel(
            KEY, law, predict, regional(law, eta), up, ts, guide=guide, repeats=3, denoise=True
        ).x

    kept, moved = (
        np.asarray(jax.jit(run, static_argnums=(1, 2))(images, scale, e)).reshape(3, -1)
        for scale, e in ((0.0, lambda t: jnp.zeros(())), (4.0, eta))
    )
    find = lambda x: [labels[i] for i in ((x[:, None] - data.points) ** 2).sum(-1).argmin(1)]
    assert find(kept) == sources
    assert find(moved) == [(*target, level) for _, _, level in sources]
    exact = np.stack([picture(*target, level).ravel() for _, _, level in sources])
    assert np.abs(moved - exact).max() < 0.05


@pytest.mark.parametrize(("name", "strength", "unit"), [("vp", 0.3, "part"), ("ve", 0.8, "sigma")])
def test_sdedit_of_gaussian_data(name, strength, unit):
    """Down by the flow: `m + a G (image - m)` and `c^2 G^2`, G the gain of the flow."""
    law, eps, n = LAWS[name], EPS[name], 20_000
    image = np.array([1.5, 0.5])
    keys = example_keys(0, jnp.arange(n))
    run = lambda keys: sdedit(
        keys,
        law,
        PAIR.predict(law),
        heun(law),
        jnp.broadcast_to(jnp.asarray(image, jnp.float32), (n, 2)),
        strength,
        unit=unit,
        steps=40,
        grid="uniform_lam",
        eps=eps,
    )
    result = jax.jit(run)(keys)
    t = float(edit_time(law, strength, unit))
    a, _, c = (float(v) for v in law.coeffs(jnp.asarray(t)))
    assert (t / law.t1 if unit == "part" else c / a) == pytest.approx(strength, rel=1e-4)
    assert result.ts[0] == pytest.approx(t, rel=1e-6) and result.nfe == 80
    corner = np.concatenate([np.zeros((1, 2)), np.eye(2)])
    out = np.asarray(PAIR.flow_map(law, jnp.asarray(corner, jnp.float32), t, eps), np.float64)
    gain = out[1:] - out[:1]
    mean, cov = out[0] + a * image @ gain, c**2 * gain.T @ gain
    x = np.asarray(result.x, np.float64)
    assert np.all(np.abs(x.mean(0) - mean) < 4.0 * np.sqrt(np.diag(cov) / n))
    error = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    assert np.all(np.abs(np.cov(x.T) - cov) < 4.0 * error)
    # The start alone has another mean and covariance.
    assert np.abs(mean - a * image).max() > 0.05 and np.abs(cov[0, 1]) > 0.02


def test_more_strength_forgets_more():
    """From the image to the data's own law, by a sampler of the SDE."""
    law, n, image = VP(), 4000, np.array([3.0, -3.0])
    away = []
    options = {"steps": 300, "grid": "uniform_lam", "eps": 1e-3}
    for strength in (0.1, 0.4, 1.0):
        run = lambda key, strength=strength: (
            sdedit(
                key,
                law,
                PAIR.predict(law),
                ancestral(law),
                jnp.broadcast_to(jnp.asarray(image, jnp.float32), (n, 2)),
                strength,
                **options,
            ).x
        )
        x = np.asarray(jax.jit(run)(KEY), np.float64)
        away.append(np.linalg.norm(x.mean(0) - image))
    assert away[0] < away[1] < away[2]
    assert np.all(np.abs(x.mean(0) - PAIR.mean) < 4.0 * n**-0.5)
    np.testing.assert_allclose(np.cov(x.T), PAIR.cov, atol=0.1)


def test_what_a_mask_keeps_is_kept():
    """To the last bit, while the rest is drawn; whatever the number of images."""
    law, keep = VE(), np.array([1, 0])
    images = jnp.asarray(PAIR.draw(np.random.default_rng(0), 5), jnp.float32)
    keys = example_keys(0, jnp.arange(5))
    go = lambda keys, images: (
        sdedit(keys, law, PAIR.predict(law), ancestral(law), images, 0.6, keep=keep, denoise=True).x
    )
    x = jax.jit(go)(keys, images)
    np.testing.assert_array_equal(x[:, 0], images[:, 0])
    assert np.abs(x[:, 1] - images[:, 1]).min() > 1e-3
    alone = jax.jit(go)(keys[3:4], images[3:4])
    np.testing.assert_allclose(alone[0], x[3], rtol=1e-4, atol=1e-4)

    # The start is `a image + c z` in both parts, and not twice the image in one: a step that swaps
    # them shows what the first one was.
    swap = ancestral(law)._replace(step=lambda key, predict, state, t, s: State(state.x[:, ::-1]))
    many = jnp.broadcast_to(images[:1], (4000, 2))
    first = sdedit(KEY, law, PAIR.predict(law), swap, many, 0.2, steps=1, keep=keep).x[:, 1]
    spread = float(law.coeffs(jnp.asarray(0.2)).c)
    assert abs(first.mean() - images[0, 0]) < 4.0 * spread / 4000**0.5 < 0.5 * abs(images[0, 0])
    assert first.std() == pytest.approx(spread, rel=0.05)


LAW, TS, X = VP(), make_grid("uniform", VP(), 10, 1e-3), jnp.zeros((2, 2))
FLAT = lambda x, t: jnp.sum(x, axis=1)
EXACT = PAIR.predict(LAW)
go = lambda **options: time_travel(KEY, LAW, EXACT, ddim(LAW), X, TS, **options)
edit = lambda strength, **options: sdedit(KEY, LAW, EXACT, ddim(LAW), X, strength, **options)
CASES = [
    (lambda: regional(LAW, 1.5), r"eta goes from 1.5 to 1.5"),
    (lambda: regional(LAW, np.array([0.0, -1.0])), r"eta goes from -1.0 to 0.0"),
    (lambda: regional(DoubleWell(), 0.5), r"DoubleWell has no coeffs\(t\)"),
    (lambda: go(window=(0.5, 0.2)), r"The window is \(0.5, 0.2\)"),
    (lambda: go(window=(0.5, 1.2)), r"rising parts of the grid"),
    (lambda: go(repeats=0), "repeats is 0 and every 1"),
    (lambda: go(every=0), "repeats is 3 and every 0"),
    (
        lambda: time_travel(KEY, LAW, EXACT, ddim(LAW), X, jnp.stack([TS, TS], 1)),
        r"shape \(11, 2\)",
    ),
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
    (lambda: edit(0.5, unit="steps"), "unit of strength is 'steps'; it must be one of part, sigma"),
    (lambda: edit(0.5, eps=0.6), "sampling.eps is 0.6"),
    (lambda: edit(0.5, keep=np.ones(3)), r"mask has shape \(3,\)"),
    (lambda: flow_edit(DoubleWell(), EXACT, EXACT, X, 0.5), r"DoubleWell has no coeffs\(t\)"),
]


@pytest.mark.parametrize(("build", "message"), CASES)
def test_each_refusal_has_its_sentence(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
