"""The rows of `train_step`, `sampling`, `loading` and `first_step`, from made-up seconds."""

import sys

import pytest

import data
from benchmarks.speed import loading, loading_jax, sampling, train_step, worker
from benchmarks.speed.first_step import STAGES, lengths


class Scripted:
    """A worker that answers from lists instead of measuring."""

    def __init__(self, facts, **answers):
        self.facts, self.answers = facts, {key: iter(value) for key, value in answers.items()}

    def ask(self, what):
        return next(self.answers[what])

    def close(self):
        pass


def facts(name, gflop, parameters):
    return {"implementation": name, "parameters": parameters, "gflop": gflop, "compile_s": 1.0}


def test_training_rows(monkeypatch):
    """Ratios are taken round by round; the peak is the median of the fastest matrix products."""
    ours = Scripted(
        facts("ours", 30.0, 7),
        step=[9.0, 1.0, 9.0, 2.0, 9.0, 3.0],  # the first step of each round does not count
        forward=[0.5] * 3,
        matmul=[40.0, 50.0, 50.0],
        peak=[100],
    )
    peer = Scripted(
        facts("peer", 36.0, 8),
        step=[9.0, 2.0, 9.0, 8.0, 9.0, 4.0],
        forward=[1.0] * 3,
        matmul=[50.0, 20.0, 10.0],
        peak=[200],
    )
    workers = iter([ours, peer])
    monkeypatch.setattr(train_step, "Worker", lambda *_, **__: next(workers))
    monkeypatch.setattr(train_step, "PAUSE", 0.0)
    first, second = train_step.compare("ddpm", 3, "python")
    wanted = {"implementation", "network", "batch", "images_per_s", "share_of_peak", "peak_mib"}
    assert wanted | {"compile_s"} <= first.keys() & second.keys()
    assert (first["seconds"], second["seconds"]) == (2.0, 4.0)
    assert (first["images_per_s"], second["images_per_s"]) == (4.0, 2.0)
    assert first["share_of_peak"] == pytest.approx(30.0 / 2 / 50)
    assert second["share_of_peak"] == pytest.approx(36.0 / 4 / 50)
    assert (first["ratio"], second["ratio"]) == (1.0, 0.5)  # the median of 1/2, 2/8 and 3/4
    assert (first["peak_mib"], second["peak_mib"]) == (100, 200)


def test_sampling_rows():
    """The overhead is the loop's time over that of its bare network calls. The ratio is our time
    over the peer's time with the same method."""
    told = {"ddim": {"nfe": 2, "compile_s": 5.0}, "heun": {"nfe": 4, "compile_s": 6.0}}
    ours = {"ddim": [1.0, 2.0], "heun": [3.0, 3.0], "bare 2": [1.0, 1.0], "bare 4": [2.0, 6.0]}
    first, second = sampling.rows_of({"implementation": "a", "loops": told}, ours, 8, ours)
    assert (first["overhead"], second["overhead"]) == (1.5, 1.0)
    assert first["images_per_s"] == pytest.approx(8 / 1.5) and first["ratio"] == 1.0
    peer = {"DDIMScheduler": [4.0, 4.0], "bare 2": [4.0, 2.0]}
    loops = {"DDIMScheduler": {"nfe": 2, "compile_s": 0.0}}
    (row,) = sampling.rows_of({"implementation": "b", "loops": loops}, peer, 8, ours)
    assert (row["ratio"], row["overhead"], row["compile_s"]) == (0.375, 1.5, 0.0)


def test_stages_add_up():
    marks = {stage: 10.0 + 2.0**i for i, stage in enumerate(STAGES)}
    found = lengths(9.0, marks)
    assert [found[stage] for stage in STAGES] == [2.0, 1.0, 2.0, 4.0, 8.0]
    assert found["total"] == sum(found[stage] for stage in STAGES)


@pytest.mark.parametrize("cores, used", [({3}, "process_time"), ({0, 1}, "perf_counter")])
def test_the_clock_of_a_single_core_is_the_process(monkeypatch, cores, used):
    monkeypatch.setattr(worker.os, "sched_getaffinity", lambda _: cores)
    monkeypatch.setattr(worker.time, used, lambda: -7.0)
    assert worker.clock() == -7.0


def test_batches_that_were_read_ahead_are_not_counted(monkeypatch):
    """A batch takes 2 s of wall time and 3 s of CPU time; the first five of 2 workers take none."""
    taken = []
    passed = lambda factor: factor * max(0, len(taken) - 5)
    monkeypatch.setattr(loading_jax.time, "perf_counter", lambda: passed(2.0))
    monkeypatch.setattr(loading_jax, "cpu_seconds", lambda: passed(3.0))
    batches = iter(lambda: taken.append(1), 0)
    rate, cores = loading_jax.rate(batches, workers=2)
    assert (rate, cores) == (loading_jax.BATCH / 2.0, 1.5)
    assert len(taken) == 5 + loading_jax.BATCHES


def test_the_pictures_of_the_loading_benchmark(tmp_path):
    loading.make_folder(tmp_path, 2, 375, 500)
    source = data.load("image_folder", "train", path=str(tmp_path), holdout=0.0)
    assert (source.size, source.shape) == (2, (375, 500, 3))
    assert all(50_000 < file.stat().st_size < 90_000 for file in tmp_path.iterdir())


def test_a_worker_is_a_module_that_can_be_started(tmp_path, monkeypatch):
    """The process is `python -m` of the worker beside the benchmark, and its answers are JSON."""
    folder = tmp_path / "benchmarks" / "speed"
    folder.mkdir(parents=True)
    text = "import sys; print('answer', len(sys.argv))\nfor line in sys.stdin: print('answer 2.5')"
    for name in ("train_step_jax", "sampling_jax"):
        assert (train_step.ROOT / "benchmarks" / "speed" / f"{name}.py").is_file()
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(train_step, "ROOT", tmp_path)
    for name in ("train_step_jax", "sampling_jax"):
        made = train_step.Worker(sys.executable, name, network="ddpm", batch=8)
        assert (made.facts, made.ask("step")) == (3, 2.5)
        made.close()
