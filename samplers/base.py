"""The shape of every sampler, and the one scan that drives the fixed-step ones.

A sampler is two pure functions, state in, state out. `step` is handed the prediction *function*,
so a two-stage method is two calls in a row. Time runs down a grid `ts` from noise to data: a step
goes from the current time `t` to the next, `s < t`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from sde_lib import SDE, fold_in, normal_logp, rows, total
from sde_lib.prediction import Cond, PredictFn, bound


class State(NamedTuple):
    """The current `x` `(B, ...)`, and whatever the method remembers (nothing, for most)."""

    x: Array
    memory: Any = ()


def stay(x: Array, t: Array) -> Array:
    """The `enter` of a method that takes a draw of the prior as it is."""
    del t
    return x


class Span(NamedTuple):
    """One step of a run: from time t down to s <= t, each `()` or `(B,)`; number i of n, from 0.

    i may be traced. A method whose steps depend on their number, as an order that falls at the end
    of a grid does, reads both here, and so never has to be told the grid's length beforehand.
    """

    t: Array
    s: Array
    i: Array | int = 0
    n: int = 1


class Kernel(NamedTuple):
    """The law of x after a step of a stochastic method, given the state before:
    `N(mean, std^2)`, both `(B, ...)` or broadcasting to it, and what the method then remembers."""

    mean: Array
    std: Array
    memory: Any = ()

    def log_density(self, x: Array) -> Array:
        """Log density at x `(B, ...)` in nats, summed over all axes but the first: `(B,)`."""
        return total(normal_logp((x - self.mean) / self.std, self.std))


KernelFn = Callable[[PredictFn, State, Span], Kernel]


class Sampler(NamedTuple):
    """A fixed-step method.

    `init(x, t) -> State` makes the method's memory and leaves x alone, so a run may be resumed from
    any state; `step(key, predict, state, span) -> State`; `nfe` is the number of evaluations of
    `predict` that one step makes. `enter(x, t) -> x` makes a draw of the prior the method's own
    start; the driver of the method calls it once, at the first node (`begin`).

    `kernel(predict, state, span) -> Kernel` is the law from which `step` draws, where that is one
    normal distribution; None for other methods, such as those of an ODE or of several draws.
    """

    init: Callable[[Array, Array], State]
    step: Callable[[Array, PredictFn, State, Span], State]
    nfe: int
    enter: Callable[[Array, Array], Array] = stay
    kernel: KernelFn | None = None


class SampleResult(NamedTuple):
    """`x` `(B, ...)`; `trace`, what `collect` gave after the steps, stacked; `nfe`, evaluations of
    the network for one sample, a number or `(B,)`; `failed` `(B,)`, which examples are not finite,
    or whose adaptive solve did not arrive (see `finished`); `ts`, the nodes that a fixed-step
    method went down."""

    x: Array
    trace: Any
    nfe: Array
    failed: Array | bool = False
    ts: Array | None = None


def finished(
    x: Array, trace: Any, nfe: Array, failed: Array | bool = False, ts: Array | None = None
) -> SampleResult:
    """The result of a run, in which every example that is not finite has failed."""
    return SampleResult(x, trace, nfe, has_failed(x, failed), ts)


@jax.jit
def has_failed(x: Array, failed: Array | bool) -> Array:
    """Which examples have failed or are not finite, `(B,)`. The function is jitted, so that a call
    outside `jit` compiles one program and not three."""
    return failed | ~finite(x)


def finite(x: Array) -> Array:
    """Which examples of x `(B, ...)` are finite throughout, `(B,)`."""
    return jnp.all(jnp.isfinite(rows(x)), axis=1)


class SampleFn(Protocol):
    """A whole run, `(key, predict, x, cond=None) -> SampleResult`, from x `(B, ...)` at t1.

    cond is what `predict` is told of each example, see `sde_lib.prediction.Cond`. A method that
    takes examples one by one hands each its own.
    """

    def __call__(
        self, key: Array, predict: PredictFn, x: Array, cond: Cond = None
    ) -> SampleResult: ...


def start(x: Array, t: Array) -> State:
    """The `init` of a method without memory."""
    del t
    return State(x)


def drawn(law: SDE, kernel: KernelFn, init: Callable = start, nfe: int = 1) -> Sampler:
    """The stochastic method of a kernel: `x_s = mean + std z`, z the law's noise."""

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        mean, std, memory = kernel(predict, state, span)
        return State(mean + std * law.noise(key, mean), memory)

    return Sampler(init, step, nfe, kernel=kernel)


def mean_of(kernel: KernelFn, init: Callable = start, nfe: int = 1) -> Sampler:
    """The deterministic method of a kernel whose noise is left out: `x_s = mean`."""

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        del key
        mean, _, memory = kernel(predict, state, span)
        return State(mean, memory)

    return Sampler(init, step, nfe)


def begin(sampler: Sampler, x: Array, t: Array) -> State:
    """The first state of a run from x, a draw of the prior at t."""
    return sampler.init(sampler.enter(x, t), t)


def sample(
    key: Array,
    predict: PredictFn,
    sampler: Sampler,
    x: Array,
    ts: Array,
    collect: Callable[[State], Any] | None = None,
    denoise: bool = False,
    frames: int | None = None,
    *,
    cond: Cond = None,
    remat: bool = False,
) -> SampleResult:
    """Drives a fixed-step sampler down a time grid.

    Args:
        key: one key, or one per example; step i draws from `fold_in(key, i)`.
        x: the start at `ts[0]`, `(B, ...)`.
        ts: `(N + 1,)` falling times, or `(N + 1, B)`, one grid per example.
        collect: what to keep of the state after each step.
        denoise: end with the conditional mean of the data, `predict(x, ts[-1]).x0` (Tweedie's
            formula), at the price of one more evaluation. Without it the samples carry the noise
            of the law at `ts[-1]`.
        frames: keep what `collect` gives after so many of the steps, those of `spread`; None for
            all, which takes the memory of all.
        cond: the condition of each example, see `sde_lib.prediction.Cond`.
        remat: where the run is differentiated in reverse, keep the state between steps and make
            what is inside a step again on the way back (`jax.checkpoint`): the memory of one step
            in place of all, for one more evaluation of each.
    """
    n, predict = ts.shape[0] - 1, bound(predict, cond)

    def step(state: State, inputs) -> State:
        i, t, s = inputs
        return sampler.step(fold_in(key, i), predict, state, Span(t, s, i, n))

    if remat:
        # Inside a scan, XLA cannot merge the second evaluation with the first.
        step = jax.checkpoint(step, prevent_cse=False)
    steps = (jnp.arange(n), ts[:-1], ts[1:])
    state, trace = walk(step, begin(sampler, x, ts[0]), steps, collect, frames)
    nfe = n * sampler.nfe
    if denoise:
        x = predict(state.x, ts[-1]).x0
        return finished(x, trace, jnp.asarray(nfe + 1), ts=ts)
    return finished(state.x, trace, jnp.asarray(nfe), ts=ts)


def walk(
    step: Callable[[State, Any], State],
    state: State,
    inputs: Any,
    collect: Callable[[State], Any] | None = None,
    frames: int | None = None,
) -> tuple[State, Any]:
    """One `lax.scan` of `step` over the rows of `inputs`; the last state, and what was collected.

    With `frames` that many are kept in a buffer which the scan carries: the memory is theirs, and
    not that of all steps.
    """

    def body(state: State, row):
        state = step(state, row)
        return state, (collect(state) if collect else None)

    n = len(jax.tree.leaves(inputs)[0])
    if collect is None or frames is None:
        return jax.lax.scan(body, state, inputs)
    shown = spread(n, frames)
    if frames >= n:
        state, trace = jax.lax.scan(body, state, inputs)
        return state, jax.tree.map(lambda v: v[shown], trace)
    # The place of each step's frame; one past the end, which is dropped, where none is kept.
    places = np.full(n, frames)
    places[shown] = np.arange(frames)
    empty = jax.tree.map(
        lambda v: jnp.zeros((frames, *v.shape), v.dtype), jax.eval_shape(collect, state)
    )

    def keeping(carry, row):
        (state, kept), (place, row) = carry, row
        state, seen = body(state, row)
        put = lambda buffer, v: buffer.at[place].set(v, mode="drop")
        return (state, jax.tree.map(put, kept, seen)), None

    (state, kept), _ = jax.lax.scan(keeping, (state, empty), (jnp.asarray(places), inputs))
    return state, kept


def spread(steps: int, frames: int) -> np.ndarray:
    """Numbers of `frames` steps, evenly from the first to the last; twice the same if too few."""
    return np.linspace(0, steps - 1, frames).round().astype(int)


def chain(*samplers: Sampler) -> Sampler:
    """Runs several methods in each step, one after the other on the same `x`.

    Each keeps a memory of its own. All are called with the same span: a predictor moves from t to
    s, a corrector stays where it was built to act (see `steps/corrector.py`).

    Raises:
        ValueError: where two of them complete the start, which would be completed twice.
    """
    enters = [sampler.enter for sampler in samplers if sampler.enter is not stay]
    if len(enters) > 1:
        raise ValueError(
            f"{len(enters)} methods of a chain complete its start, which is completed once; wrap "
            "all its parts in one call, as impute(path, operator, y, predictor, corrector)."
        )

    def init(x: Array, t: Array) -> State:
        return State(x, tuple(sampler.init(x, t).memory for sampler in samplers))

    def kernel(predict: PredictFn, state: State, span: Span) -> Kernel:
        found = samplers[0].kernel(predict, State(state.x, state.memory[0]), span)
        return found._replace(memory=(found.memory,))

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        x, memories = state.x, []
        for i, (sampler, memory) in enumerate(zip(samplers, state.memory)):
            x, memory = sampler.step(fold_in(key, i), predict, State(x, memory), span)
            memories.append(memory)
        return State(x, tuple(memories))

    nfe, enter = sum(sampler.nfe for sampler in samplers), enters[0] if enters else stay
    # A draw after a draw has no density of its own.
    alone = len(samplers) == 1 and samplers[0].kernel is not None
    return Sampler(init, step, nfe, enter, kernel if alone else None)
