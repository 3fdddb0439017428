"""Files of the JAX code of score_sde that hold what no training state can have."""

import re
from pathlib import Path

import numpy as np
import pytest
from flax.serialization import msgpack_restore, msgpack_serialize

from tools import original_state
from tools.flax_checkpoint import read_flax

CHECKPOINT = Path(__file__).parent / "goldens" / "checkpoint_original_format"


def altered(folder, change):
    """A copy of the checkpoint with `change(tree)` done to it."""
    tree = msgpack_restore(CHECKPOINT.read_bytes())
    change(tree)
    path = folder / "checkpoint"
    path.write_bytes(msgpack_serialize(tree))
    return path


def refused(path):
    """The one sentence with which it is refused."""
    with pytest.raises(ValueError) as error:
        read_flax(path)
    text = str(error.value)
    assert text.startswith(str(path)) and "\n" not in text and text.endswith(".")
    return text


def place_of(tree, part):
    """The dict of `Conv_0/bias`, and the key there, in one of the four trees of a checkpoint."""
    if part in ("grad_ema", "grad_sq_ema"):
        return tree["optimizer"]["state"]["param_states"]["Conv_0"]["bias"], part
    return (tree["params_ema"] if part == "params_ema" else tree["optimizer"]["target"])[
        "Conv_0"
    ], "bias"


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        (
            "target",
            lambda x: with_one(x, np.nan),
            "the parameter Conv_0/bias holds 1 value that is",
        ),
        (
            "params_ema",
            lambda x: with_one(x, -np.inf),
            "the average of parameter Conv_0/bias holds",
        ),
        ("grad_ema", lambda x: with_one(x.astype("f8"), 1e39), "first moment .* in float32"),
        ("grad_sq_ema", lambda x: with_one(x, -1e-9), "second moment .* holds 1 value .* negative"),
        ("target", lambda x: x.astype("c8"), "holds complex64, and not real numbers"),
        ("target", lambda x: x > 0, "holds bool, and not real numbers"),
        ("params_ema", lambda x: x.tolist(), "is a list, and not an array"),
        ("grad_ema", lambda x: "no array", "is a str, and not an array"),
    ],
)
def test_numbers_that_no_state_can_have(tmp_path, part, change, words):
    def alter(tree):
        place, key = place_of(tree, part)
        place[key] = change(place[key])

    path = altered(tmp_path, alter)
    text = refused(path)
    assert re.search(words, text)


def with_one(array, value):
    array = array.copy()
    array.flat[1] = value
    return array


@pytest.mark.parametrize(
    "value", [-5, 2.5, np.float32("nan"), 2**31, np.arange(2), 1j, True, "4", {"a": np.int32(1)}]
)
@pytest.mark.parametrize("adam", [False, True])
def test_steps_that_no_run_has_made(tmp_path, value, adam):
    def alter(tree):
        place = tree["optimizer"]["state"] if adam else tree
        place["step"] = value

    path = altered(tmp_path, alter)
    text = refused(path)
    name = "step of Adam" if adam else "step"
    assert text.startswith(f"{path} is damaged: its {name} is ") and "an integer from 0" in text


def test_a_step_may_be_a_float(tmp_path):
    """As newer releases of torch keep that of Adam."""
    for value in (7, np.int64(7), np.float32(7), np.array(7.0)):
        assert original_state.steps(value, "step", tmp_path) == 7


def test_a_rate_that_is_no_number(tmp_path):
    for value in (np.float32("inf"), [1.0], 1j):
        path = altered(tmp_path, lambda tree, value=value: tree.update(lr=value))
        assert "its lr is no finite number" in refused(path)


@pytest.mark.parametrize("depth", [101, 400, 5000])
@pytest.mark.parametrize("content", [b"\x81\xa1a", b"\x91"], ids=["dicts", "lists"])
def test_a_deeply_nested_file(tmp_path, depth, content):
    """The first byte pair is a dict of one key `a`, the other a list of one."""
    path = tmp_path / "checkpoint"
    for start in (b"", b"\x82\xa9optimizer\x01\xa1b"):
        path.write_bytes(start + content * depth + b"\xc0")
        text = refused(path)
        assert "nested" in text or "not a checkpoint" in text
        assert ("more than 100 deep" in text) == (depth < 1000)


def test_depths():
    for node, depth in ((1, 0), ({}, 0), ([()], 1), ({"a": [1, (2, {"b": 3})]}, 4)):
        tree = {"x": 1, "y": node}
        assert not original_state.deeper(tree, depth + 1)
        assert not depth or original_state.deeper(tree, depth)
