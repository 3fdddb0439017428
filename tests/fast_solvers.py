"""Helpers for the tests of multistep solvers: the problem M1, and histories from its solution."""

import functools

import jax
import numpy as np
from closed_form import M1
from laws_by_example import LawByExample
from rk4 import even_in_lam, padded, runge_kutta
from scipy.special import ndtri

from samplers import sample
from samplers.base import State
from samplers.exponential.adams_bashforth import History
from sde_lib import EDM, VE, VP, Flow, SubVP

KEY = jax.random.key(0)
LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
LAW, END, SIZES = VP(), 0.01, (192, 256, 384)


def starts(n=200):
    """Return n quantiles `(n, 1)` of the normal law, at evenly spaced probabilities.

    An RMS over 200 quantiles is within 1 % of that over the whole law. Random draws need ten times
    as many for this.
    """
    return ndtri((np.arange(n) + 0.5) / n)[:, None]


def slope(sizes, errors):
    return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def even_lam(n):
    """Return lam at the nodes of n even steps from t = 1 to 0.01 on VP, `(n + 1,)`, in NumPy."""
    ends = np.asarray(LAW.lam(np.array([1.0, END])))
    return np.linspace(*ends, n + 1)


def even_lams(sizes):
    return padded([even_lam(n) for n in sizes])


@functools.cache
def solution():
    """Return the end points of the flow from `starts()`, on VP from 1 to 0.01."""
    return runge_kutta(LAW, M1, starts(), END, 600)


def rms(x, truth):
    """Return the RMS error over examples for each of the runs `(S, B, 1)`, `(S,)`."""
    return np.sqrt(np.mean((np.asarray(x) - truth[None]) ** 2, axis=(1, 2)))


def mixture_errors(make, sizes):
    """Return the RMS error on M1 for each number of steps even in lam, started without history."""
    ts = even_in_lam(LAW, sizes, END)
    run = lambda x, ts: sample(KEY, M1.predict(LAW), make(LAW), x, ts).x
    return rms(jax.jit(jax.vmap(run, in_axes=(None, 1)))(starts(), ts), solution())


@functools.cache
def exact_first_steps():
    """Return the first five times of each of S grids `(S, 5)`, and the solution `(S, 5, B, 1)`."""
    ts = np.asarray(LAW.t_of_lam(np.stack([even_lam(n)[:5] for n in SIZES])))
    x = np.stack([runge_kutta(LAW, M1, starts(), t, 20) for t in ts.ravel()])
    return ts, x.reshape(*ts.shape, *starts().shape)


def seeded_slope(make, length, form):
    """Return the slope of the error on M1 over `SIZES` steps, without an error from the start.

    The method begins with the solution's outputs at the first `length` times as its memory;
    `length` is the length of that memory.
    """
    times, xs = exact_first_steps()
    flat = xs.reshape(-1, *xs.shape[3:])
    outputs = M1.predict(LAW)(flat, np.repeat(times.ravel(), xs.shape[2]))
    outputs = np.reshape(outputs.eps if form == "noise" else outputs.x0, xs.shape)
    ts = np.asarray(LAW.t_of_lam(even_lams(SIZES).T))
    sampler = make(LAW)

    def run(x, ts, before):
        seeded = sampler._replace(init=lambda x, t: State(x, before))
        return sample(KEY, M1.predict(LAW), seeded, x, ts).x

    before = History(times[:, :length][:, ::-1], outputs[:, :length][:, ::-1])
    x = jax.jit(jax.vmap(run))(xs[:, length], ts[:, length:], before)
    return slope(SIZES, rms(x, solution()))


def side_by_side(lam, y):
    """Return what one run with all five laws needs, from a grid `lam` and states `y` `(B, ...)`.

    Returns the law of each example, times `(N + 1, 5 B)`, `a` at these times, and `y` repeated for
    each law.
    """
    law = LawByExample(tuple(LAWS.values()), np.repeat(np.arange(len(LAWS)), len(y)))
    ts, a = jax.jit(lambda lam: (ts := law.t_of_lam(lam), law.coeffs(ts).a))(
        np.repeat(lam[:, None], len(LAWS) * len(y), axis=1)
    )
    return law, np.asarray(ts), np.asarray(a), np.tile(y, (len(LAWS), *(1,) * (y.ndim - 1)))


def end_points(make):
    """Return `x / a` at lam = 3 for every law, from lam = -3 in 20 even steps."""
    y = np.exp(3.0) * np.random.default_rng(0).standard_normal((50, 1))
    law, ts, a, y = side_by_side(np.linspace(-3.0, 3.0, 21), y)
    run = jax.jit(lambda x, ts: sample(KEY, M1.predict(law), make(law), x, ts).x)
    ends = np.asarray(run(a[0][:, None] * y, ts)) / a[-1][:, None]
    return dict(zip(LAWS, ends.reshape(len(LAWS), 50, 1)))
