"""How much time do samplers and the training step add to that of the network alone?

    python -m benchmarks.speed.overhead [--repeats 15]

For sampling, the figure is the time of a fixed-step sampler divided by that of NFE jitted calls of
the network, one after the other. For training, it is the time of the jitted step (clipping, Adam,
EMA, preprocessing, on a mesh) divided by that of one jitted value-and-gradient of the same loss.
"""

import argparse
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

import samplers
from benchmarks.speed.timing import ratio_of
from builders.experiment import build
from configs.base import base
from configs.digits import digits
from data import Loader
from parallel.mesh import make_mesh, put_batch
from sde_lib import AffinePath, example_keys
from training.restore import initial
from training.sharding import jit_step
from training.step import make_train_step

STEPS = 50


def problems() -> dict[str, SimpleNamespace]:
    """Return two configs: the digits perceptron, and a small NCSN++ on the same images."""
    perceptron = digits("vp")
    convolutional = digits("vp")
    options = {"nf": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,)}
    convolutional.model = ConfigDict({**base("vp", "ncsnpp", "digits").model, **options})
    convolutional.prediction.conditioning = "label"
    return {"perceptron, batch 128": perceptron, "NCSN++ nf 32, batch 128": convolutional}


class Loop(NamedTuple):
    """A jitted sampler `program(params, x)`, which calls the network `nfe` times."""

    program: Callable[..., Array]
    nfe: int


def loops(path: AffinePath, predict: Callable, keys: Array, steps: int) -> dict[str, Loop]:
    """Return fixed-step samplers by name; there is one key per example."""
    ts = samplers.make_grid("uniform", path, steps, 1e-3)
    methods = {
        "ddim": samplers.ddim(path),
        "heun": samplers.heun(path),
        "ancestral": samplers.ancestral(path),
        "euler_maruyama": samplers.euler_maruyama(path),
        "reverse_diffusion + langevin": samplers.predictor_corrector(
            samplers.reverse_diffusion(path), samplers.langevin(path, 0.16)
        ),
    }

    def program(method):
        return jax.jit(lambda p, x: samplers.sample(keys, predict(p), method, x, ts).x)

    return {name: Loop(program(method), steps * method.nfe) for name, method in methods.items()}


def bare(predict: Callable) -> Callable[..., Array]:
    """Return `(params, x, nfe) -> x`: nfe jitted calls of the network, one after the other."""
    call = jax.jit(lambda p, x: predict(p)(x, jnp.asarray(0.5)).eps)

    def run(params: Any, x: Array, nfe: int) -> Array:
        for _ in range(nfe):
            x = call(params, x)
        return x

    return run


def sampler_rows(experiment, params, repeats: int):
    keys = example_keys(0, jnp.arange(128))
    x = experiment.path.prior_sample(keys, (128, *experiment.shape))
    network = bare(experiment.predict)
    for name, (program, nfe) in loops(experiment.path, experiment.predict, keys, STEPS).items():
        ratio, ours, alone = ratio_of(
            lambda program=program: program(params, x),
            lambda nfe=nfe: network(params, x, nfe),
            repeats,
        )
        yield f"sampler {name}, {nfe} NFE", ours, alone, ratio


def training_rows(experiment, repeats: int):
    config = experiment.config.training
    mesh = make_mesh()
    step = jit_step(make_train_step(experiment.loss, experiment.tx, config.ema_rate), mesh)
    batch = put_batch(Loader(experiment.train, config.batch_size, 0).batch(0), mesh)
    holder = SimpleNamespace(state=initial(experiment))
    params, key = initial(experiment).params, jax.random.key(0)
    bare = jax.jit(
        lambda p, key, b: jax.value_and_grad(experiment.loss, has_aux=True)(p, None, key, b)
    )

    def full():
        holder.state, metrics = step(holder.state, batch)
        return holder.state.step, metrics["loss"]

    ratio, ours, gradient = ratio_of(full, lambda: bare(params, key, batch), repeats)
    yield "training step", ours, gradient, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    print(f"{'problem':<26}{'what':<44}{'ours ms':>10}{'bare ms':>10}{'ratio':>8}")
    for name, config in problems().items():
        experiment = build(config)
        params = initial(experiment).params
        for what, ours, bare, ratio in (
            *sampler_rows(experiment, params, repeats),
            *training_rows(experiment, 5 * repeats),
        ):
            print(f"{name:<26}{what:<44}{1e3 * ours:>10.2f}{1e3 * bare:>10.2f}{ratio:>8.3f}")


if __name__ == "__main__":
    main()
