"""How much of the machine's matmul rate does the CIFAR-10 NCSN++ reach?

    python -m benchmarks.conv_speed [--batch 4] [--repeats 5]

Forward pass and training step of the continuous VE model (62.8 M parameters, float32), each in turn
with a large matrix product, whose rate stands for the machine's peak. Work is counted as 20.4 GFLOP
an image forward, XLA's own count for the original's network, and three times that for a step.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import interleaved
from build import build_loss, build_model, build_optimizer, build_path, build_prediction
from configs.cifar10 import cifar10
from data import Scaler
from parallel.mesh import make_mesh, put_batch
from sde_lib import parametrize
from training.sharding import jit_step
from training.state import create_state
from training.step import make_train_step

GFLOP_PER_IMAGE = 20.4
SHAPE = (32, 32, 3)


def matmul(n: int = 3072):
    """A product of two n x n matrices, and its GFLOP."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((n, n)), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    return lambda: product(a), 2e-9 * n**3


def forward(config, model, params, batch: int):
    path = build_path(config.sde)
    kind = build_prediction(config)
    x = jax.random.normal(jax.random.key(1), (batch, *SHAPE))
    t = jnp.linspace(0.1, 0.9, batch)

    @jax.jit
    def run(params, x):
        apply = lambda x, cond: model.apply({"params": params}, x, cond)
        return parametrize(path=path, apply=apply, **kind)(x, t).score

    return lambda: run(params, x)


def training(config, model, params, batch: int):
    scaler = Scaler(256, config.data.centered, config.data.uniform_dequantization)
    loss = build_loss(config, build_path(config.sde), model, scaler)
    tx = build_optimizer(config.optim, config.training.n_iters)
    mesh = make_mesh()
    step = jit_step(make_train_step(loss, tx, config.training.ema_rate), mesh)
    images = np.random.default_rng(0).integers(0, 256, (batch, *SHAPE), np.uint8)
    on_device = put_batch({"image": images}, mesh)
    # The step donates its state.
    holder = {"state": create_state(jax.tree.map(jnp.copy, params), tx, 0)}

    def run():
        holder["state"], metrics = step(holder["state"], on_device)
        return metrics["loss"]

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    config = cifar10("ve", "ncsnpp")
    model = build_model(config, SHAPE)
    init = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.ones(1)))
    params = init()["params"]
    product, gflop = matmul()
    seconds = interleaved(
        {
            "matmul": product,
            "forward": forward(config, model, params, args.batch),
            "matmul ": product,
            "training step": training(config, model, params, args.batch),
        },
        args.repeats,
    )
    peak = gflop / np.mean([seconds["matmul"], seconds["matmul "]])
    print(f"matmul {peak:.0f} GFLOP/s, batch {args.batch}")
    for name, work in (("forward", 1.0), ("training step", 3.0)):
        rate = work * args.batch * GFLOP_PER_IMAGE / seconds[name]
        print(f"{name:<14}{seconds[name]:8.3f} s{rate:8.0f} GFLOP/s{rate / peak:8.2f} of matmul")


if __name__ == "__main__":
    main()
