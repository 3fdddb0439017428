"""The checker of goldens: files that pass, files that fail, and its messages."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tools.check_goldens import main, relative_error

GOLDENS = Path(__file__).parents[1] / "models" / "goldens"
GOLDEN = "ncsnv2_64_small_activations.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS / GOLDEN) as file:
        return dict(file)


def lines(capsys):
    """Return the tool's output as `{file: (status, text)}` and the lines after the table."""
    said = capsys.readouterr().out.splitlines()
    rows = [line.split(maxsplit=2) for line in said if line[:4].strip() in ("ok", "FAIL", "skip")]
    return {name: (status, text) for status, name, text in rows}, said[len(rows) :]


def test_good_folder(tmp_path, capsys):
    shutil.copy(GOLDENS / GOLDEN, tmp_path)
    shutil.copy(GOLDENS / "layers.npz", tmp_path)
    (tmp_path / "README.md").write_text("Data only.\n")
    (tmp_path / "folder.npz").mkdir()
    assert main([str(tmp_path)]) == 0
    rows, summary = lines(capsys)
    assert rows.keys() == {GOLDEN, "layers.npz", "README.md"}
    status, text = rows[GOLDEN]
    assert status == "ok"
    y, dy_dx = float(text.split()[1]), float(text.split()[3])
    assert 0 < y < 3e-5 and 0 < dy_dx < 1e-4
    assert rows["layers.npz"] == ("skip", "no golden of a network: no params/... in it")
    assert rows["README.md"] == ("skip", "not an .npz file")
    assert summary == ["1 within the limits (y 3e-05, dy_dx 1e-04), 0 failed, 2 skipped."]


def test_bad_folder(golden, tmp_path, capsys):
    """A changed number, parameter trees that do not match, and files that are no goldens fail."""

    def save(name, **changes):
        merged = {**golden, **changes}
        np.savez(tmp_path / f"{name}.npz", **{k: v for k, v in merged.items() if v is not None})

    kernel = "params/RefineBlock_0/CRPBlock_0/Conv_1/kernel"
    alpha = "params/InstanceNorm2dPlus_0/alpha"
    first = golden["params/Conv_0/kernel"].copy()
    first[1, 1, 0, 0] *= 1.01
    save("perturbed", **{"params/Conv_0/kernel": first})
    save("missing", **{alpha: None})
    save("unexpected", **{"params/Conv_9/kernel": np.ones(1)})
    save("misshaped", **{kernel: golden[kernel][:, :, 1:]})
    save("no_output", y=None)
    options = json.loads(str(golden["config"]))
    options["model"]["nonlinearity"] = "gelu"
    save("unknown_option", config=json.dumps(options))
    save("not_json", config="{")
    whole = (GOLDENS / GOLDEN).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[20_000:20_100] = bytes(100)
    (tmp_path / "overwritten.npz").write_bytes(damaged)
    (tmp_path / "text.npz").write_text("not arrays\n")
    (tmp_path / "empty.npz").write_bytes(b"")

    assert main([str(tmp_path)]) == 1
    rows, summary = lines(capsys)
    assert {status for status, _ in rows.values()} == {"FAIL"}
    texts = {name.removesuffix(".npz"): text for name, (_, text) in rows.items()}
    assert float(texts["perturbed"].split()[3]) > 1e-4
    assert texts["missing"] == "parameters: InstanceNorm2dPlus_0/alpha is missing (1 such)"
    assert texts["unexpected"] == "parameters: Conv_9/kernel is not in the network (1 such)"
    assert texts["misshaped"] == (
        "parameters: RefineBlock_0/CRPBlock_0/Conv_1/kernel has shape (3, 3, 7, 8), "
        "not (3, 3, 8, 8) (1 such)"
    )
    assert texts["no_output"] == "The file has no 'y', which a golden needs."
    assert texts["unknown_option"].startswith("Unknown nonlinearity 'gelu'; known: 'elu'")
    assert texts["not_json"].startswith("JSONDecodeError: ")
    for name in ("cut", "overwritten", "text", "empty"):
        assert texts[name].startswith("damaged, or not an .npz file: "), name
    assert summary == ["0 within the limits (y 3e-05, dy_dx 1e-04), 11 failed, 0 skipped."]


def test_nothing_to_check(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert lines(capsys)[1][-1].startswith(f"No golden in {tmp_path}: ")
    shutil.copy(GOLDENS / "layers.npz", tmp_path)
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path / "absent")]) == 1
    assert f"There is no directory {tmp_path / 'absent'}." in capsys.readouterr().out


def test_relative_error():
    a = np.array([1.0, -4.0], np.float32)
    assert relative_error(a, a) == 0.0
    assert relative_error(np.array([1.5, -4.0]), a) == 0.125
    assert np.isnan(relative_error(np.array([np.nan, -4.0]), a))
    assert relative_error(0 * a, 0 * a) == 0.0
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        relative_error(a, np.ones(3))
