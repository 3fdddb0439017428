"""One adaptive Diffrax solve, shared by the ODE sampler and the likelihood.

Two choices keep the error estimate reliable. A step is at most an eighth of the path: over longer
steps the embedded estimate passes through zero while the error does not (on Gaussian data 61 of
2048 samples were wrong by more than 0.1 at a tolerance of 1e-3, and no failure was reported). The
path is measured in a variable in which the field is smooth (`frame.py`), for example not in the
time of EDM, nearly all of which is noise.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jax import Array

from samplers.adaptive.frame import VARIABLES
from sde_lib.ranges import one_of, positive

SOLVERS = {
    "tsit5": diffrax.Tsit5,
    "dopri5": diffrax.Dopri5,
    "dopri8": diffrax.Dopri8,
    "bosh3": diffrax.Bosh3,
    "heun": diffrax.Heun,
    # Kidger et al. 2021: algebraically reversible, so "backsolve" retraces its very steps.
    "reversible_heun": diffrax.ReversibleHeun,
}

# How a solve is differentiated in reverse. "forward" stores nothing and allows forward mode only.
ADJOINTS = ("forward", "checkpoint", "backsolve")


# Parts of the path, in the variable of integration.
FIRST_STEP = 1 / 100
LONGEST_STEP = 1 / 8


class Solver(NamedTuple):
    """The settings of an adaptive Runge-Kutta solve.

    `method` is a name in `SOLVERS`; `rtol` and `atol` are the tolerances; `max_steps` is the
    largest number of steps; `variable` and `sigma_data` define the `Frame` (`frame.py`) of the
    steps; `adjoint` is a name in `ADJOINTS`, the method of reverse differentiation.
    """

    method: str = "tsit5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 10_000
    variable: str = "t"
    sigma_data: float = 0.5
    adjoint: str = "forward"


def check_solver(solver: Solver) -> None:
    """Check a solver's names and numbers.

    Raises:
        ValueError: for an unknown method or variable, or for a tolerance, `max_steps` or
            `sigma_data` that is not positive.
    """
    one_of(tuple(SOLVERS), solver=solver.method)
    one_of(VARIABLES, variable=solver.variable)
    positive(**{key: getattr(solver, key) for key in ("rtol", "atol", "max_steps", "sigma_data")})


class Solved(NamedTuple):
    """The end state, the evaluations of the field, and whether the solve failed."""

    y: Any
    nfe: Array
    failed: Array


def solve_ode(
    field: Callable[[Array, Any], Any],
    y0: Any,
    t0: Array,
    t1: Array,
    solver: Solver,
    norm: Callable[[Any], Array] | None = None,
) -> Solved:
    """Solves `dy/dt = field(t, y)` from t0 to t1, in either direction.

    t may be the variable of any `Frame`. `norm` is the size of an error in units of the tolerance,
    by default the root mean square over all of y. A failed solve raises no error: the result has
    `failed` set and nan as its state.
    """
    method = SOLVERS[solver.method]()
    # If the last stage of a step is also the first of the next, the field at the start is evaluated
    # here. Diffrax would evaluate it again after each rejection of the first step, uncounted.
    first_is_last = isinstance(method, diffrax.AbstractERK) and method.tableau.fsal
    state, values = None, ()
    if solver.adjoint != "forward":
        # Arrays that the field closes over, such as parameters, become arguments, so that the solve
        # can be differentiated with respect to them.
        field, values = jax.closure_convert(field, t0, y0)
    elif first_is_last:
        state = jnp.asarray(False), field(t0, y0)
    controller = diffrax.PIDController(
        rtol=solver.rtol,
        atol=solver.atol,
        dtmax=LONGEST_STEP * jnp.abs(t1 - t0),
        **({} if norm is None else {"norm": norm}),
    )
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: field(t, y, *(args or ()))),
        method,
        t0=t0,
        t1=t1,
        # A fixed first step: Diffrax's own choice, and with it the NFE, depends on its release.
        dt0=FIRST_STEP * (t1 - t0),
        y0=y0,
        args=tuple(values) or None,
        stepsize_controller=controller,
        max_steps=solver.max_steps,
        solver_state=state,
        adjoint=way_back(solver),
        throw=False,
    )
    y = jax.tree.map(lambda leaf: leaf[-1], solution.ys)
    finite = jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(y)])
    failed = ~((solution.result == diffrax.RESULTS.successful) & jnp.all(finite))
    y = jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), y)
    return Solved(y, evaluations(method, solution.stats["num_steps"]), failed)


def way_back(solver: Solver) -> diffrax.AbstractAdjoint:
    """The Diffrax adjoint for `solver.adjoint`.

    Raises:
        ValueError: for a name that is not in `ADJOINTS`.
    """
    if solver.adjoint == "forward":
        return diffrax.ForwardMode()
    if solver.adjoint == "checkpoint":
        return diffrax.RecursiveCheckpointAdjoint()
    if solver.adjoint != "backsolve":
        raise ValueError(
            f"The adjoint is {solver.adjoint!r}; it must be one of {', '.join(ADJOINTS)}."
        )
    # On the way back, the error control sees the state and its gradient. The gradient of the
    # parameters is a plain integral, which the seminorm leaves out.
    norm = diffrax.adjoint_rms_seminorm
    controller = diffrax.PIDController(rtol=solver.rtol, atol=solver.atol, norm=norm)
    return diffrax.BacksolveAdjoint(stepsize_controller=controller)


def evaluations(method: diffrax.AbstractSolver, num_steps: Array) -> Array:
    """Evaluations of the field in a solve of `num_steps` attempted steps.

    Reversible Heun makes one evaluation at the start and one a step. A method whose first stage is
    the last stage of the step before ("first same as last") makes one evaluation at the start, and
    one fewer than its stages in each step. Any other method makes one for each stage.
    """
    if isinstance(method, diffrax.ReversibleHeun):
        return 1 + num_steps
    stages = method.tableau.num_stages
    if method.tableau.fsal:
        return 1 + (stages - 1) * num_steps
    return stages * num_steps
