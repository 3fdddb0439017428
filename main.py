"""scorefield: train, sample and evaluate score-based models.

python main.py --config configs/digits_vp.py --workdir runs/digits --mode train
python main.py --config ... --workdir ... --mode eval|sample|fid_stats [--config.section.key=v]
python main.py --config ... --workdir ... --mode encode|decode|interpolate
python main.py --config ... --describe sampling|sampling.edm|...
"""

import os
import signal

if __name__ == "__main__":
    # Until `main` runs there is nothing to save, and a traceback of imports tells nothing.
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))

import xla_flags  # noqa: F401, I001 - sets flags of XLA before jax is imported

import dataclasses
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

import models
from builders.aliases import modernised, with_today
from builders.describe import describe
from builders.experiment import Experiment, build
from builders.editing import build_editing
from builders.guidance import build_classes, check_condition
from builders.model import no_score
from builders.own import fitted
from builders.places import expanded, place
from builders.restoration import build_restoration
from builders.unused import check_file, check_flags, config_of_file
from builders.sources import needs_data
from configs.base import base
from data.source import unknown
from evaluation.tasks.editing import run_editing
from evaluation.tasks.fid_stats import write_fid_stats
from evaluation.tasks.latents import run_decode, run_encode, run_interpolate
from evaluation.tasks.restoration import run_restoration
from evaluation.report.rows import figure_rows
from evaluation.tasks.evaluate import make_evaluation
from evaluation.store.memory import check_seeds
from evaluation.tasks.sampling import run_sampling
from parallel.processes import JobError, is_lead, lost, of_another
from parallel.start import TIMEOUT, part, start
from restoration import METHODS
from training.checkpoint import CheckpointError
from training.finite import TrainingDiverged
from training.metrics import read_metrics, training_seconds
from programs import check_programs, keep_programs
from training.restore import (
    restore_ema,
    restore_in_turn,
    steps_as_they_come,
    steps_to_evaluate,
)
from training.run import run_training
from training.stop import Stopped
from streams import lasting
from training.workdir import claim, flatten

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "Config file.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Where a run reads and writes.")
# Modes that write results for the numbers `--seeds`, of samples or of data examples.
WRITERS = {
    "sample": run_sampling,
    "encode": run_encode,
    "decode": run_decode,
    "interpolate": run_interpolate,
}
MODE = flags.DEFINE_enum("mode", None, ["train", "eval", "fid_stats", *WRITERS], "What to do.")
SEEDS = flags.DEFINE_string("seeds", "0-63", "Samples to draw, or examples, first-last.")
WAIT = flags.DEFINE_bool("wait", False, "Evaluate every checkpoint as training writes it.")
STEP = flags.DEFINE_integer("step", None, "Checkpoint to use; the latest if not given.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the whole traceback of an error.")
PROFILE = flags.DEFINE_integer("profile", 0, "Steps of training to trace.", lower_bound=0)
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One process of a job of several.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, off a cluster.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the job, likewise.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this one, likewise.")
JOIN = flags.DEFINE_float("join_timeout", TIMEOUT, "Seconds to wait for the other processes.")
FORCE = flags.DEFINE_bool("force_config", False, "Go on in a workdir of another config.")
DESCRIBE = flags.DEFINE_string("describe", None, "A section, such as sampling.edm: tell its keys.")
flags.mark_flags_as_required(["config", "workdir", "mode"])
LAST_WORD = threading.Lock()
# For flags that only some modes read: those modes.
READ_BY = {
    "seeds": ("sample", "encode", "interpolate"),
    "step": ("eval", *WRITERS),
    "wait": ("eval",),
    "profile": ("train",),
    "force_config": ("train", "eval", *WRITERS),
}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise SystemExit(f"Unexpected argument {argv[1]!r}; options begin with --.")
    quiet()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        check_read()
        folder = workdir()
        join_job()
        check_programs()
        experiment = build(CONFIG.value, needs_data(CONFIG.value, MODE.value))
        keep_programs(folder.parent)
        run(experiment, folder)
    except Stopped as stopped:
        leave(str(stopped), stopped.status)
    except KeyboardInterrupt:
        leave("Interrupted; what was written before is whole.", 128 + signal.SIGINT)
    except (ValueError, OSError, CheckpointError, JobError, TrainingDiverged) as error:
        if DEBUG.value:
            raise
        leave(told_in_job(error) if DISTRIBUTED.value else told(error))
    except jax.errors.JaxRuntimeError as error:
        if DEBUG.value or not DISTRIBUTED.value:
            raise
        leave(told_in_job(error))
    except Exception:
        if not DISTRIBUTED.value:
            raise
        leave(traceback.format_exc())


def check_read() -> None:
    """Raise ValueError for a flag that was given and that the mode does not read."""
    for name, modes in READ_BY.items():
        if FLAGS[name].present and MODE.value not in modes:
            raise ValueError(
                f"--{name} is given, and --mode {MODE.value} does not read it, only --mode "
                f"{', '.join(modes)}; leave it out."
            )


def workdir() -> Path:
    """The folder that `--workdir` names, as an absolute path.

    Raises:
        ValueError: the flag is empty.
    """
    if not WORKDIR.value:
        raise ValueError(
            "--workdir is empty; name the folder of the run, such as --workdir=runs/digits, or "
            "--workdir=. for the current one."
        )
    return place(WORKDIR.value).absolute()


def told(error: Exception) -> str:
    """An error as one line, with its notes."""
    text = " ".join(str(error).split())
    notes = getattr(error, "__notes__", [])
    if notes and text[-1:] not in (".", "?", "!"):
        text += "."
    return " ".join([f"{type(error).__name__}: {text}", *notes])


def told_in_job(error: Exception) -> str:
    """As `told`, in a job of several processes, where the cause may be in another process."""
    return f"JobError: {lost(error)}" if of_another(error) else told(error)


def join_job() -> None:
    """With --distributed, join the job; only the lead then prints.

    Raises:
        ValueError: a flag of a job was given without --distributed.
        JobError: see `parallel.start.start`.
    """
    given = (COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if not DISTRIBUTED.value:
        if any(value is not None for value in given) or FLAGS["join_timeout"].present:
            raise ValueError(
                "--coordinator, --num_processes, --process_id and --join_timeout go with "
                "--distributed."
            )
        return
    start(*given, JOIN.value, lambda gone: leave(f"JobError: {gone}"))
    if not is_lead():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open to the end


def leave(message: str, status: int = 1) -> None:
    """End the program with a message. If two threads leave, the first message counts."""
    if DISTRIBUTED.value:
        LAST_WORD.acquire()
        part()
    print(message, file=sys.stderr, flush=True)
    if DISTRIBUTED.value:
        # The usual end of Python would wait for processes that are gone, or that wait for this one.
        os._exit(status)
    raise SystemExit(status) from None


def run(experiment: Experiment, workdir: Path) -> None:
    """Run one mode of the program; its output goes to the log and to the workdir."""
    if MODE.value == "train":
        run_training(experiment, workdir, FORCE.value, PROFILE.value)
        return
    if MODE.value == "fid_stats":
        for path in write_fid_stats(experiment, workdir):
            print(f"wrote {path}")
        return
    claim(workdir, experiment.settings, FORCE.value, training=False, read=experiment.stored)
    name = experiment.config.model.name
    if name not in models.MODELS and MODE.value != "eval":
        raise ValueError(f"--mode {MODE.value} needs a score, and {no_score(name)}")
    experiment = dataclasses.replace(experiment, classes=build_classes(experiment))
    writers = {**WRITERS, "sample": build_writer(experiment)}
    if MODE.value in WRITERS:
        seeds = parse_seeds(SEEDS.value)
        check_seeds(experiment, seeds)
        step, params = restore_ema(experiment, workdir, STEP.value)
        check_condition(experiment, params)
        experiment = fitted(experiment, params, workdir, step)
        print(writers[MODE.value](experiment, params, workdir, step, seeds))
        return
    evaluate = make_evaluation(experiment)
    for step, params in to_evaluate(experiment, workdir):
        check_condition(experiment, params)
        if (own := fitted(experiment, params, workdir, step)) is not experiment:
            experiment, evaluate = own, make_evaluation(own)
        metrics = [row for row in read_metrics(workdir) if row["step"] <= step]
        report = evaluate(params, workdir, step, metrics, training_seconds(metrics))
        print(f"checkpoint {step}")
        for row in figure_rows(report):
            print(format_row(row))


def to_evaluate(experiment: Experiment, workdir: Path) -> Iterable[tuple[int, Any]]:
    """Step and averaged parameters of the checkpoints to evaluate: one checkpoint; with
    `eval.all_ckpts` all of a range; with --wait also those that training will still write.

    Raises:
        ValueError: --step and --wait are both given.
        CheckpointError: see `training.restore`.
    """
    section, step = experiment.config.eval, STEP.value
    if WAIT.value and step is not None:
        raise ValueError(f"--step is {step} and --wait takes every checkpoint; leave one.")
    if WAIT.value:
        steps = steps_as_they_come(section, workdir, experiment.config.training.n_iters)
        return restore_in_turn(experiment, workdir, steps)
    steps = steps_to_evaluate(section, workdir, step)
    if section.all_ckpts and step is None:
        return restore_in_turn(experiment, workdir, steps)
    # If no number was given and the newest is damaged, the one before is taken.
    return [restore_ema(experiment, workdir, steps[0], or_before=step is None)]


def build_writer(experiment: Experiment) -> Callable:
    """The function that `--mode sample` runs, for samples, restorations or edits.

    Raises:
        ValueError: the config asks for restorations or edits, and the mode is another one.
    """
    config = experiment.config
    given = {
        "guidance.method": config.guidance.method if config.guidance.method in METHODS else "",
        "edit.method": config.edit.method if config.edit.method != "none" else "",
    }
    for key, method in given.items():
        if method and MODE.value != "sample":
            raise ValueError(
                f"{key} is {method!r}, which takes images in --mode sample, and --mode is "
                f"{MODE.value}; set it to 'none'."
            )
    if given["edit.method"]:
        return partial(run_editing, build_editing(experiment))
    if given["guidance.method"]:
        return partial(run_restoration, build_restoration(experiment))
    return run_sampling


def parse_seeds(text: str) -> range:
    """Convert `"0-63"` or `"7"` to a range.

    Raises:
        ValueError: for any other text, an empty range, or numbers from 2^31 on.
    """
    match = re.fullmatch("([0-9]+)(?:-([0-9]+))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    # The numbers of samples are int32 on the device.
    if not first <= last < 2**31:
        raise ValueError(f"--seeds is {text!r}; write first-last, such as 0-63, or one number.")
    return range(first, last + 1)


def format_row(row) -> str:
    value = f"{row.value:.4g}" + (f" ± {row.stderr:.2g}" if row.stderr is not None else "")
    beside = f"   beside {row.reference:.4g} ({row.reference_name})" if row.reference_name else ""
    return f"{row.name:<48}{value}{beside}"


def quiet() -> None:
    """Silence the logs of libraries unless --debug is set, and write each line at once.

    orbax logs every save at length. If it cannot read one array it abandons the reads of the
    others, each of which then prints a warning.
    """
    sys.stdout, sys.stderr = lasting(sys.stdout), lasting(sys.stderr)
    logging.root.setLevel(logging.WARNING)
    if not DEBUG.value:
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        sys.unraisablehook = lambda _: None


def parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags; an error of absl or ml_collections on a bad flag becomes one sentence.

    With --describe it prints the description and ends the program.

    Raises:
        SystemExit: a flag is bad, or --describe is given.
    """
    try:
        argv = [with_today(argument) for argument in expand_config_file(argv)]
        sys.argv = argv  # where ml_collections looks for the flags of a config
        config = check_config_flags(argv)
        if (section := value_of("describe", argv)) is not None:
            print(describe(section, config or base("vp", "mlp", "digits")))
            raise SystemExit(0)
        rest = FLAGS(argv)
        FLAGS["config"].value = modernised(expanded(CONFIG.value))
        check_flags(CONFIG.value, config_flags.get_override_values(FLAGS["config"]))
        return rest
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise SystemExit(f"Bad flag: {' '.join(str(error).split())}") from None


def expand_config_file(argv: list[str]) -> list[str]:
    """The arguments with `~` expanded in `--config=~/FILE`."""
    return [re.sub(r"^(--?config=)(~.*)$", lambda m: f"{m[1]}{place(m[2])}", a) for a in argv]


def value_of(name: str, argv: list[str]) -> str | None:
    """The value of a flag in arguments that are not parsed yet; None if the flag is not given."""
    words = [word for argument in argv[1:] for word in argument.split("=", 1)]
    return next((b for a, b in pairwise(words) if a.lstrip("-") == name), None)


def check_config_flags(argv: list[str]) -> ConfigDict | None:
    """The config of the file, without the flags that change it; None if no file is named.

    Raises:
        ValueError: for a file that does not exist, a flag for a key that the config does not have,
            or a key that the file sets and nothing reads.
    """
    path = value_of("config", argv)
    if path is None:
        return None
    if not Path(path).is_file():
        raise ValueError(f"there is no config file {path}; see configs/.")
    config = config_of_file(path)
    check_file(config)
    keys = flatten(config.to_dict())
    current = [key for key, value in keys.items() if value is not None]
    for argument in argv[1:]:
        key = argument.split("=", 1)[0].lstrip("-")
        if argument.startswith("-") and key.startswith("config."):
            key = key.removeprefix("config.")
            if key not in keys:
                raise ValueError(unknown("config key", key, current))
    return config


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
