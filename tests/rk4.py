"""Errors of samplers against the true flow, from an independent Runge-Kutta solve."""

import jax
import jax.numpy as jnp
import numpy as np

from samplers import sample


def traced(*arrays):
    return any(isinstance(array, jax.core.Tracer) for array in arrays)


def runge_kutta(law, data, x, eps, steps):
    """Solve `dy / d lam = -exp(-lam) eps` with `y = x / a` from t1 to eps by classical RK4.

    Inside a traced function JAX evaluates the solve. On plain arrays NumPy evaluates it in float64
    and compiles nothing; this needs data of `closed_form.py`.
    """
    if not traced(x, eps):
        return runge_kutta_in_numpy(law, data, x, eps, steps)
    predict = data.predict(law)
    lam = jnp.linspace(law.lam(jnp.asarray(law.t1)), law.lam(jnp.asarray(eps)), steps + 1)

    def rate(lam, y):
        t = law.t_of_lam(lam)
        return -jnp.exp(-lam) * predict(law.coeffs(t).a * y, t).eps

    def body(y, ends):
        return rk4_step(rate, ends[0], ends[1] - ends[0], y), None

    y = x / law.coeffs(jnp.asarray(law.t1)).a
    y = jax.lax.scan(body, y, jnp.stack([lam[:-1], lam[1:]], axis=1))[0]
    return law.coeffs(jnp.asarray(eps)).a * y


def runge_kutta_in_numpy(law, data, x, eps, steps):
    """Solve as `runge_kutta`, in NumPy. eps of x equals eps of y for a = 1, c = `exp(-lam)`."""
    x = np.asarray(x, np.float64)
    with jax.enable_x64(True):
        ends = np.array([law.t1, eps], np.float64)
        a, lam = np.asarray(law.coeffs(ends).a), np.asarray(law.lam(ends))

    def rate(lam, y):
        _, noise, _ = data._posterior(y, np.ones((1, 1)), np.full((1, 1), np.exp(-lam)))
        return -np.exp(-lam) * noise

    y, h = x.reshape(len(x), -1) / a[0], (lam[1] - lam[0]) / steps
    for i in range(steps):
        y = rk4_step(rate, lam[0] + i * h, h, y)
    return a[1] * y.reshape(x.shape)


def rk4_step(rate, lam, h, y):
    k1 = rate(lam, y)
    k2 = rate(lam + h / 2, y + h / 2 * k1)
    k3 = rate(lam + h / 2, y + h / 2 * k2)
    k4 = rate(lam + h, y + h * k3)
    return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def padded(grids):
    """Return grids of several lengths as columns of one array; short ones repeat their last time.

    A step of length zero does not change x, so one scan, compiled once, runs all grids side by
    side.
    """
    xp = jnp if traced(*grids) else np
    grids = [xp.asarray(grid) for grid in grids]
    length = max(len(grid) for grid in grids)
    return xp.stack([xp.pad(grid, (0, length - len(grid)), mode="edge") for grid in grids], 1)


def even_in_lam(law, sizes, eps):
    """Return times `(longest + 1, len(sizes))` from t1 to eps, even in lam, as in `padded`."""
    ends = np.asarray(law.lam(np.array([law.t1, eps])))
    ts = np.array(law.t_of_lam(padded([np.linspace(*ends, n + 1) for n in sizes])))
    # Set both ends exactly, and eps also where a short grid repeats its last time.
    rests = np.arange(len(ts))[:, None] >= np.array(sizes)[None]
    ts[0] = law.t1
    return np.where(rests, eps, ts)


def errors(law, data, method, sizes, eps, start, reference):
    """Return the RMS distance to the reference for each number of steps, on grids even in lam."""
    ts = np.repeat(even_in_lam(law, sizes, eps), len(start), axis=1)
    x = np.tile(start, (len(sizes), 1))
    key = jax.random.key(0)
    run = jax.jit(lambda x, ts: sample(key, data.predict(law), method(law), x, ts).x)
    error = np.asarray(run(x, ts)).reshape(len(sizes), *start.shape) - np.asarray(reference)[None]
    return np.sqrt(np.mean(error**2, axis=(1, 2)))
