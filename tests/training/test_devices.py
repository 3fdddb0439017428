"""One device and eight simulated ones train and evaluate alike."""

import json
import shutil

import jax
import numpy as np
import pytest
from program import inside
from tiny import flags

from builders.experiment import build
from parallel.mesh import check_batch, make_mesh
from training.checkpoint import Checkpoints
from training.metrics import read_metrics
from training.restore import restore
from training.state import parameter_count

CHANGES = {"eval__num_samples": 20, "training__ema_rate": 0.5}


@pytest.fixture(scope="module")
def trained(program, images, images_run, tmp_path_factory):
    """Return a folder with the workdirs of the same six steps on one device and on eight."""
    folder = tmp_path_factory.mktemp("devices")
    shutil.copytree(images_run, folder / "1")
    argv = ["--config", images, "--workdir", folder / "8", "--mode", "train"]
    result = program(*argv, *flags(**CHANGES), devices=8)
    assert result.status == 0, result.err
    assert "8 device(s), from step 0 to 6" in result.out
    return folder


def run(program, argv, devices):
    """Run a call and assert that it succeeds; one device is used in this process."""
    result = inside(*argv) if devices == 1 else program(*argv, devices=devices)
    assert result.status == 0, result.err


def test_eight_devices_train_as_one(trained, images_config):
    """Eight devices give the parameters of one device; their checkpoint is read on one."""
    experiment = build(images_config(**CHANGES))
    one, eight = (
        restore(experiment, Checkpoints(trained / name), make_mesh()) for name in ("1", "8")
    )
    assert one.step == eight.step == 6
    assert len(eight.params["input"]["kernel"].sharding.device_set) == 1
    one, eight = (
        {name: jax.device_get(getattr(state, name)) for name in ("params", "ema_params")}
        for state in (one, eight)
    )
    seed = jax.random.key(experiment.config.seed)
    start = jax.device_get(
        jax.jit(lambda k: experiment.init_params(jax.random.fold_in(k, 0)))(seed)
    )
    assert parameter_count(one["params"]) == parameter_count(start)
    # The sum over a batch of 16 has another order, which changes a gradient by about 1e-7 of its
    # largest terms. Adam divides by the gradient's own size. So where the terms cancel to a small
    # gradient, the relative error of the update is larger: 1e-4 of the change in six steps.
    moved = max(
        float(abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (one["params"], start)))
    )
    assert moved > 1e-3
    for name in ("params", "ema_params"):
        a, b = (jax.tree.leaves_with_path(state[name]) for state in (one, eight))
        for (path, x), (_, y) in zip(a, b):
            np.testing.assert_allclose(
                y, x, rtol=1e-5, atol=1e-4 * moved, err_msg=name + jax.tree_util.keystr(path)
            )
    for a, b in zip(read_metrics(trained / "1"), read_metrics(trained / "8")):
        for key in ("training_loss", "grad_norm"):
            assert a[key] == pytest.approx(b[key], rel=1e-5)


@pytest.mark.slow
def test_evaluation_on_one_two_and_eight(program, images, trained):
    """One, two and eight devices give the same samples, bits/dim and loss of a checkpoint."""
    argv = ["--config", images, "--workdir", trained / "8", *flags(**CHANGES)]
    reports, samples = [], []
    for devices in (1, 8):
        run(program, [*argv, "--mode", "eval"], devices)
        reports.append(json.loads((trained / "8" / "report.json").read_text()))
        samples.append(np.load(trained / "8" / "samples.npz")["arr_0"])
    run(program, [*argv, "--mode", "sample", "--seeds", "0-19"], 2)
    samples.append(np.load(trained / "8" / "samples" / "step_6" / "samples_0-19.npz")["arr_0"])
    assert samples[0].shape == (20, 8, 8, 1) and samples[0].std() > 1
    np.testing.assert_array_equal(samples[1], samples[0])
    np.testing.assert_array_equal(samples[2], samples[0])
    one, eight = reports
    assert one["bits_per_dim"]["mean"] == pytest.approx(eight["bits_per_dim"]["mean"], rel=1e-6)
    assert one["eval_loss"] == pytest.approx(eight["eval_loss"], rel=1e-6)


@pytest.mark.slow
def test_samples_that_share_a_step_size(program, images, trained):
    """With batch norms in Langevin steps, a sample depends on its batch but not on the devices.

    Eight devices split a batch of 8, and three devices leave it whole.
    """
    argv = ["--config", images, "--workdir", trained / "1", *flags(**CHANGES)]
    argv += ["--config.sampling.corrector=langevin", "--config.sampling.norm=batch"]
    argv += ["--mode", "sample", "--seeds", "0-15"]
    file, found = trained / "1" / "samples" / "step_6" / "samples_0-15.npz", {}
    for devices in (1, 8, 3):
        run(program, argv, devices)
        found[devices] = np.load(file)["arr_0"].astype(int)
    run(program, [*argv, "--config.sampling.norm=example"], 1)
    assert abs(np.load(file)["arr_0"].astype(int) - found[1]).max() > 1
    for devices in (8, 3):
        assert abs(found[devices] - found[1]).max() <= 1  # one of 256 levels, by rounding


def test_batch_over_devices():
    check_batch(16, FakeMesh(8), "training.batch_size")
    with pytest.raises(ValueError, match=r"training.batch_size is 12.* 8 devices.*multiple of 8\."):
        check_batch(12, FakeMesh(8), "training.batch_size")


class FakeMesh:
    """A mesh of n devices, for code that only counts them."""

    def __init__(self, n):
        self.devices = np.zeros(n)
