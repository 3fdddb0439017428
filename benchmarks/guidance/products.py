"""What do products with the derivative of a network cost, in forward and in reverse mode?

    python -m benchmarks.guidance.products [--repeats 5]

DDIM takes five steps on 16 x 16 pixels with a small NCSN++ at its initial parameters, plain and
under `mmps` with three iterations, which make four products in each step. Times are medians of
interleaved runs.
"""

import argparse

import jax
import jax.numpy as jnp

from benchmarks.speed.timing import interleaved
from builders.model import build_model, build_predict
from builders.path import build_path
from configs.ve.cifar10_ncsnpp_continuous import get_config
from guidance import mmps
from operators import downsample
from samplers import ddim, make_grid, sample

SHAPE, STEPS, ITERATIONS = (16, 16, 3), 5, 3


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(arguments)
    config = get_config()
    config.model.nf, config.model.num_res_blocks = 16, 1
    path, model = build_path(config.sde), build_model(config, SHAPE)
    x = jnp.ones((2, *SHAPE))
    params = model.init(jax.random.key(0), x, jnp.ones(2), train=False)["params"]
    predict = build_predict(config, path, model)(params)
    operator = downsample(SHAPE, 2)
    y, ts = jnp.zeros(operator.shape_out), make_grid("karras", path, STEPS, 1e-3)
    guide = lambda products: mmps(path, operator, y, 0.1, ITERATIONS, products)
    ways = {"plain": predict, "jvp": guide("jvp")(predict), "vjp": guide("vjp")(predict)}
    run = lambda f: jax.jit(lambda x: sample(jax.random.key(0), f, ddim(path), x, ts).x)
    runs = {name: run(f) for name, f in ways.items()}
    times = interleaved({name: (lambda f=f: f(x)) for name, f in runs.items()}, args.repeats)
    for name, seconds in times.items():
        ratio = seconds / times["plain"]
        print(f"{name:<6}{1e3 * seconds / STEPS:8.1f} ms a step, {ratio:5.1f} times plain")


if __name__ == "__main__":
    main()
