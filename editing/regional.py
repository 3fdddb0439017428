"""Noise by region, and time travel without noise (Mou et al. 2024, DiffEditor, arXiv 2402.02583).

A DDIM step (Song, Meng, Ermon 2021, eq. 12) whose noise strength differs from pixel to pixel: eta
has the shape of a state, and one draw z serves all pixels:

    x_s = a_s x0 + sqrt(c_s^2 - std^2) eps + std z,      std = eta q c_s / c_t

It is a step of `dx = (f x - (1 + e) g^2 score / 2) dt + sqrt(e) g dw` with a diagonal e. The drift
and noise terms of e cancel in the Fokker-Planck equation, coordinate by coordinate. For the exact
score and an eta that does not depend on the state, all marginals are therefore kept, including the
correlations between regions. In the limit of small steps `e = eta^2` (`samplers/steps/ddim.py`).

Time travel repeats a step several times. Before each repeat it goes back by one inversion step with
the unguided prediction,

    x_t = a_t x0(x_s, s) + c_t eps(x_s, s)

Without guidance this changes a state only by the error of the steps. With guidance, the guide acts
again on a state that it has already changed. `repaint` goes back by noise instead.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from guidance.base import GuideFn, check_path
from samplers import Kernel, Sampler, SampleResult, Span, State
from samplers.around.returns import returning, rows_of
from samplers.base import drawn, finished
from samplers.steps.ddim import shares
from sde_lib import AffinePath, expand
from sde_lib.prediction import PredictFn

EtaFn = Callable[[Array], Array]


def regional(path: AffinePath, eta: float | np.ndarray | Array | EtaFn) -> Sampler:
    """DDIM with a separate eta for each value of a state; one evaluation a step.

    Args:
        eta: in [0, 1], of the shape of one state or broadcasting to it, such as `(H, W, 1)`; or a
            function from the time t, `()`, to such an array, for noise at some times only.

    Raises:
        ValueError: for a law that is not affine, or an eta outside [0, 1].
    """
    check_path(path)
    if not callable(eta) and not np.all((np.asarray(eta) >= 0.0) & (np.asarray(eta) <= 1.0)):
        raise ValueError(f"eta goes from {np.min(eta)} to {np.max(eta)}; it must lie in [0, 1].")

    def kernel(predict: PredictFn, state: State, span: Span) -> Kernel:
        t, s = span.t, span.s
        x, prediction = state.x, predict(state.x, t)
        a_s, c_s = (expand(v, x) for v in path.coeffs(s))
        strength = jnp.asarray(eta(t) if callable(eta) else eta, x.dtype)
        kept, new = shares(path, t, s, strength[None], x)
        return Kernel(a_s * prediction.x0 + c_s * kept * prediction.eps, c_s * new)

    return drawn(path, kernel)


class Travel(NamedTuple):
    """Which steps are taken again.

    - `window`: `(first, last)`, parts of the grid: steps i with `first <= i / N < last`, counted
      from the noise.
    - `repeats`: U, how often each is taken; 1 for none again.
    - `every`: of the steps in the window, each so many'th only.
    """

    window: tuple[float, float] = (0.4, 0.6)
    repeats: int = 3
    every: int = 1

    def times(self, steps: int) -> list[int]:
        """How often each of N steps is taken."""
        first, last = (int(np.ceil(part * steps - 1e-9)) for part in self.window)
        again = range(first, last, self.every)
        return [self.repeats if i in again else 1 for i in range(steps)]

    def check(self) -> None:
        """Raises ValueError for numbers out of range."""
        low, high = self.window
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(
                f"The window is {self.window}; give two rising parts of the grid, in [0, 1]."
            )
        if self.repeats < 1 or self.every < 1:
            raise ValueError(
                f"repeats is {self.repeats} and every {self.every}; both must be at least 1."
            )


def time_travel(
    key: Array,
    path: AffinePath,
    predict: PredictFn,
    sampler: Sampler,
    x: Array,
    ts: Array,
    *,
    travel: Travel,
    guide: GuideFn | None = None,
    denoise: bool = False,
) -> SampleResult:
    """`samplers.sample` with the steps of a window taken several times each.

    Args:
        travel: which steps are repeated, and how often.
        guide: the guide of the steps. The way back and a last denoising use the unguided `predict`.

    Other arguments are as in `sample`, and without repeats the draws are those of `sample`. Each
    way back costs one evaluation and clears the memory of the method.

    Raises:
        ValueError: for one grid per example, or a `travel` that is out of range.
    """
    check_path(path)
    if ts.ndim != 1:
        raise ValueError(f"ts has the shape {ts.shape}; time travel takes one grid for all.")
    travel.check()
    steps = len(ts) - 1
    times = travel.times(steps)
    rows = rows_of(ts, np.repeat(np.arange(steps), times))
    guided = predict if guide is None else guide(predict)

    def back(key: Array, x: Array, origin: Array, t: Array) -> Array:
        del key
        prediction = predict(x, origin)
        a, c = (expand(v, x) for v in path.coeffs(t))
        return a * prediction.x0 + c * prediction.eps

    state, _ = returning(key, guided, sampler, x, rows, back)
    nfe = sum(times) * sampler.nfe + sum(times) - steps + denoise
    x = predict(state.x, ts[-1]).x0 if denoise else state.x
    return finished(x, None, jnp.asarray(nfe), ts=ts)
