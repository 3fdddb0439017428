"""The sampling problem of the benchmark: the denoiser, the end points, the score, the table."""

import json

import closed_form
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.samplers import few_steps as command
from benchmarks.samplers import kinds
from samplers import GRIDS
from search import candidates
from search.problem import (
    LAW,
    denoise,
    make_problem,
    predict_fn,
    reference,
    score,
    solve,
)

pytestmark = pytest.mark.usefixtures("x64")
S = 0.05


@pytest.fixture(scope="module")
def points():
    return np.random.default_rng(1).uniform(-1.0, 1.0, (6, 3))


@pytest.fixture(scope="module")
def problem(points):
    return make_problem("six points", points, S, starts=5)


@pytest.mark.parametrize("sigma", [0.002, 0.05, 0.7, 80.0])
def test_denoiser_is_the_posterior_mean_of_the_mixture(problem, points, sigma):
    law = closed_form.Mixture(np.full(6, 1 / 6), points, np.full(6, S))
    x = points[:5] + sigma * np.random.default_rng(2).standard_normal((5, 3))
    truth = law.predict(LAW)(jnp.asarray(x), sigma)
    np.testing.assert_allclose(denoise(problem, x, sigma), truth.x0, rtol=0, atol=1e-12)
    found = predict_fn(problem)(jnp.asarray(x), jnp.asarray(sigma))
    for name in truth._fields:
        np.testing.assert_allclose(
            getattr(found, name), getattr(truth, name), rtol=1e-9, atol=1e-10, err_msg=name
        )


def test_one_point_has_the_flow_of_a_gaussian():
    mean = np.array([[0.3, -0.8]])
    problem = make_problem("one point", mean, S, starts=4)
    law = closed_form.Gaussian(mean[0], S**2 * np.eye(2))
    truth = law.flow_map(LAW, jnp.asarray(problem.starts), LAW.t1, LAW.t0)
    np.testing.assert_allclose(solve(problem), truth, rtol=0, atol=1e-9)


def test_reference_is_the_same_at_a_second_tolerance_and_from_the_cache(problem, tmp_path):
    made = reference(problem, tmp_path)
    rough = reference(problem, None, tolerance=1e-9)
    assert 0.0 < np.max(np.abs(made.ends - rough.ends)) < 1e-6
    again = reference(problem, tmp_path)
    np.testing.assert_array_equal(made.ends, again.ends)
    assert made.seconds == again.seconds
    assert len(list(tmp_path.iterdir())) == 1
    reference(problem._replace(s=0.06), tmp_path, tolerance=1e-6)
    assert len(list(tmp_path.iterdir())) == 2


def test_score_is_the_median_over_starts_of_the_rms_per_pixel():
    ends = np.zeros((3, 4))
    result = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 0.0, 0.0], [4.0, 4.0, 4.0, 4.0]])
    assert score(result, ends) == 1.0
    assert score(result[2:], ends[2:]) == 4.0


@pytest.mark.parametrize(
    "x, s, said", [(np.full((2, 2), np.inf), S, "finite"), (np.zeros((2, 2)), 0.0, "positive")]
)
def test_what_is_no_problem_is_refused(x, s, said):
    with pytest.raises(ValueError, match=said):
        make_problem("x", x, s)


def test_the_command_writes_rows_of_counted_evaluations(points, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "six.npz", x=points, s=0.1)
    kept = [pair for pair in command.OURS if pair[0] in ("ddim", "heun", command.FIXED[0])]
    monkeypatch.setattr(command, "OURS", kept)
    monkeypatch.setattr(command, "single_steps", no_peers)
    monkeypatch.setattr(command, "peers", no_peers)
    monkeypatch.setattr(candidates, "METHODS", candidates.METHODS[:3])
    monkeypatch.setattr(candidates, "ORDERS", (4,))
    out = tmp_path / "rows.json"
    command.main(f"--data {tmp_path}/six.npz --nfe 5 --json {out} --cache {tmp_path}/cache".split())
    rows = json.loads(out.read_text())
    keys = {"source", "sampler", "grid", "recipe", "data", "nfe", "rmse"}
    assert all(set(row) == keys for row in rows)
    assert {(row["source"], row["data"], row["nfe"]) for row in rows} == {("ours", "six", 5)}
    # Heun makes two evaluations a step. So 5 evaluations need the denoising step.
    assert {row["grid"].endswith("denoise") for row in rows if row["sampler"] == "heun"} == {True}
    assert len([row for row in rows if row["sampler"] == "ddim"]) == 2 * len(GRIDS)
    recipes = {row["recipe"]: (row["sampler"], row["grid"]) for row in rows if row["recipe"]}
    assert recipes == {
        "default": ("own", "measured"),
        "fixed": command.FIXED,
        "searched": ("unified", "searched"),
    }
    # The measured solver is no worse than the best of the rows it was chosen among.
    error = {row["recipe"]: row["rmse"] for row in rows}
    assert error["default"] <= min(row["rmse"] for row in rows if row["sampler"] == "ddim")
    assert "velocity_ab" in capsys.readouterr().out


def no_peers(problem):
    return []


def test_the_stepper_is_what_sample_gives(problem):
    law, name = LAW, "karras"
    sampler = command.samplers.ddim(law)
    out, nfe = command.stepper(problem, sampler)(name, True, 4)
    ts = command.samplers.make_grid(name, law, 4, law.t0)
    start = jnp.asarray(problem.starts)
    truth = command.samplers.sample(
        jax.random.key(0), predict_fn(problem), sampler, start, ts, denoise=True
    )
    np.testing.assert_allclose(out, truth.x, rtol=0, atol=1e-10)
    assert nfe == truth.nfe == 5


def test_ratios_are_to_the_best_peer_of_a_budget():
    row = lambda source, rmse, nfe=5, recipe="": {
        "source": source,
        "sampler": "s",
        "grid": "g",
        "recipe": recipe,
        "nfe": nfe,
        "rmse": rmse,
    }
    rows = [row("a", 4.0), row("b", 2.0), row("ours", 0.5, recipe="default"), row("a", 3.0, 8)]
    rows.append(row("ours", 6.0, 8, "default"))
    first, second = kinds.lines("curves", rows)
    assert first.split()[1:3] == ["5", "2"] and "b s, g" in first and "default 0.25" in first
    assert second.split()[1:3] == ["8", "3"] and "default 2.00" in second


@pytest.mark.parametrize("kind", ["five points", "curves", "correlated", "binary, times 0.1"])
def test_kinds_are_tables_of_their_size(kind):
    x = {**kinds.TUNED, **kinds.SCORED}[kind][0]()
    spread = {"five points": 0.55, "curves": 0.506, "correlated": 0.32, "binary, times 0.1": 0.1}
    assert abs(np.sqrt(np.mean(x.var(axis=0))) / spread[kind] - 1.0) < 0.1
    assert len(np.unique(x, axis=0)) > 4
