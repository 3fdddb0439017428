"""Denoising diffusion restoration models, DDRM (Kawar, Elad, Ermon, Song 2022, arXiv 2201.11793).

The sampler acts on each coordinate in the singular basis of `A = U diag(s) V^T`. Let
`sigma = c / a` at the new time, `xbar = V^T x / a`, `ybar = U^T y / s`, `tau = noise_std / s`, and
x0 and eps the prediction at the old time. A step draws `N(mean, std^2)` (eq. 4, 5):

                    mean                                                 std^2
    s = 0           x0bar + sqrt(1 - eta^2) sigma epsbar                 eta^2 sigma^2
    sigma < tau     x0bar + sqrt(1 - eta^2) sigma (ybar - x0bar) / tau   eta^2 sigma^2
    sigma >= tau    (1 - eta_b) x0bar + eta_b ybar                       sigma^2 - eta_b^2 tau^2

The prediction itself is not guided. A step costs one evaluation and no backward pass.
"""

import jax.numpy as jnp
from jax import Array

from guidance.base import check_problem, residual
from operators import LinearOperator
from restoration.base import Problem, Restorer, down_the_grid
from samplers import Sampler, Span, State
from samplers.base import start
from sde_lib import AffinePath, expand, rows
from sde_lib.prediction import PredictFn

# Singular values below this part of the largest count as zero: y / s would be mostly rounding.
SEEN = 1e-6


def ddrm(
    path: AffinePath,
    operator: LinearOperator,
    y: Array,
    noise_std: float,
    eta: float = 0.85,
    eta_b: float = 1.0,
) -> Sampler:
    """DDRM as a sampler for any affine law; it starts from a draw of the prior, moved towards y.

    Args:
        y: `shape_out`, one measurement for all, or `(B, *shape_out)`.
        eta, eta_b: the part of the noise that is drawn anew, and the weight of y, in [0, 1]. The
            defaults are those of the paper, for some 20 steps.

    Raises:
        ValueError: for a law that is not affine, a y that does not fit the operator, a negative
            noise_std, an operator without an SVD, or an eta or eta_b outside [0, 1].
    """
    check_problem(path, operator, y, noise_std)
    if operator.svd is None:
        raise ValueError(
            f"The operator {operator.name!r} has no SVD and DDRM works in its basis; take one that "
            "has, such as blur with the circular boundary, or a guide such as pigdm."
        )
    if not (0.0 <= eta <= 1.0 and 0.0 <= eta_b <= 1.0):
        raise ValueError(f"eta is {eta} and eta_b {eta_b}; both must lie in [0, 1].")
    svd, kept = operator.svd, (1.0 - eta**2) ** 0.5

    def singular(x: Array) -> tuple[Array, Array]:
        """The singular values `(1, k)`, and which of them do not count as zero."""
        s = jnp.asarray(svd.s, x.dtype)[None]
        return s, s > SEEN * jnp.max(s)

    def level(x: Array, t: Array) -> tuple[Array, Array]:
        """`(a, sigma)`, broadcasting to coordinates `(B, k)`."""
        row = rows(x)
        return expand(path.coeffs(t).a, row), expand(path.sigma(t), row)

    def enter(x: Array, t: Array) -> Array:
        (s, seen), (a, sigma) = singular(x), level(x, t)
        noise = jnp.where(seen, noise_std / jnp.where(seen, s, 1.0), jnp.inf)
        # The residual at x0 = 0 is y; the call also checks both shapes.
        ybar = svd.ut(residual(operator, y, jnp.zeros_like(x)))
        ybar = jnp.where(seen, ybar / jnp.where(seen, s, 1.0), 0.0)
        less = jnp.sqrt(jnp.maximum(1.0 - (noise / sigma) ** 2, 0.0))
        xbar = svd.vt(x)
        turned = jnp.where(noise < sigma, a * ybar + less * xbar, xbar)
        return x + svd.v(turned - xbar)

    def step(key: Array, predict: PredictFn, state: State, span: Span) -> State:
        t, s = span.t, span.s
        x, prediction = state.x, predict(state.x, t)
        x0, z = prediction.x0, path.noise(key, x)
        (values, seen), (_, sigma) = singular(x), level(x, s)
        unseen = x0 + expand(path.sigma(s), x) * (kept * prediction.eps + eta * z)
        x0bar, zbar = svd.vt(x0), svd.vt(z)
        # U^T (y - A x0), which is s (ybar - x0bar).
        rbar = svd.ut(residual(operator, y, x0))
        noise = noise_std / jnp.where(seen, values, 1.0)
        drowned = x0bar + sigma * (kept * rbar / (noise_std or 1.0) + eta * zbar)
        std = jnp.sqrt(jnp.maximum(sigma**2 - (eta_b * noise) ** 2, 0.0))
        clear = x0bar + eta_b * rbar / jnp.where(seen, values, 1.0) + std * zbar
        plain = svd.vt(unseen)
        xbar = jnp.where(seen, jnp.where(sigma >= noise, clear, drowned), plain)
        return State(expand(path.coeffs(s).a, x) * (unseen + svd.v(xbar - plain)))

    return Sampler(start, step, 1, enter)


def by_ddrm(problem: Problem, eta: float = 0.85, eta_b: float = 1.0) -> Restorer:
    """DDRM: a sampler of its own in the basis of the operator's SVD.

    Args:
        eta: the part of the noise that is drawn anew, in [0, 1].
        eta_b: the weight of y, in [0, 1].
    """
    path, operator, noise_std = problem.path, problem.operator, problem.noise_std
    return down_the_grid(problem, lambda y: ddrm(path, operator, y, noise_std, eta, eta_b))
