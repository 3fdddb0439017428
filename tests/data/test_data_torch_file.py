"""Files of torch.save in both formats are read without torch and without executing them."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from torch_bytes import MACHINE, part, saved, saved_before, state_dict_before, tensor, view

from data.pickle_depth import check_depth
from data.torch_file import LEGACY_MAGIC, load

# Written by torch 2.13.0: torch.save(made(torch), path, _use_new_zipfile_serialization=False).
STORED = Path(__file__).parent / "goldens" / "torch_before_1_6.pth"


def made(torch):
    """A state with views, a storage shared by tensors, and several number types."""
    whole = torch.arange(24.0).reshape(4, 6)
    kinds = (torch.float64, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)
    return {
        "whole": whole,
        "view": whole[1:3, ::2].T,
        "parameter": torch.nn.Parameter(whole[0]),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        **{str(kind): whole.to(kind) for kind in kinds},
        "step": 3,
    }


def before(folder, content, **storages):
    return saved_before(folder / "old.pth", content, storages)


def one_of(folder, *arguments, old, **storages):
    """Write a file of one tensor in the old or the new format; return its path."""
    if old:
        return before(folder, tensor(*arguments, tail=(None,)), **storages)
    return saved(folder, tensor(*arguments), **storages)


def refused(path):
    with pytest.raises(ValueError) as error:
        load(path)
    text = str(error.value)
    assert str(path) in text and "\n" not in text and text.endswith(".")
    return text


def test_what_torch_wrote_before_1_6():
    found, whole = load(STORED), np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(found["whole"], whole)
    np.testing.assert_array_equal(found["view"], [[6, 12], [8, 14], [10, 16]])
    np.testing.assert_array_equal(found["parameter"], np.arange(6))
    assert found["scalar"] == 7 and found["empty"].shape == (0, 3) and found["step"] == 3
    for kind in ("float64", "float16", "int64", "int32", "uint8", "bool"):
        array = found[f"torch.{kind}"]
        assert array.dtype == kind
        np.testing.assert_array_equal(array, whole.astype(kind))


@pytest.mark.parametrize("old", [False, True])
def test_against_torch(tmp_path, old):
    torch = pytest.importorskip("torch")
    tensors, path = made(torch), tmp_path / "file.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=not old)
    found = load(path)
    assert found.pop("step") == tensors.pop("step") == 3 and list(found) == list(tensors)
    for name, array in found.items():
        theirs = tensors[name].detach().numpy()
        assert array.dtype == theirs.dtype
        np.testing.assert_array_equal(array, theirs, err_msg=name)


@pytest.mark.parametrize("old", [False, True])
def test_tensors_are_views(tmp_path, old):
    storage = np.arange(24, dtype=np.float32)
    path = one_of(tmp_path, "FloatStorage", 24, 4, (2, 3), (1, 5), old=old, a=storage)
    np.testing.assert_array_equal(load(path), [[4, 9, 14], [5, 10, 15]])
    path = one_of(tmp_path, "LongStorage", 6, 5, (), (), old=old, a=np.arange(6))
    assert load(path) == 5 and load(path).dtype == np.int64


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "place", [(20, (2, 3), (1, 5)), (0, (25,), (1,)), (-1, (2,), (1,)), (23, (24,), (-1,))]
)
def test_tensors_stay_in_their_storage(tmp_path, place, old):
    path = one_of(tmp_path, "FloatStorage", 24, *place, old=old, a=np.zeros(24, np.float32))
    assert "beyond its storage" in refused(path)


def test_tensors_as_torch_wrote_them_in_2017(tmp_path):
    """Before version 0.4 torch rebuilt a tensor from four arguments instead of six."""
    storage = view("FloatStorage", 6, 0, (2, 3), (3, 1), tail=(None,))
    content = b"\x80\x02" + storage.replace(b"_v2\n", b"\n").replace(part(False) + part(None), b"")
    path = before(tmp_path, content + b".", a=np.arange(6, dtype=np.float32))
    np.testing.assert_array_equal(load(path), [[0, 1, 2], [3, 4, 5]])


class Call:
    """An object whose pickle is a call of a function. The standard unpickler makes this call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("old", [False, True])
def test_nothing_in_the_file_is_run(tmp_path, old):
    """Reading calls no function that the pickle names or reaches through another object."""
    mark = tmp_path / "mark"
    calls = [Call(os.mkdir, str(mark)), Call(getattr, Call(io.StringIO), "write")]
    content = pickle.dumps({"step": 3, "calls": calls, "scalar": np.float64(2.0)}, 2)
    found = load(before(tmp_path, content) if old else saved(tmp_path, content))
    assert found["step"] == 3 and not mark.exists()
    assert {type(item).__name__ for item in (*found["calls"], found["scalar"])} == {"Foreign"}
    pickle.loads(pickle.dumps(calls[0]))
    assert mark.exists()  # the standard unpickler does make the call


@pytest.mark.parametrize("place", range(1, 5))
def test_nothing_runs_in_the_pickles_around_the_object(tmp_path, place):
    """An old file has five pickles in a row. A call in any of them is not executed."""
    mark = tmp_path / "mark"
    trap = pickle.dumps(Call(os.mkdir, str(mark)), 2)
    parts = [LEGACY_MAGIC, *(pickle.dumps(value, 2) for value in (1001, MACHINE, {}, []))]
    (tmp_path / "old.pth").write_bytes(b"".join([*parts[:place], trap, *parts[place + 1 :]]))
    try:
        load(tmp_path / "old.pth")
    except ValueError:
        assert place != 3
    assert not mark.exists()


@pytest.mark.parametrize("length", [25, 100, 400, 1200, -1])
def test_an_old_file_cut_short(tmp_path, length):
    path = tmp_path / "old.pth"
    path.write_bytes(STORED.read_bytes()[:length])
    assert "cut short" in refused(path)


def test_an_old_file_cannot_ask_for_more_memory_than_it_has_bytes(tmp_path):
    path = one_of(tmp_path, "FloatStorage", 10**12, 0, (1,), (1,), old=True, a=np.zeros(1, "<f4"))
    assert "longer than the file" in refused(path)


def test_refusals_of_old_files(tmp_path):
    zeros = np.zeros(2, np.float32)
    other = before(tmp_path, tensor("FloatStorage", 2, 0, (2,), (1,), tail=(None,)), b=zeros)
    assert "not those of its tensors" in refused(other)
    longer = before(tmp_path, tensor("FloatStorage", 1, 0, (1,), (1,), tail=(None,)), a=zeros)
    assert "not of 1 numbers" in refused(longer)
    inside = tensor("FloatStorage", 2, 0, (2,), (1,), tail=(("b", 0, 2),))
    assert "view of another" in refused(before(tmp_path, inside, a=zeros))
    unknown = tensor("QInt8Storage", 2, 0, (2,), (1,), tail=(None,))
    assert "number format" in refused(before(tmp_path, unknown, a=zeros))
    big = {**MACHINE, "little_endian": False}
    assert "large bytes" in refused(saved_before(tmp_path / "old.pth", b"\x80\x02}.", {}, big))


def test_a_state_dict_keeps_its_order(tmp_path):
    """The keys keep the order of the layers. The storages in the file have another order."""
    state = {name: np.full((2, 3), i, np.float32) for i, name in enumerate("cab")}
    found = load(state_dict_before(tmp_path / "old.pth", state))
    assert list(found) == list("cab")
    for name, array in found.items():
        np.testing.assert_array_equal(array, state[name])


def nested(value, depth):
    for _ in range(depth):
        value = (value,)
    return value


def depth_of(value):
    """Containers around the innermost one; a pickle has no depth of its own for an empty one."""
    held = [*value, *value.values()] if isinstance(value, dict) else value
    if not isinstance(value, dict | list | tuple) or not held:
        return 0
    return 1 + max(map(depth_of, held))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        [1, "a", None],
        {"a": {"b": [1, 2.0, ()]}, nested(1, 4): 3},
        [nested(1, 3), {i: [] for i in range(3000)}, [[i] for i in range(3000)]],
        {"model": {"x": nested([{}], 7)}},
        [shared := [1], (shared, [shared])],
    ],
)
def test_depths(value, protocol):
    """The depth that is told of a pickle is that of its object, whatever wrote it."""
    content, depth = b"before" + pickle.dumps(value, protocol) + b"behind", depth_of(value)
    for most in (depth, depth - 1):
        file = io.BytesIO(content)
        file.seek(6)
        if most == depth:
            check_depth(file, most)
            assert pickle.Unpickler(file).load() == value
        else:
            with pytest.raises(ValueError, match=f"nested more than {most} deep"):
                check_depth(file, most)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("depth", [102, 200_000])
@pytest.mark.parametrize(
    "content",
    [
        lambda n: b"\x80\x02}(" + b")" + b"\x85" * n + b"Nu.",  # a key of a dict, which is hashed
        lambda n: b"\x80\x02)" + b"\x85" * n + b".",
        lambda n: b"\x80\x02]" + b"]" * n + b"a" * n + b".",
        lambda n: b"\x80\x02" + b"(" * n + b"t" * n + b".",
        lambda n: b"\x80\x02)" + b"q\x00\x85h\x00\x86" * n + b".",  # by the memo
    ],
)
def test_deeply_nested_objects(tmp_path, content, depth, old):
    """Of which Python would end with a segmentation fault."""
    content = content(depth)
    assert "nested more than 100 deep" in refused(
        before(tmp_path, content) if old else saved(tmp_path, content)
    )
