r"""The scaling between data (integer levels) and model (float32), and its change of volume.

Discrete data u in {0, ..., L - 1} have no density. Uniform dequantisation gives them one: with
U ~ uniform(0, 1) the sum v = u + U has density q(v), and by Jensen's inequality

    log2 P(u) = log2 \int_0^1 q(u + U) dU >= E_U log2 q(u + U),

so the expected -log2 q(v) bounds the code length of u from above (Theis, van den Oord and Bethge,
"A note on the evaluation of generative models", 2016, https://arxiv.org/abs/1511.01844, sec. 3.1).
The model sees y = c v / L + d with c = 2, d = -1 (centered) or c = 1, d = 0. Per dimension
log q(v) = log p(y) + log(c / L), and for D dimensions

    bits/dim = -(log p(y) / D + log_volume) / ln 2,     log_volume = log(c / L).

With L = 256, centered: bits/dim = 7 - log2 p(y) / D. The "7" (or the "8" for data in [0, 1]) holds
for 256 levels and this scaling only.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

MAX_LEVELS = 65536


@struct.dataclass
class Scaler:
    """The map from levels to units of the model, and back; all fields are static under `jit`.

    Attributes:
        levels: number of grey levels, 2 ... 65536; 0 for continuous data, which are not scaled.
        centered: the model sees [-1, 1] instead of [0, 1].
        dequantize: add uniform noise of one level's width, without which levels have no density.

    Raises:
        ValueError: for any other number of levels.
    """

    levels: int = struct.field(pytree_node=False)
    centered: bool = struct.field(pytree_node=False)
    dequantize: bool = struct.field(pytree_node=False)

    # Static fields are never tracers, so this check is safe under jit, unlike the check of a law.
    def __post_init__(self):
        if self.levels != 0 and not 2 <= self.levels <= MAX_LEVELS:
            raise ValueError(
                f"levels={self.levels}: give the number of grey levels, 2 to {MAX_LEVELS}, or 0 "
                "for continuous data."
            )

    def to_model(self, key: jax.Array | None, raw: jax.Array) -> jax.Array:
        """Map levels (B, ...) to units of the model, float32 (B, ...).

        With dequantisation y = (raw + U) / levels, without it y = raw / (levels - 1); if centered,
        the result is 2 y - 1. Continuous data are only cast to float32.

        Args:
            key: one key, or one for each example (the noise of an example then depends on its own
                key only); unused, and may be None, without dequantisation.
            raw: integers 0 ... levels - 1, or floats for continuous data.

        Raises:
            ValueError: discrete data are not integers, the key is missing, or the number of keys is
                not that of the examples.
        """
        if self.levels == 0:
            return raw.astype(jnp.float32)
        if not jnp.issubdtype(raw.dtype, jnp.integer):
            raise ValueError(
                f"Raw data are {raw.dtype}, but levels={self.levels} means integers 0 to "
                f"{self.levels - 1}: pass the levels themselves, or use levels=0 for continuous "
                "data."
            )
        level = raw.astype(jnp.float32)
        if self.dequantize:
            if key is None:
                raise ValueError("key=None: dequantisation draws noise and needs a random key.")
            level = level + dequantization_noise(key, raw.shape, self.levels)
        return self.affine(level)

    def affine(self, level: jax.Array) -> jax.Array:
        """Map real-valued levels to units of the model, same shape: `to_model` without noise."""
        if self.levels == 0:
            return level
        unit = level / (self.levels if self.dequantize else self.levels - 1)
        return 2 * unit - 1 if self.centered else unit

    def to_unit(self, y: jax.Array) -> jax.Array:
        """Map units of the model to [0, 1], clipped, same shape.

        Continuous data, whose range is unknown, are returned unchanged.
        """
        if self.levels == 0:
            return y
        return jnp.clip((y + 1) / 2 if self.centered else y, 0, 1)

    @partial(jax.jit, static_argnums=0)
    def quantize(self, y: jax.Array) -> jax.Array:
        """Map units of the model to levels, uint8 (uint16 above 256 levels), same shape.

        This is the inverse of `to_model`: dequantised data give the index of their bin, other data
        are rounded and not truncated, which would be biased by half a level. Values out of range
        are clipped.

        Raises:
            ValueError: for continuous data.
        """
        if self.levels == 0:
            raise ValueError("levels=0 (continuous data) has nothing to quantise to: use `y`.")
        top = self.levels - 1
        unit = self.to_unit(y.astype(jnp.float32))
        # A bin is [u, u + 1) / levels, so its index is a floor; only y = 1 falls beyond the last.
        level = jnp.floor(unit * self.levels) if self.dequantize else jnp.round(unit * top)
        return jnp.clip(level, 0, top).astype(jnp.uint8 if self.levels <= 256 else jnp.uint16)

    def log_volume(self) -> float:
        """log |d model / d level|, in nats per dimension: log(2 / levels), or log(1 / levels).

        Raises:
            ValueError: the data are continuous or not dequantised, so bits/dim is not defined.
        """
        if self.levels == 0:
            raise ValueError(
                "Bits/dim is not defined for continuous data (levels=0): report nats instead."
            )
        if not self.dequantize:
            raise ValueError(
                f"Bits/dim is not defined for {self.levels} levels without dequantisation, as a "
                "density can be made infinite on isolated points: set dequantize=True."
            )
        return math.log((2 if self.centered else 1) / self.levels)


@partial(jax.jit, static_argnums=(1, 2))
def dequantization_noise(key: jax.Array, shape: tuple[int, ...], levels: int) -> jax.Array:
    """Noise U in (0, 1), float32 of `shape`; `key` is one key, or one for each of shape[0].

    U lies on the midpoints of 2^b cells, b = 21 - ceil(log2(levels)) (b = 13 for 256 levels). The
    rounding of level + U, of the division and of the centering then never changes the level. With
    `jax.random.uniform` the float32 sum 200 + U is 201 once in 2^17 draws, and one pixel in a
    hundred images changes its level.
    """
    cell_bits = 21 - (levels - 1).bit_length()

    def draw(key, shape):
        cell = jax.random.bits(key, shape, jnp.uint32) >> (32 - cell_bits)
        return (cell.astype(jnp.float32) + 0.5) * 2.0**-cell_bits

    if one_key_each(key, shape):
        return jax.vmap(lambda k: draw(k, shape[1:]))(key)
    return draw(key, shape)


def one_key_each(key: jax.Array, shape: tuple[int, ...]) -> bool:
    """Whether `key` is an array of shape[0] keys, new-style (B,) or old-style (B, 2), not one key.

    Raises:
        ValueError: for an array of any other number of keys.
    """
    if key.ndim == (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1):
        return False
    # An array of one key would otherwise be broadcast and give all examples the same noise.
    if key.shape[:1] != shape[:1]:
        raise ValueError(
            f"Keys of shape {key.shape} for a batch of shape {shape}: give one key, or one for "
            "each example."
        )
    return True


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror each image of (B, H, W, C) left to right with probability one half.

    Args:
        key: one key, or one for each image (its flip then depends on its own key only). It must
            differ from the key that dequantises the same images.
        images: raw or scaled; the result has the same dtype.

    Raises:
        ValueError: if `images` is not (B, H, W, C).
    """
    if images.ndim != 4:
        raise ValueError(
            f"random_flip of an array of shape {images.shape}: images must be (B, H, W, C); switch "
            "flipping off for other data."
        )
    if one_key_each(key, images.shape):
        flip = jax.vmap(jax.random.bernoulli)(key)
    else:
        flip = jax.random.bernoulli(key, shape=images.shape[:1])
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
