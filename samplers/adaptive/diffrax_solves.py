"""Adaptive sampling on Diffrax: the probability-flow ODE, and the reverse SDE.

Both take `(key, predict, x, cond=None)`, x at `t1`, and choose their own steps down to `eps`.
"""

import diffrax
import jax
import jax.numpy as jnp
import lineax
from jax import Array

from samplers.adaptive.frame import make_frame
from samplers.adaptive.solver import LONGEST_STEP, Solved, Solver, solve_ode
from samplers.base import SampleFn, SampleResult, finished
from sde_lib import AffinePath, check_data_left
from sde_lib.prediction import Cond, PredictFn, bound, one_of_batch


def adaptive_ode(
    path: AffinePath, eps: float, solver: Solver, per_example: bool = True, denoise: bool = False
) -> SampleFn:
    """The probability-flow ODE to a tolerance (Song et al. 2021, section 4.3).

    With `per_example` each example has its own steps and does not depend on the others. Without it,
    all examples share one step size, chosen by the error over the whole batch, as in the original.
    """

    def run(key: Array, predict: PredictFn, x: Array, cond: Cond = None) -> SampleResult:
        del key
        y, nfe, failed = flow(path, predict, x, eps, solver, "data", per_example, cond)
        return finish(bound(predict, cond), y, jnp.asarray(eps, x.dtype), nfe, failed, denoise)

    return run


def flow(
    path: AffinePath,
    predict: PredictFn,
    x: Array,
    eps: float,
    solver: Solver,
    to: str,
    per_example: bool = True,
    cond: Cond = None,
) -> Solved:
    """Solve the flow ODE from t1 to eps (`to="data"`) or from eps to t1 (`to="noise"`).

    Shapes: x and the end `(B, ...)`, evaluations and failures `(B,)`, leaves of cond `(B, ...)`.

    Raises:
        ValueError: for another `to`, or a frame that does not exist.
    """
    if to not in ("data", "noise"):
        raise ValueError(f"to is {to!r}; the flow goes to 'data' or to 'noise'.")
    low, high = jnp.asarray(eps, x.dtype), jnp.asarray(path.t1, x.dtype)
    frame = make_frame(path, solver.variable, low, solver.sigma_data)
    (t0, u0), (t1, u1) = ((high, frame.end), (low, frame.start))[:: 1 if to == "data" else -1]

    def solve(x: Array, cond: Cond) -> Solved:
        told = bound(predict, cond)
        slope = lambda u, z: frame.slope(told, z, u)
        end = solve_ode(slope, x / frame.scale(t0), u0, u1, solver)
        return end._replace(y=frame.scale(t1) * end.y)

    if per_example:
        end = jax.vmap(lambda x_i, cond_i: solve(x_i[None], one_of_batch(cond_i)))(x, cond)
        return end._replace(y=end.y[:, 0])
    end = solve(x, cond)
    nfe, failed = (jnp.broadcast_to(v, x.shape[:1]) for v in (end.nfe, end.failed))
    return Solved(end.y, nfe, failed)


def adaptive_sde(
    path: AffinePath,
    eps: float,
    solver: Solver,
    denoise: bool = False,
    resolution: float = 1e-4,
    eta: float = 1.0,
) -> SampleFn:
    """The reverse SDE to a tolerance, by ShARK (Foster et al. 2024, for additive noise, strong
    order 1.5) with its embedded error estimate.

    Args:
        solver: its tolerances, `max_steps` and variable are used; the method is always ShARK.
        resolution: the finest resolution of the noise, as a part of the whole span; no step is
            shorter.
        eta: the strength of the noise (`exponential/integrals.py`), above 0; 1 is the reverse SDE.

    With u the variable, rising, and `dt = -rate du`, the SDE of strength eta is

        dx = -rate (velocity + eta g^2 eps / (2 c)) du + sqrt(eta g^2 rate) dw,

    and in lam, where `g^2 rate = 2 c^2` for every law, its noise is `sqrt(2 eta) c dw`. In t nearly
    all noise of VE and EDM lies in the first part of the path.

    Noise comes from a virtual Brownian tree over u. The Brownian path depends on the key and not on
    the steps, so a tighter tolerance converges to the same path. A state that is not finite ends
    the solve of its example at once; otherwise that example would keep the batch waiting until
    `max_steps`.

    Raises:
        ValueError: for an eta that is not positive, or the variable `"angle"`, whose coordinates
            would rescale the noise as well.
    """
    if not eta > 0.0:
        raise ValueError(f"eta is {eta}; without noise take `adaptive_ode`.")
    if solver.variable not in ("t", "lam"):
        raise ValueError(
            f"variable is {solver.variable!r}; the adaptive SDE steps in 't' or in 'lam'."
        )

    check_data_left(path, "the drift a' / a")

    def one(key: Array, predict: PredictFn, x: Array, cond: Cond):
        predict = bound(predict, one_of_batch(cond))
        start, end = clock(path, solver.variable, jnp.asarray([path.t1, eps], x.dtype))
        span = end - start
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        # The span begins at 0 because Brownian trees do.
        tree = diffrax.VirtualBrownianTree(
            0.0, span, span * resolution / 2, shape, key, diffrax.SpaceTimeLevyArea
        )

        def drift(u, y, args):
            t, rate = time_and_rate(path, solver.variable, start + u)
            prediction = predict(y[None], t)
            pull = 0.5 * eta * path.g2(t) / path.coeffs(t).c
            return -rate * (prediction.velocity[0] + pull * prediction.eps[0])

        def diffusion(u, y, args):
            t, rate = time_and_rate(path, solver.variable, start + u)
            return diffrax_diagonal(jnp.sqrt(eta * path.g2(t) * rate), y)

        controller = diffrax.PIDController(
            rtol=solver.rtol,
            atol=solver.atol,
            # The proportional part damps oscillations of the step size under noise (Ilie, Jackson,
            # Enright 2015).
            pcoeff=0.1,
            icoeff=0.3,
            dtmin=span * resolution,
            dtmax=span * LONGEST_STEP,
        )
        solution = diffrax.diffeqsolve(
            diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, tree)),
            diffrax.ShARK(),
            t0=0.0,
            t1=span,
            dt0=span * resolution,
            y0=x,
            stepsize_controller=controller,
            max_steps=solver.max_steps,
            adjoint=diffrax.ForwardMode(),
            event=diffrax.Event(lambda u, y, args, **_: ~jnp.all(jnp.isfinite(y))),
            throw=False,
        )
        y = solution.ys[-1]
        failed = (solution.result != diffrax.RESULTS.successful) | ~jnp.all(jnp.isfinite(y))
        return jnp.where(failed, jnp.nan, y), solution.stats["num_steps"], failed

    def run(key: Array, predict: PredictFn, x: Array, cond: Cond = None) -> SampleResult:
        keys = key if key.ndim else jax.random.split(key, x.shape[0])
        solve = lambda key, x, cond: one(key, predict, x, cond)
        y, num_steps, failed = jax.vmap(solve)(keys, x, cond)
        return finish(
            bound(predict, cond), y, jnp.asarray(eps, x.dtype), 2 * num_steps, failed, denoise
        )

    return run


def clock(path: AffinePath, variable: str, t: Array) -> Array:
    """The variable of integration at t, rising from noise to data: `-t`, or lam."""
    return path.lam(t) if variable == "lam" else -t


def time_and_rate(path: AffinePath, variable: str, u: Array) -> tuple[Array, Array]:
    """`t` and `-dt/du` at the value u of `clock`."""
    if variable != "lam":
        return -u, jnp.ones_like(u)
    t, slope = jax.jvp(path.t_of_lam, (u,), (jnp.ones_like(u),))
    return t, -slope


def diffrax_diagonal(g: Array, y: Array):
    """The operator `g I` on a control shaped like y, stored as its diagonal."""
    return lineax.DiagonalLinearOperator(jnp.broadcast_to(g, y.shape))


def finish(predict, y: Array, t: Array, nfe: Array, failed: Array, denoise: bool) -> SampleResult:
    """The result of a solve, with `denoise` the conditional mean of the data at the last time."""
    if denoise:
        return finished(predict(y, t).x0, None, nfe + 1, failed)
    return finished(y, None, nfe, failed)
