"""Which operations does XLA compile very badly on a CPU, and does the code avoid them?

    python -m benchmarks.speed.cpu_cliffs [--repeats 15]

Each row times two forms of the same computation, interleaved: one that the code avoids, and the one
that it uses. These ratios are the reasons for the default `n_jitted_steps = 1`, forward mode in the
likelihood, FIR filters as shifted slices, nearest upsampling by broadcast, and norms as products
with ones.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.speed.timing import ratio_of
from models.layers import group_norm
from models.resample import fir_downsample, nearest_upsample

LOOPS = 4


def conv(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def weight_gradient_in_scan():
    """Gradient of a convolution by its weights: in a scan over steps, and in single calls."""
    x = jax.random.normal(jax.random.key(0), (16, 16, 16, 32))
    kernel = 0.05 * jax.random.normal(jax.random.key(1), (3, 3, 32, 32))
    gradient = jax.grad(lambda k: jnp.mean(conv(jax.nn.relu(conv(x, k)), k) ** 2))
    update = lambda k: k - 1e-3 * gradient(k)
    scanned = jax.jit(lambda k: lax.scan(lambda k, _: (update(k), None), k, None, length=LOOPS)[0])
    one = jax.jit(update)

    def stepwise():
        k = kernel
        for _ in range(LOOPS):
            k = one(k)
        return k

    return "training step: scan of 4 / 4 calls", lambda: scanned(kernel), stepwise


def reverse_mode_in_loop():
    """Field and divergence in a loop, as in a likelihood: by `vjp`, and by `jvp`."""
    x = jax.random.normal(jax.random.key(0), (16, 16, 16, 3))
    into = 0.1 * jax.random.normal(jax.random.key(1), (3, 3, 3, 32))
    middle = 0.05 * jax.random.normal(jax.random.key(2), (3, 3, 32, 32))
    out = 0.1 * jax.random.normal(jax.random.key(3), (3, 3, 32, 3))
    field = lambda y: conv(jnp.tanh(conv(jnp.tanh(conv(y, into)), middle)), out)
    e = jnp.sign(x)

    def by_vjp(y):
        value, pull = jax.vjp(field, y)
        return value, jnp.sum(pull(e)[0] * e)

    def by_jvp(y):
        value, slope = jax.jvp(field, (y,), (e,))
        return value, jnp.sum(slope * e)

    def solve(evaluate):
        def body(y, _):
            value, div = evaluate(y)
            return y - 0.01 * value, div

        return jax.jit(lambda y: lax.scan(body, y, None, length=LOOPS))

    reverse, forward = solve(by_vjp), solve(by_jvp)
    return "divergence in a loop: vjp / jvp", lambda: reverse(x), lambda: forward(x)


def fir_gradient():
    """Gradient of a FIR filter: as a depthwise convolution, and as shifted slices."""
    x = jax.random.normal(jax.random.key(0), (32, 32, 32, 64))
    taps = jnp.asarray([1.0, 3.0, 3.0, 1.0]) / 8.0
    kernel = jnp.tile(jnp.outer(taps, taps)[:, :, None, None], (1, 1, 1, 64))

    def depthwise(y):
        return lax.conv_general_dilated(
            y, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=64,
        )  # fmt: skip

    slices = lambda y: fir_downsample(y, (1, 3, 3, 1))
    difference = float(jnp.max(jnp.abs(depthwise(x) - slices(x))))
    assert difference < 1e-5, difference
    gradient = lambda f: jax.jit(jax.grad(lambda y: jnp.sum(jnp.sin(f(y)))))
    grouped, shifted = gradient(depthwise), gradient(slices)
    return "FIR filter's gradient: grouped conv / slices", lambda: grouped(x), lambda: shifted(x)


def upsampling_gradient():
    """Gradient of nearest upsampling: by `jnp.repeat`, and by broadcast."""
    x = jax.random.normal(jax.random.key(0), (32, 16, 16, 64))
    repeat = lambda y: jnp.repeat(jnp.repeat(y, 2, axis=1), 2, axis=2)
    gradient = lambda f: jax.jit(jax.grad(lambda y: jnp.sum(jnp.sin(f(y)))))
    repeated, broadcast = gradient(repeat), gradient(nearest_upsample)
    return "upsampling's gradient: repeat / broadcast", lambda: repeated(x), lambda: broadcast(x)


def norm_gradient():
    """Gradient of GroupNorm and swish: with sums over pixels, and with products with ones."""
    x = jax.random.normal(jax.random.key(0), (4, 32, 32, 256))
    ours, flax = group_norm(256, dtype=jnp.float32), nn.GroupNorm(32, epsilon=1e-6)
    params = ours.init(jax.random.key(1), x)

    def gradient(module):
        apply = lambda p, y: nn.swish(module.apply(p, y))
        return jax.jit(lambda p, y: jax.vjp(apply, p, y)[1](x))

    sums, products = gradient(flax), gradient(ours)
    return "norm's gradient: sums / products", lambda: sums(params, x), lambda: products(params, x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    print(f"{'avoided / used':<48}{'avoided ms':>12}{'used ms':>10}{'ratio':>8}")
    cases = (
        weight_gradient_in_scan,
        reverse_mode_in_loop,
        fir_gradient,
        upsampling_gradient,
        norm_gradient,
    )
    for case in cases:
        name, avoided, used = case()
        ratio, slow, fast = ratio_of(avoided, used, repeats)
        print(f"{name:<48}{1e3 * slow:>12.2f}{1e3 * fast:>10.2f}{ratio:>8.1f}")


if __name__ == "__main__":
    main()
