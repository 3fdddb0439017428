"""A compiled program is run where it is known to be that of its name, and this user's."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compilation_cache

import programs
from programs import is_private, keep_programs, opened

CACHE_DIR = "jax_compilation_cache_dir"


@pytest.fixture
def kept(monkeypatch):
    """`kept(folder)`: from here on programs are kept there; afterwards where they were."""
    before = jax.config.jax_compilation_cache_dir

    def use(folder):
        jax.config.update(CACHE_DIR, folder if folder is None else str(folder))
        compilation_cache.reset_cache()

    yield use
    use(before)


def compiled(rate):
    """A program of that name alone, compiled or found anew."""
    jax.clear_caches()

    def step(x):
        return x - rate * x

    return float(jax.jit(step)(jnp.float32(1.0)))


def files(folder):
    return [file for file in Path(folder).iterdir() if "step" in file.name]


def test_a_file_under_another_name(tmp_path, kept):
    """The program of another learning rate, put in the place of this one's, is not run."""
    kept(tmp_path)
    assert compiled(0.25) == 0.75
    (first,) = files(tmp_path)
    assert compiled(0.5) == 0.5
    (second,) = set(files(tmp_path)) - {first}
    right = second.read_bytes()
    second.write_bytes(first.read_bytes())
    assert compiled(0.5) == 0.5
    # Compiled again and kept again, for the next run: what is right of it is its own digest.
    assert second.read_bytes()[: programs.DIGEST] != first.read_bytes()[: programs.DIGEST]
    found = compilation_cache.decompress_executable(second.read_bytes()[programs.DIGEST :])
    assert len(found) == len(compilation_cache.decompress_executable(right[programs.DIGEST :]))


def test_a_damaged_file(tmp_path):
    """Any flipped bit and any cut are told, and the next file of that name is kept."""
    cache, _ = opened(str(tmp_path / "programs"))
    content = np.random.default_rng(0).bytes(300)
    cache.put("step-0", content)
    assert cache.get("step-0") == content and cache.get("step-1") is None
    (file,) = (tmp_path / "programs").iterdir()
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        harmed = bytearray(whole)
        harmed[place] ^= 1 << place % 8
        for wrong in (bytes(harmed), whole[:place]):
            file.write_bytes(wrong)
            assert cache.get("step-0") is None
    cache.put("step-0", content)
    assert cache.get("step-0") == content and file.read_bytes() == whole


def test_a_folder_is_made_for_its_owner_alone(tmp_path):
    cache, place = opened(str(tmp_path / "a/programs"))
    cache.put("step-0", b"123")
    assert os.stat(place).st_mode & 0o777 == 0o700
    (tmp_path / "file").touch()
    assert opened(str(tmp_path / "file/programs")) is None


@pytest.mark.parametrize(
    "around, own, private",
    [
        (0o755, 0o755, True),
        (0o755, 0o700, True),
        (0o755, 0o777, False),
        (0o777, 0o700, False),
        (0o1777, 0o700, True),
        (0o1777, 0o777, False),
        (0o755, None, True),
        (0o777, None, False),
    ],
)
def test_permissions(tmp_path, monkeypatch, around, own, private):
    """Of a folder and the one around it; None for one that is not there yet."""
    folder = tmp_path / "around/programs"
    folder.parent.mkdir()
    if own is not None:
        folder.mkdir()
        folder.chmod(own)
    folder.parent.chmod(around)
    assert is_private(folder) is private
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert is_private(link) is private
    assert (opened(str(folder)) is not None) is private
    # The same folder to another user.
    monkeypatch.setattr(os, "geteuid", lambda: folder.parent.stat().st_uid + 1)
    assert not folder.exists() or not is_private(folder)


@pytest.mark.parametrize("group, written", [(0, False), (1, True)])
def test_a_group_of_ones_own(group, written):
    """Such as most systems make for each user, whose number it has."""

    class Folder:
        def stat(self):
            return os.stat_result((0o40775, 0, 0, 0, 1000, 1000 + group, 0, 0, 0, 0))

    assert programs.others_write(Folder()) is written


def test_folders_that_others_may_write_to(tmp_path, kept, monkeypatch, capsys):
    """A run in a shared folder keeps its programs in the user's own, and says so in a line."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shared, home = tmp_path / "shared", tmp_path / "home/.cache/scorefield/programs"
    shared.mkdir()
    shared.chmod(0o1777)

    def used(folder, chosen=None):
        kept(chosen)
        keep_programs(folder)
        return jax.config.jax_compilation_cache_dir, capsys.readouterr().out

    said = f"Others may write to {shared}, so compiled programs are kept in {home}.\n"
    assert used(shared) == (str(home), said)
    # A folder of before, or one that another user has made.
    (tmp_path / ".jax_cache").mkdir()
    (tmp_path / ".jax_cache").chmod(0o777)
    assert used(tmp_path)[0] == str(home)
    (tmp_path / ".jax_cache").chmod(0o755)
    assert used(tmp_path) == (str(tmp_path / ".jax_cache"), "")
    # What the user chose stays, unless others may write there.
    assert used(tmp_path, "/elsewhere") == ("/elsewhere", "")
    assert used(tmp_path, "gs://bucket/programs") == ("gs://bucket/programs", "")
    (shared / "mine").mkdir(mode=0o777)
    (shared / "mine").chmod(0o777)
    where, text = used(tmp_path, str(shared / "mine"))
    assert where is None and "neither read nor kept" in text and text.count("\n") == 1
    # Nothing is made before there is a program to keep.
    assert not home.exists()
    home.mkdir(parents=True)
    home.chmod(0o777)
    assert used(shared)[0] is None
