"""`--mode train`: what surrounds the loop."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from data import Loader
from evaluation.loss import make_eval_loss
from evaluation.pictures import grid, save_png
from evaluation.sampling import draw, pictured, to_levels
from parallel.mesh import (
    abstract,
    check_batch,
    gathered,
    local_mesh,
    localised,
    make_mesh,
    put_batch,
    state_shardings,
)
from parallel.processes import is_lead, on_lead
from training.checkpoint import CheckpointError, Checkpoints, Damaged
from training.loop import Every, train
from training.metrics import MetricWriter
from training.plan import compile_step
from training.profile import Profiler
from training.sharding import jit_step
from training.state import TrainState, create_state, parameter_count
from training.step import make_train_step, scan_steps
from training.stop import Stop
from training.workdir import claim, held


def run_training(
    experiment, workdir: Path, force_config: bool = False, profile_steps: int = 0
) -> TrainState:
    """Trains to `training.n_iters`, from the latest checkpoint of the workdir if there is one.

    Some steps are traced into `<workdir>/profile` if `profile_steps` says how many.

    Claims the workdir (see `claim`) once nothing is left that could be refused.
    """
    config = experiment.config.training
    mesh = make_mesh(experiment.config.mesh.fsdp)
    check_batch(config.batch_size // config.accumulate, mesh, per_update(config))
    check_steps_left(workdir, config)
    with contextlib.ExitStack() as stack:
        on_lead(lambda: claim(workdir, experiment.config, force_config, training=True))
        on_lead(lambda: stack.enter_context(held(workdir)))
        checkpoints = Checkpoints(workdir, config.keep_snapshots)
        stack.enter_context(contextlib.closing(checkpoints))
        state = initial_or_latest(experiment, checkpoints, mesh)
        writer = MetricWriter(workdir, int(state.step), is_lead())
        stack.enter_context(contextlib.closing(writer))
        loader = Loader(
            experiment.train,
            config.batch_size,
            experiment.config.seed,
            jax.process_index(),
            jax.process_count(),
        )
        return train(
            prepared_step(experiment, state, loader, mesh),
            state,
            loader,
            checkpoints,
            writer,
            mesh=mesh,
            n_iters=config.n_iters,
            n_jitted_steps=config.n_jitted_steps,
            log_freq=config.log_freq,
            snapshot_freq=config.snapshot_freq,
            actions=periodic_actions(experiment, workdir, mesh),
            profiler=Profiler(workdir / "profile", profile_steps, int(state.step)),
            max_skipped=config.max_skipped,
            stop=stack.enter_context(Stop()),
            progress=config.progress and is_lead(),
        )


def prepared_step(experiment, state: TrainState, loader: Loader, mesh) -> Callable:
    """The compiled step, of which it is told what it takes."""
    config = experiment.config.training
    n, step = config.n_jitted_steps, int(state.step)
    print(
        f"{experiment.config.model.name}: {parameter_count(state.params):,} parameters, "
        f"{mesh.devices.size} device(s), from step {step} to {config.n_iters}"
    )
    loss = gathered(experiment.loss, mesh)
    update = make_train_step(loss, experiment.tx, config.ema_rate, config.accumulate)
    jitted = jit_step(scan_steps(update, n), mesh, n, state_shardings(state, mesh))
    if step >= config.n_iters:  # a finished run has no step
        return jitted
    example = loader.batch(0) if n == 1 else loader.stacked(0, n)
    compiled, plan = compile_step(jitted, state, put_batch(example, mesh, int(n > 1)))
    print(plan)
    return compiled


def initial_or_latest(experiment, checkpoints: Checkpoints, mesh) -> TrainState:
    """The state to start from, placed on the mesh."""
    if checkpoints.latest() is None:
        make = lambda: initial(experiment)
        return jax.jit(make, out_shardings=state_shardings(jax.eval_shape(make), mesh))()
    return restore(experiment, checkpoints, mesh)


def check_steps_left(workdir: Path, config) -> None:
    """Refuses a number of steps a call with which a resumed run would overshoot its end."""
    step = (saved_steps(workdir) or [0])[-1]
    left = config.n_iters - step
    if left > 0 and left % config.n_jitted_steps:
        raise ValueError(
            f"{left} steps are left from {step} to training.n_iters = {config.n_iters}, which is "
            f"not a multiple of training.n_jitted_steps = {config.n_jitted_steps}; take one that "
            "divides it."
        )


def saved_steps(workdir: Path) -> list[int]:
    """The steps of which there are checkpoints, rising."""
    if not (workdir / "checkpoints").is_dir():
        return []
    checkpoints = Checkpoints(workdir)
    steps = checkpoints.steps()
    checkpoints.close()
    return steps


def initial(experiment) -> TrainState:
    seed = experiment.config.seed
    # Step n draws from fold_in(key, n): the number here is one that no run reaches.
    params = experiment.init_params(jax.random.fold_in(jax.random.key(seed), 2**32 - 1))
    return create_state(params, experiment.tx, seed)


def restore(experiment, checkpoints: Checkpoints, mesh) -> TrainState:
    """The state of the latest checkpoint that is whole, placed on the mesh.

    Those after it are moved aside, and said to be.

    Raises:
        CheckpointError: where there is none, none is whole, or it does not fit.
    """
    like = abstract(lambda: initial(experiment), mesh)
    while True:
        step = checkpoints.latest()
        try:
            return checkpoints.restore(like, step)
        except Damaged as error:
            if len(checkpoints.steps()) < 2:
                raise
            on_lead(lambda step=step: checkpoints.set_aside(step))
            checkpoints.look_again()
            print(f"{error} It is in {checkpoints.aside} now, and the run goes on from there.")


def restore_ema(experiment, workdir: Path, step: int | None = None) -> tuple[int, Any]:
    """`(step, averaged parameters)` of a checkpoint, the latest if no step is given.

    Without a step the latest is taken that is whole, and said which; nothing is moved, as training
    may be under way.

    Raises:
        CheckpointError: as `Checkpoints` does, or where the workdir has none.
    """
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(
            f"There is no checkpoint in {workdir}; run with --mode train first, or mend --workdir."
        )
    checkpoints = Checkpoints(workdir)
    try:
        # Each process evaluates by itself, with its own devices.
        params = abstract(lambda: experiment.init_params(jax.random.key(0)), local_mesh())
        return restore_whole_ema(checkpoints, params, step)
    finally:
        checkpoints.close()


def restore_whole_ema(checkpoints: Checkpoints, params: Any, step: int | None) -> tuple[int, Any]:
    """As `restore_ema`, of open checkpoints."""
    if step is not None:
        return checkpoints.restore_ema(params, step)
    candidates = checkpoints.steps()
    while True:
        candidate = candidates.pop() if candidates else None
        try:
            return checkpoints.restore_ema(params, candidate)
        except Damaged as error:
            checkpoints.look_again()
            if candidate not in checkpoints.steps():
                # Training that keeps a few has deleted it just now, and has written another.
                candidates = checkpoints.steps()
            elif not candidates:
                raise
            else:
                print(f"{error} The one before is taken.")


def steps_to_evaluate(section, workdir: Path, step: int | None = None) -> list[int | None]:
    """`step` if given; else the last checkpoint from `begin_ckpt` to `end_ckpt`, or all of them.

    None stands for the latest, of which `restore_ema` says that it is not there.

    Raises:
        CheckpointError: where none lies in that range.
    """
    if step is not None:
        return [step]
    steps = saved_steps(workdir)
    if not steps:
        return [None]
    end = steps[-1] if section.end_ckpt < 0 else section.end_ckpt
    chosen = [s for s in steps if section.begin_ckpt <= s <= end]
    if not chosen:
        raise CheckpointError(
            f"There is no checkpoint from eval.begin_ckpt = {section.begin_ckpt} to eval.end_ckpt "
            f"= {section.end_ckpt} in {workdir}; there are those of steps "
            f"{', '.join(map(str, steps))}."
        )
    return chosen if section.all_ckpts else chosen[-1:]


def steps_as_they_come(section, workdir: Path, last: int, seconds: float = 10.0) -> Iterator[int]:
    """Each checkpoint from `begin_ckpt` to `end_ckpt` once, those to come awaited, until the last.

    Args:
        last: the step at which training ends, which is the last one where `end_ckpt` is -1.
        seconds: from one look to the next.
    """
    end = last if section.end_ckpt < 0 else min(section.end_ckpt, last)
    done: set[int] = set()
    while not done or max(done) < end:
        new = [s for s in saved_steps(workdir) if section.begin_ckpt <= s <= end and s not in done]
        if not new:
            time.sleep(seconds)
        for step in new:
            done.add(step)
            yield step


def per_update(config) -> str:
    """What the examples of a pass are called in a sentence."""
    accumulated = f" over training.accumulate = {config.accumulate}"
    return "training.batch_size" + accumulated * (config.accumulate > 1)


def periodic_actions(experiment, workdir: Path, mesh) -> tuple[Every, ...]:
    """Evaluation loss of the averaged parameters, and a picture of samples at snapshots."""
    config = experiment.config
    eval_loss = make_eval_loss(experiment)
    averaged = lambda state: localised(state.ema_params, mesh)
    actions = [
        Every(config.training.eval_freq, lambda state: {"eval_loss": eval_loss(averaged(state))})
    ]

    def picture(state: TrainState) -> dict[str, float]:
        samples = draw(experiment, averaged(state), range(64), seed=config.eval.seed)
        folder = workdir / "samples" / f"step_{int(state.step)}"
        if is_lead():
            folder.mkdir(parents=True, exist_ok=True)
            save_png(folder / "sample.png", grid(to_levels(experiment, samples.x)[1]))
        return {"sample_nfe": float(samples.nfe)}

    if config.training.snapshot_sampling and pictured(experiment):
        actions.append(Every(config.training.snapshot_freq, picture))
    return tuple(actions)
