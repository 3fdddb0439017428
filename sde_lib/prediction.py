"""What a network's output means: a thin adapter from raw output to `(x0, eps)`.

Each kind is four short functions. With `x = a x0 + c z` and raw output F:

    kind       F stands for                     |d eps / d F|
    eps        z                                1
    x0         x0                               a / c
    score      -z / c                           c
    v          a z - c x0                       a / (a^2 + c^2)
    velocity   a' x0 + c' z                     a / (a c' - a' c)
    edm        preconditioned x0 (Karras 2022)  a c_out / c

`eps_scale`, the last column, lets one loss weight serve all kinds: the error of the noise is
`eps_scale` times the error of the raw output, with no division by a small c.
(v: Salimans & Ho 2022, here for any a, c. edm: Karras et al. 2022, table 1, on y = x / a.)
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from sde_lib.affine import AffinePath
from sde_lib.base import expand
from sde_lib.ranges import positive


class Prediction(NamedTuple):
    """Conditional means given `x_t`, each of its shape. What is not used is never computed."""

    x0: Array
    eps: Array
    score: Array
    velocity: Array


# A condition: None, an array `(B, ...)` with an entry for each example (classes `(B,)`, an image to
# translate from), or a pytree of such arrays.
Cond = Any


class PredictFn(Protocol):
    """`(x, t, cond=None) -> Prediction`, for x `(B, ...)`, t `()` or `(B,)`, cond a `Cond`.

    The condition is an argument, so that a caller that splits the batch, such as an adaptive solve
    by example, splits the condition in the same way. Where there is no condition, a function of
    `(x, t)` alone is enough: see `bound`.
    """

    def __call__(self, x: Array, t: Array, cond: Cond = None) -> Prediction: ...


class MapFn(Protocol):
    """`(x, t, s, cond=None) -> x_s`: a map of two times, from x `(B, ...)` at t to the state at s.

    A flow map is the solution of the probability-flow ODE, `x_s = x + int_t^s velocity(x_r, r) dr`;
    t and s are `()` or `(B,)`, and the map at `s = t` is the identity.
    """

    def __call__(self, x: Array, t: Array, s: Array, cond: Cond = None) -> Array: ...


ApplyFn = Callable[..., Array]


def bound(predict: Callable, cond: Cond) -> Callable:
    """`predict` with its condition filled in, a function of `(x, t)`; `predict` itself if cond is
    None."""
    if cond is None:
        return predict
    return lambda x, t: predict(x, t, cond)


def one_of_batch(cond: Cond) -> Cond:
    """Add a batch axis of length one to the condition of one example."""
    return jax.tree.map(lambda v: v[None], cond)


class Kind(NamedTuple):
    """`decode(path, x, t, F) -> (x0, eps)`; `target(path, x0, z, t) -> F*`; `eps_scale(path, t)`.

    `scale_in(path, x, t)` is what the network is given for `x`.
    """

    decode: Callable
    target: Callable
    eps_scale: Callable
    scale_in: Callable = lambda path, x, t: x


def parametrize(
    kind: str,
    path: AffinePath,
    apply: ApplyFn,
    conditioning: str = "t",
    sigma_data: float = 0.5,
    num_scales: int | None = None,
) -> PredictFn:
    """Turns a network into a prediction function.

    Args:
        kind: a name in `KINDS`.
        path: the law; `t` is its time, `()` or `(B,)`.
        apply: `(x, level) -> F`, the network with its parameters; `level` is `(B,)` float. With a
            condition it is called as `(x, level, cond)`.
        conditioning: a name in `CONDITIONING`, what the network is told of the time.
        sigma_data: the data's standard deviation, used by the kind `edm` alone.
        num_scales: the number of levels N, used by the conditionings `step` and `level` alone.

    Returns:
        `(x, t, cond=None) -> Prediction`.

    Raises:
        ValueError: for a conditioning by level without `num_scales`.
    """
    entry = kinds(sigma_data)[kind]
    check_num_scales(conditioning, num_scales)

    def predict(x: Array, t: Array, cond: Cond = None) -> Prediction:
        level = condition(conditioning, path, x, t, num_scales)
        raw = bound(apply, cond)(entry.scale_in(path, x, t), level)
        return prediction_of(path, x, t, *entry.decode(path, x, t, raw.astype(x.dtype)))

    return predict


def prediction_of(path: AffinePath, x: Array, t: Array, x0: Array, eps: Array) -> Prediction:
    """Completes the pair `(x0, eps)`: `score = -eps / c`, `velocity = a' x0 + c' eps`."""
    del x
    rates = path.rates(t)
    score = -eps / expand(path.coeffs(t).c, eps)
    return Prediction(x0, eps, score, expand(rates.a, x0) * x0 + expand(rates.c, eps) * eps)


def from_score(path: AffinePath, score: Callable[[Array, Array], Array]) -> PredictFn:
    """A prediction function from a score `(x, t) -> (B, ...)`: `x0 = (x + c^2 score) / a`."""
    return parametrize("score", path, score)


def condition(
    name: str, path: AffinePath, x: Array, t: Array, num_scales: int | None = None
) -> Array:
    """The network's time input `(B,)`, in at least float32. Levels are whole numbers as floats."""
    check_num_scales(name, num_scales)
    t = jnp.broadcast_to(jnp.asarray(t, jnp.promote_types(x.dtype, jnp.float32)), x.shape[:1])
    return CONDITIONING[name](path, t, num_scales)


def check_num_scales(conditioning: str, num_scales: int | None) -> None:
    if conditioning in BY_LEVEL and num_scales is None:
        raise ValueError(
            f"prediction.conditioning is {conditioning!r}, which counts levels, and num_scales is "
            "not given; say how many there are."
        )


def _ac(path: AffinePath, x: Array, t: Array) -> tuple[Array, Array]:
    a, c = path.coeffs(t)
    return expand(a, x), expand(c, x)


def _decode_eps(path, x, t, raw):
    a, c = _ac(path, x, t)
    return (x - c * raw) / a, raw


def _decode_x0(path, x, t, raw):
    a, c = _ac(path, x, t)
    return raw, (x - a * raw) / c


def _decode_score(path, x, t, raw):
    a, c = _ac(path, x, t)
    return (x + c**2 * raw) / a, -c * raw


def _target_score(path, x0, z, t):
    return -z / expand(path.coeffs(t).c, z)


def _decode_v(path, x, t, raw):
    a, c = _ac(path, x, t)
    norm = a**2 + c**2
    return (a * x - c * raw) / norm, (c * x + a * raw) / norm


def _target_v(path, x0, z, t):
    a, c = _ac(path, x0, t)
    return a * z - c * x0


def _v_eps_scale(path, t):
    a, c = path.coeffs(t)
    return a / (a**2 + c**2)


def _decode_velocity(path, x, t, raw):
    a, c = _ac(path, x, t)
    rates = path.rates(t)
    da, dc = expand(rates.a, x), expand(rates.c, x)
    det = a * dc - da * c
    return (dc * x - c * raw) / det, (a * raw - da * x) / det


def _target_velocity(path, x0, z, t):
    rates = path.rates(t)
    return expand(rates.a, x0) * x0 + expand(rates.c, z) * z


def _velocity_eps_scale(path, t):
    (a, c), rates = path.coeffs(t), path.rates(t)
    return a / (a * rates.c - rates.a * c)


def _edm(sigma_data: float) -> Kind:
    """`x0 = c_skip y + c_out F(c_in y)` with `y = x / a`, `sigma = c / a`.

    The code uses `data = a sigma_data`, c and `norm = sqrt(data^2 + c^2)`, the standard deviation
    of x, and divides nothing by a. A quotient by a is large where little of the data is left, and
    its square would overflow.
    """

    def parts(path, t):
        """`data / norm` and `c / norm`, whose squares add up to 1, and norm."""
        a, c = path.coeffs(t)
        norm = jnp.hypot(a * sigma_data, c)
        return a * sigma_data / norm, c / norm, norm

    def decode(path, x, t, raw):
        data, noise, norm = (expand(v, x) for v in parts(path, t))
        u = x / norm
        # eps = (x - a x0) / c, with the factor c cancelled by hand: no 0/0 at small noise.
        return sigma_data * (data * u + noise * raw), noise * u - data * raw

    def target(path, x0, z, t):
        # The inverse of `decode`, with x / norm put in.
        data, noise, _ = (expand(v, x0) for v in parts(path, t))
        return noise * x0 / sigma_data - data * z

    def eps_scale(path, t):
        return parts(path, t)[0]

    def scale_in(path, x, t):
        return x / expand(parts(path, t)[2], x)

    return Kind(decode, target, eps_scale, scale_in)


def kinds(sigma_data: float = 0.5) -> dict[str, Kind]:
    """The table of kinds by name.

    Raises:
        ValueError: for a `sigma_data` that is no positive number.
    """
    positive(sigma_data=sigma_data)
    return {
        "eps": Kind(_decode_eps, lambda path, x0, z, t: z, lambda path, t: jnp.ones_like(t)),
        "x0": Kind(_decode_x0, lambda path, x0, z, t: x0, lambda path, t: jnp.exp(path.lam(t))),
        "score": Kind(_decode_score, _target_score, lambda path, t: path.coeffs(t).c),
        "v": Kind(_decode_v, _target_v, _v_eps_scale),
        "velocity": Kind(_decode_velocity, _target_velocity, _velocity_eps_scale),
        "edm": _edm(sigma_data),
    }


KINDS = tuple(kinds())

CONDITIONING = {
    "t": lambda path, t, N: t,
    # The original's label for continuous VP and sub-VP models: 999 t, not rounded.
    "label": lambda path, t, N: 999.0 * t / path.t1,
    # The original's label for continuous VE models; the network takes the logarithm.
    "sigma": lambda path, t, N: path.sigma(t),
    "lam": lambda path, t, N: path.lam(t),
    # Karras et al. 2022, table 1: log(sigma) / 4.
    "c_noise": lambda path, t, N: -0.25 * path.lam(t),
    # The original's labels for discrete models. For DDPM the label is the step, and is not rounded
    # between the steps of training. For SMLD the label is the place in a falling list of sigmas,
    # so 0 is the largest noise.
    "step": lambda path, t, N: t * (N - 1) / path.t1,
    "level": lambda path, t, N: jnp.round((1.0 - t / path.t1) * (N - 1)),
}
BY_LEVEL = ("step", "level")
