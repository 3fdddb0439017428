"""Turn a checkpoint of score_sde into a workdir, from which training or sampling goes on.

python -m tools.import_score_sde CHECKPOINT --config configs/ve/cifar10_ncsnpp_continuous.py \\
    --workdir DIR [--config.section.key=value ...]

CHECKPOINT is a file of the JAX code (`checkpoint_<n>`) or of the PyTorch code
(`checkpoint_<n>.pth`, read without torch). The config must describe the network that was trained.
Nothing is written unless every parameter, average and moment fits this network.
"""

import shlex
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict, config_flags

import main as program
from builders.checks import check_combinations, check_numbers
from builders.model import build_model
from builders.path import build_path
from builders.places import place
from builders.sections import pruned
from builders.sources import build_data
from builders.training import build_optimizer
from data import stated_shape
from data.torch_file import LEGACY_MAGIC, ZIP_MAGIC
from tools.flax_checkpoint import read_flax
from tools.original_state import OriginalState
from tools.pytorch_checkpoint import read_pytorch
from tools.train_state import Target, train_state
from training.checkpoint import CheckpointError, Checkpoints
from training.state import TrainState, create_state, parameter_count
from training.workdir import claim, flatten


def main(argv: list[str]) -> None:
    """Run the command. Every error ends it with one sentence and exit status 1."""
    if len(argv) != 2:
        raise SystemExit(f"Name one checkpoint file; there are {len(argv) - 1}: {argv[1:]}.")
    program.quiet()
    checkpoint = place(argv[1])
    config = program.CONFIG.value
    try:
        original, state = import_checkpoint(checkpoint, config, program.workdir())
    except (ValueError, OSError, CheckpointError) as error:
        if program.DEBUG.value:
            raise
        for line in getattr(error, "lines", ()):
            print(line)
        raise SystemExit(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    print(f"{checkpoint}: step {original.step:,}, {parameter_count(state.params):,} parameters")
    for line in remarks(original, config):
        print(line)
    print(f"next: {next_command(config, original.step)}")


def import_checkpoint(
    checkpoint: Path, config: ConfigDict, workdir: Path
) -> tuple[OriginalState, TrainState]:
    """Write a workdir as `--mode train` would have left it at the step of the checkpoint.

    Returns:
        The state in the file, and the state in the workdir.

    Raises:
        ValueError, OSError, CheckpointError: with one sentence, before anything is written.
    """
    check_numbers(config)
    build_path(config.sde)
    check_combinations(config)
    check_free(workdir)
    reader = reader_of(checkpoint)
    target = target_of(config)
    original = reader(checkpoint, target.layers)
    state = train_state(original, target, config.seed)
    claim(workdir, pruned(config), training=True)
    checkpoints = Checkpoints(workdir, config.training.keep_snapshots)
    checkpoints.save(state)
    checkpoints.wait()
    checkpoints.close()
    return original, state


def check_free(workdir: Path) -> None:
    """Raise ValueError if there is a run in the workdir."""
    marks = ("config.json", "checkpoints", "metrics.jsonl")
    there = [name for name in marks if (workdir / name).exists()]
    if there:
        raise ValueError(
            f"The workdir {workdir} holds a run already ({', '.join(there)}); take another one."
        )


def reader_of(path: Path) -> Callable[[Path, tuple[str, ...]], OriginalState]:
    """Return the reader for the format of a file, which its first bytes tell.

    Raises:
        ValueError: the path is a folder.
        FileNotFoundError: there is no such file.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file in it, such as checkpoint_12.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with open(path, "rb") as file:
        start = file.read(len(LEGACY_MAGIC))
    if start.startswith((ZIP_MAGIC, LEGACY_MAGIC)):
        return read_pytorch
    return lambda path, layers: read_flax(path)


def target_of(config: ConfigDict) -> Target:
    """Return the shapes and layers of the config's training state, without computing any array."""
    shape = image_shape(config.data)
    model = build_model(config, shape)
    tx = build_optimizer(config.optim, config.training.n_iters)
    layers = []

    def init(key: jax.Array) -> TrainState:
        params = model.init(key, jnp.zeros((1, *shape)), jnp.ones((1,)))["params"]
        # Here the dict has the order in which the layers were called; eval_shape would sort it.
        layers.extend(params)
        return create_state(params, tx, config.seed)

    return Target(jax.eval_shape(init, jax.random.key(0)), tuple(layers))


def image_shape(section: ConfigDict) -> tuple[int, ...]:
    """Return (height, width, channels) as the config states, or else of the data on the disk."""
    return stated_shape(section) or build_data(section)[0].shape


def remarks(original: OriginalState, config: ConfigDict) -> list[str]:
    """Return a line for each thing left out of the import, and for each setting that differs."""
    ours, training = flatten(config.to_dict()), config.training
    lines = [f"left out: {path}" for path in original.left_out]
    for key, value in original.settings.items():
        if not np.isclose(value, ours[key], rtol=1e-6):
            lines.append(f"{key} was {value:.6g} and is {ours[key]:.6g} in the config")
    if original.rng is None:
        lines.append(f"the file has no random key; it is that of seed {config.seed}")
    if original.step >= training.n_iters:
        lines.append(f"training ends at training.n_iters = {training.n_iters}; raise it to go on")
    elif (training.n_iters - original.step) % training.n_jitted_steps:
        lines.append(
            f"training.n_jitted_steps = {training.n_jitted_steps} does not divide the steps that "
            "are left; 1 does"
        )
    return lines


def next_command(config: ConfigDict, step: int) -> str:
    """Return the command that uses the workdir, with the overrides given to the import."""
    flag = flags.FLAGS["config"]
    words = ["--config", config_flags.get_config_filename(flag), "--workdir", program.WORKDIR.value]
    mode = "train" if step < config.training.n_iters else "eval"
    given = config_flags.get_override_values(flag).items()
    overrides = [f"--config.{key}={value}" for key, value in given]
    return shlex.join(["python", "main.py", *words, "--mode", mode, *overrides])


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags of `main.py`, and refuse those that an import does not use."""
    for word in argv[1:]:
        name = word.lstrip("-").split("=")[0]
        if word.startswith("-") and name in ("mode", *program.READ_BY):
            raise SystemExit(f"Bad flag: --{name} is an option of main.py, not of the import.")
    return program.parse_flags([argv[0], "--mode=train", *argv[1:]])


if __name__ == "__main__":
    for name in ("config", "workdir", "debug"):
        flags.declare_key_flag(name)
    app.run(main, flags_parser=parse_flags)
