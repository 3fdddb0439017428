"""The mean-reverting law against its own SDE, the released chain, VP, and float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from sde_lib import VP, AffinePath, example_keys, flow_drift, reverse_drift
from sde_lib.mean_reverting import (
    SCHEDULES,
    MeanReverting,
    clip_lam,
    make_mean_reverting,
)
from sde_lib.mean_reverting_given import (
    MeanRevertingGiven,
    from_w,
    given_kinds,
    parametrize_given,
    predict_w,
    predict_x,
    to_w,
)
from sde_lib.prediction import Prediction

schedules = pytest.mark.parametrize("schedule", SCHEDULES)
STD = 50.0 / 255.0


def times(n=150):
    return np.union1d(np.linspace(1e-4, 1.0, n), np.geomspace(1e-4, 1.0, n))


def angle(t):
    return 0.5 * np.pi * (t + 0.008) / 1.008


def height(schedule, t):
    """Return theta up to a factor, as published."""
    return 1.0 if schedule == "constant" else 1.0 - (np.cos(angle(t)) / np.cos(angle(0.0))) ** 2


def states(n=6, d=3):
    rng = np.random.default_rng(0)
    x0, mu, z = (rng.standard_normal((n, d)) for _ in range(3))
    return x0, 0.5 * mu, z, rng.uniform(0.02, 1.0, n)


@schedules
def test_coefficients_by_quadrature_of_theta(schedule, x64):
    law = MeanReverting(schedule=schedule)
    area = lambda t: integrate.quad(lambda u: height(schedule, u), 0.0, t, epsabs=0, epsrel=1e-12)
    ts = np.array([1e-3, 0.03, 0.4, 0.8, 1.0])
    run = jax.jit(lambda t: (*law.ends.coeffs(t), law.theta(t), law.lam(t)))
    for t, found_a, found_b, found_c, found_theta, lam in zip(ts, *jax.device_get(run(ts))):
        theta = -np.log(0.005) * height(schedule, t) / area(1.0)[0]
        a = np.exp(np.log(0.005) * area(t)[0] / area(1.0)[0])
        np.testing.assert_allclose(found_theta, theta, rtol=1e-9)
        np.testing.assert_allclose(found_a, a, rtol=1e-12)
        np.testing.assert_allclose(found_b, 1.0 - a, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(found_c, STD * np.sqrt(1.0 - a**2), rtol=1e-8)
        np.testing.assert_allclose(lam, np.log(a / found_c), atol=1e-8)


def released_chain(levels):
    """Return a and c of the released cosine chain, computed by its recipe.

    theta is taken at `levels + 3` points of the cosine, without the first and the last. It is
    summed without its first value, and scaled so that a ends at 0.005.
    """
    u = np.arange(levels + 3) / (levels + 2)
    theta = height("cosine", u)[1:-1]
    total = np.cumsum(theta) - theta[0]
    a = np.exp(total / total[-1] * np.log(0.005))
    return a, STD * np.sqrt(1.0 - a**2)


def test_it_is_the_limit_of_the_released_chain(x64):
    law = MeanReverting()
    ours = jax.device_get(jax.jit(law.coeffs)(np.linspace(0.0, 1.0, 401)))
    off = []
    for levels in (100, 200, 400):
        a, c = released_chain(levels)
        every = 400 // levels
        off.append(max(np.max(abs(ours.a[::every] - a)), np.max(abs(ours.c[::every] - c)) / STD))
    # The difference falls like one over the number of levels.
    np.testing.assert_allclose(np.divide(off[:-1], off[1:]), 2.0, rtol=0.1)


@schedules
def test_drift_and_diffusion_follow_from_the_coefficients(schedule, x64, strict_ranks):
    law, t = MeanReverting(schedule=schedule), times()
    names = ("f", "g2", "lam")

    @jax.jit
    def run(t):
        ours = [getattr(law, name)(t) for name in names]
        return ours, [getattr(AffinePath, name)(law, t) for name in names], law.ends.rates(t)

    ours, derived, rates = jax.device_get(run(t))
    for name, got, want in zip(names, ours, derived):
        np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(rates.b, -rates.a, rtol=1e-12)
    assert np.all(np.diff(ours[2]) < 0)


@schedules
def test_inverse_of_lam(schedule, x64):
    law = MeanReverting(schedule=schedule)
    t = np.union1d(times(), np.geomspace(1e-7, 1e-4, 20))
    there_and_back = jax.jit(jax.vmap(jax.value_and_grad(lambda t: law.t_of_lam(law.lam(t)))))
    back, slope = there_and_back(t)
    np.testing.assert_allclose(back, t, rtol=1e-12)
    np.testing.assert_allclose(slope, 1.0, rtol=1e-9)


@schedules
def test_float32_keeps_its_digits(schedule):
    """Coefficients keep their digits in float32.

    With `t - sin(t) cos(t)` computed as a difference, the integral of theta would be wrong by half
    at t = 1e-3.
    """
    law, t = MeanReverting(schedule=schedule), times().astype(np.float32)
    numbers = lambda t: (*law.ends.coeffs(t), law.lam(t), law.g2(t))
    ours = jax.jit(numbers)(jnp.asarray(t))
    with jax.enable_x64(True):
        exact = [np.asarray(v) for v in jax.jit(numbers)(jnp.asarray(t.astype(np.float64)))]
    for name, got, want in zip(("a", "b", "c", "lam", "g2"), ours, exact):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(
            got, want, rtol=5e-6, atol=5e-6 if name == "lam" else 0.0, err_msg=name
        )
    back = jax.jit(lambda t: law.t_of_lam(law.lam(t)))(jnp.asarray(t))
    np.testing.assert_allclose(back, t, rtol=5e-6)


def test_without_mu_and_with_unit_noise_it_is_vp(x64):
    beta = -2.0 * np.log(0.005)
    vp, law = VP(beta_min=beta, beta_max=beta), MeanReverting(std=1.0, schedule="constant")
    t = jnp.asarray(times())
    for ours, theirs in zip(law.coeffs(t), vp.coeffs(t)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    for name in ("f", "g2", "lam"):
        np.testing.assert_allclose(getattr(law, name)(t), getattr(vp, name)(t), rtol=1e-11)
    np.testing.assert_allclose(law.t_of_lam(vp.lam(t)), t, rtol=1e-11)


@schedules
def test_the_sde_has_the_moments_of_the_law(schedule, x64):
    """A solve of `m' = theta (mu - m)` and `v' = -2 theta v + g^2` gives the law's moments.

    theta and g are those of the law's drift and diffusion.
    """
    law, mu, x0 = MeanReverting(schedule=schedule), 0.7, -0.3
    given = MeanRevertingGiven(law, jnp.asarray([[mu]]))

    @jax.jit
    def rate(t, y):
        at = lambda x: given.drift(jnp.reshape(x, (1, 1)), t)[0, 0]
        g = given.diffusion(jnp.zeros((1, 1)), t)
        return jnp.stack([at(y[0]), 2.0 * (at(1.0) - at(0.0)) * y[1] + g**2])

    for t in (0.2, 1.0):
        a, c = law.coeffs(jnp.asarray(t))
        found = integrate.solve_ivp(rate, (0.0, t), [x0, 0.0], rtol=1e-7, atol=1e-10).y[:, -1]
        np.testing.assert_allclose(found, [a * x0 + (1 - a) * mu, c**2], rtol=1e-5)


def test_simulated_forwards_and_drawn_at_once():
    """20,000 paths of Euler-Maruyama and draws of `perturb` have the law's moments."""
    law, n, steps = MeanReverting(), 20_000, 400
    given = MeanRevertingGiven(law, jnp.full((n, 1), 0.7))
    x0, t_end = jnp.full((n, 1), -0.3), 0.6

    def body(x, i):
        t = t_end * (i + 0.5) / steps
        z = given.noise(jax.random.fold_in(jax.random.key(0), i), x)
        h = t_end / steps
        return x + h * given.drift(x, t) + h**0.5 * given.diffusion(x, t) * z, None

    walked = jax.jit(lambda x: jax.lax.scan(body, x, jnp.arange(steps))[0])(x0)
    drawn, z = given.perturb(jax.random.key(1), x0, jnp.asarray(t_end))
    a, b, c = (float(v) for v in law.ends.coeffs(jnp.asarray(t_end)))
    np.testing.assert_allclose(drawn, a * x0 + b * 0.7 + c * z, atol=1e-6)
    for x in (walked, drawn):
        assert abs(np.mean(x) - (a * -0.3 + b * 0.7)) < 4 * c / n**0.5
        assert abs(np.var(x) / c**2 - 1.0) < 4 * (2 / n) ** 0.5


@pytest.mark.parametrize("kind", given_kinds())
def test_round_trips_of_every_kind(kind, x64, strict_ranks):
    """A network that returns the target is decoded to the data and the noise."""
    law = MeanReverting()
    x0, mu, z, t = states()

    @jax.jit
    def run(x0, mu, z, t):
        x = from_w(law, mu, law.marginal(x0, z, t), t)
        entry, share = given_kinds()[kind]
        raw = entry.target(law, x0, z, t) + share(law, t)[:, None] * mu
        found = parametrize_given(kind, law, lambda x, mu, cond: raw, mu)(x, t)
        ends = law.ends
        state, rate = ends.marginal(x0, mu, z, t), ends.velocity(x0, mu, z, t)
        return found, ends.rates(t), law.coeffs(t).c[:, None], x - state, rate

    found, rates, c, apart, rate = jax.device_get(run(x0, mu, z, t))
    np.testing.assert_allclose(apart, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.x0, x0, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.eps, z, rtol=1e-7, atol=1e-9)
    slope = rates.a[:, None] * x0 + rates.b[:, None] * mu + rates.c[:, None] * z
    np.testing.assert_allclose(found.velocity, slope, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(rate, slope, rtol=1e-12)
    np.testing.assert_allclose(found.score, -z / c, rtol=1e-7, atol=1e-8)


def test_angle_velocity_is_the_derivative_by_the_angle(x64):
    """The kind "angle" is d x / d phi of `x = cos phi x0 + (1 - cos phi) mu + std sin phi z`."""
    law = MeanReverting()
    x0, mu, z, t = states()
    a, c = (np.asarray(v)[:, None] for v in law.coeffs(t))
    phi = np.arccos(a)
    x = np.cos(phi) * x0 + (1 - np.cos(phi)) * mu + STD * np.sin(phi) * z
    v = np.sin(phi) * (mu - x0) + STD * np.cos(phi) * z

    @jax.jit
    def run(x, v):
        entry, share = given_kinds()["angle"]
        target = entry.target(law, x0, z, t) + share(law, t)[:, None] * mu
        found = parametrize_given("angle", law, lambda x, mu, cond: v, mu)(x, t)
        # `eps_scale` is the derivative of eps by the network's raw output.
        _, gain = jax.jvp(lambda f: entry.decode(law, x, t, f)[1], (v,), (jnp.ones_like(v),))
        return target, found, gain, entry.eps_scale(law, t)

    target, found, gain, scale = jax.device_get(run(x, v))
    np.testing.assert_allclose(target, v, rtol=1e-9)
    # Decoding, in the published form.
    np.testing.assert_allclose(found.x0, a * x - c / STD * v + (1 - a) * mu, rtol=1e-9)
    np.testing.assert_allclose(found.eps, (a * v + (x - mu) * c / STD) / STD, rtol=1e-8)
    np.testing.assert_allclose(gain[:, 0], scale, rtol=1e-12)


def test_network_sees_state_and_mu(x64):
    law = MeanReverting()
    x0, mu, z, t = states()

    @jax.jit
    def run(x0, mu, z, t):
        x, seen = from_w(law, mu, law.marginal(x0, z, t), t), []
        apply = lambda x, mu, cond: seen.append((x, mu, cond)) or jnp.zeros_like(x)
        parametrize_given("eps", law, apply, mu, conditioning="lam")(x, t)
        return seen[0], (x, mu, law.lam(t))

    for got, want in zip(*run(x0, mu, z, t)):
        np.testing.assert_array_equal(got, want)


def test_shifts_undo_each_other(x64, strict_ranks):
    law = MeanReverting()
    x, mu, _, t = states()

    @jax.jit
    def run(x, mu, t):
        predict = lambda x, t: Prediction(x, jnp.sin(x), jnp.cos(x), x**2)
        there = predict_x(law, mu, predict_w(law, mu, predict))(x, t)
        return from_w(law, mu, to_w(law, mu, x, t), t), there

    back, there = run(x, mu, t)
    np.testing.assert_allclose(back, x, rtol=1e-12)
    for got, want in zip(there, (x, np.sin(x), np.cos(x), x**2)):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_reverse_drifts_as_published(x64):
    """The reverse drift is `theta (mu - x) + g^2 eps / c`; the flow has half of the last term.

    The flow's drift equals the velocity.
    """
    law = MeanReverting()
    x0, mu, z, t = states()
    a, b, c = (np.asarray(v)[:, None] for v in law.ends.coeffs(t))
    x = a * x0 + b * mu + c * z

    @jax.jit
    def run(x, mu, z, t):
        given, found = (
            MeanRevertingGiven(law, mu),
            parametrize_given("eps", law, lambda *_: z, mu)(x, t),
        )
        score = lambda x, t: found.score
        drifts = [drift(given, score)(x, t) for drift in (reverse_drift, flow_drift)]
        return *drifts, found.velocity, law.theta(t)[:, None]

    reverse, flow, velocity, theta = jax.device_get(run(x, mu, z, t))
    pull, push = theta * (mu - x), 2 * theta * STD**2 * z / c
    np.testing.assert_allclose(reverse, pull + push, rtol=1e-9)
    np.testing.assert_allclose(flow, pull + push / 2, rtol=1e-9)
    np.testing.assert_allclose(velocity, pull + push / 2, rtol=1e-7)


def test_prior(x64):
    law, mu = MeanReverting(), np.full((4000, 2), 0.4)

    @jax.jit
    def run(mu):
        given = MeanRevertingGiven(law, mu)
        x = given.prior_sample(jax.random.key(0), mu.shape)
        both = MeanRevertingGiven(law, mu[:2]).prior_sample(example_keys(0, jnp.arange(2)), (2, 2))
        alone = MeanRevertingGiven(law, mu[:1]).prior_sample(
            example_keys(0, jnp.asarray([1])), (1, 2)
        )
        return x, given.prior_logp(x), both, alone

    x, logp, both, alone = jax.device_get(run(mu))
    assert abs(np.mean(x) - 0.4) < 4 * STD / 8000**0.5
    assert abs(np.var(x) / STD**2 - 1) < 4 * (2 / 8000) ** 0.5
    expected = stats.norm(0.4, STD).logpdf(x).sum(1)
    np.testing.assert_allclose(logp, expected, rtol=1e-10)
    # With one key per example, the second example is the same as when it is drawn alone.
    np.testing.assert_array_equal(both[1], alone[0])


def test_clip(x64):
    """`clip_lam` moves t1 to lam = -5 if lam(t1) is lower, and leaves the schedule unchanged."""
    assert clip_lam(MeanReverting()).t1 == 1.0
    law = MeanReverting(end=1e-6)
    clipped = clip_lam(law)
    np.testing.assert_allclose(law.lam(jnp.asarray(clipped.t1)), -5.0, rtol=1e-12)
    t = jnp.asarray([0.1, 0.5])
    np.testing.assert_array_equal(clipped.coeffs(t), law.coeffs(t))
    np.testing.assert_allclose(clip_lam(law, -3.0).lam(jnp.asarray(clip_lam(law, -3.0).t1)), -3.0)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"std": 0.0}, "std is 0.0"),
        ({"end": 1.5}, "end is 1.5"),
        ({"t1": 1.2}, "t1 is 1.2"),
    ],
)
def test_refusals(numbers, message):
    with pytest.raises(ValueError, match=message):
        make_mean_reverting(**numbers)
