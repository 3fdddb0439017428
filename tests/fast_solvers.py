"""What the tests of multistep solvers share: the problem M1, and histories from its solution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from closed_form import M1
from rk4 import padded, runge_kutta

from samplers import sample
from samplers.adams_bashforth import History
from samplers.base import State
from sde_lib import EDM, VE, VP, Flow, SubVP

KEY = jax.random.key(0)
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
LAW, END, SIZES = VP(), 0.01, (192, 256, 384)


def starts(n=2000):
    return jnp.asarray(np.random.default_rng(0).standard_normal((n, 1)))


def slope(sizes, errors):
    return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def even_lam(n):
    """lam at `n` even steps from 1 to 0.01 on VP, in NumPy."""
    ends = [float(LAW.lam(jnp.asarray(t))) for t in (1.0, END)]
    return np.linspace(*ends, n + 1)


def even_lams(sizes):
    return padded([jnp.asarray(even_lam(n)) for n in sizes])


@functools.cache
def solution():
    """The end points of `starts()` on VP from 1 to 0.01."""
    return np.asarray(jax.jit(lambda x: runge_kutta(LAW, M1, x, END, 1000))(starts()))


def rms(x, truth):
    """RMS over examples, for each of the runs `(S, B, 1)`."""
    return np.sqrt(np.mean((np.asarray(x) - truth[None]) ** 2, axis=(1, 2)))


def mixture_errors(make, sizes):
    """RMS distance to the solution on M1 for each number of steps, even in lam, no history."""
    ts = LAW.t_of_lam(even_lams(sizes))
    run = lambda ts: sample(KEY, M1.predict(LAW), make(LAW), starts(), ts).x
    return rms(jax.jit(jax.vmap(run, in_axes=1))(ts), solution())


@functools.cache
def exact_first_steps():
    """The solution on the first five times of each grid: `(S, 5)` and x `(S, 5, B, 1)`, S grids."""
    ts = LAW.t_of_lam(jnp.asarray(np.stack([even_lam(n)[:5] for n in SIZES])))
    to = jax.jit(jax.vmap(lambda t: runge_kutta(LAW, M1, starts(), t, 60)))
    return ts, to(ts.ravel()).reshape(*ts.shape, *starts().shape)


def seeded_slope(make, length, form):
    """The slope of the error on M1 over `SIZES` steps, begun with the solution's outputs at the
    first `length` times (the length of the method's memory), so no start-up is seen."""
    times, xs = exact_first_steps()
    outputs = jax.vmap(jax.vmap(M1.predict(LAW)))(xs, times)
    outputs = outputs.eps if form == "noise" else outputs.x0
    ts = LAW.t_of_lam(even_lams(SIZES).T)
    sampler = make(LAW)

    def run(x, ts, before):
        seeded = sampler._replace(init=lambda x, t: State(x, before))
        return sample(KEY, M1.predict(LAW), seeded, x, ts).x

    before = History(times[:, :length][:, ::-1], outputs[:, :length][:, ::-1])
    x = jax.jit(jax.vmap(run))(xs[:, length], ts[:, length:], before)
    return slope(SIZES, rms(x, solution()))


def end_points(make):
    """`x / a` at lam = 3 from lam = -3 in 20 even steps, for every law."""
    lam = jnp.linspace(-3.0, 3.0, 21)
    y = np.exp(3.0) * jnp.asarray(np.random.default_rng(0).standard_normal((50, 1)))
    results = {}
    for name, law in LAWS.items():
        ts = law.t_of_lam(lam)
        a = law.coeffs(ts).a
        predict, sampler = M1.predict(law), make(law)
        run = jax.jit(lambda x, p=predict, m=sampler, ts=ts: sample(KEY, p, m, x, ts).x)
        results[name] = run(a[0] * y) / a[-1]
    return results
