"""Checkpoints restore what was saved, and every error is one sentence."""

import functools
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_states import TX, assert_equal, experiment, params, save, shapes, state_at

from parallel.mesh import make_mesh, replicated
from training.checkpoint import CheckpointError, Checkpoints, Damaged
from training.restore import restore, restore_ema, steps_to_evaluate
from training.state import create_state

pytestmark = [
    pytest.mark.usefixtures("damages"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return `saved(*steps, width)`: a workdir with these checkpoints. Tests must not change it."""

    @functools.cache
    def workdir(*steps, width=3):
        folder = tmp_path_factory.mktemp("saved")
        save(folder, *steps, width=width).close()
        return folder

    return workdir


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and text.endswith("."), text
    return text


def test_what_comes_back_is_what_went_in(saved):
    fresh = Checkpoints(saved(3, 6))
    assert fresh.steps() == [3, 6] and fresh.latest() == 6
    assert_equal(fresh.restore(shapes()), state_at(6))
    assert_equal(fresh.restore(shapes(), 3), state_at(3))
    key = fresh.restore(shapes()).key
    bits = jax.jit(jax.random.bits)
    assert bits(key) == bits(jax.random.key(7))
    step, ema = fresh.restore_ema(shapes().params, 3)
    assert step == 3
    assert_equal(ema, state_at(3).ema_params)


def test_a_state_donated_while_it_is_written(tmp_path):
    """A saved state is right although the next step takes over its buffers at once."""
    state = jax.device_put({"w": jnp.arange(2.0**20)}, replicated(make_mesh()))
    state = create_state(state, optax.sgd(1.0), 0)
    expected = np.array(state.params["w"])
    spoil = jax.jit(lambda s: jax.tree.map(lambda x: x - 1, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state)
    rest = state.params, state.ema_params
    for _ in range(5):
        rest = spoil(rest)
    checkpoints.wait()
    shape = {"w": jax.ShapeDtypeStruct(expected.shape, "float32", sharding=replicated(make_mesh()))}
    np.testing.assert_array_equal(checkpoints.restore_ema(shape)[1]["w"], expected)


def test_relative_workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("run", 4).close()
    assert (tmp_path / "run" / "checkpoints" / "4").is_dir()
    assert Checkpoints(tmp_path / "run").steps() == [4]


@pytest.mark.parametrize("step", [6, 3, 4])
def test_saving_a_step_that_is_there_or_past(tmp_path, step):
    checkpoints = save(tmp_path, 3, 6)
    with pytest.raises(CheckpointError, match=f"of step {step} was not written") as error:
        checkpoints.save(state_at(step))
    one_sentence(error)
    checkpoints.wait()
    assert checkpoints.steps() == [3, 6]
    assert_equal(checkpoints.restore(shapes(), 6), state_at(6))


def test_keeps_the_newest(tmp_path):
    checkpoints = save(tmp_path, 1, 2, 5, 9, keep=2)
    assert checkpoints.steps() == [5, 9]
    checkpoints = save(tmp_path / "all", 1, 2, 5, 9)
    assert checkpoints.steps() == [1, 2, 5, 9]


def test_nothing_there(tmp_path):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    for name in ("nowhere", "empty"):
        with pytest.raises(CheckpointError, match=r"no checkpoint in .*--mode train") as error:
            restore_ema(experiment(), tmp_path / name)
        one_sentence(error)
    assert not (tmp_path / "nowhere").exists()


def test_a_step_that_is_not_there_lists_those_that_are(saved):
    with pytest.raises(CheckpointError, match=r"of step 5 .* those of steps 3, 6\.") as error:
        restore_ema(experiment(), saved(3, 6), 5)
    one_sentence(error)


@pytest.mark.parametrize("there, here", [(3, 5), (5, 3)])
def test_another_network(tmp_path, there, here):
    named = rf"input/kernel has shape \(4, {there}\) there and \(4, {here}\) in the config"
    save(tmp_path, 3, width=there).close()
    with pytest.raises(CheckpointError, match=named) as error:
        restore_ema(experiment(here), tmp_path)
    one_sentence(error)
    with pytest.raises(CheckpointError, match=named):
        Checkpoints(tmp_path).restore(shapes(here))


def test_a_layer_more_or_less(tmp_path):
    save(tmp_path, 3).close()
    more = params() | {"middle": {"kernel": np.zeros((2, 2), np.float32)}}
    with pytest.raises(CheckpointError, match=r"middle/kernel has shape none there and \(2, 2\)"):
        restore_ema(SimpleNamespace(init_params=lambda key: more), tmp_path)
    with pytest.raises(CheckpointError, match=r"output/kernel has shape \(3, 2\) there and none"):
        restore_ema(SimpleNamespace(init_params=lambda key: {"input": params()["input"]}), tmp_path)


def test_the_average_needs_nothing_else_of_the_checkpoint(tmp_path):
    """The average can be read from a checkpoint of another optimizer, whose state does not fit."""
    save(tmp_path, 3, tx=optax.sgd(0.1, momentum=0.9)).close()
    step, ema = restore_ema(experiment(), tmp_path)
    assert step == 3
    assert_equal(ema, state_at(3).ema_params)
    with pytest.raises(CheckpointError, match="cannot be read") as error:
        Checkpoints(tmp_path).restore(shapes())
    one_sentence(error)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def garble(path):
    path.write_bytes(bytes(byte ^ 0x5A for byte in path.read_bytes()))


def drop(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    "what, harm",
    [
        ("default", drop),
        ("default/_METADATA", drop),
        ("default/_METADATA", truncate),
        ("default/_METADATA", empty),
        ("default/manifest.ocdbt", drop),
        ("default/manifest.ocdbt", truncate),
        ("default/manifest.ocdbt", garble),
        ("default/d", drop),
        ("default/d/*", truncate),
        ("default/d/*", garble),
        ("default/ocdbt.process_0", drop),
        ("default/ocdbt.process_0/d/*", truncate),
        ("default/ocdbt.process_0/d/*", garble),
    ],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_damaged(saved, tmp_path, what, harm):
    """With a damaged file, values are either right, or the error names the checkpoint.

    Without a given step, the checkpoint before is read.
    """
    width = 400  # wide enough that arrays are in files beside the table of contents
    shutil.copytree(saved(3, 6, width=width), tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoints" / "6"
    harmed = list(folder.glob(what))
    assert harmed, sorted(folder.rglob("*"))
    for path in harmed:
        harm(path)
    try:
        step, ema = restore_ema(experiment(width), tmp_path, 6)
    except CheckpointError as error:
        text = str(error)
        assert str(folder) in text or "no checkpoint" in text, text
        assert "\n" not in text and len(text) < 700, text
        assert "delete that folder" in text or "step" in text
        step, ema = restore_ema(experiment(width), tmp_path)
        assert step == 3 and folder.exists()
        assert_equal(ema, state_at(3, width).ema_params)
    else:
        assert_equal(ema, state_at(step, width).ema_params)
        assert step == 6
    # The checkpoint before is whole.
    assert_equal(Checkpoints(tmp_path).restore(shapes(width), 3), state_at(3, width))


def test_an_error_without_words(tmp_path, monkeypatch):
    checkpoints = save(tmp_path, 3)

    def fail(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(checkpoints._manager, "restore", fail)
    with pytest.raises(CheckpointError, match=r"cannot be read \(AssertionError") as error:
        checkpoints.restore(shapes())
    one_sentence(error)


def test_half_written(tmp_path):
    """A half-written checkpoint is ignored: orbax writes under another name until it is whole."""
    save(tmp_path, 3, 6).close()
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "6", folder / "9.orbax-checkpoint-tmp-1700000000000000")
    (folder / "9.orbax-checkpoint-tmp-1700000000000000" / "default" / "_METADATA").unlink()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [3, 6] and checkpoints.latest() == 6
    assert_equal(checkpoints.restore(shapes()), state_at(6))
    # The resumed run writes the same step again.
    checkpoints.save(state_at(9))
    checkpoints.wait()
    assert checkpoints.steps() == [3, 6, 9]
    assert_equal(checkpoints.restore(shapes()), state_at(9))


@pytest.mark.parametrize(
    "begin, end, every, expected",
    [
        (0, -1, False, [9]),
        (0, -1, True, [3, 6, 9]),
        (4, -1, True, [6, 9]),
        (0, 8, False, [6]),
        (6, 6, True, [6]),
    ],
)
def test_steps_to_evaluate(saved, begin, end, every, expected):
    section = SimpleNamespace(begin_ckpt=begin, end_ckpt=end, all_ckpts=every)
    assert steps_to_evaluate(section, saved(3, 6, 9)) == expected
    assert steps_to_evaluate(section, saved(3, 6, 9), 3) == [3]


def test_no_step_to_evaluate(tmp_path):
    section = SimpleNamespace(begin_ckpt=4, end_ckpt=5, all_ckpts=True)
    # If there is no checkpoint at all, `restore_ema` reports it.
    assert steps_to_evaluate(section, tmp_path / "nowhere") == [None]
    save(tmp_path, 3, 6).close()
    told = r"begin_ckpt = 4 to .* = 5 in .* steps 3, 6"
    with pytest.raises(CheckpointError, match=told) as error:
        steps_to_evaluate(section, tmp_path)
    one_sentence(error)


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << (place % 8)
    path.write_bytes(bytes(content))


def test_a_flipped_bit(tmp_path):
    """orbax reads arrays with a flipped bit without an error; the checksum finds the bit."""
    width = 400
    save(tmp_path, 6, width=width).close()
    file = max((tmp_path / "checkpoints").rglob("d/*"), key=lambda path: path.stat().st_size)
    size, altered = file.stat().st_size, 0
    for place in np.random.default_rng(0).integers(0, size, 12):
        flip(file, place)
        try:
            assert_equal(Checkpoints(tmp_path).restore(shapes(width)), state_at(6, width))
        except Damaged as error:
            altered += "is not what was written" in str(error)
        flip(file, place)
    assert altered > 6
    assert_equal(Checkpoints(tmp_path).restore(shapes(width)), state_at(6, width))


def test_training_goes_on_from_the_one_before(tmp_path, capsys):
    """Training moves damaged checkpoints aside and goes on from the one before.

    The step of a damaged one can be saved again. If all are damaged, this is an error.
    """
    save(tmp_path, 3, 6, 9).close()
    for step in (6, 9):
        drop(tmp_path / "checkpoints" / str(step) / "default")
    run = SimpleNamespace(
        init_params=lambda key: jax.tree.map(jnp.asarray, params()),
        tx=TX,
        others={},
        config=SimpleNamespace(seed=7),
    )
    checkpoints = Checkpoints(tmp_path)
    assert_equal(restore(run, checkpoints, make_mesh()), state_at(3))
    said = capsys.readouterr().out
    assert said.count("cannot be read") == 2 and str(tmp_path / "damaged") in said
    assert sorted(p.name for p in (tmp_path / "damaged").iterdir()) == ["6", "9"]
    checkpoints.save(state_at(6))
    checkpoints.wait()
    assert checkpoints.steps() == [3, 6]
    checkpoints.close()
    for step in (3, 6):
        drop(tmp_path / "checkpoints" / str(step) / "default")
    with pytest.raises(CheckpointError, match="cannot be read"):
        restore(run, Checkpoints(tmp_path), make_mesh())
    assert (tmp_path / "checkpoints" / "3").is_dir()


def test_a_checkpoint_that_is_deleted_meanwhile(tmp_path, monkeypatch):
    """If a training run deletes the checkpoint during a read, the reader takes the newest one."""
    save(tmp_path, 3).close()
    read = Checkpoints.restore_ema

    def too_late(self, abstract, step=None):
        if (self.folder / "3").exists():
            drop(self.folder / "3")
            save(tmp_path, 6).close()
        return read(self, abstract, step)

    monkeypatch.setattr(Checkpoints, "restore_ema", too_late)
    step, ema = restore_ema(experiment(), tmp_path)
    assert step == 6
    assert_equal(ema, state_at(6).ema_params)
