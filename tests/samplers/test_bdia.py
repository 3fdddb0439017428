"""BDIA: exact inversion, accuracy against the exact flow, and identities of its recursion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import M1, Empirical, Gaussian, Mixture
from fast_solvers import KEY, LAWS, side_by_side, starts
from rk4 import errors, even_in_lam
from scipy.optimize import brentq
from scipy.special import ndtr
from sklearn.datasets import load_digits

from samplers import Span, State, ddim, make_grid, sample
from samplers.steps.bdia import (
    FRAMES,
    Previous,
    bdia,
    data_step,
    ddim_step,
    decode,
    heun_step,
    invert,
)
from sde_lib import EDM, VP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
LAW, PREDICT = VP(), M1.predict(VP())
GAMMAS = np.array([1.0, 0.96, 0.92, 0.8, 0.5])


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def even(steps):
    """Return a grid even in lam, from 1 to 0.01."""
    return even_in_lam(LAW, (steps,), 0.01)[:, 0]


def there_and_back(predict, x, ts, gamma):
    """Sample from x and invert the end; return the recovered start."""
    method = bdia(LAW, gamma)
    run = sample(KEY, predict, method, x, ts, collect=lambda state: state)
    above = run.trace.memory.x[-1]
    found = invert(LAW, predict, run.x, ts, gamma, above=above)
    return found.pair.memory.x


def predict_by_float64(x, t):
    """Return M1's prediction exact to float32, computed in float64.

    The recursion can amplify rounding to states of 1e5. There the log densities of the components
    are of size 1e9, and float32 cannot represent their difference.
    """
    found = PREDICT(x.astype(jnp.float64), t.astype(jnp.float64))
    return jax.tree.map(lambda v: v.astype(x.dtype), found)


# Largest error of the recovered start for each of GAMMAS on M1, computed independently.
RETURNS = {
    ("float64", 10): (1e-15, 4e-15, 3e-15, 7e-15, 2e-13),
    ("float64", 100): (1e-15, 7e-14, 5e-12, 1e-5, 4e14),
    ("float32", 50): (4e-7, 1e-6, 1e-5, 9e-3, 1e8),
}


@pytest.mark.parametrize(("dtype", "steps"), RETURNS)
def test_inversion_returns_to_the_start(dtype, steps):
    """Inversion recovers the start within `10 eps gamma^-N`, the growth of the inverse recursion.

    The errors are also within a factor of 30 of the independent figures; the largest rounding error
    of a few hundred varies by chance.
    """
    start, gamma = np.tile(normal(200, 1), (5, 1)).astype(dtype), np.repeat(GAMMAS, 200)
    run = jax.jit(lambda x, ts: there_and_back(predict_by_float64, x, ts, gamma))
    found = np.asarray(run(start, even(steps).astype(dtype)))
    assert found.dtype == dtype
    error = np.max(np.abs(np.float64(found) - start).reshape(len(GAMMAS), -1), axis=1)
    assert np.all(error <= 10 * np.finfo(dtype).eps * GAMMAS ** -float(steps)), error
    assert np.all(np.abs(np.log(error / np.array(RETURNS[dtype, steps]))) < np.log(30)), error


def test_ddim_does_not_return():
    """DDIM's own inversion evaluates at the wrong end of each step and has an error of O(h)."""
    start = np.tile(normal(200, 1), (2, 1))
    ts = np.repeat(even_in_lam(LAW, (50, 100), 0.01), 200, axis=1)
    down = lambda x, ts: sample(KEY, PREDICT, ddim(LAW), x, ts).x
    back = np.asarray(jax.jit(lambda x, ts: down(down(x, ts), ts[::-1]))(start, ts))
    errors = np.max(np.abs(back - start).reshape(2, -1), axis=1)
    assert errors[0] > 1e-2 and 1.5 < errors[0] / errors[1] < 2.5


def exact_flow(x, t1, eps):
    """Return the ends of the exact flow: in one dimension it maps quantiles to quantiles."""

    coeffs = {t: tuple(float(v) for v in LAW.coeffs(np.asarray(t))) for t in (t1, eps)}

    def cdf(x, t):
        a, c = coeffs[t]
        return M1.weights @ ndtr((x - a * M1.means[:, 0]) / np.sqrt(a**2 * M1.stds**2 + c**2))

    ends = [brentq(lambda y, v=v: cdf(y, eps) - cdf(v, t1), -6.0, 6.0) for v in x[:, 0]]
    return np.array(ends)[:, None]


def test_accuracy_against_the_exact_flow():
    """RMS errors on M1 relative to DDIM's tend to `(1 - g) / (1 + g)`; the orders are 1 and 2."""
    gammas = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    figures = {40: (0.614, 0.354, 0.166, 0.036), 160: (0.603, 0.338, 0.148, 0.009)}
    figures[640] = (0.601, 0.334, 0.144, 0.002)
    x = starts(100)
    reference = exact_flow(x, LAW.t1, 0.01)
    # One run holds all grids (short ones repeat their last time), gammas and starts.
    ts = np.repeat(even_in_lam(LAW, tuple(figures), 0.01), 500, axis=1)
    run = jax.jit(
        lambda x, ts: sample(KEY, PREDICT, bdia(LAW, np.tile(gammas.repeat(100), 3)), x, ts).x
    )
    found = np.asarray(run(np.tile(x, (15, 1)), ts)).reshape(3, 5, 100)
    rms = dict(zip(figures, np.sqrt(np.mean((found - reference.T[None]) ** 2, axis=2))))
    for steps, ratios in figures.items():
        np.testing.assert_allclose(rms[steps][1:4] / rms[steps][0], ratios[:3], rtol=0.1)
        # The last figures have only one or two digits.
        np.testing.assert_allclose(rms[steps][4] / rms[steps][0], ratios[3], rtol=0.1, atol=5e-4)
    np.testing.assert_allclose([rms[n][0] for n in figures], [4.0e-2, 1.0e-2, 2.5e-3], rtol=0.1)
    slopes = np.log(rms[160] / rms[640]) / np.log(4)
    np.testing.assert_allclose(slopes[:4], 1.0, atol=0.05)
    np.testing.assert_allclose(slopes[4], 2.0, atol=0.05)


def one_step_method(x, ts, heun):
    """Run DDIM, or Heun's method for the flow, in NumPy."""
    a, c = (np.asarray(v) for v in LAW.coeffs(ts))
    for i in range(len(ts) - 1):
        out, h = PREDICT(x, ts[i]), ts[i + 1] - ts[i]
        if heun:
            after = PREDICT(x + h * out.velocity, ts[i + 1]).velocity
            x = x + 0.5 * h * (out.velocity + after)
        else:
            x = a[i + 1] * out.x0 + c[i + 1] * out.eps
    return x


@pytest.mark.parametrize("own", [ddim_step, data_step, heun_step])
def test_gamma_zero_is_the_solver_itself(own):
    """With gamma 0, BDIA equals its solver: DDIM, DDIM in x0, or Heun.

    With one step it equals the solver for any gamma.
    """
    x, ts = normal(5, 1), even(12)
    gamma = np.repeat([0.0, 0.7], 5)
    both = np.stack([ts, np.where(np.arange(13) > 0, ts[1], ts[0])], axis=1).repeat(5, axis=1)
    run = jax.jit(lambda x, ts: sample(KEY, PREDICT, bdia(LAW, gamma, own), x, ts).x)
    found = np.asarray(run(np.tile(x, (2, 1)), both)).reshape(2, 5, 1)
    for end, grid in zip(found, (ts, ts[:2])):
        np.testing.assert_allclose(end, one_step_method(x, grid, own is heun_step), rtol=1e-11)


# Each solver, frame and law at least once.
@pytest.mark.parametrize(
    ("own", "frame", "gamma", "law"),
    [
        (ddim_step, "x", 1.0, LAW),
        (data_step, "y", 0.96, LAWS["subvp"]),
        (heun_step, "unit", 0.96, LAW),
    ],
)
def test_each_solver_and_frame_returns(own, frame, gamma, law):
    """A round trip from data returns to the data, with the stated number of network calls.

    The inversion also undoes the weight `m_s / m_u` of a frame.
    """
    calls = []

    def counted(way):
        def predict(x, t):
            jax.debug.callback(lambda: calls.append(way))
            return M1.predict(law)(x, t)

        return predict

    @jax.jit
    def both(x, ts):
        up = invert(law, counted("up"), x, ts, gamma, own, frame)
        return up, decode(counted("down"), bdia(law, gamma, own, frame), up.pair, ts)

    nfe = bdia(law, gamma, own, frame).nfe
    assert nfe == (2 if own is heun_step else 1)
    x = M1.draw(np.random.default_rng(0), 50)
    up, down = jax.block_until_ready(both(x, even_in_lam(law, (20,), 0.01)[:, 0]))
    jax.effects_barrier()
    assert calls.count("up") == up.nfe == 1 + 19 * nfe
    assert calls.count("down") == down.nfe == 19 * nfe
    np.testing.assert_allclose(down.x, x, atol=1e-11)
    assert np.max(np.abs(np.asarray(up.pair.memory.x) - x)) > 0.5


@pytest.mark.parametrize(("own", "order"), [(data_step, 2), (heun_step, 1)])
def test_order_with_other_solvers(own, order):
    """On Gaussian data with gamma = 1, the x0 form has order 2; Heun has order 1.

    For Heun the increment upwards is Euler's.
    """
    data = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
    x, sizes = normal(6, 2), (64, 128, 256)
    reference = data.flow_map(LAW, x, LAW.t1, 1e-2)
    found = errors(LAW, data, lambda law: bdia(law, 1.0, own), sizes, 1e-2, x, reference)
    slope = -np.polyfit(np.log(sizes), np.log(found), 1)[0]
    assert abs(slope - order) < 0.15


def test_a_step_is_affine_in_the_state_before():
    """`z_{i-1}` is affine in `z_{i+1}`, with slope gamma times `m_s / m_u`, for any network."""
    law, times = LAWS["subvp"], np.array([0.4, 0.35, 0.47])
    x = np.array([[0.3], [-1.0]])

    @jax.jit
    def slopes(above, scale, times):
        t, s, u = times

        def next_states(above):
            predict = lambda x, t: jax.tree.map(lambda v: scale * v, PREDICT(x, t))
            state = State(x, Previous(above, u))
            steps = [bdia(law, 0.7, frame=frame).step for frame in FRAMES]
            return jnp.stack([step(KEY, predict, state, Span(t, s)).x for step in steps])

        return jax.jvp(next_states, (above,), (jnp.ones_like(above),))[1]

    (_, a_s, a_u), (_, c_s, c_u) = (np.asarray(v) for v in law.coeffs(times))
    ratio = {"x": 1.0, "y": a_s / a_u, "unit": np.hypot(a_s, c_s) / np.hypot(a_u, c_u)}
    for above in (x, x + 3.0):
        for scale in (1.0, -2.5):
            for frame, found in zip(FRAMES, np.asarray(slopes(above, scale, times))):
                np.testing.assert_allclose(found, 0.7 * ratio[frame], rtol=1e-12)


def test_rescaled_states_agree_between_laws():
    """In frame "y" all laws give the result of VE in x, and in frame "unit" that of VP in x.

    The two results differ.
    """
    y0 = np.exp(3.0) * normal(10, 1)
    law, ts, a, y = side_by_side(np.linspace(-3.0, 3.0, 41), y0)

    @jax.jit
    def run(x, ts):
        methods = [bdia(law, 1.0, frame=frame) for frame in ("x", "y", "unit")]
        return jnp.stack([sample(KEY, M1.predict(law), method, x, ts).x for method in methods])

    ends = np.asarray(run(a[0][:, None] * y, ts)) / a[-1][None, :, None]
    in_x, in_y, unit = (dict(zip(LAWS, end.reshape(len(LAWS), 10))) for end in ends)
    assert np.max(np.abs(in_x["edm"] - in_x["vp"])) > 1e-4
    for name in LAWS:
        np.testing.assert_allclose(in_y[name], in_x["edm"], atol=1e-9, err_msg=name)
        np.testing.assert_allclose(unit[name], in_x["vp"], atol=1e-9, err_msg=name)


def test_unit_frame_keeps_the_digits_of_large_states():
    """For EDM in float32, the unit frame keeps more digits than x.

    States of size 80 have a rounding of 1e-5, which in x disturbs the data far more.
    """
    with jax.enable_x64(False):
        law = EDM()
        data = Gaussian.scalar(0.3, 0.5, dims=4)
        predict, ts = data.predict(law), np.asarray(make_grid("karras", law, 30, 0.02))
        x = data.draw(np.random.default_rng(0), 50).astype(np.float32)

        @jax.jit
        def back(x, ts):
            def trip(frame):
                pair = invert(law, predict, x, ts, frame=frame).pair
                return decode(predict, bdia(law, frame=frame), pair, ts).x

            return trip("x"), trip("unit")

        ends = back(x, ts)
    gaps = {frame: np.max(np.abs(end - x)) for frame, end in zip(("x", "unit"), ends)}
    assert gaps["unit"] < 1e-5 and gaps["x"] > 1e-4


def test_real_digits_come_back():
    """Digits of 8 x 8 return after 50 steps up and down, with their optimal denoiser, gamma = 1."""
    points = load_digits().data[:400] / 8.0 - 1.0
    predict, ts = Empirical(points).predict(LAW), even(50)
    a, c = (float(v) for v in LAW.coeffs(ts[-1]))
    x = a * points[:4] + c * normal(4, 64)

    @jax.jit
    def trip(x, ts):
        pair = invert(LAW, predict, x, ts).pair
        return pair.memory.x, decode(predict, bdia(LAW), pair, ts).x

    latents, back = (np.asarray(v) for v in trip(x, ts))
    assert np.max(np.abs(back - x)) < 1e-12
    # The latents are far from any image, so the trip went all the way up.
    assert np.min(np.linalg.norm(latents[:, None] - points[None], axis=-1)) > 3.0


def test_editing_by_a_change_of_label():
    """Inverting under label A and decoding under B gives an image of class B."""
    halves = [
        Mixture(np.array([0.5, 0.5]), sign * np.array([[1.5, 1.0], [1.5, -1.0]]), np.full(2, 0.2))
        for sign in (-1.0, 1.0)
    ]
    a, b = (half.predict(LAW) for half in halves)

    @jax.jit
    def edit(x, ts):
        return decode(b, bdia(LAW, 0.96), invert(LAW, a, x, ts, 0.96).pair, ts).x

    edited = np.asarray(edit(halves[0].draw(np.random.default_rng(0), 100), even(50)))
    near = np.min(np.linalg.norm(edited[:, None] - halves[1].means[None], axis=-1), axis=1)
    assert np.all(edited[:, 0] > 0.0) and np.mean(near < 4 * 0.2) > 0.95


@pytest.mark.parametrize("gamma", [-0.1, 1.2, np.array([0.5, np.nan])])
def test_gamma_outside_its_range(gamma):
    with pytest.raises(ValueError, match=r"from 0 .* to 1"):
        bdia(LAW, gamma)


def test_unknown_frame():
    with pytest.raises(ValueError, match=r"frame is 'z'; take one of 'x', 'y', 'unit'"):
        bdia(LAW, frame="z")


def test_inversion_needs_gamma():
    with pytest.raises(ValueError, match=r"gamma is 0.0; an inversion divides by it"):
        invert(LAW, PREDICT, np.ones((1, 1)), np.linspace(1.0, 0.1, 5), 0.0)
