"""Show what a config builds: its network's parameters, and the memory of one training step.

python -m tools.describe --config configs/ve/ffhq_ncsnpp_continuous.py [--batch 1] [--no-compile]
python -m tools.describe --all

Nothing is allocated and no data are read: parameters are shapes, and the step is compiled but never
run. The memory is XLA's plan for one device of this machine; the plan for a GPU differs from the
plan for a CPU.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from builders.model import build_model
from builders.path import build_path
from builders.places import place
from builders.training import build_loss, build_optimizer
from builders.unused import config_of_file
from data import Scaler, stated_shape
from losses.denoising import LossFn
from parallel.mesh import mesh_of
from training.sharding import KEEP_BARRIERS, jit_step
from training.state import TrainState, create_state, parameter_count
from training.step import StepFn, make_train_step

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MIB = 2**20

# Parameters of the networks of Song et al. 2021 for CIFAR-10.
KNOWN = {
    "ve/cifar10_ncsnpp_continuous": 62_758_915,
    "ve/cifar10_ncsnpp_deep_continuous": 107_587_075,
    "ve/cifar10_ddpmpp_continuous": 61_870_083,
    "ve/cifar10_ddpmpp_deep_continuous": 106_698_243,
    "ve/cifar10_ncsnpp": 62_693_251,
    "vp/cifar10_ncsnpp": 62_693_251,
    "vp/cifar10_ncsnpp_continuous": 62_693_251,
    "vp/cifar10_ncsnpp_deep_continuous": 107_521_411,
    "vp/cifar10_ddpmpp": 61_804_419,
    "vp/cifar10_ddpmpp_continuous": 61_804_419,
    "vp/cifar10_ddpmpp_deep_continuous": 106_632_579,
    "subvp/cifar10_ncsnpp_continuous": 62_693_251,
    "subvp/cifar10_ncsnpp_deep_continuous": 107_521_411,
    "subvp/cifar10_ddpmpp_continuous": 61_804_419,
    "subvp/cifar10_ddpmpp_deep_continuous": 106_632_579,
}


class Step(NamedTuple):
    """A training step on one device, with the shapes of its arguments."""

    loss: LossFn
    run: StepFn
    state: TrainState
    batch: dict[str, jax.ShapeDtypeStruct]


class Memory(NamedTuple):
    """Memory of a compiled training step in MiB: its arguments, its outputs, its temporary arrays.

    `total` counts the state once, because the step updates the state in place. `seconds` is the
    time of the compilation.
    """

    arguments: float
    outputs: float
    temporary: float
    total: float
    seconds: float


def load(path: Path) -> ConfigDict:
    return config_of_file(str(path))


def network_of(
    config: ConfigDict, shape: tuple[int, ...] | None = None
) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the network and the shape of one example: `shape`, or else what the config states.

    Raises:
        ValueError: no shape is given, and the config does not state one.
    """
    section = config.data
    shape = shape or stated_shape(section)
    if shape is None:
        raise ValueError(
            f"data.dataset is {section.dataset!r}, and only the data know their shape; give it "
            "with --shape=H,W,C."
        )
    return build_model(config, shape), shape


def abstract_params(model: nn.Module, shape: tuple[int, ...]) -> Any:
    """Return the tree of parameters, as shapes."""
    x, cond = jnp.zeros((1, *shape)), jnp.ones((1,))
    return jax.eval_shape(model.init, jax.random.key(0), x, cond)["params"]


def by_kind(params: Any) -> dict[str, tuple[int, int]]:
    """Return {kind: (number of modules, number of parameters)} of the modules at the top."""
    kinds: dict[str, tuple[int, int]] = {}
    for name, module in params.items():
        kind = name.rsplit("_", 1)[0]
        number, count = kinds.get(kind, (0, 0))
        kinds[kind] = number + 1, count + parameter_count(module)
    return kinds


def abstract_step(config: ConfigDict, shape: tuple[int, ...], batch_size: int) -> Step:
    model = build_model(config, shape)
    scaler = Scaler(256, config.data.centered, config.data.uniform_dequantization)
    loss = build_loss(config, build_path(config.sde), model, scaler)
    tx = build_optimizer(config.optim, config.training.n_iters)
    run = make_train_step(loss, tx, config.training.ema_rate)
    state = jax.eval_shape(lambda p: create_state(p, tx, 0), abstract_params(model, shape))
    return Step(loss, run, state, {"x0": jax.ShapeDtypeStruct((batch_size, *shape), jnp.uint8)})


def kept(step: Step) -> float:
    """Return the MiB that the forward pass keeps for the gradient, parameters included.

    The figure holds for any device, because it comes before XLA's optimisations.
    """

    def residuals(state: TrainState, batch: dict) -> Any:
        loss = lambda params: step.loss(params, state, state.key, batch)
        return jax.vjp(loss, state.params, has_aux=True)[1]

    leaves = jax.tree.leaves(jax.eval_shape(residuals, step.state, step.batch))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) / MIB


def compiled_memory(step: Step) -> Memory:
    device = jax.devices()[0]
    start = time.perf_counter()
    jitted = jit_step(step.run, mesh_of([device]))
    options = KEEP_BARRIERS if device.platform == "cpu" else {}
    compiled = jitted.lower(step.state, step.batch).compile(compiler_options=options)
    found = compiled.memory_analysis()
    given, back = found.argument_size_in_bytes, found.output_size_in_bytes
    total = given + back - found.alias_size_in_bytes + found.temp_size_in_bytes
    sizes = (size / MIB for size in (given, back, found.temp_size_in_bytes, total))
    return Memory(*sizes, time.perf_counter() - start)


def summary(config: ConfigDict) -> str:
    times = "continuous" if config.training.continuous else "discrete"
    return f"{config.model.name}, {config.sde.name}, {times}"


def describe(config: ConfigDict, shape: tuple[int, ...] | None, batch: int, compiles: bool) -> None:
    """Print the network of a config, and the memory of its step without and with `model.remat`."""
    model, shape = network_of(config, shape)
    params = abstract_params(model, shape)
    print(f"{summary(config)}, {'x'.join(map(str, shape))}")
    print(f"{parameter_count(params):,} parameters")
    for kind, (number, count) in by_kind(params).items():
        print(f"  {number:3} {kind:28}{count:>14,}")
    columns = ("kept", *(Memory._fields if compiles else ()))
    print(f"A training step of batch {batch} on one {jax.devices()[0].device_kind}, MiB:")
    print(f"  {'remat':6}" + "".join(f"{name:>11}" for name in columns))
    for remat in (False, True) if "remat" in config.model else (None,):
        if remat is not None:
            config.model.remat = remat
        step = abstract_step(config, shape, batch)
        row = (kept(step), *(compiled_memory(step) if compiles else ()))
        print(f"  {remat!s:6}" + "".join(f"{value:11,.0f}" for value in row), flush=True)


def list_all() -> None:
    """Print a line for each config file: path, network, law, time, parameters, and `KNOWN`."""
    files = [path for path in sorted(CONFIGS.rglob("*.py")) if "def get_config" in path.read_text()]
    for path in files:
        config, name = load(path), path.relative_to(CONFIGS).with_suffix("").as_posix()
        count = parameter_count(abstract_params(*network_of(config)))
        known = f"{KNOWN[name]:,}" if name in KNOWN else "-"
        print(f"configs/{name + '.py':44}{summary(config):28}{count:>12,}{known:>14}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=place, help="a config file")
    what.add_argument("--all", action="store_true", help="one line for every file of configs/")
    parser.add_argument("--batch", type=int, default=1, help="batch size of the training step")
    parser.add_argument("--shape", help="of one example, H,W,C, if the config does not say it")
    parser.add_argument("--no-compile", action="store_true", help="what is kept, without a plan")
    given = parser.parse_args()
    if given.all:
        list_all()
        return
    try:
        shape = tuple(map(int, given.shape.split(","))) if given.shape else None
        describe(load(given.config), shape, given.batch, not given.no_compile)
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
