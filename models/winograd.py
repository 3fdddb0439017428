"""3x3 convolutions with fewer multiplications, for CPUs.

Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, Fast algorithms for convolutional neural
networks, 2016) computes a 2x2 square of the result with 16 products over channels; the definition
takes 36. With the 4x4 tiles d of the padded image, two pixels apart, and the kernel g,

    y = A^T [(G g G^T) * (B^T d B)] A

where * is an elementwise product over the tile, summed over channels. The derivative for the image
is this operation on the cotangent with the kernel rotated by 180 degrees. The derivative for the
kernel is `G^T [sum over tiles (B^T d B) (A y A^T)] G`, with y the cotangent.

On a CPU, XLA's convolution runs near the rate of a matrix product, so only fewer products save
time: DDPM for CIFAR-10 takes two thirds of the time forwards, and 0.7 of the time of a training
step (`benchmarks/README.md`). The gradient is faster only where XLA keeps barriers, see
`training/sharding.py`; elsewhere it takes about as long as XLA's. In float32 the error is about
twice the error of the plain sum, 5e-7 of the result. The two operations, the convolution and its
derivative for the kernel, are bilinear primitives whose derivatives are again these two operations,
so that JAX can differentiate them to any order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# The transforms along one axis, of four pixels, of three taps, and back to two pixels.
B_T = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
A_T = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
# Below these sizes XLA's convolution is as fast.
MIN_SIZE, MIN_CHANNELS = 8, 64


def fits(x: Array, kernel: Array) -> bool:
    """Whether `conv3x3` can compute the SAME convolution of x (B, H, W, C) with `kernel`, and is
    faster than XLA."""
    height, width = x.shape[1:3]
    return (
        kernel.shape[:2] == (3, 3)
        and x.dtype == kernel.dtype == jnp.float32
        and height % 2 == width % 2 == 0
        and min(height, width) >= MIN_SIZE
        and min(kernel.shape[2:]) >= MIN_CHANNELS
    )


def conv3x3(x: Array, kernel: Array) -> Array:
    """The SAME convolution of x (B, H, W, C), H and W even, with a kernel (3, 3, C, C'):
    (B, H, W, C')."""
    return convolution_p.bind(x, kernel, turned=False)


def _convolution(x: Array, kernel: Array, *, turned: bool) -> Array:
    """The convolution, or with `turned` its transpose, (B, H, W, C') to (B, H, W, C)."""
    batch, height, width, _ = x.shape
    axes = ((2,), (2 if turned else 1,)), ((0,), (0,))
    products = lax.dot_general(_image_tiles(x), _kernel_tiles(kernel, turned), axes)
    products = lax.optimization_barrier(products)
    tiles = products.reshape(4, 4, batch, height // 2, width // 2, -1)
    columns = [_combine(A_T, column) for column in tiles]
    squares = [jnp.stack(_combine(A_T, row), axis=3) for row in zip(*columns)]
    return jnp.stack(squares, axis=2).reshape(batch, height, width, -1)


def _kernel_gradient(x: Array, y: Array) -> Array:
    """The derivative of `sum(y * conv3x3(x, kernel))` for the kernel, (3, 3, C, C')."""
    # The barrier ties x to y. The tiles of x, four times as large as x, are then computed again
    # and not kept in memory from the forward pass.
    x, y = lax.optimization_barrier((x, y))
    axes = ((1,), (1,)), ((0,), (0,))
    products = lax.dot_general(_image_tiles(x), _result_tiles(y), axes)
    columns = lax.optimization_barrier(products).reshape(4, 4, x.shape[-1], y.shape[-1])
    rows = _stack(G.T, [columns[:, i] for i in range(4)])
    return _stack(G.T, [rows[:, j] for j in range(4)]).swapaxes(0, 1)


def _image_tiles(x: Array) -> Array:
    """`B^T d B`, (16, tiles, C)."""
    height, width = x.shape[1:3]
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
    rows = _stack(B_T, [padded[:, i : i + height - 1 : 2] for i in range(4)])
    tiles = _stack(B_T, [rows[:, :, :, j : j + width - 1 : 2] for j in range(4)])
    return tiles.reshape(16, -1, x.shape[-1])


def _kernel_tiles(kernel: Array, turned: bool) -> Array:
    """`G g G^T`, (16, C, C'), of the kernel, or with `turned` of the rotated kernel."""
    matrix = G[:, ::-1] if turned else G
    rows = _stack(matrix, kernel)
    return _stack(matrix, [rows[:, j] for j in range(3)]).reshape(16, *kernel.shape[2:])


def _result_tiles(y: Array) -> Array:
    """`A y A^T`, (16, tiles, C')."""
    rows = _stack(A_T.T, [y[:, i::2] for i in range(2)])
    tiles = _stack(A_T.T, [rows[:, :, :, j::2] for j in range(2)])
    return tiles.reshape(16, -1, y.shape[-1])


def _combine(matrix: np.ndarray, parts: Iterable[Array]) -> list[Array]:
    """The matrix times a column of arrays."""
    parts = list(parts)
    return [sum(float(c) * part for c, part in zip(row, parts) if c) for row in matrix]


def _stack(matrix: np.ndarray, parts: Iterable[Array]) -> Array:
    """`_combine` as one array. The barrier makes XLA compute the array once, and not again in each
    operation that reads it."""
    return lax.optimization_barrier(jnp.stack(_combine(matrix, parts)))


def _plain(x: Array, kernel: Array, *, turned: bool) -> Array:
    """The result of `_convolution`, computed by XLA's convolution."""
    kernel = kernel[::-1, ::-1].swapaxes(2, 3) if turned else kernel
    layout = "NHWC", "HWIO", "NHWC"
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def _plain_kernel_gradient(x: Array, y: Array) -> Array:
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], y.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda k: _plain(x, k, turned=False), kernel)(y)[0]


def _batched_convolution(args: tuple, axes: tuple, *, turned: bool) -> tuple[Array, int]:
    """The vmap rule. A batch of batches of images becomes one batch; a batch of kernels is computed
    by XLA's convolution."""
    (x, kernel), (axis, kernel_axis) = args, axes
    if kernel_axis is not None:
        return jax.vmap(functools.partial(_plain, turned=turned), axes)(x, kernel), 0
    x = jnp.moveaxis(x, axis, 0)
    y = convolution_p.bind(x.reshape(-1, *x.shape[2:]), kernel, turned=turned)
    return y.reshape(*x.shape[:2], *y.shape[1:]), 0


def _batched_gradient(args: tuple, axes: tuple) -> tuple[Array, int]:
    return jax.vmap(_plain_kernel_gradient, axes)(*args), 0


def _lower(fast: Callable, plain: Callable) -> Callable:
    """The lowering rule: `fast` in a program for one device, `plain` in a program for several,
    since XLA can partition only its own convolutions."""

    def rule(context, *args, **params):
        devices = getattr(context.module_context.axis_context, "num_devices", 1)
        function = fast if devices == 1 else plain
        return mlir.lower_fun(function, multiple_results=False)(context, *args, **params)

    return rule


@functools.partial(jax.jit, static_argnums=0, static_argnames="turned")
def _compiled(primitive: Primitive, *args: Array, **params: Any) -> Array:
    return primitive.bind(*args, **params)


def _primitive(
    name: str, fast: Callable, plain: Callable, batched: Callable, shape: Callable
) -> Primitive:
    primitive = Primitive(name)
    primitive.def_impl(functools.partial(_compiled, primitive))
    primitive.def_abstract_eval(
        lambda x, other, **params: x.update(shape=shape(x, other, **params))
    )
    mlir.register_lowering(primitive, _lower(fast, plain))
    batching.primitive_batchers[primitive] = batched
    return primitive


convolution_p = _primitive(
    "conv3x3",
    _convolution,
    _plain,
    _batched_convolution,
    lambda x, kernel, turned: (*x.shape[:3], kernel.shape[2 if turned else 3]),
)
kernel_gradient_p = _primitive(
    "conv3x3_gradient",
    _kernel_gradient,
    _plain_kernel_gradient,
    _batched_gradient,
    lambda x, y: (3, 3, x.shape[3], y.shape[3]),
)
ad.defbilinear(
    convolution_p,
    lambda ct, x, kernel, turned: convolution_p.bind(ct, kernel, turned=not turned),
    lambda ct, x, kernel, turned: kernel_gradient_p.bind(*((ct, x) if turned else (x, ct))),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda ct, x, y: convolution_p.bind(y, ct, turned=True),
    lambda ct, x, y: convolution_p.bind(x, ct, turned=False),
)
