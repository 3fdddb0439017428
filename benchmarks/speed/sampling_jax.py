"""Our side of `benchmarks.speed.sampling`: a process that draws images on request."""

import xla_flags  # noqa: F401, I001 - sets XLA's flags before jax is imported

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.speed.overhead import bare, loops
from benchmarks.speed.train_step_jax import Answers, peak_mib, seconds_of
from benchmarks.speed.worker import serve
from builders.model import build_model, build_predict
from builders.path import build_path
from configs.cifar10 import cifar10
from sde_lib import example_keys

SHAPE = (32, 32, 3)
METHODS = ("ddim", "ancestral", "heun", "reverse_diffusion + langevin")


def make(batch: int, steps: int) -> tuple[dict[str, Any], Answers]:
    """Return the facts about the samplers, and the measurements that can be requested."""
    config = cifar10("vp", "ddpm")
    path, model = build_path(config.sde), build_model(config, SHAPE)
    predict = build_predict(config, path, model)
    init = jax.jit(lambda: model.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), jnp.ones(1)))
    params, keys = init()["params"], example_keys(0, jnp.arange(batch))
    x = path.prior_sample(keys, (batch, *SHAPE))
    told, answers = {}, {}
    available = loops(path, predict, keys, steps)
    for name in METHODS:
        program, nfe = available[name]
        begin = time.perf_counter()
        compiled = program.lower(params, x).compile()
        told[name] = {"nfe": nfe, "compile_s": time.perf_counter() - begin}
        answers[name] = lambda run=compiled: seconds_of(lambda: run(params, x))
    network = bare(predict)
    for nfe in {loop["nfe"] for loop in told.values()}:
        answers[f"bare {nfe}"] = lambda nfe=nfe: seconds_of(lambda: network(params, x, nfe))
    return {"implementation": "scorefield", "loops": told}, {**answers, "peak": peak_mib}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    serve(*make(args.batch, args.steps))


if __name__ == "__main__":
    main()
