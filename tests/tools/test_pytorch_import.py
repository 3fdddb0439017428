"""Checkpoints of the PyTorch code of score_sde, read without torch."""

import functools
import pickle
import re
import zipfile
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from torch_bytes import part, saved, saved_before, tensor

from builders.model import build_model
from configs.base import base
from tools.import_score_sde import import_checkpoint, remarks, target_of
from tools.pytorch_checkpoint import flax_names, read_pytorch, to_flax

GOLDENS = Path(__file__).parent / "goldens"
CHECKPOINT = GOLDENS / "pytorch_checkpoint.pth"
OPTIONS = {
    "model.nf": 4,
    "model.ch_mult": (1, 1),
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (),
    "model.fir": True,
    "model.progressive_input": "residual",
    "model.scale_by_sigma": True,
    "data.image_size": (8, 8),
    "data.num_channels": 3,
}


def make_config(**changes):
    config = base("ve", "ncsnpp", "image_folder")
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict({**OPTIONS, **changes})
    return config


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    return import_checkpoint(CHECKPOINT, make_config(), tmp_path_factory.mktemp("pth") / "run")


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDENS / "pytorch_checkpoint_expected.npz") as file:
        return dict(file)


def adam_of(state):
    is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)
    return next(filter(is_adam, jax.tree.leaves(state.opt_state, is_leaf=is_adam)))


def test_outputs(imported, expected):
    """The network has torch's outputs, both with the parameters and with their averages."""
    model, (_, state) = build_model(make_config(), (8, 8, 3)), imported

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def network(params):
        return model.apply({"params": params}, expected["x"], expected["time_cond"])

    for params, name in ((state.params, "y_model"), (state.ema_params, "y_ema")):
        y = expected[name]
        assert np.abs(network(params) - y).max() < 3e-5 * np.abs(y).max()


def test_moments(imported, expected):
    """Adam's moments of one parameter of each kind equal torch's, with the axes moved."""
    places = {
        "1.weight": (("Dense_0", "kernel"), lambda w: w.T),
        "3.weight": (("Conv_0", "kernel"), lambda w: np.einsum("oihw->hwio", w)),
        "4.Conv_0.bias": (("ResnetBlockBigGANpp_0", "Conv_0", "bias"), np.asarray),
        "6.Conv2d_0.weight": (
            ("Downsample_0", "Conv2d_0", "weight"),
            lambda w: np.einsum("oihw->hwio", w),
        ),
        "9.NIN_1.W": (("AttnBlockpp_0", "NIN_1", "W"), np.asarray),
        "9.GroupNorm_0.weight": (("AttnBlockpp_0", "GroupNorm_0", "scale"), np.asarray),
    }
    adam = adam_of(imported[1])
    for tree, moment in ((adam.mu, "exp_avg"), (adam.nu, "exp_avg_sq")):
        flat = flatten_dict(tree)
        for name, (path, move) in places.items():
            theirs = expected[f"{moment}/module.all_modules.{name}"]
            np.testing.assert_array_equal(flat[path], move(theirs), err_msg=name)
            assert np.any(theirs)
        assert not np.any(flat["GaussianFourierProjection_0", "W"])


def test_counts_and_remarks(imported):
    original, state = imported
    assert (int(state.step), int(adam_of(state).count)) == (3, 3)
    assert original.rng is None
    np.testing.assert_array_equal(
        jax.random.key_data(state.key), jax.random.key_data(jax.random.key(42))
    )
    assert remarks(original, make_config()) == [
        "left out: model/sigmas",
        "the file has no random key; it is that of seed 42",
    ]


def test_names_of_layers_in_order():
    """torch also numbers layers without parameters, so its numbers have gaps; Flax's have none."""
    layers = ("Dense_0", "Conv_0", "ResnetBlockDDPMpp_0", "Downsample_1", "GroupNorm_0")
    kinds = {
        "all_modules.0.weight": ((7, 5), ("Dense_0", "kernel")),
        "all_modules.0.bias": ((7,), ("Dense_0", "bias")),
        "all_modules.1.weight": ((4, 3, 3, 3), ("Conv_0", "kernel")),
        "all_modules.2.GroupNorm_0.weight": ((4,), ("ResnetBlockDDPMpp_0", "GroupNorm_0", "scale")),
        "all_modules.2.NIN_0.W": ((4, 8), ("ResnetBlockDDPMpp_0", "NIN_0", "W")),
        "all_modules.2.NIN_0.b": ((8,), ("ResnetBlockDDPMpp_0", "NIN_0", "b")),
        "all_modules.4.Conv2d_0.weight": ((8, 3, 3, 3), ("Downsample_1", "Conv2d_0", "weight")),
        "all_modules.11.weight": ((8,), ("GroupNorm_0", "scale")),
        "all_modules.12.weight": ((3, 8, 3, 3), ("all_modules.12", "kernel")),
    }
    rng = np.random.default_rng(0)
    params = {key: rng.standard_normal(shape) for key, (shape, _) in kinds.items()}
    assert flax_names(params, layers) == {key: path for key, (_, path) in kinds.items()}


def test_axes():
    rng = np.random.default_rng(0)
    w, x = rng.standard_normal((7, 5)), rng.standard_normal(5)
    np.testing.assert_allclose(x @ to_flax("1.weight", w), w @ x)
    np.testing.assert_array_equal(to_flax("1.NIN_0.W", w), w)
    assert to_flax("1.weight", np.zeros((8, 3, 5, 2))).shape == (5, 2, 3, 8)


def refused(path, folder, **changes):
    """Assert that an import fails with one sentence and writes nothing; return the sentence."""
    workdir = folder / "run"
    with pytest.raises(ValueError) as error:
        import_checkpoint(path, make_config(**changes), workdir)
    assert not workdir.exists()
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text


@pytest.mark.parametrize("length", [100, 100_000, 266_674])
def test_a_file_cut_short(tmp_path, length):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(CHECKPOINT.read_bytes()[:length])
    assert "cut short" in refused(path, tmp_path)


def test_a_flipped_bit(tmp_path):
    content = bytearray(CHECKPOINT.read_bytes())
    content[150_000] ^= 1
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    assert "damaged" in refused(path, tmp_path)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([1, 2], "lacks model, ema, optimizer, step; it holds a list"),
        ({"model": {}, "step": 3}, "lacks ema, optimizer; it holds model, step"),
        ({"model": {"a": 1}, "ema": {}, "optimizer": {}, "step": 3}, "all_modules"),
        ({"model": {"module.res1.0.w": 1}, "ema": {}, "optimizer": {}, "step": 3}, "NCSNv2"),
    ],
)
def test_what_is_no_training_state(tmp_path, found, words):
    assert words in refused(saved(tmp_path, pickle.dumps(found, 2)), tmp_path)


def test_other_files(tmp_path):
    old = saved_before(tmp_path / "old.pth", pickle.dumps({"model": {}, "step": 3}, 2), {})
    assert "lacks ema, optimizer; it holds model, step" in refused(old, tmp_path)
    unknown = tensor("QInt8Storage", 1, 0, (1,), (1,))
    assert "format" in refused(saved(tmp_path, unknown, a=np.zeros(1, np.int8)), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model__nf": 8}, "GaussianFourierProjection_0/W has shape (4,) there and (8,)"),
        ({"model__progressive_input": "none"}, "ResnetBlockBigGANpp_2/Conv2d_0/bias has shape"),
        ({"model__num_res_blocks": 2}, "ResnetBlockBigGANpp_1/Conv_2/bias has shape (4,) there"),
    ],
)
def test_another_network(tmp_path, change, words):
    assert words in refused(CHECKPOINT, tmp_path, **change)


def rewritten(folder, change):
    """A copy of the checkpoint whose archive has `change(name, content)` for each file."""
    path = folder / "checkpoint.pth"
    with zipfile.ZipFile(CHECKPOINT) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return path


def unread(path, layers):
    """The one sentence with which the file is refused."""
    with pytest.raises(ValueError) as error:
        read_pytorch(path, layers)
    text = str(error.value)
    assert text.startswith(f"{path} is damaged: ") and "\n" not in text
    return text


@pytest.fixture(scope="module")
def layers():
    return target_of(make_config()).layers


def test_values_that_are_not_finite(tmp_path, layers):
    """In storages of all over the file, of four numbers each."""
    found = set()
    with zipfile.ZipFile(CHECKPOINT) as archive:
        names = [n.filename for n in archive.infolist() if n.file_size == 16]
    for i, place in enumerate(names[:: len(names) // 6] + names[1 :: len(names) // 6]):
        value = np.float32([1.0, np.inf, 2.0, np.nan] if i % 2 else [1.0, 2.0, -np.inf, np.nan])
        harm = lambda name, content, at=place, v=value: v.tobytes() if name == at else content
        text = unread(rewritten(tmp_path, harm), layers)
        assert "holds 2 values that are not finite" in text
        found.add(re.search(r"the ([a-z ]*) \S+ holds", text)[1])
    assert found == {"parameter", "average of parameter"} | {
        f"{which} moment of parameter" for which in ("first", "second")
    }


@pytest.mark.parametrize("value", [-5, 1.5, True, float("nan"), 2**40])
def test_steps_that_no_run_has_made(tmp_path, layers, value):
    def change(name, content):
        if not name.endswith("/data.pkl"):
            return content
        at = content.rindex(b"K\x03")  # the number 3
        return content[:at] + part(value) + content[at + 2 :]

    assert "its step is" in unread(rewritten(tmp_path, change), layers)


def test_a_key_of_nested_tuples(tmp_path):
    deep = b"\x80\x02}()" + b"\x85" * 2_000_000 + b"Nu."
    text = refused(saved(tmp_path, deep), tmp_path)
    assert "file.pth" in text and "nested more than 100 deep" in text
