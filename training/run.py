"""`--mode train`: the preparation of a training run."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import jax

from data import Loader
from evaluation.report.images import shown, to_levels
from evaluation.report.pictures import grid, save_png
from evaluation.tasks.loss import make_eval_loss
from evaluation.tasks.sampling import make_draw, pictured
from parallel.mesh import (
    check_batch,
    gathered,
    localised,
    make_mesh,
    put_batch,
    replicated,
    state_shardings,
)
from parallel.processes import is_lead, on_lead
from training.checkpoint import Checkpoints
from training.data_scale import scale_of, scale_warning
from training.loop import Every, Schedule, train
from training.metrics import MetricWriter
from training.plan import compile_step
from training.profile import Profiler
from training.restore import initial_or_latest, saved_steps
from training.same_data import check_data
from training.sharding import jit_step
from training.state import TrainState, parameter_count
from training.step import make_train_step, scan_steps
from training.stop import Stop
from training.workdir import claim, create, held


def run_training(
    experiment, workdir: Path, force_config: bool = False, profile_steps: int = 0
) -> TrainState:
    """Train to `training.n_iters`, from the latest checkpoint of the workdir if there is one.

    The workdir is claimed (see `claim`) after all other checks of the config.

    Args:
        force_config: continue in spite of another config or other data in the workdir.
        profile_steps: number of steps that are traced into `<workdir>/profile`.

    Raises:
        ValueError: as `check_batch`, `check_steps_left`, `held`, `claim` and `check_data`.
        CheckpointError, TrainingDiverged, Stopped: as `restore` and `train`.
    """
    config = experiment.config.training
    mesh = make_mesh(experiment.config.mesh.fsdp)
    check_batch(config.batch_size // config.accumulate, mesh, per_update(config))
    check_steps_left(workdir, config)
    frozen = experiment.frozen()
    with contextlib.ExitStack() as stack:
        # The lock comes before the claim, because a claim with --force_config writes.
        on_lead(lambda: stack.enter_context(held(workdir)))
        on_lead(lambda: create(workdir / "checkpoints", "folder"))
        config_of = {"config": experiment.settings, "read": experiment.stored}
        forced = on_lead(lambda: claim(workdir, force=force_config, training=True, **config_of))
        changed = on_lead(lambda: check_data(workdir, experiment.train, force_config))
        forced = (forced or []) + (changed or [])
        on_lead(lambda: tell_scale(experiment))
        if experiment.second is not None:
            second = lambda: check_data(workdir, experiment.second, force_config, "data2")
            forced += on_lead(second) or []
        # Entered before anything is compiled, because a signal would be lost during compilation.
        stop = stack.enter_context(Stop())
        checkpoints = Checkpoints(workdir, config.keep_snapshots)
        stack.enter_context(contextlib.closing(checkpoints))
        state = initial_or_latest(experiment, checkpoints, mesh)
        writer = MetricWriter(workdir, int(state.step), is_lead())
        stack.enter_context(contextlib.closing(writer))
        if forced:
            writer.tell(int(state.step), forced=forced)
        loader = Loader(
            experiment.train,
            config.batch_size,
            experiment.config.seed,
            jax.process_index(),
            jax.process_count(),
            experiment.second,
        )
        return train(
            prepared_step(experiment, state, loader, mesh, frozen),
            state,
            loader,
            checkpoints,
            writer,
            mesh=mesh,
            schedule=schedule_of(config),
            actions=periodic_actions(experiment, workdir, mesh),
            profiler=Profiler(workdir / "profile", profile_steps, int(state.step)),
            stop=stop,
        )


def schedule_of(config) -> Schedule:
    """The schedule of the section `training`; only the lead shows a bar."""
    said = {name: config[name] for name in Schedule._fields}
    return Schedule(**{**said, "progress": config.progress and is_lead()})


def prepared_step(experiment, state: TrainState, loader: Loader, mesh, frozen) -> Callable:
    """Compile the step and print its cost."""
    config = experiment.config.training
    n, step = config.n_jitted_steps, int(state.step)
    print(
        f"{experiment.config.model.name}: {parameter_count(state.params):,} parameters, "
        f"{mesh.devices.size} device(s), from step {step} to {config.n_iters}"
    )
    loss = gathered(experiment.loss, mesh)
    others = {
        name: player._replace(loss=gathered(player.loss, mesh))
        for name, (_, player) in experiment.others.items()
    }
    update = make_train_step(loss, experiment.tx, config.ema_rate, config.accumulate, others)
    frozen = jax.device_put([frozen] if frozen else [], replicated(mesh))
    shardings = state_shardings(state, mesh)
    jitted = jit_step(scan_steps(update, n), mesh, n, shardings, has_frozen=bool(frozen))
    if step >= config.n_iters:  # a finished run has no step
        return jitted
    example = loader.batch(0) if n == 1 else loader.stacked(0, n)
    compiled, plan = compile_step(jitted, state, put_batch(example, mesh, int(n > 1)), *frozen)
    print(plan)
    return lambda state, batch: compiled(state, batch, *frozen)


def tell_scale(experiment) -> None:
    """Print a warning if the scale of continuous data does not fit the law."""
    if experiment.train.levels:
        return
    scale = scale_of(experiment.train)
    if said := scale_warning(experiment.path, scale, experiment.config.sampling.eps):
        print(said)


def check_steps_left(workdir: Path, config) -> None:
    """Refuse a `training.n_jitted_steps` with which a resumed run would overshoot its end.

    Raises:
        ValueError: the number of remaining steps is not a multiple of it.
    """
    step = (saved_steps(workdir) or [0])[-1]
    left = config.n_iters - step
    if left > 0 and left % config.n_jitted_steps:
        raise ValueError(
            f"{left} steps are left from {step} to training.n_iters = {config.n_iters}, which is "
            f"not a multiple of training.n_jitted_steps = {config.n_jitted_steps}; take one that "
            "divides it."
        )


def per_update(config) -> str:
    """The name of the number of examples in one pass, for an error sentence."""
    accumulated = f" over training.accumulate = {config.accumulate}"
    return "training.batch_size" + accumulated * (config.accumulate > 1)


def periodic_actions(experiment, workdir: Path, mesh) -> tuple[Every, ...]:
    """The periodic actions: evaluation loss and, at snapshots, a picture of samples.

    Both use the averaged parameters.
    """
    config = experiment.config
    eval_loss = make_eval_loss(experiment, config.eval.loss_examples)
    averaged = lambda state: localised(state.ema_params, mesh)
    actions = [
        Every(config.training.eval_freq, lambda state: {"eval_loss": eval_loss(averaged(state))})
    ]
    draw = make_draw(experiment, config.eval.seed)

    def picture(state: TrainState) -> dict[str, float]:
        samples = draw(averaged(state), range(shown(64, experiment.shape)))
        folder = workdir / "samples" / f"step_{int(state.step)}"
        if is_lead():
            folder.mkdir(parents=True, exist_ok=True)
            save_png(folder / "sample.png", grid(to_levels(experiment.scaler, samples.x)[1]))
        return {"sample_nfe": float(samples.nfe)}

    if config.training.snapshot_sampling and pictured(experiment):
        actions.append(Every(config.training.snapshot_freq, picture))
    elif config.training.snapshot_sampling:
        print(
            f"training.snapshot_sampling is set, and examples of shape {experiment.shape} are no "
            "grey or colour images of known range: no pictures are drawn."
        )
    return tuple(actions)
