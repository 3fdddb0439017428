"""Bits/dim of a data set: passes, bounds, failures, and the same values after any interruption."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_bits import (
    DIMS,
    MEAN,
    PROBE,
    STD,
    N,
    closed_form,
    code_lengths,
    expected_bound,
    labelled,
    watched,
)
from known_data import PARAMS

from evaluation.report.rows import figure_rows
from evaluation.tasks.bits import data_bits
from evaluation.tasks.bounds import make_batch_bits
from evaluation.tasks.evaluate import evaluate

ROOT = Path(__file__).resolve().parents[2]
RUN = {"eval__batch_size": 20, "eval__bpd_repeats": 2}  # two passes of three batches
BATCHES = 6


class Killed(Exception):
    pass


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Cache `make_batch_bits`, so that each experiment and bound has one compiled program. The
    killed process of `test_killed_for_real` compiles its own."""
    make = functools.cache(lambda number, bound: make_batch_bits(KNOWN[number], bound))

    def made(experiment, bound):
        KNOWN.setdefault(id(experiment), experiment)
        return make(id(experiment), bound)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.tasks.bits.make_batch_bits", made)
        yield


KNOWN = {}  # keeps the experiments alive, so that no two of them have the same `id`


def run(experiment, folder, before=lambda indices: None):
    return data_bits(experiment, PARAMS, watched(experiment.test, before), folder, 8)


def columns(folder):
    return np.genfromtxt(folder.with_name(f"{folder.name}.csv"), delimiter=",", names=True)


def same(folder, other, bits, expected):
    """Assert that values, table and summary are equal to the last bit."""
    texts = [f.with_name(f"{f.name}.csv").read_bytes() for f in (folder, other)]
    assert texts[0] == texts[1]
    assert np.array_equal(bits.per_example, expected.per_example)
    assert bits._replace(per_example=None) == expected._replace(per_example=None)


# Interruptions.


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    """An uninterrupted evaluation: its experiment, folder and values."""
    folder = tmp_path_factory.mktemp("whole") / "bits_8_test"
    experiment = closed_form(file, **RUN)
    return experiment, folder, run(experiment, folder)


@pytest.mark.parametrize("batches", [0, 2, 3, BATCHES])
def test_killed_after_some_batches(whole, tmp_path, batches):
    """The kill comes before the first batch, within a pass, between passes, or not at all. The test
    below kills after every batch."""
    experiment, folder, expected = whole
    done, here = [], tmp_path / "bits_8_test"

    def dies(indices):
        if len(done) == batches:
            raise Killed
        done.append(indices)

    if batches < BATCHES:
        with pytest.raises(Killed):
            run(experiment, here, dies)
        assert not here.with_name("bits_8_test.csv").exists()
    else:
        run(experiment, here, dies)
    again = []
    bits = run(experiment, here, again.append)
    # Finished batches are not read again. Each of the others is read once, in order.
    assert len(done) == batches and len(again) == BATCHES - batches
    starts = [int(indices[0]) for indices in done + again]
    assert starts == [0, 20, 40, 0, 20, 40]
    same(here, folder, bits, expected)


def test_killed_after_every_batch(whole, tmp_path):
    experiment, folder, expected = whole
    here, read = tmp_path / "bits_8_test", []
    for _ in range(BATCHES):
        before = len(read)

        def dies(indices, before=before):
            if len(read) > before:
                raise Killed
            read.append(int(indices[0]))

        if before < BATCHES - 1:
            with pytest.raises(Killed):
                run(experiment, here, dies)
        else:
            bits = run(experiment, here, dies)
    assert read == [0, 20, 40, 0, 20, 40]
    same(here, folder, bits, expected)


def test_killed_for_real(whole, file, tmp_path):
    """A process killed by SIGKILL cannot tidy up, and the evaluation still goes on."""
    experiment, folder, expected = whole
    here = tmp_path / "bits_8_test"
    changes = ", ".join(f"{key}={value}" for key, value in RUN.items())
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]; import xla_flags; "
        "from programs import check_programs; check_programs(); "
        f"from known_bits import evaluate_slowly; "
        f"evaluate_slowly({str(file)!r}, {str(here)!r}, 0.3, {changes})"
    )
    # The process uses the tests' compilation cache. With the same program its values are equal to
    # the last bit.
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    env = {**os.environ, **{name.upper(): str(getattr(jax.config, name)) for name in names}}
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    process = subprocess.Popen([sys.executable, "-c", code], env=env)
    try:
        limit = time.monotonic() + 60
        while len(list(here.glob("pass_*.json"))) < 2 and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = len(list(here.glob("pass_*.json")))
    assert 2 <= finished < BATCHES
    again = []
    bits = run(experiment, here, again.append)
    assert len(again) == BATCHES - finished
    same(here, folder, bits, expected)


def test_values_without_a_folder_and_in_batches_of_any_size(whole, file, tmp_path):
    _, folder, expected = whole
    same_values = run(whole[0], None)
    assert np.array_equal(same_values.per_example, expected.per_example)
    for size in (7, N, 1000):
        here = tmp_path / f"bits_{size}"
        bits = run(closed_form(file, **{**RUN, "eval__batch_size": size}), here)
        np.testing.assert_allclose(bits.per_example, expected.per_example, rtol=1e-5)
        table, known = columns(here), columns(folder)
        for name in ("index", "label", "nfe", "failed"):
            np.testing.assert_array_equal(table[name], known[name])


# The table and the summary.


def test_table(whole):
    """The table has one row per example, in order, and the summary agrees with the table."""
    experiment, folder, bits = whole
    table = columns(folder)
    assert table.dtype.names == ("index", "label", "bits_per_dim", "stderr", "nfe", "failed")
    np.testing.assert_array_equal(table["index"], np.arange(N))
    np.testing.assert_array_equal(table["label"], experiment.test.labels)
    np.testing.assert_allclose(table["bits_per_dim"], bits.per_example, rtol=1e-8)
    assert bits.mean == pytest.approx(table["bits_per_dim"].mean(), rel=1e-8)
    assert bits.stderr == pytest.approx(table["bits_per_dim"].std(ddof=1) / N**0.5, rel=1e-7)
    assert bits.nfe == pytest.approx(table["nfe"].mean())
    assert (bits.n, bits.failed) == (N, 0)
    # The errors of the 2 N estimates are independent.
    error = PROBE / (DIMS * np.log(2)) / (2 * N) ** 0.5
    assert bits.probe_stderr == pytest.approx(error, rel=1e-5)


def test_stderr_of_an_example(whole, file, tmp_path):
    """With several passes the standard error includes dequantisation and probes. With one pass it
    is the error of the probes."""
    folder = tmp_path / "bits_8_test"
    run(closed_form(file, eval__bpd_repeats=30), folder)
    # The variance of one pass is that of the probe plus that of (u + U - MEAN)^2 / 2 STD^2 with U
    # uniform, in closed form.
    u = labelled().fetch(np.arange(N)).reshape(N, -1)
    d = u + 0.5 - MEAN
    variance = (d**2 / 12 + (1 / 80 - 1 / 144) / 4).sum(axis=1) / STD**4 + PROBE**2
    expected = variance**0.5 / (DIMS * np.log(2)) / 30**0.5
    found = columns(folder)["stderr"]
    # The standard deviation of 30 values has a relative error of 13 percent.
    np.testing.assert_allclose(found / expected, 1.0, atol=0.7)
    assert np.mean(found / expected) == pytest.approx(1.0, abs=0.06)
    run(closed_form(file), folder)
    np.testing.assert_allclose(columns(folder)["stderr"], PROBE / (DIMS * np.log(2)), rtol=1e-5)


def test_noise_is_that_of_the_seed_of_the_evaluation(whole, file):
    """The noise depends on `eval.seed`, as in sampling, and not on the seed of training."""
    one = {**RUN, "eval__bpd_repeats": 1}
    bits = [
        run(closed_form(file, **one, **seed), None) for seed in ({}, {"seed": 7}, {"eval__seed": 7})
    ]
    assert np.array_equal(bits[0].per_example, bits[1].per_example)
    assert (abs(bits[0].per_example - bits[2].per_example) > 1e-6).all()


def test_passes_have_noise_of_their_own_for_every_example(whole, file, tmp_path):
    expected = whole[2]
    first = run(closed_form(file, **{**RUN, "eval__bpd_repeats": 1}), None)
    second = 2 * expected.per_example - first.per_example
    assert (abs(second - first.per_example) > 1e-6).all()
    # The mean over passes tends to the expected bound of one dequantisation.
    bits = run(closed_form(file, probe=0.0, eval__bpd_repeats=100), None)
    error = 0.17 / 100**0.5  # the standard error of an example from the dequantisation
    known = expected_bound(labelled())
    np.testing.assert_allclose(bits.per_example, known, atol=5 * error)
    assert bits.mean == pytest.approx(known.mean(), abs=4 * error / N**0.5)


# Several dequantisations in one bound.


def test_importance_weighted_bounds_tend_to_the_code_length(file):
    """With more samples the bound falls from that of one dequantisation to the code length."""
    lengths, above = code_lengths(labelled()).mean(), {}
    gap = expected_bound(labelled()).mean() - lengths
    assert gap > 0.05
    for k in (1, 5, 100):
        bits = run(closed_form(file, probe=0.0, eval__bpd_repeats=20, eval__bpd_samples=k), None)
        above[k] = bits.mean - lengths
    noise = 4 * 0.2 / (20 * N) ** 0.5
    assert above[1] == pytest.approx(gap, abs=noise)
    assert above[100] == pytest.approx(0.0, abs=0.01 + noise)
    assert 0.1 * gap < above[5] < 0.5 * gap


def test_a_bound_does_not_choose_the_luckiest_probe(file):
    """All dequantisations of an example share the probe, so its error is that of one sample."""
    values = {
        (k, probe): run(closed_form(file, probe=probe, eval__bpd_samples=k), None)
        for k in (1, 5)
        for probe in (0.0, 2.0)
    }
    errors = [values[k, 2.0].per_example - values[k, 0.0].per_example for k in (1, 5)]
    assert errors[0].std() > 0.3
    np.testing.assert_allclose(errors[0], errors[1], atol=1e-5)
    for k in (1, 5):
        error = 2.0 / (DIMS * np.log(2)) / N**0.5
        assert values[k, 2.0].probe_stderr == pytest.approx(error, rel=1e-5)


def test_bound_is_the_log_of_the_mean_density(file):
    """The bound equals the log of the mean of the densities, which a callback records."""
    experiment, seen = closed_form(file, eval__bpd_samples=4, eval__batch_size=N), []
    inner = experiment.log_likelihood

    def log_likelihood(key, predict, x):
        result = inner(key, predict, x)
        jax.debug.callback(lambda *v: seen.append(v), result.logp, x, result.nfe, ordered=True)
        return result

    bits = run(dataclasses.replace(experiment, log_likelihood=log_likelihood), None)
    jax.effects_barrier()
    logp, x, nfe = (np.stack(column).astype(float) for column in zip(*seen))
    assert logp.shape == (4, N)
    log_mean = np.log(np.exp(logp).mean(axis=0))
    expected = -log_mean / (DIMS * np.log(2)) + 5.0  # 64 levels in [-1, 1]
    np.testing.assert_allclose(bits.per_example, expected, rtol=1e-5)
    assert bits.nfe == pytest.approx(nfe.sum(axis=0).mean())
    # The four inputs are dequantisations of the same levels.
    levels = np.floor((x.reshape(4, N, -1) + 1) * 32)
    assert (levels == levels[0]).all() and len(np.unique(x[:, 0, 0, 0, 0])) == 4


@pytest.mark.parametrize("value", [0, -3])
def test_samples_of_the_bound_are_positive(file, value):
    with pytest.raises(ValueError, match=rf"eval.bpd_samples is {value}; it must be positive"):
        closed_form(file, eval__bpd_samples=value)


# Failures.


def test_a_failed_solve_is_counted_and_left_out(file, tmp_path):
    """Two in five solves fail, depending on their noise. So none, one or both passes of an example
    fail."""
    folder = tmp_path / "bits_8_test"
    fails = lambda x: (((x[:, 0, 0, 0] + 1) * 32) % 1.0) < 0.4
    experiment = closed_form(file, fails=fails, **RUN)
    bits = run(experiment, folder)
    good = [
        run(closed_form(file, fails=fails, **{**RUN, "eval__bpd_repeats": 1}), None),
        run(closed_form(file, **{**RUN, "eval__bpd_repeats": 1}), None),
        run(closed_form(file, **RUN), None),
    ]
    first, second = good[1].per_example, 2 * good[2].per_example - good[1].per_example
    table = columns(folder)
    assert {0, 1, 2} == set(table["failed"])
    assert bits.failed == table["failed"].sum()
    none, both = table["failed"] == 2, table["failed"] == 0
    assert np.isnan(bits.per_example[none]).all() and np.isnan(table["bits_per_dim"][none]).all()
    np.testing.assert_allclose(bits.per_example[both], good[2].per_example[both], rtol=1e-6)
    # With one failure the value is that of the successful pass.
    first_failed = np.isnan(good[0].per_example)
    one = table["failed"] == 1
    expected = np.where(first_failed, second, first)
    np.testing.assert_allclose(bits.per_example[one], expected[one], rtol=1e-5)
    assert bits.n == N - none.sum()
    assert bits.mean == pytest.approx(bits.per_example[~none].mean())
    assert bits.stderr == pytest.approx(bits.per_example[~none].std(ddof=1) / bits.n**0.5)


def test_a_value_that_is_not_finite_has_failed(file):
    experiment = closed_form(file, **RUN)
    inner = experiment.log_likelihood

    def log_likelihood(key, predict, x):
        result = inner(key, predict, x)
        # The first example of a batch gets -inf, and the solver reports no failure.
        return result._replace(logp=result.logp.at[0].set(-jnp.inf))

    bits = run(dataclasses.replace(experiment, log_likelihood=log_likelihood), None)
    assert (bits.n, bits.failed) == (N - 3, 6) and np.isfinite(bits.mean)


def test_all_failed(file, tmp_path):
    experiment = closed_form(file, fails=lambda x: jnp.ones(len(x), bool), **RUN)
    sentence = r"^Every likelihood of 50 examples failed.*; raise likelihood\..* = .*\.$"
    with pytest.raises(ValueError, match=sentence):
        run(experiment, tmp_path / "bits_8_test")
    assert not list(tmp_path.glob("*.csv"))


# The report.


@pytest.mark.parametrize("k", [1, 5])
def test_report(file, tmp_path, k):
    off = {"eval__enable_loss": False, "eval__enable_sampling": False}
    fails = lambda x: x[:, 0, 0, 0] < -0.05
    experiment = closed_form(file, fails=fails, eval__bpd_samples=k, **RUN, **off)
    evaluate(experiment, PARAMS, tmp_path, 8, [], 1.0)
    report = json.loads((tmp_path / "report.json").read_text())
    found, bits = report["bits_per_dim"], run(experiment, None)
    names = ("mean", "stderr", "probe_stderr", "n", "failed")
    assert [found[name] for name in names] == [getattr(bits, name) for name in names]
    assert found["n"] + found["left_out"] == N and 0 < found["left_out"] < N
    assert (found["passes"], found["k"], found["offset"]) == (2, k, pytest.approx(5.0))
    assert found["bound"] == ("uniform dequantisation" if k == 1 else "importance-weighted, k = 5")
    assert found["table"] == "bits_8_test.csv" and (tmp_path / found["table"]).is_file()
    rows = {row.name: row.value for row in figure_rows(report)}
    assert rows["Bits per dimension, test"] == bits.mean
    assert rows["Solves that failed, left out of bits per dimension"] == bits.failed
    assert rows["Network evaluations for a likelihood"] == bits.nfe


def test_train_and_test_and_steps_have_tables_of_their_own(file, tmp_path):
    off = {"eval__enable_loss": False, "eval__enable_sampling": False}
    for step, split in ((8, "test"), (8, "train"), (9, "test")):
        experiment = closed_form(file, eval__bpd_dataset=split, **off)
        evaluate(experiment, PARAMS, tmp_path, step, [], 1.0)
    tables = {path.name for path in tmp_path.glob("*.csv")}
    assert tables == {"bits_8_test.csv", "bits_8_train.csv", "bits_9_test.csv"}
    # The file has no labels for the training data.
    assert "label" not in columns(tmp_path / "bits_8_train").dtype.names
