"""The counted floating-point operations against closed forms."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from benchmarks.speed.train_step_jax import forward_work
from benchmarks.speed.work import work
from configs.cifar10 import cifar10
from models.pixels import pixel_sum, spread
from models.winograd import conv3x3


def convolve(stride, padding):
    return lambda x, k: lax.conv_general_dilated(
        x, k, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_convolutions_leave_out_the_padding():
    x, k = jnp.zeros((2, 8, 6, 5)), jnp.zeros((3, 3, 5, 7))
    # Along an axis of n pixels a kernel of 3 makes 3 n products, less the 2 beyond the ends.
    assert work(convolve(1, "SAME"), x, k) == 2 * 2 * 5 * 7 * (3 * 8 - 2) * (3 * 6 - 2)
    assert work(convolve(1, "VALID"), x, k) == 2 * 2 * 5 * 7 * (3 * 6) * (3 * 4)
    # With stride 2 an even axis is padded only at its far side.
    assert work(convolve(2, "SAME"), x, k) == 2 * 2 * 5 * 7 * (3 * 4 - 1) * (3 * 3 - 1)


def test_fewer_products_count_by_their_definition():
    x, k = jnp.zeros((2, 8, 6, 64)), jnp.zeros((3, 3, 64, 72))
    assert work(conv3x3, x, k) == work(convolve(1, "SAME"), x, k)
    back = jax.linear_transpose(lambda x: conv3x3(x, k), x)
    assert work(back, jnp.zeros((2, 8, 6, 72))) == work(conv3x3, x, k)


def test_products_and_what_is_none():
    a, b = jnp.zeros((4, 5, 6)), jnp.zeros((4, 6, 7))
    assert work(jnp.matmul, a, b) == 2 * 4 * 5 * 6 * 7
    x = jnp.zeros((2, 8, 8, 16))
    assert work(pixel_sum, x) == work(lambda v: spread(v, x.shape), jnp.zeros((1, 16))) == 0


def test_inside_calls_and_loops():
    a = jnp.zeros((3, 3))
    one = jax.jit(lambda x: jax.checkpoint(lambda y: y @ a)(x))
    assert work(one, a) == 54
    assert work(lambda x: lax.scan(lambda y, _: (one(y), None), x, None, length=5), a) == 5 * 54


def test_dilation_is_refused():
    x, k = jnp.zeros((1, 4, 8, 8)), jnp.zeros((5, 4, 3, 3))
    dilated = lambda x: lax.conv_general_dilated(x, k, (1, 1), "SAME", rhs_dilation=(2, 2))
    with pytest.raises(ValueError, match="not counted"):
        work(dilated, x)


def ddpm_block(n, c_in, c_out):
    """The number of products in a residual block on n x n pixels: two convolutions and a NIN."""
    taps = (3 * n - 2) ** 2
    shortcut = n * n * c_in * c_out if c_in != c_out else 0
    return taps * (c_in * c_out + c_out * c_out) + shortcut


def test_a_network_against_its_layers():
    """A DDPM network with one level and one block, with attention only in the middle."""
    config = cifar10("vp", "ddpm")
    options = {"nf": 32, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()}
    config.model.update(options)
    n, c = 8, 32
    taps = (3 * n - 2) ** 2
    # The embedding's matrix products have one row per image. With one image they do not count.
    blocks = 3 * ddpm_block(n, c, c) + 2 * ddpm_block(n, 2 * c, c)
    attention = 4 * n * n * c * c + 2 * n**4 * c
    ends = 2 * taps * 3 * c
    assert forward_work(config, (n, n, 3)) == pytest.approx(
        2e-9 * (blocks + attention + ends), rel=1e-12
    )
