"""Evaluations that do not fit into memory are refused before sampling; released configs fit."""

import dataclasses
import runpy
from types import SimpleNamespace

import pytest
from known_data import PARAMS, Affine, exact
from program import ROOT

from evaluation.store import memory
from evaluation.store.memory import (
    check_memory,
    check_moments,
    check_seeds,
    distances_need,
    machine,
    mend,
)
from evaluation.tasks.evaluate import evaluate

# The numbers of examples in the training and the test split.
SPLITS = {
    "cifar10": (50_000, 10_000),
    "celeb_a": (162_770, 19_867),
    "lsun/bedroom": (3_033_042, 300),
    "lsun/church_outdoor": (126_227, 300),
    "image_folder": (63_000, 7_000),  # FFHQ, the larger of the two
}
RELEASED = sorted(
    path.relative_to(ROOT / "configs")
    for path in (ROOT / "configs").glob("*/**/*.py")
    if "def get_config" in path.read_text()
)


def planned(path, **changes):
    """Return the parts of an experiment that are known before its data are read."""
    config = runpy.run_path(str(ROOT / "configs" / path))["get_config"]()
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    train, test = SPLITS[config.data.get("name", "image_folder")]
    side = (config.data.image_size or (32,))[0]
    return SimpleNamespace(
        config=config,
        shape=(side, side, 3),
        scaler=SimpleNamespace(levels=256),
        train=SimpleNamespace(size=train),
        test=SimpleNamespace(size=test),
    )


@pytest.mark.parametrize("path", RELEASED, ids=str)
def test_the_released_configs_fit(path, monkeypatch):
    """The released configs fit on a machine of 16 GiB, of which 2 GiB are for uncounted memory."""
    monkeypatch.setattr(memory, "machine", lambda: 14 * 2**30)
    check_memory(planned(path), [(2048, 0)])


def test_what_distances_need():
    """The needs computed by hand for CIFAR-10 in 2048 features, with all three metrics, with a
    streamed metric only, and with the Inception score."""
    experiment = planned("ve/cifar10_ncsnpp.py")
    rows, matrices = distances_need(experiment, 2048, 0)
    assert rows == 2 * (50_000 + 50_000) * 2048 * 8
    assert matrices == (1 + 10 + 10) * 2048**2 * 8
    experiment.config.eval.metrics = ("frechet",)
    assert distances_need(experiment, 2048, 0) == (0, (1 + 10 + 10) * 2048**2 * 8)
    experiment.config.eval.update(metrics=("inception_score",), reference="test")
    assert distances_need(experiment, 2048, 1008) == (2 * 60_000 * 3056 * 8, 0)


def test_covariances_of_large_pixels(monkeypatch):
    """The covariance of the pixels of 256 px images alone takes 288 GiB."""
    monkeypatch.setattr(memory, "machine", lambda: 64 * 2**30)
    experiment = planned("ve/church_ncsnpp_continuous.py")
    width = 3 * 256**2
    assert width**2 * 8 == 288 * 2**30
    with pytest.raises(
        ValueError, match=r"6,057 GiB of memory \(9\.2 GiB for 50,000 .* has 64 GiB; .*'inception'"
    ):
        check_memory(experiment, [(width, 0)])
    with pytest.raises(ValueError, match=r"196,608 features .* 3,168 GiB .*'inception'"):
        check_moments(width)
    assert "enable_sampling=False" in mend(experiment)
    assert "('pixels',)" in mend(planned("ve/cifar10_ncsnpp.py"))


def test_features_and_samples_that_are_too_many(monkeypatch):
    monkeypatch.setattr(memory, "machine", lambda: 16 * 2**30)
    many = planned("ve/bedroom_ncsnpp_continuous.py", eval__metrics=("frechet", "kid"))
    with pytest.raises(ValueError, match=r"94 GiB for features.*metrics=\"\('frechet',\)\""):
        check_memory(many, [(2048, 0)])
    large = planned("ve/ffhq_ncsnpp_continuous.py", eval__num_samples=50_000)
    with pytest.raises(ValueError, match=r"146 GiB for 50,000 samples.*lower eval\.num_samples"):
        check_memory(large, [])


def test_the_memory_of_this_machine(tmp_path, monkeypatch):
    """The memory is that of the machine, or the limit of a container if this is lower."""
    assert 2**28 < machine() < 2**50
    (tmp_path / "limit").write_text("12345\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none", tmp_path / "not_there"))
    whole = machine()
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none", tmp_path / "limit"))
    assert machine() == 12345 < whole


@pytest.mark.parametrize(
    "what, mixture, room",
    [("--mode eval would need", False, 6000), ("mixture of the 120", True, 10_000)],
)
def test_refused_before_anything_is_drawn(file, tmp_path, monkeypatch, what, mixture, room):
    """40 samples and the matrices of their distances take 6.3 kB, the mixture's images 11.5 kB."""
    options = {"eval__features": ("pixels",), "eval__metrics": ("frechet",)}
    experiment = exact(file, eval__mixture=mixture, **options)
    experiment = dataclasses.replace(experiment, model=Affine())
    monkeypatch.setattr(memory, "machine", lambda: room)
    with pytest.raises(ValueError, match=what):
        evaluate(experiment, PARAMS, tmp_path, 1, [], 0.0)
    assert not list(tmp_path.iterdir())


def test_more_numbers_than_fit(monkeypatch):
    """Each of 64 values of a sample takes 12 bytes, so a million samples take 0.7 GiB."""
    made = SimpleNamespace(shape=(8, 8, 1))
    monkeypatch.setattr("evaluation.store.memory.machine", lambda: 2**29)
    check_seeds(made, range(500_000))
    with pytest.raises(ValueError, match=r"--seeds 0-999999 are 1,000,000 numbers.* 0\.7 GiB"):
        check_seeds(made, range(1_000_000))
