"""Trains the classifier of noise levels that denoising MCMC moves by, on a config's data and law.

python -m tools.train_noise_level --config configs/digits_vp.py --workdir runs/digits \\
    [--network cnn|mlp] [--levels 1000] [--steps 5000] [--config.section.key=value ...]

Writes `WORKDIR/noise_level`: checkpoints, from which an interrupted run goes on, metrics, and at
the end `classifier.msgpack`, the averaged parameters with all that is needed to use them. The
config's seed, data and law are those of the run; Adam and its rate are the paper's (Kim & Ye 2023,
arXiv 2209.14593), the cosine to zero is not.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags
from ml_collections import ConfigDict

import main as program
from builders.checks import check_combinations, check_numbers, choose
from builders.path import build_path
from builders.sources import build_sources
from builders.training import build_preprocessing
from data import Loader, Scaler
from losses.noise_level import noise_level_loss
from models.noise_level import CLASSIFIERS, FILE, Trained, save
from parallel.mesh import abstract, check_batch, make_mesh, replicated
from samplers.mcmc.levels import Levels, make_levels
from training.checkpoint import CheckpointError, Checkpoints
from training.finite import TrainingDiverged
from training.loop import train
from training.metrics import MetricWriter
from training.sharding import jit_step
from training.state import create_state, parameter_count
from training.step import make_train_step
from training.workdir import claim

NETWORK = flags.DEFINE_enum("network", "mlp", list(CLASSIFIERS), "Which classifier.")
LEVELS = flags.DEFINE_integer("levels", 1000, "Number of noise levels.")
SIGMA_MIN = flags.DEFINE_float("sigma_min", None, "Least c / a; that of sampling.eps by default.")
SIGMA_MAX = flags.DEFINE_float("sigma_max", None, "Largest c / a; that of t1 by default.")
STEPS = flags.DEFINE_integer("steps", 5000, "Updates to make.")
RATE = flags.DEFINE_float("learning_rate", 1e-3, "Of Adam, falling to zero by a cosine.")
BATCH = flags.DEFINE_integer("batch", 100, "Images an update.")

EMA_RATE = 0.999
LOG_FREQ, SNAPSHOT_FREQ = 100, 1000


class Plan(NamedTuple):
    """The flags of a training run."""

    network: str = "mlp"
    levels: int = 1000
    sigma_min: float | None = None
    sigma_max: float | None = None
    steps: int = 5000
    learning_rate: float = 1e-3
    batch: int = 100


class Heldout(NamedTuple):
    """Of the classifier on test data: cross-entropy in nats, that of a uniform guess, and the RMS
    error of log sigma of its likeliest level."""

    cross_entropy: float
    uniform: float
    log_sigma_error: float


def train_classifier(config: ConfigDict, workdir: Path, plan: Plan) -> tuple[Trained, Heldout]:
    """Trains, or goes on with, the classifier of a workdir, and writes it to `FILE`.

    Raises:
        ValueError: for numbers out of range, or a workdir of another config.
        CheckpointError: where its checkpoints are of another classifier.
    """
    check_plan(plan)
    check_numbers(config)
    path = build_path(config.sde)
    check_combinations(config)
    sources = build_sources(config, reads_data=True)
    scaler = Scaler(sources[0].levels, config.data.centered, config.data.uniform_dequantization)
    levels = levels_of(path, config.sampling.eps, plan)
    network = CLASSIFIERS[plan.network](levels=plan.levels)
    network.check(sources[0].shape)
    claim(workdir, config, training=False)
    prepare = build_preprocessing(config.data, scaler)
    loss = prepared(path, levels, network, prepare)
    folder, progress = (workdir / FILE).parent, config.training.progress
    params = run(config.seed, sources[0], network, loss, folder, plan, progress)
    sigma_max, sigma_min = (float(levels.sigma[i]) for i in (0, -1))
    options = {"levels": plan.levels}
    trained = Trained(plan.network, options, sigma_min, sigma_max, sources[0].shape, params)
    save(workdir / FILE, trained)
    return trained, heldout(trained, levels, sources[1], prepare)


def levels_of(path, eps: float, plan: Plan) -> Levels:
    """The plan's grid of levels; its least sigma is by default that at which sampling ends."""
    least = float(path.sigma(jnp.asarray(eps)))
    sigma_min = least if plan.sigma_min is None else plan.sigma_min
    return make_levels(path, plan.levels, sigma_min, plan.sigma_max)


def check_plan(plan: Plan) -> None:
    choose("network", plan.network, CLASSIFIERS)
    for name in ("steps", "batch", "learning_rate"):
        value = getattr(plan, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}; it must be positive and finite.")


def prepared(path, levels: Levels, network, prepare):
    """The loss on raw batches, as `build_loss` does it for the denoiser."""

    def apply(params, y, dropout_key):
        return network.apply({"params": params}, y, train=True, rngs={"dropout": dropout_key})

    on_scaled = noise_level_loss(path, levels.t, apply)

    def loss(params, others, key, batch):
        data_key, loss_key = jax.random.split(key)
        return on_scaled(params, others, loss_key, prepare(data_key, batch))

    return loss


def run(seed: int, source, network, loss, folder: Path, plan: Plan, progress: bool) -> Any:
    """The averaged parameters after `plan.steps` updates."""
    mesh = make_mesh()
    check_batch(plan.batch, mesh, "batch")
    tx = optax.adam(optax.cosine_decay_schedule(plan.learning_rate, plan.steps))

    def initial():
        # As in `training.run`: a number that no step reaches.
        key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)
        params = network.init(key, jnp.zeros((1, *source.shape)))["params"]
        return create_state(params, tx, seed)

    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(folder, keep=1)
    if checkpoints.latest() is None:
        state = jax.jit(initial, out_shardings=replicated(mesh))()
    else:
        state = checkpoints.restore(abstract(initial, mesh))
    writer = MetricWriter(folder, int(state.step), jax.process_index() == 0)
    loader = Loader(source, plan.batch, seed, jax.process_index(), jax.process_count())
    print(f"{plan.network}: {parameter_count(state.params):,} parameters, step {int(state.step)}")
    try:
        state = train(
            jit_step(make_train_step(loss, tx, EMA_RATE), mesh),
            state,
            loader,
            checkpoints,
            writer,
            mesh=mesh,
            n_iters=plan.steps,
            n_jitted_steps=1,
            log_freq=LOG_FREQ,
            snapshot_freq=SNAPSHOT_FREQ,
            progress=progress,
        )
    finally:
        writer.close()
        checkpoints.close()
    return state.ema_params


def heldout(trained: Trained, levels: Levels, source, prepare, rounds: int = 4) -> Heldout:
    """On up to 1000 examples, each at `rounds` levels that are evenly spread over all of them."""
    number = min(len(source), 1000)
    raw = {"image": jnp.asarray(source.fetch(np.arange(number)))}

    @jax.jit
    def measure(key, shift):
        data_key, noise_key = jax.random.split(key)
        x0 = prepare(data_key, raw)["image"]
        k = (jnp.arange(number) * len(levels.t) // number + shift) % len(levels.t)
        sigma = levels.sigma[k].reshape(-1, *(1,) * (x0.ndim - 1))
        logits = trained.logits(x0 + sigma * jax.random.normal(noise_key, x0.shape))
        error = jnp.log(levels.sigma[jnp.argmax(logits, axis=-1)] / levels.sigma[k])
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, k)
        return jnp.mean(entropy), jnp.mean(error**2)

    shifts = np.arange(rounds) * len(levels.t) // (rounds * number)
    found = [measure(jax.random.key(i), int(s)) for i, s in enumerate(shifts)]
    entropy, square = np.mean(np.asarray(found, np.float64), axis=0)
    return Heldout(float(entropy), float(np.log(len(levels.t))), float(square**0.5))


def main(argv: list[str]) -> None:
    """The command; everything that is wrong is one sentence and exit status 1."""
    if len(argv) > 1:
        raise SystemExit(f"Unexpected argument {argv[1]!r}; options begin with --.")
    program.quiet()
    given = (NETWORK, LEVELS, SIGMA_MIN, SIGMA_MAX, STEPS, RATE, BATCH)
    plan = Plan(*(flag.value for flag in given))
    try:
        workdir = program.workdir()
        _, found = train_classifier(program.CONFIG.value, workdir, plan)
    except (ValueError, OSError, CheckpointError, TrainingDiverged) as error:
        if program.DEBUG.value:
            raise
        raise SystemExit(f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    print(
        f"test data: {found.cross_entropy:.3f} nats (a uniform guess {found.uniform:.3f}), "
        f"log sigma within {found.log_sigma_error:.3f} (RMS)"
    )
    print(f"wrote {workdir / FILE}")


def parse_flags(argv: list[str]) -> list[str]:
    """The flags of `main.py`, without those that this training has no use for, and its own."""
    for word in argv[1:]:
        name = word.lstrip("-").split("=")[0]
        if word.startswith("-") and name in ("mode", *program.READ_BY):
            raise SystemExit(f"Bad flag: --{name} is an option of main.py, not of this training.")
    return program.parse_flags([argv[0], "--mode=train", *argv[1:]])


if __name__ == "__main__":
    for name in ("config", "workdir", "debug"):
        flags.declare_key_flag(name)
    app.run(main, flags_parser=parse_flags)
