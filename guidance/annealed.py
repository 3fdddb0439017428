"""Guidance by a measurement that is noised like the state, without backpropagation.

The measurement is noised like the state, `y_t = a y + c A z` for `x_t = a x0 + c z`, so

    y_t - A x_t = a noise_std n,

and Song et al. 2021 (appendix I.4) draw y_t and follow `grad log N(y_t; A x_t, a^2 noise_std^2 I)`.
This gradient is exact if z is the noise of the state, and stiff if noise_std is small. Without the
draw, z is one of the unknowns,

    p(y | x_t) ~ N(a y; A x_t, a^2 noise_std^2 I + c^2 A A^T),

which is exact for data with a flat prior. Jalal et al. 2021 (arXiv 2108.01368) have `gamma^2 I` in
place of `c^2 A A^T`, with a gamma that falls with the noise. All three are right at the end, where
c is small, and none is right at larger noise. They are meant for Langevin correctors, which forget
earlier states.
"""

from collections.abc import Callable

from jax import Array

from guidance.base import GuideFn, check_problem, observed, with_score
from guidance.conjugate import check_iterations
from guidance.pigdm import whitened
from operators import LinearOperator
from samplers import Sampler, Span, State
from sde_lib import AffinePath, expand, normal_like, split
from sde_lib.prediction import Cond, PredictFn, Prediction, bound

FORMS = ("flat", "residual", "drawn")


def annealed(
    path: AffinePath,
    operator: LinearOperator,
    y: Array,
    noise_std: float,
    form: str = "flat",
    gamma: float | None = None,
    key: Array | None = None,
    iterations: int = 50,
) -> GuideFn:
    """`g = A^T S^{-1} (y_t - A x_t)`, for any affine law.

        flat       y_t = a y,              S = a^2 noise_std^2 I + gamma^2 c^2 A A^T
        residual   y_t = a y,              S = (a^2 noise_std^2 + gamma^2 c^2) I
        drawn      y_t = a y + c A z,      S = (a^2 noise_std^2 + gamma^2 c^2) I

    Args:
        y: `shape_out`, one measurement for all, or `(B, *shape_out)`.
        form: a name in `FORMS`.
        gamma: the weight of the state's own noise; by default 1, and 0 for `drawn` as published,
            which is stable only in many small steps.
        key: for `drawn`, one key or one per example; z is the same at all times (`redrawn` draws
            it anew).
        iterations: of conjugate gradients, for `flat` with an operator without an SVD.

    The guide costs one evaluation and no pass back.

    Raises:
        ValueError: for a law that is not affine, a y that does not fit the operator, a negative
            noise_std or gamma or both zero, an unknown form, `drawn` without a key, no iterations.
    """
    check_problem(path, operator, y, noise_std)
    check_iterations(iterations)
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; it must be one of {', '.join(FORMS)}.")
    if form == "drawn" and key is None:
        raise ValueError("The form 'drawn' draws the noise of y_t; give a key.")
    gamma = (0.0 if form == "drawn" else 1.0) if gamma is None else gamma
    if not gamma >= 0.0 or gamma == noise_std == 0.0:
        raise ValueError(
            f"gamma is {gamma} and noise_std {noise_std}; neither may be negative, nor both zero."
        )

    def gradient(x: Array, t: Array) -> Array:
        a, c = path.coeffs(t)
        # y_t - A x_t = a (y - A (x - c z) / a), without the division.
        known = x - expand(c, x) * normal_like(key, x) if form == "drawn" else x
        given = observed(operator, y, x)
        r = expand(a, given) * given - operator.forward(known)
        own, noise = (gamma * c) ** 2, (noise_std * a) ** 2
        if form == "flat":
            return whitened(operator, own, noise, r, iterations)
        return operator.adjoint(r / expand(own + noise, r))

    def guide(predict: PredictFn) -> PredictFn:
        def guided(x: Array, t: Array, cond: Cond = None) -> Prediction:
            return with_score(path, bound(predict, cond)(x, t), x, t, gradient(x, t))

        return guided

    return guide


def redrawn(make: Callable[[Array], GuideFn], sampler: Sampler) -> Sampler:
    """`sampler` with the guide `make(key)`, made anew for each step so that y_t is drawn anew.

    All evaluations within a step share one draw.
    """

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        drawing, own = split(key, 2)
        return sampler.step(own, make(drawing)(predict), state, span)

    return sampler._replace(step=step, kernel=None)
