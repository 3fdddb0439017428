"""The MR sampler against its published updates, and other methods shifted to w."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1
from fast_solvers import starts
from mean_reverting_problem import GAIN, LAW, SHIFT, bent, gaussian, pairs

from samplers import (
    Span,
    adams_bashforth,
    ancestral,
    chain,
    ddim,
    dpm_multistep,
    dpm_solver,
    heun,
    langevin,
    make_grid,
    reverse_diffusion,
    sample,
    unipc,
)
from samplers.base import State
from samplers.exponential.integrals import interval
from samplers.exponential.multistep import SLOPES, PastSteps, extrapolate
from samplers.steps.mean_reverting import (
    euler,
    mr_multistep,
    mr_sampler,
    posterior,
    reverting,
)
from sde_lib import VP, fold_in
from sde_lib.mean_reverting import MeanReverting, clip_lam
from sde_lib.mean_reverting_given import from_w, predict_w, to_w

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
KEY = jax.random.key(3)
ODES = [("ode", order, form) for order in (1, 2, 3) for form in ("noise", "data")]
SDES = [("sde", order, form) for order in (1, 2) for form in ("noise", "data")]
updates = pytest.mark.parametrize(("kind", "order", "form"), ODES + SDES)


def published(kind, order, form, predict, mu, x, ts):
    """Run the updates as published, in x, with orders rising 1, 2, 3 (arXiv 2502.07856)."""
    a, S = (np.asarray(v) for v in LAW.coeffs(ts))
    lam, past, lengths = np.asarray(LAW.lam(ts)), [], []
    for i, (s, t) in enumerate(zip(range(len(ts) - 1), range(1, len(ts)))):
        h = lam[t] - lam[s]
        found = predict(x, ts[s])
        past = [np.asarray(found.eps if form == "noise" else found.x0), *past]
        k = min(order, len(past))
        q = past[0]
        z = np.asarray(LAW.noise(fold_in(KEY, i), x)) if kind == "sde" else None
        D1 = D2 = 0.0
        if k == 2:
            D1 = (q - past[1]) / (lengths[0] / h)
        if k == 3:
            r0, r1 = lengths[0] / h, lengths[1] / h
            A, B = (q - past[1]) / r0, (past[1] - past[2]) / r1
            D1, D2 = A + r0 / (r0 + r1) * (A - B), (A - B) / (r0 + r1)
        at, as_, St, Ss = a[t], a[s], S[t], S[s]
        if form == "noise":
            p1 = np.exp(h) - 1
            p2 = p1 / h - 1
            x_mu = at / as_ * x + (1 - at / as_) * mu
            terms = St * (p1 * q + p2 * D1 + (p2 / h - 0.5) * D2)
            x = x_mu - terms if kind == "ode" else x_mu - 2 * terms
            x = x if z is None else x + St * np.sqrt(np.exp(2 * h) - 1) * z
        elif kind == "ode":
            p1 = 1 - np.exp(-h)
            p2 = 1 - p1 / h
            of_mu = 1 - St / Ss + St / Ss * as_ - at
            # p3 = (1/2 - p2 / h), with the sign of phi_3(-h) h.
            x = St / Ss * x + of_mu * mu + at * (p1 * q + p2 * D1 + (0.5 - p2 / h) * D2)
        else:
            p1 = 1 - np.exp(-2 * h)
            of_mu = 1 - at / as_ * np.exp(-2 * h) - at * p1
            x = St / Ss * np.exp(-h) * x + of_mu * mu + at * p1 * q
            x = x + at * (1 - p1 / (2 * h)) * D1 + St * np.sqrt(p1) * z
        lengths = [h, *lengths]
    return x


@functools.cache
def ends():
    """Return the ends of all ten updates, and of equal methods for affine laws in w."""
    mu, x = pairs()
    ts = make_grid("uniform", LAW, 6, 0.02)
    ours = {u: mr_sampler(LAW, mu, u[1], u[2], eta=float(u[0] == "sde")) for u in ODES + SDES}
    known = {
        name: (u, reverting(method, LAW, mu)) for name, (u, method) in known_elsewhere().items()
    }
    run = lambda method: sample(KEY, bent(mu), method, x, ts).x
    return jax.jit(
        lambda: (
            {u: run(method) for u, method in ours.items()},
            {name: run(method) for name, (_, method) in known.items()},
        )
    )()


def known_elsewhere():
    return {
        "ddim": (("ode", 1, "data"), ddim(LAW)),
        "adams_bashforth 2 noise": (("ode", 2, "noise"), adams_bashforth(LAW, 2, "noise")),
        "adams_bashforth 2": (("ode", 2, "data"), adams_bashforth(LAW, 2, "data")),
        "ancestral": (("sde", 1, "data"), ancestral(LAW)),
    }


@functools.cache
def jitted_bent():
    return jax.jit(bent(pairs()[0]))


@updates
def test_it_is_the_published_update(kind, order, form):
    """All ten updates equal the published ones to rounding, on nodes even in t.

    This checks the shift to w, the weights, the weight of mu, and z.
    """
    mu, x = (np.asarray(v) for v in pairs())
    ts = make_grid("uniform", LAW, 6, 0.02)
    want = published(kind, order, form, jitted_bent(), mu, x, ts)
    np.testing.assert_allclose(ends()[0][kind, order, form], want, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", known_elsewhere())
def test_what_it_is_called_elsewhere(name):
    """Solvers for affine laws in w give the same updates."""
    ours, known = ends()
    np.testing.assert_allclose(
        ours[known_elsewhere()[name][0]], known[name], rtol=1e-10, atol=1e-11
    )


@pytest.mark.parametrize("form", ["noise", "data"])
def test_order_three_is_that_of_3m(form):
    """Order 3 equals 3M once three outputs are known; the second steps of the two differ."""
    rng = np.random.default_rng(0)
    now, last, before = rng.standard_normal((3, 4, 2))

    @jax.jit
    def both(t, s, now, past):
        move = interval(LAW, t, s, form)
        return [extrapolate(move, now, past, 3, slope) for slope in SLOPES]

    past = PastSteps((last, before), (0.7, 1.3))
    np.testing.assert_allclose(*both(0.6, 0.4, now, past), rtol=1e-13)


def test_any_method_in_w():
    """`reverting` runs any method on w and shifts the result.

    The method may have a memory and may evaluate anywhere.
    """
    mu, x = pairs()
    ts = make_grid("uniform_lam", LAW, 5, 0.02)
    predict = bent(mu)
    # With two evaluations per step; with a memory; with a corrector at s that has its own noise.
    corrected = chain(reverse_diffusion(LAW), langevin(LAW, 0.1, 1))
    methods = [dpm_solver(LAW, order=2), unipc(LAW, 1), corrected]

    @jax.jit
    def both():
        in_w = predict_w(LAW, mu, predict)
        w = to_w(LAW, mu, x, ts[0])
        alone = [from_w(LAW, mu, sample(KEY, in_w, m, w, ts).x, ts[-1]) for m in methods]
        return [sample(KEY, predict, reverting(m, LAW, mu), x, ts).x for m in methods], alone

    for ours, alone in zip(*both()):
        np.testing.assert_allclose(ours, alone, rtol=1e-9, atol=1e-10)


def test_posterior_and_euler_as_published():
    """`posterior` and `euler` equal IR-SDE's two steps, written out in x."""
    mu, x = pairs()

    @jax.jit
    def steps(x, t, s):
        methods = posterior(LAW, mu), euler(LAW, mu), euler(LAW, mu, True)
        ends = [m.step(KEY, bent(mu), m.init(x, t), Span(t, s)).x for m in methods]
        return ends, bent(mu)(x, t), LAW.noise(KEY, x), LAW.theta(t)

    (ends, found, z, theta), mu, x = jax.device_get((steps(x, 0.55, 0.5), mu, x))
    (B, C), (c_t, _) = (np.asarray(v) for v in LAW.coeffs(np.array([0.55, 0.5])))
    A = B / C
    mean = A * (1 - C**2) * (x - mu) + C * (1 - A**2) * (found.x0 - mu)
    std = LAW.std * np.sqrt((1 - A**2) * (1 - C**2) / (1 - B**2))
    np.testing.assert_allclose(ends[0], mean / (1 - B**2) + mu + std * z, rtol=1e-10)

    h, g2 = 0.55 - 0.5, 2 * LAW.std**2 * theta
    for part, noise, end in ((1.0, np.sqrt(g2 * h) * z, ends[1]), (0.5, 0.0, ends[2])):
        drift = theta * (mu - x) + part * g2 * found.eps / c_t
        np.testing.assert_allclose(end, x - h * drift + noise, rtol=1e-10, atol=1e-12)


def test_without_mu_it_is_vp():
    """With mu = 0, std = 1 and constant theta, runs equal those of the VP law with that beta."""
    beta = -2.0 * np.log(0.005)
    vp, law = VP(beta_min=beta, beta_max=beta), MeanReverting(std=1.0, schedule="constant")
    x = starts(50)
    mu = jnp.zeros_like(x)
    ts = make_grid("uniform", vp, 8, 0.02)
    made = [lambda p: dpm_multistep(p, 2, "data", 1.0), heun]

    @jax.jit
    def both():
        net, given = M1.predict(vp), M1.predict(law)
        theirs = [sample(KEY, net, make(vp), x, ts).x for make in made]
        ours = [sample(KEY, given, reverting(make(law), law, mu), x, ts).x for make in made]
        return ours, theirs

    for ours, theirs in zip(*both()):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-9)


def test_order_falls_at_the_end_and_padding_rests():
    """With `lower_order_final` the last step has order 1; a step of length zero changes nothing."""
    mu, x = pairs()
    ts = LAW.t_of_lam(jnp.linspace(-3.0, 2.0, 5))

    @jax.jit
    def run():
        lowered = sample(KEY, bent(mu), mr_sampler(LAW, mu, 3, lower_order_final=True), x, ts).x
        method = mr_sampler(LAW, mu, 3)
        state = method.init(x, ts[0])
        for t, s in pairwise(ts[:3]):
            state = method.step(KEY, bent(mu), state, Span(t, s))
        second = mr_sampler(LAW, mu, 2)
        short = state.memory._replace(values=state.memory.values[:1], gaps=state.memory.gaps[:1])
        state = second.step(KEY, bent(mu), State(state.x, short), Span(ts[2], ts[3]))
        first = mr_sampler(LAW, mu, 1).step(
            KEY, bent(mu), State(state.x, empty), Span(ts[3], ts[4])
        )
        rested = sample(KEY, bent(mu), method, x, jnp.append(ts, ts[-1])).x
        return lowered, first.x, rested, sample(KEY, bent(mu), method, x, ts).x

    empty = mr_sampler(LAW, mu, 1).init(x, ts[3]).memory
    lowered, by_hand, rested, plain = run()
    np.testing.assert_allclose(lowered, by_hand, rtol=1e-10)
    np.testing.assert_allclose(rested, plain, rtol=1e-12)
    assert np.max(np.abs(np.asarray(lowered) - plain)) > 1e-4


def test_clip_spares_the_noise_form():
    """`clip_lam` avoids large rounding errors of the noise form in float32.

    From lam = -17, a long first step multiplies the rounding of the noise by e^h.
    """
    law = MeanReverting(end=1e-8, schedule="constant")
    mu = np.full((200, 1), 0.6, np.float32)
    z = np.float32(np.random.default_rng(0).standard_normal((200, 1)))
    x = mu + np.float32(law.std) * z
    point = lambda x, t: gaussian(mu, law, 0.0)(x, jnp.asarray(t, jnp.float32))
    method = mr_sampler(law, jnp.asarray(mu), 1, "noise")
    run = jax.jit(lambda x, ts: sample(KEY, point, method, x, ts).x)
    off = []
    for path in (law, clip_lam(law)):
        ts = np.asarray(path.t_of_lam(np.float32([path.lam(np.float64(path.t1)), 2.0])))
        a, b, c = (np.asarray(v) for v in law.ends.coeffs(ts[-1]))
        end = a * (GAIN * mu + SHIFT) + b * mu + c * z
        off.append(np.max(np.abs(run(x, ts) - end)))
    assert off[1] < 1e-2 * off[0], off


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"order": 4}, "order of the MR sampler is 4"),
        ({"form": "angle"}, "form is 'angle'"),
        ({"eta": -1.0}, "eta is -1.0"),
    ],
)
def test_refusals(numbers, message):
    with pytest.raises(ValueError, match=message):
        mr_multistep(LAW, **numbers)
