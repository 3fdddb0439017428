"""States of several parts, each under a law of its own: graphs of nodes and edges, latents, pairs.

A state with parts such as `{"nodes": (B, 9, 4), "edges": (B, 9, 9)}` is packed into one array `(B,
D)`, and the law of the whole has one coefficient for each of the D coordinates. All code that is
written with `expand` works with such a state: predictions, losses, samplers in t, likelihood.
Noise, prior and norms are those of the parts. (Jo, Lee, Hwang 2022, arXiv 2202.02514, is such a
model of graphs; a law of one part may have noise of its own kind, such as a symmetric one.)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from flax import struct
from jax import Array

from sde_lib.affine import AffinePath, Coeffs, Transition
from sde_lib.base import total
from sde_lib.noise import fold_in


@struct.dataclass
class Product(AffinePath):
    """Independent laws of the parts of a state, at one common time.

    States are packed, `(B, D)`. Times are `()` or `(B,)`; `coeffs`, `lam` and all that depends on
    time have the shape `(1, D)` or `(B, D)`. There is no `t_of_lam`, since each part has a log-SNR
    of its own: grids and adaptive solves take steps in t.

    `laws` are the laws by name of a part, and `shapes` the shape of one example of each. Use
    `make_product`, which checks them.
    """

    laws: Mapping[str, AffinePath]
    shapes: Mapping[str, tuple[int, ...]] = struct.field(pytree_node=False)

    @property
    def t0(self) -> float:
        return next(iter(self.laws.values())).t0

    @property
    def t1(self) -> float:
        return next(iter(self.laws.values())).t1

    @property
    def drowns_data(self) -> bool:
        return any(law.drowns_data for law in self.laws.values())

    def pack(self, parts: Mapping[str, Array]) -> Array:
        """`(B, *shape)` of each part as one state `(B, D)`."""
        return jnp.concatenate([parts[k].reshape(len(parts[k]), -1) for k in self.shapes], axis=1)

    def unpack(self, x: Array) -> dict[str, Array]:
        """A state `(B, D)` as its parts."""
        parts, first = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            parts[name] = x[:, first : first + size].reshape(len(x), *shape)
            first += size
        return parts

    def coeffs(self, t: Array) -> Coeffs:
        return Coeffs(*self._spread(lambda law: law.coeffs(t)))

    def rates(self, t: Array) -> Coeffs:
        return Coeffs(*self._spread(lambda law: law.rates(t)))

    def forward_step(self, s: Array, t: Array) -> Transition:
        return Transition(*self._spread(lambda law: law.forward_step(s, t)))

    def lam(self, t: Array) -> Array:
        return self._spread(lambda law: (law.lam(t),))[0]

    def f(self, t: Array) -> Array:
        return self._spread(lambda law: (law.f(t),))[0]

    def g2(self, t: Array) -> Array:
        return self._spread(lambda law: (law.g2(t),))[0]

    def t_of_lam(self, lam: Array) -> Array:
        raise ValueError(
            f"A product of {', '.join(self.laws)} has a log-SNR for each of them, and no time of a "
            "single one; take a grid and steps in t, such as 'uniform'."
        )

    def noise(self, key: Array, x: Array) -> Array:
        """The noise of each part's law; part i, counted from 0, draws from `fold_in(key, i)`."""
        parts = self.unpack(x)
        draws = enumerate(self.laws.items())
        return self.pack({k: law.noise(fold_in(key, i), parts[k]) for i, (k, law) in draws})

    def prior_sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        size = shape[0]
        draws = {
            name: law.prior_sample(fold_in(key, i), (size, *self.shapes[name]))
            for i, (name, law) in enumerate(self.laws.items())
        }
        return self.pack(draws)

    def prior_logp(self, x: Array) -> Array:
        parts = self.unpack(x)
        return sum(law.prior_logp(parts[name]) for name, law in self.laws.items())

    def total(self, values: Array) -> Array:
        """Sums over each part, laid out over its coordinates: `(B, D)`."""
        parts = self.unpack(values)
        sums = {k: total(v) for k, v in parts.items()}
        return jnp.concatenate(
            [jnp.broadcast_to(sums[k][:, None], (len(values), self._size(k))) for k in parts], 1
        )

    def _size(self, name: str) -> int:
        return math.prod(self.shapes[name])

    def _spread(self, of: Callable[[AffinePath], tuple[Any, ...]]) -> list[Array]:
        """What each law gives, `()` or `(B,)`, for each coordinate: `(1, D)` or `(B, D)`."""
        rows = [[jnp.atleast_1d(v)[:, None] for v in of(self.laws[k])] for k in self.shapes]
        spread = lambda k, v: jnp.broadcast_to(v, (len(v), self._size(k)))
        return [
            jnp.concatenate([spread(k, v) for k, v in zip(self.shapes, column)], axis=1)
            for column in zip(*rows)
        ]


def make_product(laws: Mapping[str, AffinePath], shapes: Mapping[str, tuple[int, ...]]) -> Product:
    """The law of a state of several parts.

    Raises:
        ValueError: where a law has no shape or a shape no law, or laws do not share t0 and t1.
    """
    if not laws or set(laws) != set(shapes):
        raise ValueError(
            f"There are laws for {', '.join(laws) or 'nothing'} and shapes for "
            f"{', '.join(shapes) or 'nothing'}; give both for the same parts, at least one."
        )
    ends = {(float(law.t0), float(law.t1)) for law in laws.values()}
    if len(ends) > 1:
        raise ValueError(
            f"The laws of a product have the times {sorted(ends)}; they must share t0 and t1."
        )
    # The parts are in the order of the shapes, whatever the order of the laws is.
    ordered = {name: laws[name] for name in shapes}
    return Product(ordered, FrozenShapes({k: tuple(v) for k, v in shapes.items()}))


class FrozenShapes(dict):
    """Shapes by name, with a hash, so that a compiled program may depend on them."""

    def __hash__(self) -> int:
        return hash(tuple(self.items()))
