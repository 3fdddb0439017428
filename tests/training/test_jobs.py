"""Jobs of several processes on one machine train, sample and evaluate as a single process does."""

import json
import shutil
import time

import jax
import numpy as np
import pytest
from program import inside
from tiny import flags

from builders.experiment import build
from parallel.mesh import make_mesh
from training.checkpoint import Checkpoints
from training.metrics import read_metrics
from training.restore import restore

CHANGES = {
    "training__n_iters": 12,
    "training__snapshot_freq": 6,
    "training__log_freq": 3,
    "training__eval_freq": 6,
    "training__ema_rate": 0.5,
    "eval__num_samples": 36,
    "eval__batch_size": 20,
}
# For each job: the number of processes, the devices of each process, and the changes of the
# config. Tests below use three and four processes in jobs that compile less than a training step.
JOBS = {
    "two": (2, 1, {}),
    "split": (2, 4, {"mesh__fsdp": 4, "model__width": 128}),
}

# Process 1 dies as by kill -9 when it reads its tenth batch. Batches are read up to three steps
# ahead. `save` waits until the checkpoint is written, so the checkpoint before is whole.
DIES = """
import os, sys
import main
from absl import app
from parallel import processes
from training import loop
from training.checkpoint import Checkpoints

save, put = Checkpoints.save, loop.put_batch
made = []

def save_to_the_end(self, *given):
    save(self, *given)
    self.wait()

def put_or_die(*args):
    made.append(1)
    if len(made) == 10 and sys.argv[-1] == "1":
        os._exit(9)
    return put(*args)

Checkpoints.save, loop.put_batch = save_to_the_end, put_or_die
app.run(main.main, flags_parser=main.parse_flags)
"""


def arguments(images, workdir, mode, **changes):
    argv = ["--config", images, "--workdir", workdir, "--mode", mode]
    return [*argv, *flags(**CHANGES, **changes)]


def succeeded(results):
    for result in results:
        assert result.status == 0, result.err
    # Only the lead process prints.
    assert results[0].out
    assert not any(result.out.replace("[Gloo]", "").startswith("mlp") for result in results[1:])
    return results


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    """The folder of the workdirs that one process with one device trains, named as the jobs."""
    folder = tmp_path_factory.mktemp("alone")
    for name, (_, _, changes) in JOBS.items():
        own = {k: v for k, v in changes.items() if k != "mesh__fsdp"}
        result = inside(*arguments(images, folder / name, "train", **own))
        assert result.status == 0, result.err
    return folder


@pytest.fixture(scope="module")
def trained(program, images, tmp_path_factory):
    """The folder of the workdirs of the jobs, which save by wall time at each row of metrics."""
    folder = tmp_path_factory.mktemp("jobs")
    for name, (processes, devices, changes) in JOBS.items():
        argv = arguments(images, folder / name, "train", **changes, training__save_minutes=1e-9)
        results = succeeded(program.job(processes, *argv, devices=devices))
        assert f"{processes * devices} device(s), from step 0 to 12" in results[0].out
    return folder


def last_state(images_config, workdir, changes):
    changes = {k: v for k, v in changes.items() if k != "mesh__fsdp"}
    experiment = build(images_config(**CHANGES, **changes))
    return restore(experiment, Checkpoints(workdir), make_mesh())


def differ(a, b):
    a, b = (jax.tree.leaves(jax.device_get(tree)) for tree in (a, b))
    return max(float(abs(x - y).max()) for x, y in zip(a, b))


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_a_job_trains_as_one_process(trained, alone, images_config, name):
    changes = JOBS[name][2]
    beside = alone / name
    ours = last_state(images_config, trained / name, changes)
    theirs = last_state(images_config, beside, changes)
    assert ours.step == theirs.step == 12
    # Those by wall time, of steps 3 and 9, were replaced.
    assert Checkpoints(trained / name).steps() == Checkpoints(beside).steps() == [6, 12]
    # Only the order in which gradients are summed differs. The 12 steps moved up to 1e-3 each.
    for field in ("params", "ema_params"):
        assert differ(getattr(ours, field), getattr(theirs, field)) < 2e-5
    for a, b in zip(read_metrics(trained / name), read_metrics(beside), strict=True):
        for key in {"training_loss", "grad_norm", "eval_loss"} & a.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-4)


@pytest.mark.slow
def test_processes_share_an_evaluation(program, images, trained):
    """Two processes write the same samples and the same report as one process."""
    reports, samples = [], []
    for processes in (1, 2):
        folder = trained / "two"
        argv = arguments(images, folder, "eval")
        for kept in ("samples_12", "bits_12_test"):
            for path in (folder / kept).glob("*batch*"):
                path.unlink()
        results = [inside(*argv)] if processes == 1 else program.job(2, *argv)
        assert [r.status for r in results] == [0] * processes, results[-1].err
        reports.append(json.loads((folder / "report.json").read_text()))
        samples.append(np.load(folder / "samples.npz")["arr_0"])
    np.testing.assert_array_equal(samples[0], samples[1])
    one, two = ({k: v for k, v in report.items() if k != "seconds"} for report in reports)
    assert two == one


@pytest.mark.slow
def test_samples_of_a_job(program, images, trained):
    folder = trained / "two"
    file = folder / "samples" / "step_12" / "samples_0-18.npz"
    argv = [*arguments(images, folder, "sample"), "--seeds", "0-18"]
    found = []
    for processes in (1, 3):
        results = [inside(*argv)] if processes == 1 else program.job(3, *argv, devices=2)
        assert [r.status for r in results] == [0] * processes, results[-1].err
        found.append(np.load(file)["arr_0"])
        file.unlink()
    assert found[0].shape == (19, 8, 8, 1) and found[0].std() > 1
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("processes", [2, 4])
def test_statistics_of_a_job(program, images, tmp_path, processes):
    """There are three batches: one of two processes gets two of them, one of four gets none."""
    data = np.random.default_rng(0).integers(0, 256, (2800, 8, 8, 1)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", x=data, x_test=data[:9])
    argv = [*arguments(images, tmp_path, "fid_stats"), f"--config.data.path={tmp_path / 'x.npz'}"]
    succeeded(program.job(processes, *argv))
    (file,) = (tmp_path / "stats").iterdir()
    found = np.load(file)
    assert found["n"] == 2800
    x = data.reshape(-1, 64) / 255.0
    np.testing.assert_allclose(found["mu"], x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["sigma"], np.cov(x.T), rtol=1e-10, atol=1e-14)


@pytest.mark.slow
def test_a_process_that_dies_stops_the_others(program, images, images_config, trained, tmp_path):
    argv = arguments(images, tmp_path, "train")
    begin = time.monotonic()
    first, second = program.job(2, *argv, script=DIES)
    assert second.status == 9
    assert first.status == 1
    # Whichever is noticed first: the operation of both that fails, or the line that ends.
    (line,) = [text for text in first.err.splitlines() if text.startswith("JobError")]
    assert "lost another one" in line or "Process 1 of the job ended without a word" in line
    assert "goes on from its last checkpoint" in line
    assert (
        time.monotonic() - begin < 120
    )  # start and compilation included; a job that hangs does not end
    assert Checkpoints(tmp_path).steps() == [6]
    results = succeeded(program.job(2, *argv))
    assert "from step 6 to 12" in results[0].out
    ours, theirs = (last_state(images_config, w, {}) for w in (tmp_path, trained / "two"))
    assert differ(ours.params, theirs.params) == 0.0


def test_a_job_that_is_not_complete(program, images, tmp_path):
    argv = arguments(images, tmp_path, "train")
    result = program(*argv, "--distributed", "--coordinator", "localhost:1")
    assert result.status == 1
    assert "--coordinator came without --num_processes and --process_id" in result.err
    result = program(*argv, "--distributed")
    assert result.status == 1 and "recognises no cluster" in result.err
    job = ("--coordinator", "localhost:1", "--num_processes", 2, "--process_id", 2)
    result = program(*argv, "--distributed", *job)
    assert "--process_id is 2 and --num_processes 2; number the processes from 0 to 1" in result.err
    for nonsense in ("nonsense", "host:port", ":1", "host:99999"):
        job = ("--coordinator", nonsense, "--num_processes", 2, "--process_id", 0)
        result = program(*argv, "--distributed", *job)
        assert (
            result.status == 1 and f"--coordinator is {nonsense!r}; write HOST:PORT" in result.err
        )
    assert "go with --distributed" in inside(*argv, "--num_processes", 2).err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 1])
def test_eight_devices_go_on_as_two_and_as_one(
    program, images, images_config, trained, tmp_path, devices
):
    """The state split over eight devices goes on from its checkpoint of step 6."""
    _, _, changes = JOBS["split"]
    shutil.copytree(trained / "split", tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "12")
    own = {k: v for k, v in changes.items() if k != "mesh__fsdp"}
    result = program(*arguments(images, tmp_path, "train", **own), devices=devices)
    assert result.status == 0, result.err
    assert f"{devices} device(s), from step 6 to 12" in result.out
    ours, theirs = (last_state(images_config, w, own) for w in (tmp_path, trained / "split"))
    assert differ(ours.params, theirs.params) < 2e-5


# Process 1 sends itself the signal `argv[1]` when it reads its twentieth batch. The other process
# learns of the signal after about a second. The sleep keeps the number of steps until then small.
TOLD = """
import os, signal, sys, time
import main
from absl import app
from training import loop

put, made, name = loop.put_batch, [], sys.argv.pop(1)

def put_and_tell(*args):
    made.append(1)
    if len(made) == 20 and sys.argv[-1] == "1":
        os.kill(os.getpid(), getattr(signal, name))
    if len(made) > 20:
        time.sleep(0.1)
    return put(*args)

loop.put_batch = put_and_tell
app.run(main.main, flags_parser=main.parse_flags)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name, status, block", [("SIGTERM", 143, 1), ("SIGINT", 130, 2)])
def test_one_process_is_told_to_end(program, images, tmp_path, name, status, block):
    """Both processes stop at the same step and save it, also in blocks of two steps. After
    SIGTERM one process alone goes on from this step."""
    argv = arguments(images, tmp_path, "train", training__n_jitted_steps=block)
    argv += ["--config.training.eval_freq=0", "--config.training.snapshot_freq=0"]
    argv += ["--config.training.n_iters=1000000"]
    results = program.job(2, name, *argv, script=TOLD)
    assert [result.status for result in results] == [status, status], results[0].err
    (step,) = Checkpoints(tmp_path).steps()
    assert step >= 17 * block and step % block == 0
    for result in results:
        assert f"Stopped by {name} at step {step}" in result.err
    if name == "SIGINT":  # going on does not depend on the signal
        return
    result = inside(*argv, f"--config.training.n_iters={step + 2}", "--force_config")
    assert result.status == 0 and f"from step {step} to {step + 2}" in result.out, result


# The evaluation of process 1 fails, in its share of the batches or after all of them. Process 0
# waits for process 1 in its own evaluation.
FAILS = """
import sys
import main
from absl import app
from parallel.processes import each
from training import run

where, own = sys.argv.pop(1), sys.argv[-1] == "1"

def fail(here):
    if own and here == where:
        raise OSError("no room")
    return {}

def evaluate(params):
    each(2, lambda i: fail("share"))
    fail("end")
    return 1.0

run.make_eval_loss = lambda experiment, most: evaluate
app.run(main.main, flags_parser=main.parse_flags)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["share", "end"])
def test_an_action_fails_on_one_process(program, images, tmp_path, where):
    """Both processes learn of the failure, save their present step, and end."""
    argv = [*arguments(images, tmp_path, "train"), "--config.training.snapshot_freq=0"]
    for result in program.job(2, where, *argv, script=FAILS):
        assert result.status == 1
        (line,) = [line for line in result.err.splitlines() if line.startswith("JobError")]
        assert "Process 1 stopped: OSError: no room. The checkpoint of step 6 is written" in line
    assert Checkpoints(tmp_path).steps() == [6]
