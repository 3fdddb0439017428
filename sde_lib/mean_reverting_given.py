"""The mean-reverting law of x for a given degraded state `mu`, and the outputs of its networks.

    w = x - b(t) mu,    b = 1 - a

The law of w is affine (`mean_reverting.py`). A state has the same data, noise and score in x and in
w; only the velocity differs, by `b' mu`. (Luo et al. 2023, arXiv 2301.11699. With this shift, the
MR sampler of arXiv 2502.07856 is an exponential integrator for an affine law.)
"""

from collections.abc import Callable

import jax.numpy as jnp
from flax import struct
from jax import Array

from sde_lib.affine import AffinePath
from sde_lib.base import expand
from sde_lib.mean_reverting import MeanReverting
from sde_lib.noise import normal_like
from sde_lib.prediction import (
    Cond,
    Kind,
    PredictFn,
    Prediction,
    bound,
    condition,
    kinds,
    prediction_of,
)


@struct.dataclass
class MeanRevertingGiven:
    """The law of x for a given `mu` `(B, ...)`: an `SDE`, forwards and for `reverse_drift`."""

    path: MeanReverting
    mu: Array
    diffusion_type = "scalar"

    @property
    def t0(self) -> float:
        return self.path.t0

    @property
    def t1(self) -> float:
        return self.path.t1

    def drift(self, x: Array, t: Array) -> Array:
        return expand(self.path.theta(t), x) * (self.mu - x)

    def diffusion(self, x: Array, t: Array) -> Array:
        return self.path.diffusion(x, t)

    def noise(self, key: Array, x: Array) -> Array:
        return self.path.noise(key, x)

    def perturb(self, key: Array, x0: Array, t: Array) -> tuple[Array, Array]:
        """Draws `x_t` given `x0` `(B, ...)` at t, `()` or `(B,)`; returns `(x_t, z)`."""
        w, z = self.path.perturb(key, x0, t)
        return from_w(self.path, self.mu, w, t), z

    def prior_sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        """`mu + std z`, `(B, ...)`; `key` is one key or one per example."""
        return self.mu + self.path.prior_std() * normal_like(key, jnp.zeros(shape))

    def prior_logp(self, x: Array) -> Array:
        return self.path.prior_logp(x - self.mu)


def to_w(path: AffinePath, mu: Array, x: Array, t: Array) -> Array:
    """`w = x - b mu`; `x` and `mu` `(B, ...)`, t `()` or `(B,)`."""
    return x - expand(path.ends.coeffs(t).b, x) * mu


def from_w(path: AffinePath, mu: Array, w: Array, t: Array) -> Array:
    """`x = w + b mu`."""
    return w + expand(path.ends.coeffs(t).b, w) * mu


def predict_w(path: AffinePath, mu: Array, predict: PredictFn) -> PredictFn:
    """Turn a prediction function of x, given mu, into one of w. Only the velocity differs, by
    `b' mu`."""

    def shifted(w: Array, t: Array, cond: Cond = None) -> Prediction:
        found = bound(predict, cond)(from_w(path, mu, w, t), t)
        return found._replace(velocity=found.velocity - expand(path.ends.rates(t).b, w) * mu)

    return shifted


def predict_x(path: AffinePath, mu: Array, predict: PredictFn) -> PredictFn:
    """The inverse of `predict_w`."""

    def shifted(x: Array, t: Array, cond: Cond = None) -> Prediction:
        found = bound(predict, cond)(to_w(path, mu, x, t), t)
        return found._replace(velocity=found.velocity + expand(path.ends.rates(t).b, x) * mu)

    return shifted


def parametrize_given(
    kind: str,
    path: MeanReverting,
    apply: Callable[[Array, Array, Array], Array],
    mu: Array,
    conditioning: str = "t",
) -> PredictFn:
    """Turns a network that sees `x_t` and `mu` into a prediction function of x.

    Args:
        kind: a name in `given_kinds()`, what the output means.
        apply: `(x, mu, cond) -> F` of the shape of x; `cond` is `(B,)`.
        mu: `(B, ...)`, the array on which the network was trained.
        conditioning: a name in `CONDITIONING`.
    """
    entry, share = given_kinds()[kind]

    def predict(x: Array, t: Array) -> Prediction:
        raw = apply(x, mu, condition(conditioning, path, x, t)).astype(x.dtype)
        w = to_w(path, mu, x, t)
        raw = raw - expand(share(path, t), x) * mu
        found = prediction_of(path, w, t, *entry.decode(path, w, t, raw))
        return found._replace(velocity=found.velocity + expand(path.ends.rates(t).b, x) * mu)

    return predict


def given_kinds() -> dict[str, tuple[Kind, Callable]]:
    """What an output may mean: `(kind, share)`, whose target is `kind.target + share(t) mu`.

    The noise, the data and the score are the same for x and w. The velocity has `b' mu` more, and
    `angle`, the derivative by the angle phi with `cos phi = a`, `sin phi = c / std`, is

        sin(phi) (mu - x0) + std cos(phi) z

    (MR sampler, arXiv 2502.07856, its velocity). Its `|d eps / d F| = a / std` stays bounded.
    """
    plain = kinds()
    none = lambda path, t: jnp.zeros_like(jnp.asarray(t))
    return {
        **{name: (plain[name], none) for name in ("eps", "x0", "score")},
        "velocity": (plain["velocity"], lambda path, t: path.ends.rates(t).b),
        "angle": (Kind(_decode_angle, _target_angle, _angle_eps_scale), _sine),
    }


def _sine(path: MeanReverting, t: Array) -> Array:
    return path.coeffs(t).c / path.std


def _decode_angle(path, w, t, raw):
    a, sine = expand(path.coeffs(t).a, w), expand(_sine(path, t), w)
    return a * w - sine * raw, (a * raw + sine * w) / path.std


def _target_angle(path, x0, z, t):
    a, sine = expand(path.coeffs(t).a, x0), expand(_sine(path, t), x0)
    return path.std * a * z - sine * x0


def _angle_eps_scale(path, t):
    return path.coeffs(t).a / path.std
