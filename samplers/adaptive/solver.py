"""One adaptive Diffrax solve, shared by the ODE sampler and the likelihood.

Two things keep an error estimate from being fooled. A step is at most an eighth of the path: over
longer ones the embedded estimate passes through zero while the error does not (on Gaussian data 61
of 2048 samples came out wrong by more than 0.1 at a tolerance of 1e-3, unnoticed). And the path is
measured in the variable in which the field is smooth (`frame.py`): not in the time of EDM, nearly
all of which is noise.
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

# How a solve is differentiated in reverse; "forward" allows forward mode alone, and keeps nothing.
ADJOINTS = ("forward", "checkpoint", "backsolve")


# Parts of the path, in the variable of integration.
FIRST_STEP = 1 / 100
LONGEST_STEP = 1 / 8


class Solver(NamedTuple):
    """An adaptive Runge-Kutta solve: a name in `SOLVERS`, tolerances, the most steps, and the
    variable and size of the data of the `Frame` (`frame.py`) that steps are taken in, and a name in
    `ADJOINTS`, the way back through it."""

    method: str = "tsit5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 10_000
    variable: str = "t"
    sigma_data: float = 0.5
    adjoint: str = "forward"


def check_solver(solver: Solver) -> None:
    """Raises ValueError for a name that is not known, or a number that no solve can have."""
    one_of(tuple(SOLVERS), solver=solver.method)
    one_of(VARIABLES, variable=solver.variable)
    positive(**{key: getattr(solver, key) for key in ("rtol", "atol", "max_steps", "sigma_data")})


class Solved(NamedTuple):
    """The end state, the evaluations of the field, and whether the end was not reached."""

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

    t may be any variable: that of a `Frame`. `norm` is the size of an error in units of the
    tolerance, by default the root mean square over all of y. A failure is reported
    in the result, with the state made nan: it neither raises nor passes for an answer.
    """
    method = SOLVERS[solver.method]()
    # Where the last stage of a step serves as the first of the next, the very first is evaluated
    # here: Diffrax would do so again after each rejection of the first step, and not report it.
    first_is_last = isinstance(method, diffrax.AbstractERK) and method.tableau.fsal
    state, values = None, ()
    if solver.adjoint != "forward":
        # What the field closes over, such as parameters, is handed over to be differentiated.
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
        # Diffrax's own choice of the first step depends on its release, and so would the count.
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
    """Diffrax's adjoint of that name.

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
    # Backwards, steps follow the state and its gradient; that of parameters is an integral beside.
    norm = diffrax.adjoint_rms_seminorm
    controller = diffrax.PIDController(rtol=solver.rtol, atol=solver.atol, norm=norm)
    return diffrax.BacksolveAdjoint(stepsize_controller=controller)


def evaluations(method: diffrax.AbstractSolver, num_steps: Array) -> Array:
    """Evaluations of the field in a solve of `num_steps` attempted steps.

    Reversible Heun makes one at the start and one a step.

    A method whose first stage is the last one of the step before ("first same as last") makes one
    at the start and then one fewer than its stages each step.
    """
    if isinstance(method, diffrax.ReversibleHeun):
        return 1 + num_steps
    stages = method.tableau.num_stages
    if method.tableau.fsal:
        return 1 + (stages - 1) * num_steps
    return stages * num_steps
