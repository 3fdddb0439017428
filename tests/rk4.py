"""How far a sampler ends from the true flow: an independent Runge-Kutta solve, and the error."""

import jax
import jax.numpy as jnp
import numpy as np

from samplers import make_grid, sample


def runge_kutta(law, data, x, eps, steps):
    """An independent reference: classical RK4 on `dy / d lam = -exp(-lam) eps`, `y = x / a`."""
    predict = data.predict(law)
    lam = jnp.linspace(law.lam(jnp.asarray(law.t1)), law.lam(jnp.asarray(eps)), steps + 1)

    def rate(lam, y):
        t = law.t_of_lam(lam)
        return -jnp.exp(-lam) * predict(law.coeffs(t).a * y, t).eps

    def body(y, ends):
        l, h = ends[0], ends[1] - ends[0]
        k1 = rate(l, y)
        k2 = rate(l + h / 2, y + h / 2 * k1)
        k3 = rate(l + h / 2, y + h / 2 * k2)
        k4 = rate(l + h, y + h * k3)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    y = x / law.coeffs(jnp.asarray(law.t1)).a
    y = jax.lax.scan(body, y, jnp.stack([lam[:-1], lam[1:]], axis=1))[0]
    return law.coeffs(jnp.asarray(eps)).a * y


def padded(grids):
    """Grids of several lengths as the columns of one array, the short ones resting at their end.

    A step of length zero leaves x alone, so one scan, compiled once, runs them all side by side.
    """
    length = max(len(grid) for grid in grids)
    return jnp.stack([jnp.pad(grid, (0, length - len(grid)), mode="edge") for grid in grids], 1)


def errors(law, data, method, sizes, eps, start, reference):
    """RMS distance to the reference for each number of steps, on grids even in lam."""
    grids = [make_grid("uniform_lam", law, n, eps) for n in sizes]
    ts = jnp.repeat(padded(grids), len(start), axis=1)
    x = jnp.tile(start, (len(sizes), 1))
    key = jax.random.key(0)
    run = jax.jit(lambda x: sample(key, data.predict(law), method(law), x, ts).x)
    error = run(x).reshape(len(sizes), *start.shape) - reference[None]
    return np.sqrt(np.mean(error**2, axis=(1, 2)))
