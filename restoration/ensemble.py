"""An ensemble of weighted particles that follows `Q_t = p_t exp(-mu)` from noise to data.

AFDPS: Chen et al. 2025, arXiv 2506.03979. The method does not approximate a score given y. Its only
errors are that of the number N of particles, of order N^(-1/2), and that of the steps.

mu is a misfit of the state itself, `-log p(y | x)` at `x = x_t`, so at the end Q is the posterior
of the data with the law's last noise added. For a forward SDE `f x dt + g dw` of any affine law,
with h the time running down and any V(t) >= 0, `dX = (-f X + (g^2 + V^2) s / 2) dh + V dW` with the
score s has the marginals p. Adding a drift u to a motion that follows Q up to a weight changes the
rate of the log weight by `-div(u Q) / Q`. With the drift `-k V^2 grad mu`, where k is the fraction:

    motion     (-f X + (g^2 + V^2) s / 2 - k V^2 grad mu) dh + V dW
    log w      -(-f X + g^2 s / 2) . grad mu dh
               + (1/2 - k) V^2 ((s - grad mu) . grad mu + lap mu) dh

k = 1 is the paper's choice. At k = 1/2 the last line of log w vanishes, and with it the Laplacian.
The motion then splits into two parts, each exact for Q by itself, with steps of any length:

    flow       the probability-flow ODE carries p_t to p_s, so log w grows by mu(x_t) - mu(x_s)
    Langevin   V^2 (s - grad mu) / 2 dh + V dW keeps Q_s

A step here consists of these two parts for any k; the Langevin part also adds the last line of
log w. `V^2 = eta g^2`, so `int V^2 dh = 2 eta c^2 (lam_s - lam_t)`. The Langevin part keeps x0, the
conditional mean, fixed and solves the remaining linear SDE exactly. For a linear measurement this
is an Ornstein-Uhlenbeck process in the singular basis of A with the precision
`P = 1 / c^2 + 2 k s^2 / noise_std^2`, which is stable for any stiffness.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logsumexp

from guidance.base import check_path
from restoration.misfit import Misfit, ValueFn, laplacian_of
from restoration.particles import Ensemble, effective, systematic
from samplers import Sampler, Span, dpm_solver
from sde_lib import AffinePath, dot, fold_in, normal_like, split
from sde_lib.prediction import PredictFn

# Upper bound of `V^2 dh stiffness` for explicit steps in a stiff misfit, and for the weights with
# a fraction other than 1/2.
STABLE = 2.0


def ensemble(
    path: AffinePath,
    misfit: Misfit,
    ts: Array,
    particles: int = 1000,
    *,
    fraction: float = 0.5,
    eta: float = 1.0,
    threshold: float = 0.5,
    flow: Sampler | None = None,
    corrections: int = 1,
    start: str | None = None,
    probes: int = 1,
) -> Callable[[Array, PredictFn], Ensemble]:
    """Return `run(key, predict) -> Ensemble` for one measurement; map over misfits for several.

    Args:
        ts: `(steps + 1,)` falling times, from the law's t1.
        particles: N.
        fraction: k, the part of `V^2 grad mu` that moves the particles; the rest enters their
            weights. With k = 1 and a large V the law of the particles becomes too narrow, and the
            variance of its weights is infinite.
        eta: the strength of the noise, at least 0. With 0 the posterior differs from the prior only
            by the weights.
        threshold: resample (systematically) if the ESS is below this part of N; 0 for never, 1 for
            always. Always resampling removes outlying particles before a misfit whose Hessian is
            unbounded moves them further out.
        flow: a sampler of the flow ODE without memory and noise; DPM-Solver of order 2 by default.
        corrections: the number of corrections of x0 in the Langevin part. Each averages an
            evaluation at the end of the part with the one at its start. The error of a step is of
            order 1 without corrections and of order 2 with one.
        start: "exact", draws of `N(0, prior_std^2 I) exp(-mu)`, available for linear measurements
            and the default for them; or "prior", weighted draws of the prior. Both replace the law
            at t1 by the prior, and the error of that stays in the evidence.
        probes: the number of random probes of an estimated Laplacian.

    One key serves all particles, which are not independent of each other. A step costs
    `1 + corrections` evaluations in addition to those of `flow`.

    Raises:
        ValueError: for a law that is not affine, no particles, numbers out of range, an exact start
            that is not known, or steps too long for explicit guidance: it says how many are needed.
    """
    check_path(path)
    exact = misfit.quadratic is not None
    start = start or ("exact" if exact else "prior")
    check_counts(particles=(particles, 1), corrections=(corrections, 0), probes=(probes, 1))
    check_numbers(fraction, eta, threshold, start, exact)
    check_steps(path, misfit, ts, fraction, eta)
    flow = dpm_solver(path, 2, "noise") if flow is None else flow

    def move(key: Array, predict: PredictFn, lap: ValueFn, x: Array, s: Array, h: Array):
        """The Langevin part at s over h in lam: the new states and the growth of log w."""
        (a, c), rate, noise = path.coeffs(s), eta * h, normal_like(key, x)
        follow = 2.0 * fraction * c**2

        def relaxed(data: Array, gradient: Array) -> Array:
            if not exact:
                return relax(x, data - follow * gradient, c, rate, noise)
            moved = relax(x, data, c, rate, noise)
            stiffness, pull, vt, v, _ = misfit.quadratic
            # `P c^2` in the singular basis, in which it is diagonal.
            stiff = 1.0 + follow * jnp.asarray(stiffness, x.dtype)
            mean = (vt(data) + follow * pull) / stiff
            own = relax(vt(x), mean, c / jnp.sqrt(stiff), rate * stiff, vt(noise))
            return moved + v(own - vt(moved))

        def seen(x: Array) -> tuple[Array, Array]:
            return a * predict(x, s).x0, misfit.gradient(x)

        first = last = seen(x)
        moved = relaxed(*first)
        for _ in range(corrections):
            last = seen(moved)
            moved = relaxed(*(0.5 * (u + v) for u, v in zip(first, last)))
        if fraction == 0.5:
            return moved, 0.0

        def growth(x: Array, data: Array) -> Array:
            gradient = misfit.gradient(x)
            return dot((data - x) / c**2 - gradient, gradient) + lap(x)

        mean_growth = 0.5 * (growth(x, first[0]) + growth(moved, last[0]))
        return moved, (0.5 - fraction) * 2.0 * rate * c**2 * mean_growth

    def begin(key: Array) -> tuple[Array, Array, Array]:
        """The initial states, log weights, and the known part of the log evidence."""
        std = path.prior_std()
        noise = normal_like(key, jnp.zeros((particles, *misfit.shape)))
        if start == "prior":
            return std * noise, -misfit.value(std * noise), jnp.zeros(())
        _, pull, vt, v, log_evidence = misfit.quadratic
        stiff = 1.0 + std**2 * jnp.asarray(misfit.quadratic.stiffness, noise.dtype)
        own = std**2 * pull / stiff + std / jnp.sqrt(stiff) * vt(noise)
        x = std * noise + v(own - vt(std * noise))
        return x, jnp.zeros(particles), log_evidence(std)

    def run(key: Array, predict: PredictFn) -> Ensemble:
        if key.ndim:
            raise ValueError(
                f"There are {key.shape[0]} keys; particles share one, so map over the keys for "
                "ensembles that are independent."
            )
        first, probing, rest = split(key, 3)
        lap = laplacian_of(misfit, probing, probes)

        def resample(key: Array, x: Array, logs: Array):
            kept = systematic(key, logs, particles)
            return x[kept], jnp.zeros_like(logs), logsumexp(logs) - jnp.log(particles), 1

        def step(carry, inputs):
            x, logs, evidence, count = carry
            i, t, s = inputs
            choosing, moving, flowing = split(fold_in(rest, i), 3)
            moved = flow.step(flowing, predict, flow.init(x, t), Span(t, s, i, len(ts) - 1)).x
            logs = logs + misfit.value(x) - misfit.value(moved)
            ess = effective(logs)
            keep = lambda key, x, logs: (x, logs, jnp.zeros_like(evidence), 0)
            few = ess < threshold * particles
            x, logs, gain, more = jax.lax.cond(few, resample, keep, choosing, moved, logs)
            if eta > 0.0:
                x, weight = move(moving, predict, lap, x, s, path.lam(s) - path.lam(t))
                logs = logs + weight
            return (x, logs, evidence + gain, count + more), ess

        carry = (*begin(first), jnp.zeros((), int))
        (x, logs, evidence, count), ess = jax.lax.scan(
            step, carry, (jnp.arange(len(ts) - 1), ts[:-1], ts[1:])
        )
        total = logsumexp(logs)
        nfe = jnp.asarray((len(ts) - 1) * (flow.nfe + (eta > 0.0) * (1 + corrections)))
        return Ensemble(x, logs - total, ess, evidence + total - jnp.log(particles), count, nfe)

    return run


def relax(x: Array, mean: Array, std: Array, rate: Array, noise: Array) -> Array:
    """An exact step of the Ornstein-Uhlenbeck process towards `N(mean, std^2)`, over the time
    `rate` in units of the relaxation time."""
    return mean + jnp.exp(-rate) * (x - mean) + std * jnp.sqrt(-jnp.expm1(-2.0 * rate)) * noise


def check_counts(**counts: tuple[int, int]) -> None:
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")


def check_numbers(fraction: float, eta: float, threshold: float, start: str, exact: bool) -> None:
    ranges = (("fraction", fraction, 1.0), ("eta", eta, np.inf), ("threshold", threshold, 1.0))
    for name, value, most in ranges:
        if not 0.0 <= value <= most or value == np.inf:
            upper = f"from 0 to {most:g}" if most < np.inf else "0 or more, and finite"
            raise ValueError(f"{name} is {value}; it must be {upper}.")
    if start not in ("exact", "prior"):
        raise ValueError(f"start is {start!r}; it must be 'exact' or 'prior'.")
    if start == "exact" and not exact:
        raise ValueError(
            "start is 'exact' and the misfit is not of a linear measurement; take 'prior'."
        )


def check_steps(path: AffinePath, misfit: Misfit, ts: Array, fraction: float, eta: float) -> None:
    """Check the stability of explicit guidance on the grid ts.

    Raises:
        ValueError: for a grid whose steps are too long; the message names a sufficient number.
    """
    exact = misfit.quadratic is not None and fraction == 0.5
    if exact or misfit.stiffest is None or eta == 0.0:
        return
    with jax.ensure_compile_time_eval():
        lam, c = np.asarray(path.lam(ts)), np.asarray(path.coeffs(ts).c)
    worst = float(np.max(2.0 * eta * c[1:] ** 2 * np.diff(lam))) * misfit.stiffest
    if worst > STABLE:
        steps = int(np.ceil((len(lam) - 1) * worst / STABLE))
        raise ValueError(
            f"V^2 dt / noise_std^2 reaches {worst:.3g} in {len(lam) - 1} steps and must stay below "
            f"{STABLE:g}; take about {steps} steps, a smaller eta, or for a linear measurement "
            "fraction = 0.5."
        )
