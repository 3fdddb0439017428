"""Our side of `benchmarks.speed.train_step`: a process that makes training steps on request."""

import xla_flags  # noqa: F401, I001 - sets XLA's flags before jax is imported

import argparse
import resource
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks.speed.timing import matmul
from benchmarks.speed.work import work
from benchmarks.speed.worker import clock, serve
from builders.model import build_model
from builders.path import build_path
from builders.training import build_loss, build_optimizer
from configs.cifar10 import cifar10
from data import Scaler
from parallel.mesh import make_mesh, put_batch
from tools.describe import abstract_params
from training.plan import compile_step
from training.sharding import jit_step
from training.state import TrainState, create_state, parameter_count
from training.step import make_train_step

CONFIGS = {"ddpm": ("vp", "ddpm"), "ncsnpp": ("ve", "ncsnpp")}


Answers = dict[str, Callable[[], float]]


def first_state_and_step(
    config: ConfigDict, batch: int, shape: tuple[int, ...]
) -> tuple[TrainState, dict[str, jax.Array], Any]:
    """Return the initial state, a batch of random images, and the jitted step, as in training."""
    model = build_model(config, shape)
    scaler = Scaler(256, config.data.centered, config.data.uniform_dequantization)
    loss = build_loss(config, build_path(config.sde), model, scaler)
    tx, mesh = build_optimizer(config.optim, config.training.n_iters), make_mesh()

    def initial():
        x, cond = jnp.zeros((1, *shape)), jnp.ones(1)
        return create_state(model.init(jax.random.key(0), x, cond)["params"], tx, 0)

    images = np.random.default_rng(0).integers(0, 256, (batch, *shape), np.uint8)
    step = jit_step(make_train_step(loss, tx, config.training.ema_rate), mesh)
    return jax.jit(initial)(), put_batch({"x0": images}, mesh), step


def forward_work(config: ConfigDict, shape: tuple[int, ...]) -> float:
    """Return the GFLOP of a forward pass for one image: convolutions and matrix products."""
    model = build_model(config, shape)
    x, cond = jnp.zeros((1, *shape)), jnp.ones(1)
    params = abstract_params(model, shape)
    return work(lambda p: model.apply({"params": p}, x, cond), params) / 1e9


def make(network: str, batch: int, size: int, nf: int) -> tuple[dict[str, Any], Answers]:
    """Return the facts about the step, and the measurements that can be requested."""
    config = cifar10(*CONFIGS[network])
    config.model.nf = nf
    model, shape = build_model(config, (size, size, 3)), (size, size, 3)
    state, on_device, step = first_state_and_step(config, batch, shape)
    holder = {"state": state}
    compiled, plan = compile_step(step, state, on_device)

    def update():
        holder["state"], metrics = compiled(holder["state"], on_device)
        return metrics["loss"]

    apply = jax.jit(lambda params, x, t: model.apply({"params": params}, x, t))
    x, t = jax.random.normal(jax.random.key(1), (batch, *shape)), jnp.full((batch,), 0.5)
    product, gflop = matmul()
    facts = {
        "implementation": "scorefield",
        "parameters": parameter_count(state.params),
        # Once forward, and twice backward: the gradients for the inputs and for the parameters.
        "gflop": 3 * batch * forward_work(config, shape),
        "planned_mib": plan.state_mib + plan.besides_mib,
        "compile_s": plan.seconds,
    }
    return facts, {
        "step": lambda: seconds_of(update),
        "forward": lambda: seconds_of(lambda: apply(holder["state"].params, x, t)),
        "matmul": lambda: gflop / seconds_of(product),
        "peak": peak_mib,
    }


def peak_mib() -> float:
    """Return the largest resident memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds_of(call: Callable[[], Any]) -> float:
    begin = clock()
    jax.block_until_ready(call())
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=CONFIGS, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--nf", type=int, default=128)
    args = parser.parse_args()
    serve(*make(args.network, args.batch, args.size, args.nf))


if __name__ == "__main__":
    main()
