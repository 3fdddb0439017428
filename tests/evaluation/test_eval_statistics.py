"""Statistics files of this project and of others, resumable streams, and refused files."""

import hashlib
import tracemalloc

import numpy as np
import pytest

from evaluation.metrics.frechet import Moments, frechet_distance, merge
from evaluation.metrics.statistics import (
    load_moments,
    read_statistics,
    save_moments,
    stream,
    write_statistics,
)
from evaluation.spaces.features import Features, FeatureSpace

D = 5
SPACE = FeatureSpace("toy", "toy-1", lambda images: images.reshape(len(images), -1))


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(60, D)) @ np.diag([1, 2, 0.1, 5, 1]) + 3


@pytest.fixture(scope="module")
def moments(x):
    return Moments.of(Features("toy-1", x))


def equal(a, b):
    """Assert that both have the same arrays to the last bit."""
    for one, other in zip(a, b):
        np.testing.assert_array_equal(one, other)


# Streams.


def test_a_stream_has_the_moments_of_the_whole(x, moments):
    """Uneven batches with a mean far from the origin give the moments of NumPy on all rows."""
    far = x + 1e6
    found = stream(SPACE, np.split(far.reshape(60, D, 1), [1, 30, 37]))
    assert (found.space, found.n) == ("toy-1", 60)
    np.testing.assert_allclose(found.mean, far.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.cov, np.cov(far, rowvar=False), rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(found.scatter, found.scatter.T)
    found = stream(SPACE, np.split(x.astype(np.float32), 6))
    assert found.mean.dtype == found.scatter.dtype == np.float64
    np.testing.assert_allclose(found.cov, moments.cov, rtol=1e-6, atol=1e-7)


def test_a_stream_that_was_interrupted_ends_on_the_same_bits(x, tmp_path):
    batches = np.split(x, [7, 20, 33, 50])
    whole, held = stream(SPACE, batches), None
    for batch in batches:
        if held is not None:
            assert save_moments(tmp_path / "state.npz", held)
            held = load_moments(tmp_path / "state.npz")
        before = None if held is None else [np.copy(part) for part in held]
        after = stream(SPACE, [batch], start=held)
        if held is not None:
            equal(held, before)  # the stream does not change its start
        held = after
    equal(held, whole)
    equal(stream(SPACE, [], start=held), whole)
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]


def test_hosts_join_by_merge(x, moments):
    joined = merge(stream(SPACE, np.split(x[:40], 4)), stream(SPACE, [x[40:]]))
    assert joined.n == 60
    np.testing.assert_allclose(joined.scatter, moments.scatter, rtol=1e-12, atol=1e-12)


def test_a_stream_holds_one_batch():
    """A stream needs less than 1.5 MiB. All 4,000 rows of 200 values take 6 MiB, a batch of 100
    rows 0.2 MiB, and a covariance 0.3 MiB."""
    space = FeatureSpace("wide", "wide", lambda seeds: rows(seeds))
    rows = lambda seeds: np.random.default_rng(int(seeds[0])).normal(size=(100, 200))
    stream(space, [np.arange(1)])
    tracemalloc.start()
    found = stream(space, (np.array([i]) for i in range(40)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.n == 4000 and peak < 1.5 * 2**20


def test_streams_that_are_refused(x, moments):
    with pytest.raises(ValueError, match="no batch"):
        stream(SPACE, [])
    with pytest.raises(ValueError, match="features of 4 dimensions after 9 of 5"):
        stream(SPACE, [x[:9], x[9:, :4]])
    with pytest.raises(ValueError, match="features of 4 dimensions after 60 of 5"):
        stream(SPACE, [x[:, :4]], start=moments)
    with pytest.raises(ValueError, match="1 of 60 feature rows"):
        stream(SPACE, [np.where(np.arange(60)[:, None] == 2, np.nan, x)])
    for start in (moments._replace(space="toy-2"), moments._replace(n=None)):
        with pytest.raises(ValueError, match=r"n = .* in space .*'toy-1'"):
            stream(SPACE, [x], start=start)


# Files.


def test_ours_come_back(moments, x, tmp_path):
    path = tmp_path / "ours.npz"
    digest = write_statistics(path, moments, "f00d")
    assert dict(np.load(path)).keys() == {"mu", "sigma", "n", "space", "fingerprint"}
    found = read_statistics(path, "toy-1", dim=D)
    assert found.sha256 == digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.space_is, found.fingerprint, found.moments.n) == ("recorded", "f00d", 60)
    np.testing.assert_allclose(found.moments.cov, np.cov(x, rowvar=False), rtol=1e-12)
    # The number of rows is known, so the moments can be merged with others.
    both = merge(found.moments, moments)
    np.testing.assert_allclose(both.cov, np.cov(np.tile(x.T, 2)), rtol=1e-10)
    assert read_statistics(path, "toy-1", stated="toy-1").space_is == "recorded"


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_moments_of_others(moments, x, tmp_path, write, dtype):
    """Moments as pytorch-fid and clean-fid write them are read. Other arrays in the file, such as
    ADM's images, are not read, even if they are unreadable."""
    path, rng = tmp_path / "theirs.npz", np.random.default_rng(1)
    mu, sigma = x.mean(axis=0).astype(dtype), np.cov(x, rowvar=False).astype(dtype)
    write(path, mu=mu, sigma=sigma, arr_0=np.array([{}], object))
    found = read_statistics(str(path), "toy-1", stated="toy-1")
    assert (found.space_is, found.fingerprint, found.moments.n) == ("stated", None, None)
    other = Moments.of(Features("toy-1", rng.normal(size=(40, D))))
    distance = frechet_distance(other, found.moments)
    np.testing.assert_allclose(distance, frechet_distance(other, moments), rtol=1e-5)
    np.testing.assert_allclose(frechet_distance(found.moments, other), distance, rtol=1e-9)
    with pytest.raises(ValueError, match="n is None"):
        merge(found.moments, other)
    with pytest.raises(ValueError, match="unknown n"):
        write_statistics(tmp_path / "again.npz", found.moments, "")


def test_stored_features(x, tmp_path, monkeypatch):
    """Features as score_sde stores them are read in several batches."""
    monkeypatch.setattr("evaluation.metrics.statistics.ROWS", 25)
    path, stored = tmp_path / "pool.npz", x.astype(np.float32)
    np.savez(path, pool_3=stored, logits=np.zeros((60, 8)))
    found = read_statistics(path, "toy-1", stated="toy-1").moments
    assert found.n == 60
    np.testing.assert_allclose(found.cov, np.cov(stored.astype(float).T), rtol=1e-10)


def test_files_of_another_space_are_refused(moments, tmp_path):
    path = tmp_path / "ours.npz"
    write_statistics(path, moments, "")
    with pytest.raises(ValueError, match=r"'toy-1', the features are of 'toy-2'"):
        read_statistics(path, "toy-2")
    with pytest.raises(ValueError, match=r"'toy-1', and 'toy-2' was stated"):
        read_statistics(path, "toy-2", stated="toy-2")
    np.savez(path, mu=moments.mean, sigma=moments.cov)
    with pytest.raises(ValueError, match="does not say"):
        read_statistics(path, "toy-1")
    with pytest.raises(ValueError, match=r"'toy-2', the features are of 'toy-1'"):
        read_statistics(path, "toy-1", stated="toy-2")
    with pytest.raises(ValueError, match="5 dimensions, the features have 2048"):
        read_statistics(path, "toy-1", stated="toy-1", dim=2048)


def holed(array, at, value):
    array = np.array(array, float)
    array[at] = value
    return array


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda f: {"mu": f["mu"]}, r"no \['sigma'\]"),
        (lambda f: {"arr_0": f["mu"]}, r"no \['mu', 'sigma'\]"),
        (lambda f: {**f, "mu": f["mu"][:-1]}, r"shape \(4,\) and .*\(5, 5\)"),
        (lambda f: {**f, "sigma": f["sigma"][:-1]}, r"\(4, 5\)"),
        (lambda f: {**f, "mu": f["mu"][None]}, r"\(1, 5\)"),
        (lambda f: {**f, "mu": f["mu"].astype(int)}, "int64"),
        (lambda f: {**f, "mu": holed(f["mu"], 2, np.nan)}, "not finite"),
        (lambda f: {**f, "sigma": holed(f["sigma"], (1, 1), np.inf)}, "not finite"),
        (lambda f: {**f, "sigma": holed(f["sigma"], (1, 2), 7.0)}, "transpose by up to [67]"),
        (lambda f: {**f, "sigma": -f["sigma"]}, "smallest variance of -"),
        (lambda f: {**f, "n": 1}, "`n` of .* is 1"),
        (lambda f: {**f, "n": 2.5}, r"is 2\.5"),
        (lambda f: {**f, "n": np.array([3, 4])}, r"\[3 4\]"),
        (lambda f: {**f, "mu": np.array([None] * 5)}, "not a whole npz"),
        (lambda f: {"pool_3": np.zeros((1, 5))}, r"\(1, 5\)"),
        (lambda f: {"pool_3": np.zeros((9, 5), np.uint8)}, "uint8"),
        (lambda f: {"pool_3": np.zeros((9, 5, 1))}, r"\(9, 5, 1\)"),
        (lambda f: {"pool_3": np.full((9, 5), np.nan)}, "9 of 9 feature rows"),
    ],
)
def test_files_of_wrong_content_are_refused(moments, tmp_path, change, said):
    path = tmp_path / "wrong.npz"
    np.savez(path, **change({"mu": moments.mean, "sigma": moments.cov}))
    with pytest.raises(ValueError, match=said) as caught:
        read_statistics(path, "toy-1", stated="toy-1")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_files_are_refused(moments, tmp_path):
    path = tmp_path / "damaged.npz"
    write_statistics(path, moments, "")
    whole = path.read_bytes()
    # One bit of a number in sigma is flipped. The zip file has a checksum of every member.
    at = whole.index(moments.cov[2].tobytes()[:8])
    flipped = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    for content in (whole[: len(whole) // 2], b"", b"not a zip", flipped):
        path.write_bytes(content)
        for reader in (lambda: read_statistics(path, "toy-1"), lambda: load_moments(path)):
            with pytest.raises(ValueError, match=r"damaged\.npz is not a whole npz|has no"):
                reader()
    with open(path, "wb") as file:
        np.save(file, moments.mean)
    with pytest.raises(ValueError, match="not a whole npz"):
        read_statistics(path, "toy-1")
    write_statistics(path, moments, "")
    with pytest.raises(ValueError, match=r"\['mean', 'scatter'\]"):
        load_moments(path)
    for reader in (load_moments, lambda path: read_statistics(path, "toy-1")):
        with pytest.raises(FileNotFoundError, match=r"none\.npz"):
            reader(tmp_path / "none.npz")


def test_a_write_that_fails_leaves_the_old_file(moments, tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    save_moments(path, moments)

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="no space"):
        save_moments(path, moments._replace(n=3))
    equal(load_moments(path), moments)
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]
