"""The checkpoint from which a run is resumed, and the checkpoints of an evaluation."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from parallel.mesh import abstract, local_mesh, state_shardings
from parallel.processes import agreed, on_lead, share
from training.checkpoint import CheckpointError, Checkpoints, Damaged
from training.state import TrainState, create_state
from training.workdir import trains


def initial_or_latest(experiment, checkpoints: Checkpoints, mesh) -> TrainState:
    """Return the state of the latest checkpoint, or the initial state, placed on the mesh."""
    if checkpoints.latest() is None:
        make = lambda: initial(experiment)
        return jax.jit(make, out_shardings=state_shardings(jax.eval_shape(make), mesh))()
    return restore(experiment, checkpoints, mesh)


def initial(experiment) -> TrainState:
    seed = experiment.config.seed
    # Step n draws from fold_in(key, n); no run reaches step 2**32 - 1.
    params = experiment.init_params(jax.random.fold_in(jax.random.key(seed), 2**32 - 1))
    others = {
        name: (init(jax.random.fold_in(jax.random.key(seed), 2**32 - 2 - i)), player.tx)
        for i, (name, (init, player)) in enumerate(experiment.others.items())
    }
    return create_state(params, experiment.tx, seed, others)


def restore(experiment, checkpoints: Checkpoints, mesh) -> TrainState:
    """Return the state of the latest intact checkpoint, placed on the mesh.

    Damaged checkpoints after it are moved to the folder `damaged`, with a printed message.

    Raises:
        CheckpointError: there is no checkpoint, none is intact, or it is of another network.
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


def restore_ema(
    experiment, workdir: Path, step: int | None = None, or_before: bool = False
) -> tuple[int, Any]:
    """Return `(step, averaged parameters)` of a checkpoint, by default of the latest intact one.

    A damaged checkpoint is reported, but not moved, since training may be running.

    Args:
        step: of the checkpoint; None for the latest intact one.
        or_before: if the checkpoint of `step` is damaged, take the last intact one before it.

    Raises:
        CheckpointError: the workdir has no checkpoint, and as `Checkpoints.restore_ema`.
    """
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(
            f"There is no checkpoint in {workdir}; run with --mode train first, or mend --workdir."
        )
    checkpoints = Checkpoints(workdir)
    try:
        # Each process evaluates on its own devices.
        params = abstract(lambda: experiment.init_params(jax.random.key(0)), local_mesh())
        return restore_whole_ema(checkpoints, params, step, or_before)
    finally:
        checkpoints.close()


def restore_whole_ema(
    checkpoints: Checkpoints, params: Any, step: int | None, or_before: bool
) -> tuple[int, Any]:
    """`restore_ema` for the open `checkpoints` of a workdir."""
    if step is not None and not or_before:
        return checkpoints.restore_ema(params, step)
    there = lambda: [s for s in checkpoints.steps() if step is None or s <= step]
    candidates = there()
    while True:
        candidate = candidates.pop() if candidates else None
        try:
            return checkpoints.restore_ema(params, candidate)
        except Damaged as error:
            checkpoints.look_again()
            if candidate not in checkpoints.steps():
                # A running training that keeps few checkpoints has deleted it and written another.
                candidates = there()
            elif not candidates:
                raise
            else:
                print(f"{error} The one before is taken.")


def restore_in_turn(
    experiment, workdir: Path, steps: Iterable[int | None]
) -> Iterator[tuple[int, Any]]:
    """`restore_ema` for each of these steps. A checkpoint that is damaged, or that training has
    deleted meanwhile, is reported and skipped, by all processes of a job or by none.

    Raises:
        CheckpointError: as `restore_ema` if the fault is not that of the checkpoint, or if no
            checkpoint is left.
    """
    passed = some = 0
    for step in steps:
        try:
            found = restore_ema(experiment, workdir, step)
        except CheckpointError as error:
            gone = step is not None and step not in saved_steps(workdir)
            if not gone and not isinstance(error, Damaged):
                raise
            said = f"The checkpoint of step {step} was deleted meanwhile." if gone else f"{error}"
            print(f"{said} It is passed over.")
            found = None
        if b"" in share(b"" if found is None else b"there"):
            passed += 1
            continue
        some += 1
        yield found
    if passed and not some:
        raise CheckpointError(
            f"None of the {passed} checkpoints in {workdir} that were to be evaluated could be "
            "read; train again from an earlier one."
        )


def saved_steps(workdir: Path) -> list[int]:
    """The steps of the checkpoints in a workdir, in increasing order."""
    if not (workdir / "checkpoints").is_dir():
        return []
    checkpoints = Checkpoints(workdir)
    steps = checkpoints.steps()
    checkpoints.close()
    return steps


def steps_to_evaluate(section, workdir: Path, step: int | None = None) -> list[int | None]:
    """Return the steps of the checkpoints to evaluate.

    They are `step`, if given; else the last checkpoint from `eval.begin_ckpt` to `eval.end_ckpt`,
    or with `eval.all_ckpts` all of them. A workdir without checkpoints gives `[None]`, the latest
    checkpoint, for which `restore_ema` raises the error.

    Raises:
        CheckpointError: there are checkpoints, but none in that range.
    """
    if step is not None:
        return [step]
    steps = agreed(saved_steps(workdir))
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


def steps_as_they_come(
    section, workdir: Path, last: int, seconds: float = 10.0, patience: float = 600.0
) -> Iterator[int]:
    """Yield the steps of checkpoints from `begin_ckpt` to `end_ckpt`, and wait for those to come.

    Args:
        last: the step at which training ends; it is the end of the range if `end_ckpt` is -1.
        seconds: time between two looks at the workdir.
        patience: seconds to wait while no run trains in the workdir, because it has not begun yet
            or is being restarted.

    Raises:
        CheckpointError: the range of steps is empty, or no run has trained for `patience` seconds.
    """
    end = last if section.end_ckpt < 0 else min(section.end_ckpt, last)
    if section.begin_ckpt > end:
        raise CheckpointError(
            f"No checkpoint lies from eval.begin_ckpt = {section.begin_ckpt} to {end}, where the "
            "range ends; lower eval.begin_ckpt."
        )
    done, idle = -1, 0.0
    while True:
        # Asked before the steps are listed, so that the last step of a run that ends in between is
        # not missed.
        training = agreed(trains(workdir))
        steps = agreed(saved_steps(workdir))
        new = [s for s in steps if max(section.begin_ckpt, done + 1) <= s <= end]
        for step in new:
            done = step
            yield step
        if done >= end or (steps and steps[-1] >= end):
            return
        if new:
            continue
        if training:
            idle = 0.0
        elif idle >= patience:
            raise CheckpointError(
                f"No run has trained in {workdir} for {idle:.0f} s, and its last checkpoint is "
                f"{f'that of step {steps[-1]}' if steps else 'still to come'}; the wait for step "
                f"{end} is over. Start the training again, or evaluate without --wait."
            )
        elif not idle:
            print(f"No run trains in {workdir}; waiting for one for at most {patience:.0f} s.")
        time.sleep(seconds)
        idle = 0.0 if training else idle + seconds
