"""Winograd's 3x3 convolutions, against their definition and XLA's own convolution."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import Program

from models import winograd
from models.blocks import ResnetBlockDDPMpp


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X, KERNEL, Y = normal(3, 8, 12, 64), normal(3, 3, 64, 72, seed=1) / 24, normal(3, 8, 12, 72, seed=2)


def definition(x, kernel, dtype=np.float64):
    """Return `y[p] = sum_d x[p + d] kernel[d]`, with zeros beyond the border."""
    x, kernel = dtype(x), dtype(kernel)
    height, width = x.shape[1:3]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [(i, j) for i in range(3) for j in range(3)]
    return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in taps)


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def error(ours, exact) -> float:
    """Return the RMS of the error divided by the RMS of the value."""
    return float(np.sqrt(np.mean((ours - exact) ** 2) / np.mean(np.square(exact))))


def assert_equal(ours, other):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(other), strict=True):
        assert a.shape == b.shape
        assert error(np.asarray(a), np.asarray(b)) < 2e-6


def test_the_error_is_that_of_the_definition(jit):
    """The float32 error is within three times that of the plain sum over the taps.

    The sums have 2304 terms, as in wide layers. XLA's own convolution is not compared, because its
    order of summation depends on the number of cores.
    """
    x, kernel = normal(1, 16, 16, 256, seed=3), normal(3, 3, 256, 64, seed=4)
    exact = definition(x, kernel)
    ours = error(jit(winograd.conv3x3)(x, kernel), exact)
    assert ours < 3 * error(definition(x, kernel, np.float32), exact)
    assert ours < 1e-6
    assert error(jit(winograd.conv3x3)(X, KERNEL), definition(X, KERNEL)) < 1e-6


def test_both_gradients(jit):
    """Gradients equal their definitions.

    For x it is the sum over reversed taps, for the kernel the sum over pixels.
    """
    dx, dkernel = jit(lambda: jax.vjp(winograd.conv3x3, X, KERNEL)[1](jnp.asarray(Y)))()
    dkernel = np.asarray(dkernel)
    assert error(dx, definition(Y, np.swapaxes(KERNEL[::-1, ::-1], 2, 3))) < 1e-6
    padded = np.pad(np.float64(X), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(3):
        for j in range(3):
            window = padded[:, i : i + 8, j : j + 12]
            exact = np.einsum("bhwc,bhwd->cd", window, np.float64(Y), optimize=True)
            assert error(dkernel[i, j], exact) < 1e-6


def gradients(f, x, kernel):
    return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel))), argnums=(0, 1))(x, kernel)


TRANSFORMED = {
    "jvp": lambda f: jax.jvp(f, (X, KERNEL), (X + 1, KERNEL - 0.1)),
    "many tangents": lambda f: jax.vmap(jax.linearize(lambda x: f(x, KERNEL), X)[1])(
        jnp.stack([X, X + 1, -X])
    ),
    "second order": lambda f: jax.grad(lambda k: jnp.sum(gradients(f, X, k)[0] ** 2))(KERNEL),
    "second order, the other": lambda f: jax.grad(
        lambda x: jnp.sum(gradients(f, x, KERNEL)[1] ** 2)
    )(X),
    "forward over reverse": lambda f: jax.jvp(
        lambda x: gradients(f, x, KERNEL), (X,), (jnp.cos(X),)
    ),
    "vmap of images": lambda f: jax.vmap(f, (1, None), 1)(jnp.stack([X, -X], 1), KERNEL),
    "vmap of kernels": lambda f: jax.vmap(f, (None, 0))(X, jnp.stack([KERNEL, -KERNEL])),
    "vmap of both": lambda f: jax.vmap(f, (0, 3))(
        jnp.stack([X, -X]), jnp.stack([KERNEL, 2 * KERNEL], 3)
    ),
    "gradient of each example": lambda f: jax.vmap(lambda x: gradients(f, x[None], KERNEL))(X),
    "rematerialised": lambda f: gradients(jax.checkpoint(f), X, KERNEL),
    "in a loop": lambda f: jax.lax.scan(
        lambda x, _: (jnp.tanh(f(x, KERNEL)[..., :64]), x), X, None, 3
    ),
}


@pytest.mark.parametrize("transformed", TRANSFORMED.values(), ids=TRANSFORMED.keys())
def test_transformations(transformed, jit):
    assert_equal(*jit(lambda: [transformed(f) for f in (winograd.conv3x3, plain)])())


def test_without_jit(jit):
    assert_equal(gradients(winograd.conv3x3, X, KERNEL), jit(lambda: gradients(plain, X, KERNEL))())


@pytest.mark.parametrize(
    "shape, kernel, dtype",
    [
        ((2, 7, 8, 64), (3, 3, 64, 64), "float32"),
        ((2, 8, 9, 64), (3, 3, 64, 64), "float32"),
        ((2, 4, 8, 64), (3, 3, 64, 64), "float32"),
        ((2, 8, 8, 3), (3, 3, 3, 64), "float32"),
        ((2, 8, 8, 64), (3, 3, 64, 3), "float32"),
        ((2, 8, 8, 64), (1, 1, 64, 64), "float32"),
        ((2, 8, 8, 64), (3, 3, 64, 64), "bfloat16"),
        ((2, 8, 8, 64), (3, 3, 64, 64), "float64"),
    ],
)
def test_what_does_not_fit_is_left_to_xla(x64, shape, kernel, dtype):
    x, kernel = (jax.ShapeDtypeStruct(size, dtype) for size in (shape, kernel))
    assert not winograd.fits(x, kernel)
    sizes = ((2, 8, 8, 64), (3, 3, 64, 64))
    assert winograd.fits(*(jax.ShapeDtypeStruct(size, "float32") for size in sizes))


def test_a_block_has_them(monkeypatch, jit):
    """A residual block of 64 channels has the same gradient as with XLA's own."""
    block = ResnetBlockDDPMpp(64, jax.nn.silu, 0.0, True, 1.0)
    x, temb = X[:, :8, :8], normal(3, 16, seed=5)
    shapes = jax.eval_shape(
        lambda key: block.init(key, x, temb, False)["params"], jax.random.key(6)
    )
    params = jax.tree.map(lambda leaf: normal(*leaf.shape, seed=6) / 24, shapes)
    gradient = jax.grad(lambda params: jnp.sum(block.apply({"params": params}, x, temb, False) * x))
    # Each call makes a new function; otherwise jax would reuse the trace of the first.
    names = lambda: str(jax.make_jaxpr(lambda params: gradient(params))(params))
    assert names().count(" conv3x3_gradient ") == 2
    whole = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    ours = whole(jit(gradient)(params))
    monkeypatch.setattr(winograd, "fits", lambda x, kernel: False)
    assert "conv3x3" not in names()
    assert error(ours, whole(jit(lambda params: gradient(params))(params))) < 1e-5


# Splits a batch over four devices, as one program and as a program for each device.
SCRIPT = """
import json, math, re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from models.winograd import conv3x3
from parallel.mesh import make_mesh, split_over_batch

mesh = make_mesh()
rng = np.random.default_rng(0)
x, kernel = (rng.standard_normal(s).astype("f") for s in ((8, 8, 8, 64), (3, 3, 64, 64)))
loss = lambda kernel, x: jnp.sum(conv3x3(x, kernel) ** 2)
split = jax.device_put(x, split_over_batch(mesh))
compiled = jax.jit(jax.grad(loss)).lower(kernel, split).compile()
rows = P(mesh.axis_names)
convolve = lambda x: conv3x3(x, kernel)
alone, there = jax.device_get(jax.jit(lambda x: (jax.grad(loss)(kernel, x), convolve(x)))(x))
together = np.asarray(compiled(kernel, split))
each = jax.jit(jax.shard_map(convolve, mesh=mesh, in_specs=rows, out_specs=rows))(split)
text = compiled.as_text()
print(json.dumps({
    "sums": [math.prod(map(int, shape.split(",")))
             for shape in re.findall(r"= f32\\[([\\d,]+)\\]\\S* all-reduce\\(", text)],
    "gathers": text.count(" all-gather(") + text.count(" all-to-all("),
    "error": float(np.abs(alone - together).max() / np.abs(alone).max()),
    "each": float(np.abs(np.asarray(each) - there).max()),
}))
"""


def test_over_devices():
    """The gradient by the kernel takes one sum over devices, as with XLA's convolution."""
    program = Program()
    result = program.script(SCRIPT, devices=4)
    program.close()
    assert result.status == 0, result.err
    found = json.loads(result.out.splitlines()[-1])
    assert found["sums"] == [9 * 64 * 64] and found["gathers"] == 0
    assert found["error"] < 1e-5 and found["each"] < 1e-3
