"""BDIA: exact return, accuracy against the exact flow, and the identities of its recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Empirical, Gaussian, Mixture
from scipy.optimize import brentq
from scipy.special import ndtr
from sklearn.datasets import load_digits

from samplers import State, ddim, heun, make_grid, sample
from samplers.bdia import FRAMES, Previous, bdia, data_step, ddim_step, decode, heun_step, invert
from sde_lib import EDM, VE, VP, Flow, SubVP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
KEY = jax.random.key(0)
LAW, PREDICT = VP(), M1.predict(VP())
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow(t1=0.95)}
GAMMAS = np.array([1.0, 0.96, 0.92, 0.8, 0.5])


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def side_by_side(x, values):
    """The starts once for each value of gamma: `(V B, D)` and `(V B,)`."""
    return jnp.tile(x, (len(values), 1)), np.repeat(values, len(x))


def there_and_back(predict, x, ts, gamma):
    """Sampling from x, the inversion of its end, and what that makes of the start."""
    method = bdia(LAW, gamma)
    run = sample(KEY, predict, method, x, ts, collect=lambda state: state)
    above = run.trace.memory.x[-1]
    found = invert(LAW, predict, run.x, ts, gamma, above=above)
    return found.pair.memory.x


# Largest error of the recovered start for each of GAMMAS: figures computed elsewhere, on M1.
RETURNS = {
    ("float64", 10): (1e-15, 4e-15, 3e-15, 7e-15, 2e-13),
    ("float64", 50): (2e-15, 1e-14, 7e-14, 4e-11, 5e-1),
    ("float64", 100): (1e-15, 7e-14, 5e-12, 1e-5, 4e14),
    ("float32", 50): (4e-7, 1e-6, 1e-5, 9e-3, 1e8),
}


@pytest.mark.parametrize(("dtype", "steps"), RETURNS)
def test_inversion_returns_to_the_start(dtype, steps):
    """Within `10 eps gamma^-N`, the growth of the inverse recursion, and of the figures' size.

    The largest rounding of a few hundred is a matter of luck: a factor of 30 either way.
    """
    with jax.enable_x64(dtype == "float64"):
        start, gamma = side_by_side(jnp.asarray(normal(200, 1), dtype), GAMMAS)
        ts = make_grid("uniform_lam", LAW, steps, 0.01)
        found = jax.jit(lambda x: there_and_back(PREDICT, x, ts, gamma))(start)
        assert found.dtype == dtype
    error = np.max(np.abs(np.asarray(found - start, np.float64)).reshape(len(GAMMAS), -1), axis=1)
    assert np.all(error <= 10 * np.finfo(dtype).eps * GAMMAS ** -float(steps)), error
    assert np.all(np.abs(np.log(error / np.array(RETURNS[dtype, steps]))) < np.log(30)), error


def test_ddim_does_not_return():
    """DDIM's own inversion, evaluated at the wrong end of each step, is off by O(h)."""
    start = jnp.asarray(normal(200, 1))
    errors = []
    for steps in (50, 100):
        ts = make_grid("uniform_lam", LAW, steps, 0.01)
        both = lambda x, ts=ts: sample(
            KEY, PREDICT, ddim(LAW), sample(KEY, PREDICT, ddim(LAW), x, ts).x, ts[::-1]
        )
        errors.append(np.max(np.abs(jax.jit(both)(start).x - start)))
    assert errors[0] > 1e-2 and 1.5 < errors[0] / errors[1] < 2.5


def exact_flow(x, t1, eps):
    """The flow of a one-dimensional law keeps the order of states, and so their quantiles."""

    def cdf(x, t):
        a, _, c = (float(v) for v in LAW.coeffs(jnp.asarray(t)))
        return M1.weights @ ndtr((x - a * M1.means[:, 0]) / np.sqrt(a**2 * M1.stds**2 + c**2))

    ends = [brentq(lambda y, v=v: cdf(y, eps) - cdf(v, t1), -6.0, 6.0) for v in x[:, 0]]
    return np.array(ends)[:, None]


def test_accuracy_against_the_exact_flow():
    """RMS errors on M1 as parts of DDIM's, `(1 - g) / (1 + g)` in the limit; slopes 1 and 2."""
    gammas = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    figures = {40: (0.614, 0.354, 0.166, 0.036), 160: (0.603, 0.338, 0.148, 0.009)}
    figures[640] = (0.601, 0.334, 0.144, 0.002)
    x = normal(400, 1)
    reference = exact_flow(x, LAW.t1, 0.01)
    start, gamma = side_by_side(jnp.asarray(x), gammas)
    run = jax.jit(lambda ts: sample(KEY, PREDICT, bdia(LAW, gamma), start, ts).x)
    rms = {}
    for steps, ratios in figures.items():
        # At rest at both ends, where nothing moves: one length of grid, compiled once.
        grid = make_grid("uniform_lam", LAW, steps, 0.01)
        rest = (640 - steps) // 2
        found = run(jnp.pad(grid, (rest, 640 - steps - rest), mode="edge")).reshape(5, *x.shape)
        rms[steps] = np.sqrt(np.mean((found - reference[None]) ** 2, axis=(1, 2)))
        np.testing.assert_allclose(rms[steps][1:4] / rms[steps][0], ratios[:3], rtol=0.1)
        # The last figures have one digit or two.
        np.testing.assert_allclose(rms[steps][4] / rms[steps][0], ratios[3], rtol=0.1, atol=5e-4)
    np.testing.assert_allclose([rms[n][0] for n in figures], [4.0e-2, 1.0e-2, 2.5e-3], rtol=0.1)
    slopes = np.log(rms[160] / rms[640]) / np.log(4)
    np.testing.assert_allclose(slopes[:4], 1.0, atol=0.05)
    np.testing.assert_allclose(slopes[4], 2.0, atol=0.05)


def test_gamma_zero_is_the_solver_itself():
    """DDIM, its form in x0, and Heun, to round-off; and with one step, for any gamma."""
    x = jnp.asarray(normal(5, 1))
    ts = make_grid("uniform_lam", LAW, 12, 0.01)
    pairs = ((ddim_step, ddim), (data_step, ddim), (heun_step, heun))

    @jax.jit
    def run(x):
        end = lambda method, ts: sample(KEY, PREDICT, method, x, ts).x
        whole = [(end(bdia(LAW, 0.0, own), ts), end(plain(LAW), ts)) for own, plain in pairs]
        one = [(end(bdia(LAW, 0.7, own), ts[:2]), end(plain(LAW), ts[:2])) for own, plain in pairs]
        return whole + one

    for found, expected in run(x):
        np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("own", [ddim_step, data_step, heun_step])
def test_each_solver_returns(own):
    """The round trip from data, and the calls of the network counted on both ways."""
    calls = []

    def predict(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return PREDICT(x, t)

    def counted(f, *args):
        calls.clear()
        out = jax.block_until_ready(jax.jit(f)(*args))
        jax.effects_barrier()
        return out, len(calls)

    x, ts = (
        jnp.asarray(M1.draw(np.random.default_rng(0), 50)),
        make_grid("uniform_lam", LAW, 20, 0.01),
    )
    method = bdia(LAW, 1.0, own)
    up, calls_up = counted(lambda x: invert(LAW, predict, x, ts, 1.0, own), x)
    down, calls_down = counted(lambda pair: decode(predict, method, pair, ts), up.pair)
    run, calls_run = counted(lambda x: sample(KEY, predict, method, x, ts), x)
    assert calls_up == up.nfe == 1 + 19 * method.nfe
    assert calls_down == down.nfe == 19 * method.nfe
    assert calls_run == run.nfe == 20 * method.nfe
    np.testing.assert_allclose(down.x, x, atol=1e-12)
    assert np.max(np.abs(up.pair.memory.x - x)) > 0.5


def test_order_with_other_solvers():
    """On Gaussian data, gamma = 1: order 2 by x0 alone, and 1 by Heun with Euler's increment up."""
    data = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
    x = jnp.asarray(normal(6, 2))
    reference = data.flow_map(LAW, x, LAW.t1, 1e-2)
    for own, order in ((data_step, 2), (heun_step, 1)):
        run = jax.jit(lambda ts, f=own: sample(KEY, data.predict(LAW), bdia(LAW, 1.0, f), x, ts).x)
        found = []
        for steps in (64, 128, 256):
            grid = make_grid("uniform_lam", LAW, steps, 1e-2)
            end = run(jnp.pad(grid, (256 - steps, 0), mode="edge"))
            found.append(np.sqrt(np.mean((end - reference) ** 2)))
        slope = -np.polyfit(np.log((64, 128, 256)), np.log(found), 1)[0]
        assert abs(slope - order) < 0.15


@pytest.mark.parametrize("frame", FRAMES)
def test_a_step_is_affine_in_the_state_before(frame):
    """`z_{i-1}` has the slope gamma in `z_{i+1}`, times `m_s / m_u`, whatever the network says."""
    law, (t, s, u) = LAWS["subvp"], map(jnp.asarray, (0.4, 0.35, 0.47))
    x = jnp.asarray([[0.3], [-1.0]])

    def next_state(above, scale):
        predict = lambda x, t: jax.tree.map(lambda v: scale * v, PREDICT(x, t))
        step = bdia(law, 0.7, frame=frame).step
        return step(KEY, predict, State(x, Previous(above, u)), t, s).x

    (a_s, _, c_s), (a_u, _, c_u) = law.coeffs(s), law.coeffs(u)
    ratio = {"x": 1.0, "y": a_s / a_u, "unit": np.hypot(a_s, c_s) / np.hypot(a_u, c_u)}
    expected = 0.7 * float(ratio[frame])
    for above in (x, x + 3.0):
        for scale in (1.0, -2.5):
            found = jax.jvp(lambda z, k=scale: next_state(z, k), (above,), (jnp.ones_like(x),))[1]
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_rescaled_states_agree_between_laws():
    """In y, and in the unit frame, all laws give one result: that of VE in x, and that of VP in x.
    These two differ."""
    lam = jnp.linspace(-3.0, 3.0, 41)
    y0 = np.exp(3.0) * jnp.asarray(normal(50, 1))

    def run(name, *frames):
        law = LAWS[name]
        ts = law.t_of_lam(lam)
        a, predict = law.coeffs(ts).a, M1.predict(law)
        end = lambda x, f: sample(KEY, predict, bdia(law, 1.0, frame=f), x, ts).x / a[-1]
        return jax.jit(lambda x: [end(x, f) for f in frames])(a[0] * y0)

    (in_y,), (unit,) = run("edm", "x"), run("vp", "x")
    assert np.max(np.abs(in_y - unit)) > 1e-4
    for name in LAWS:
        found = run(name, "y", "unit")
        np.testing.assert_allclose(found[0], in_y, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(found[1], unit, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("frame", ["y", "unit"])
def test_inversion_in_a_frame_returns(frame):
    """The weight `m_s / m_u` is undone as well."""
    x, law = jnp.asarray(M1.draw(np.random.default_rng(0), 50)), LAWS["subvp"]
    predict, ts = M1.predict(law), make_grid("uniform_lam", law, 20, 0.01)
    pair = jax.jit(lambda x: invert(law, predict, x, ts, 0.96, frame=frame).pair)(x)
    method = bdia(law, 0.96, frame=frame)
    back = jax.jit(lambda pair: decode(predict, method, pair, ts).x)(pair)
    np.testing.assert_allclose(back, x, atol=1e-11)


def test_unit_frame_keeps_the_digits_of_large_states():
    """EDM in float32: states of size 80 have digits of 1e-5, which in x spoil the data far more."""
    with jax.enable_x64(False):
        law = EDM()
        data = Gaussian.scalar(0.3, 0.5, dims=4)
        predict, ts = data.predict(law), make_grid("karras", law, 30, 0.02)
        x = jnp.asarray(data.draw(np.random.default_rng(0), 50), jnp.float32)
        gaps = {}
        for frame in ("x", "unit"):
            pair = jax.jit(lambda x, f=frame: invert(law, predict, x, ts, frame=f).pair)(x)
            method = bdia(law, frame=frame)
            back = jax.jit(lambda p, m=method: decode(predict, m, p, ts).x)(pair)
            gaps[frame] = float(jnp.max(jnp.abs(back - x)))
    assert gaps["unit"] < 1e-5 and gaps["x"] > 1e-4


def test_real_digits_come_back():
    """8 x 8 digits with the optimal denoiser of the set, 50 steps up and down at gamma = 1."""
    points = load_digits().data[:400] / 8.0 - 1.0
    predict, ts = Empirical(points).predict(LAW), make_grid("uniform_lam", LAW, 50, 0.01)
    a, _, c = (float(v) for v in LAW.coeffs(ts[-1]))
    x = jnp.asarray(a * points[:4] + c * normal(4, 64))
    pair = jax.jit(lambda x: invert(LAW, predict, x, ts).pair)(x)
    back = jax.jit(lambda pair: decode(predict, bdia(LAW), pair, ts).x)(pair)
    assert np.max(np.abs(back - x)) < 1e-12
    # They went all the way: the latents are far from any image.
    assert np.min(np.linalg.norm(pair.memory.x[:, None] - points[None], axis=-1)) > 3.0


def test_editing_by_a_change_of_label():
    """Up under label A and down under B lands in B; down under A it is the way back."""
    halves = [
        Mixture(np.array([0.5, 0.5]), sign * np.array([[1.5, 1.0], [1.5, -1.0]]), np.full(2, 0.2))
        for sign in (-1.0, 1.0)
    ]
    a, b = (half.predict(LAW) for half in halves)
    x, ts = (
        jnp.asarray(halves[0].draw(np.random.default_rng(0), 100)),
        make_grid("uniform_lam", LAW, 50, 0.01),
    )
    pair = jax.jit(lambda x: invert(LAW, a, x, ts, 0.96).pair)(x)
    back = jax.jit(lambda pair: decode(a, bdia(LAW, 0.96), pair, ts).x)(pair)
    edited = jax.jit(lambda pair: decode(b, bdia(LAW, 0.96), pair, ts).x)(pair)
    np.testing.assert_allclose(back, x, atol=1e-11)
    near = np.min(np.linalg.norm(edited[:, None] - halves[1].means[None], axis=-1), axis=1)
    assert np.all(np.asarray(edited)[:, 0] > 0.0) and np.mean(near < 4 * 0.2) > 0.95


@pytest.mark.parametrize("gamma", [-0.1, 1.2, np.array([0.5, np.nan])])
def test_gamma_outside_its_range(gamma):
    with pytest.raises(ValueError, match=r"from 0 .* to 1"):
        bdia(LAW, gamma)


def test_unknown_frame():
    with pytest.raises(ValueError, match=r"frame is 'z'; take one of 'x', 'y', 'unit'"):
        bdia(LAW, frame="z")


def test_inversion_needs_gamma():
    with pytest.raises(ValueError, match=r"gamma is 0.0; an inversion divides by it"):
        invert(LAW, PREDICT, jnp.ones((1, 1)), jnp.linspace(1.0, 0.1, 5), 0.0)
