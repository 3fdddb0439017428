"""The interface of a guide: a function from prediction function to prediction function.

A guide adds the gradient `g = grad log p(y | x_t)` of the known y to the score of `x_t`. The result
is again a `PredictFn`, so guides can be stacked, and every affine law, sampler, adaptive solve and
likelihood accepts a guided one. By Tweedie's formula, `x0 = (x + c^2 score) / a`, the fields become

    score + g,    x0 + (c^2 / a) g,    eps - c g,    velocity - (g2 / 2) g

Most guides compute the gradient with respect to x0, the conditional mean of the data, and
backpropagate it through the network: `g = J^T u` with `J = d x0 / d x` and
`u = d log p(y | x0) / d x0`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from operators.base import LinearOperator, check_image, check_measurement
from sde_lib import SDES, AffinePath, expand
from sde_lib.prediction import Cond, PredictFn, Prediction, bound, prediction_of

GuideFn = Callable[[PredictFn], PredictFn]
PullFn = Callable[[Array], Array]


def with_score(
    path: AffinePath, prediction: Prediction, x: Array, t: Array, gradient: Array
) -> Prediction:
    """The prediction whose score is `score + gradient`; all fields `(B, ...)`, t `()` or `(B,)`.

    Where a is zero, x carries no information about the data, and x0 is left unchanged.
    """
    x0 = prediction.x0 + expand(shift(path, t), gradient) * gradient
    eps = prediction.eps - expand(path.coeffs(t).c, gradient) * gradient
    return prediction_of(path, x, t, x0, eps)


def shift(path: AffinePath, t: Array) -> Array:
    """`c^2 / a`, the change of x0 for a unit change of the score, and 0 where a is 0.

    It also gives the covariance `cov(x0 | x) = (c^2 / a) J`.
    """
    a, c = path.coeffs(t)
    return jnp.where(a > 0.0, c**2 / jnp.where(a > 0.0, a, 1.0), 0.0)


def with_pullback(predict: PredictFn, x: Array, t: Array) -> tuple[Prediction, PullFn]:
    """The prediction and the map `u -> J^T u`, `J = d x0 / d x`; the network is evaluated once.

    Each call of the map is one backward pass, which reuses the stored activations.
    """

    def run(x: Array):
        prediction = predict(x, t)
        return prediction.x0, prediction

    _, pullback, prediction = jax.vjp(run, x, has_aux=True)
    return prediction, lambda u: pullback(u)[0]


def with_pushforward(predict: PredictFn, x: Array, t: Array) -> tuple[Prediction, PullFn]:
    """The prediction and the map `u -> J u`, by forward derivatives, linearised once.

    For the exact denoiser J is a factor times a covariance, so `J u = J^T u`. For a network the two
    are equal only as far as the network has learnt this symmetry.
    """

    def run(x: Array):
        prediction = predict(x, t)
        return prediction.x0, prediction

    _, push, prediction = jax.linearize(run, x, has_aux=True)
    return prediction, push


def through_network(path: AffinePath, gradient: Callable[[Array, Array], Array]) -> GuideFn:
    """A guide from `u = gradient(x0, t)`, the gradient of `log p(y | x0)` in x0.

    The guide costs one evaluation and one backward pass.

    Raises:
        ValueError: for a law that is not affine.
    """
    check_path(path)

    def guide(predict: PredictFn) -> PredictFn:
        def guided(x: Array, t: Array, cond: Cond = None) -> Prediction:
            prediction, pullback = with_pullback(bound(predict, cond), x, t)
            return with_score(path, prediction, x, t, pullback(gradient(prediction.x0, t)))

        return guided

    return guide


def by_cond(guide_of: Callable[[Cond], GuideFn], predict: PredictFn) -> PredictFn:
    """The guide `guide_of(y)` with y as the condition, `(x, t, y) -> Prediction`.

    As a condition, y `(B, ...)` (measurements or classes) is split with its examples, also in an
    adaptive solve, which takes examples one by one. `predict` itself gets no condition.
    """
    return lambda x, t, cond: guide_of(cond)(predict)(x, t)


def residual(operator: LinearOperator, y: Array, x0: Array) -> Array:
    """`y - A x0`, `(B, *shape_out)`; y is one measurement for all, or one per example."""
    return observed(operator, y, x0) - operator.forward(x0)


def observed(operator: LinearOperator, y: Array, x: Array) -> Array:
    """The measurement with a batch axis for states x: `(1 or B, *shape_out)`, in the dtype of x.

    Raises:
        ValueError: for states or measurements that do not fit the operator.
    """
    check_image(operator, x.shape)
    check_measurement(operator, y, x.shape[0])
    y = jnp.asarray(y, x.dtype)
    return y if y.ndim > len(operator.shape_out) else y[None]


def check_path(path: AffinePath) -> None:
    if not hasattr(path, "coeffs"):
        raise ValueError(
            f"{type(path).__name__} has no coeffs(t), so nothing is known of x0 given x_t; guides "
            f"are for affine laws, such as {', '.join(SDES)}."
        )


def check_problem(
    path: AffinePath, operator: LinearOperator, y: Array, noise_std: float, noiseless: bool = True
) -> None:
    """Check the arguments of a guide.

    Raises:
        ValueError: for a law that is not affine, a measurement that does not fit the operator, or a
            `noise_std` that is negative, or zero if not `noiseless` (the method divides by it).
    """
    check_path(path)
    check_measurement(operator, y)
    if not 0.0 <= noise_std < float("inf") or (noise_std == 0.0 and not noiseless):
        least = "0 or more" if noiseless else "above 0 for this method"
        raise ValueError(
            f"noise_std is {noise_std}; the standard deviation of the measurement must be {least}."
        )
