"""The import of a checkpoint of score_sde's JAX code writes a workdir from which a run goes on."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict
from program import Program

from builders.experiment import build
from builders.model import build_model
from builders.sections import pruned
from configs.base import base
from parallel.mesh import make_mesh
from tools.import_score_sde import image_shape, import_checkpoint, remarks, target_of
from training.checkpoint import Checkpoints
from training.restore import restore, restore_ema
from training.run import run_training

GOLDENS = Path(__file__).parent / "goldens"
CHECKPOINT = GOLDENS / "checkpoint_original_format"
COMMAND = """
from absl import app
from tools.import_score_sde import main, parse_flags
app.run(main, flags_parser=parse_flags)
"""
# Values that differ from the defaults. `test_the_config_is_the_originals` compares them with the
# config of the original.
OPTIONS = {
    "model.nf": 8,
    "model.ch_mult": (1, 1),
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (4,),
    "model.fir": True,
    "model.progressive_input": "residual",
    "model.scale_by_sigma": True,
    "optim.lr": 2e-3,
    "optim.warmup": 2,
    "training.ema_rate": 0.9,
    "training.batch_size": 4,
    "training.eval_freq": 0,
    "training.progress": False,
}


def options(path, **changes):
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return {**OPTIONS, "data.path": str(path), **changes}


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "x.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8))
    return path


@pytest.fixture(scope="session")
def make_config(images):
    """Return `make_config(**changes)`: the golden checkpoint's config, with noise as images."""

    def make(**changes):
        config = base("ve", "ncsnpp", "npz")
        config.update_from_flattened_dict(options(images, **changes))
        return config

    return make


@pytest.fixture(scope="session")
def expected():
    with np.load(f"{CHECKPOINT}_expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Cache `target_of`, so that the network of each config in this file is traced once."""
    known = {}

    def target(config):
        name = config.to_json_best_effort()
        if name not in known:
            known[name] = target_of(config)
        return known[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.import_score_sde.target_of", target)
        yield


@pytest.fixture(scope="module")
def program():
    program = Program()
    yield program
    program.close()


@pytest.fixture(scope="module")
def imported(program, images, tmp_path_factory):
    """Run the command; return the workdir and the output."""
    folder = tmp_path_factory.mktemp("import")
    (folder / "config.py").write_text(
        "from configs.base import base\n\n"
        "def get_config():\n"
        "    config = base('ve', 'ncsnpp', 'npz')\n"
        f"    config.update_from_flattened_dict({options(images)!r})\n"
        "    return config\n"
    )
    flags = ("--config", folder / "config.py", "--workdir", folder / "run")
    result = program.script(COMMAND, CHECKPOINT, *flags, "--config.training.n_iters=5")
    assert (result.status, result.err) == (0, "")
    return folder / "run", result.out


@pytest.fixture(scope="module")
def restored(imported, make_config):
    return restored_at(imported[0], make_config(training__n_iters=5))


def restored_at(workdir, config):
    checkpoints = Checkpoints(workdir)
    state = restore(build(config), checkpoints, make_mesh())
    checkpoints.close()
    return state


def adam_of(state):
    is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)
    return next(filter(is_adam, jax.tree.leaves(state.opt_state, is_leaf=is_adam)))


def test_the_config_is_the_originals(make_config, expected):
    original, ours = json.loads(str(expected["config"])), make_config()
    for section in ("model", "optim"):
        theirs = {**original["data"], **original[section]}
        shared = set(ours[section]) & set(theirs) - {"optimizer"}
        assert len(shared) > 4
        for key in shared:
            value = theirs[key]
            assert ours[section][key] == (tuple(value) if isinstance(value, list) else value), key
    assert ours.training.ema_rate == original["model"]["ema_rate"]
    assert ours.data.centered == original["data"]["centered"]


def test_what_is_said(imported):
    workdir, said = imported
    first, command = said.splitlines()
    assert first == f"{CHECKPOINT}: step 4, 20,899 parameters"
    assert command.startswith("next: python main.py --config ")
    assert command.endswith(f"--workdir {workdir} --mode train --config.training.n_iters=5")


def test_the_workdir_is_claimed(imported, make_config):
    workdir, _ = imported
    assert sorted(path.name for path in workdir.iterdir()) == ["checkpoints", "config.json"]
    config = json.loads((workdir / "config.json").read_text())
    ours = pruned(make_config(training__n_iters=5)).to_dict()
    assert config == json.loads(json.dumps(ours))


def test_every_leaf_has_its_place(restored, expected):
    """Every leaf has the original's sum; the sums differ from leaf to leaf."""
    sums = json.loads(str(expected["leaf_sums"]))
    adam = adam_of(restored)
    trees = {
        "optimizer/target/{}": restored.params,
        "params_ema/{}": restored.ema_params,
        "optimizer/state/param_states/{}/grad_ema": adam.mu,
        "optimizer/state/param_states/{}/grad_sq_ema": adam.nu,
    }
    ours = {
        name.format("/".join(path)): np.asarray(leaf, np.float64).sum()
        for name, tree in trees.items()
        for path, leaf in flatten_dict(tree).items()
    }
    ours["rng"] = np.asarray(jax.random.key_data(restored.key), np.float64).sum()
    ours["step"], ours["optimizer/state/step"] = int(restored.step), int(adam.count)
    assert sums.keys() - ours.keys() <= {"lr", "ema_rate", "model_state"}
    for path, value in ours.items():
        np.testing.assert_allclose(value, sums[path], rtol=1e-9, atol=1e-12, err_msg=path)
    assert jax.random.key_impl(restored.key) == jax.random.key_impl(jax.random.key(0))


def test_outputs(imported, restored, make_config, expected):
    config = make_config()
    model = build_model(config, (8, 8, 3))

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def network(params):
        return model.apply({"params": params}, expected["x"], expected["time_cond"])

    step, averaged = restore_ema(build(config), imported[0])
    assert step == 4
    for params, name in ((averaged, "y_params_ema"), (restored.params, "y_optimizer_target")):
        y = expected[name]
        assert np.abs(network(params) - y).max() < 3e-5 * np.abs(y).max()


def test_a_run_goes_on(imported, restored, make_config, tmp_path):
    """Step 5 is Adam's fifth update, with the imported moments and a loss of known gradient."""

    def loss(params, state, key, batch):
        value = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)) / 2
        return value, {"loss": value, "t": jnp.zeros(4)}

    workdir = shutil.copytree(imported[0], tmp_path / "run")
    experiment = build(make_config(training__n_iters=5))
    after = run_training(dataclasses.replace(experiment, loss=loss), workdir)
    assert int(after.step) == 5 and Checkpoints(workdir).steps() == [4, 5]
    leaves = jax.tree.leaves(jax.device_get(restored.params))
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))
    b1, b2, lr, eps = 0.9, 0.999, 2e-3, 1e-8
    average = (1 + 4) / (10 + 4)  # below training.ema_rate
    old, new = adam_of(restored), adam_of(after)

    def check(p, mu, nu, e, p5, mu5, nu5, e5):
        gradient = p / max(norm, 1.0)
        m, v = b1 * mu + (1 - b1) * gradient, b2 * nu + (1 - b2) * gradient**2
        expected = p - lr * (m / (1 - b1**5)) / (np.sqrt(v / (1 - b2**5)) + eps)
        np.testing.assert_allclose(mu5, m, rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(nu5, v, rtol=1e-4, atol=1e-12)
        np.testing.assert_allclose(p5 - p, expected - p, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(e5, average * e + (1 - average) * p5, rtol=1e-5, atol=1e-6)

    before = (restored.params, old.mu, old.nu, restored.ema_params)
    # The check runs in NumPy, because JAX would compile each operation for each shape.
    trees = jax.device_get((*before, after.params, new.mu, new.nu, after.ema_params))
    jax.tree.map(check, *trees)


def altered(folder, change):
    """Write a copy of the checkpoint changed by `change(tree)`; return its path."""
    tree = msgpack_restore(CHECKPOINT.read_bytes())
    change(tree)
    path = folder / "checkpoint"
    path.write_bytes(msgpack_serialize(tree))
    return path


def refused(path, config, folder):
    """Assert that an import fails with one sentence and writes nothing; return the error."""
    workdir = folder / "run"
    with pytest.raises((ValueError, OSError)) as error:
        import_checkpoint(path, config, workdir)
    assert not workdir.exists()
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return error.value


def test_what_has_no_place_is_listed(make_config, tmp_path):
    def change(tree):
        tree["model_state"] = {"batch_stats": {"mean": np.zeros(2)}}
        tree["notes"] = np.zeros(1)
        tree["ema_rate"] = np.float32(0.999)

    path = altered(tmp_path, change)
    config = make_config(training__n_jitted_steps=5, training__n_iters=10)
    original, _ = import_checkpoint(path, config, tmp_path / "run")
    lines = remarks(original, config)
    assert sorted(lines[:2]) == ["left out: model_state/batch_stats/mean", "left out: notes"]
    assert lines[2] == "training.ema_rate was 0.999 and is 0.9 in the config"
    assert "n_jitted_steps" in lines[3]


@pytest.mark.parametrize(
    ("change", "path", "there", "here"),
    [
        ({"model__nf": 16}, "GaussianFourierProjection_0/W", "(8,)", "(16,)"),
        ({"model__num_res_blocks": 2}, "ResnetBlockBigGANpp_1/Conv_2/bias", "(8,)", "none"),
        ({"model__progressive_input": "none"}, "Downsample_0/Conv2d_0/bias", "(8,)", "none"),
    ],
)
def test_another_network(make_config, tmp_path, change, path, there, here):
    error = refused(CHECKPOINT, make_config(**change), tmp_path)
    assert f"parameter {path} has shape {there} there and {here} in the config" in str(error)
    assert path in error.lines[0] and len(error.lines) > 1


@pytest.mark.parametrize("part", ["params_ema", "grad_sq_ema"])
def test_a_leaf_that_is_not_there(make_config, tmp_path, part):
    def change(tree):
        if part == "params_ema":
            del tree[part]["Conv_0"]["bias"]
        else:
            del tree["optimizer"]["state"]["param_states"]["Conv_0"]["bias"][part]

    error = refused(altered(tmp_path, change), make_config(), tmp_path)
    name = "average" if part == "params_ema" else "second moment"
    assert f"{name} of parameter Conv_0/bias has shape none there and (8,)" in str(error)
    assert len(error.lines) == 1


@pytest.mark.parametrize("part", ["step", "rng", "params_ema", "optimizer"])
def test_a_part_that_is_not_there(make_config, tmp_path, part):
    path = altered(tmp_path, lambda tree: tree.pop(part))
    assert part in str(refused(path, make_config(), tmp_path))


@pytest.mark.parametrize("length", [0, 1000, 200_000, 354_934])
def test_a_file_cut_short(make_config, tmp_path, length):
    path = tmp_path / "checkpoint"
    path.write_bytes(CHECKPOINT.read_bytes()[:length])
    assert ("cut short" if length else "not a checkpoint") in str(
        refused(path, make_config(), tmp_path)
    )


def test_what_is_no_checkpoint(make_config, images, tmp_path):
    config, file = make_config(), tmp_path / "file"
    numbered = msgpack_serialize({"optimizer": {0: np.zeros(1)}})
    for content in (b"a text, not a checkpoint", bytes(100), msgpack_serialize({"a": 1}), numbered):
        file.write_bytes(content)
        assert "score_sde" in str(refused(file, config, tmp_path))
    assert "data.pkl" in str(refused(images, config, tmp_path))
    assert "is a folder" in str(refused(tmp_path, config, tmp_path))
    assert "no file" in str(refused(tmp_path / "none", config, tmp_path))


def test_a_workdir_with_a_run(make_config, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a run already"):
        import_checkpoint(CHECKPOINT, make_config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_command_refuses(program, imported, tmp_path):
    """A refused import prints every differing key to standard output and one sentence to standard
    error. It ends with status 1 and writes nothing."""
    config = imported[0].parent / "config.py"
    call = lambda *more: program.script(
        COMMAND, CHECKPOINT, "--config", config, "--workdir", tmp_path / "run", *more
    )
    result = call("--config.model.nf=16")
    assert result.status == 1 and result.err.count("\n") == 1 and "(8,) there" in result.err
    assert len(result.out.splitlines()) > 100
    for flag, words in (
        ("--mode=eval", "--mode is"),
        ("--config.model.nff=1", "model.nff"),
        ("x", "one"),
    ):
        result = call(flag)
        assert result.status == 1 and result.err.count("\n") == 1 and words in result.err
    assert not list(tmp_path.iterdir())


def test_image_shapes(make_config, images):
    assert image_shape(make_config().data) == (8, 8, 3)  # the shape of the data
    section = base("ve", "ncsnpp", "tfds").data
    assert section.name == "cifar10" and image_shape(section) == (32, 32, 3)
    section = base("ve", "ncsnpp", "image_folder").data
    section.image_size, section.num_channels = (16, 8), 1
    assert image_shape(section) == (16, 8, 1)
    section.image_size, section.num_channels = (64,), 0
    assert image_shape(section) == (64, 64, 3)


def test_layers_are_in_calling_order(make_config):
    layers = target_of(make_config()).layers
    assert layers[:6] == (
        "GaussianFourierProjection_0",
        "Dense_0",
        "Dense_1",
        "Conv_0",
        "ResnetBlockBigGANpp_0",
        "ResnetBlockBigGANpp_1",
    )
    assert layers[-2:] == ("GroupNorm_0", "Conv_1")
