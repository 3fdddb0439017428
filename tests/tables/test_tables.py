"""Tables of papers: their cells, the measured figures, and resuming."""

import json

import numpy as np
import pytest
from tiny import tiny

import tables.models
from builders.experiment import build
from evaluation.metrics.frechet import Moments, frechet_distance
from evaluation.report.images import of_levels, of_source, to_levels
from evaluation.spaces.features import accuracy
from evaluation.spaces.judges import judges
from evaluation.store.gather import features
from evaluation.tasks.sampling import draw
from tables import TABLES
from tables.__main__ import main, make
from tables.base import SETTINGS, Cell, Model, Setting, Table
from tables.cells import References, finished
from tables.models import config_of_cell, make_ready
from tables.render import markdown
from training.checkpoint import CheckpointError
from training.restore import restore_ema

CHANGES = {"sampling.steps": 3, "sampling.batch_size": 16}
SETTING = Setting(40, (0, 1), {"eval.features": ("classifier",)})


@pytest.mark.parametrize("scale", SETTINGS)
@pytest.mark.parametrize("name", TABLES)
def test_every_cell_can_be_built(name, scale):
    """Every cell's config builds; CIFAR-10, the data of the paper's models, is not needed."""
    table = TABLES[name](scale)
    assert len({(cell.row, cell.column) for cell in table.cells}) == len(table.cells)
    for cell in {str(cell.changes) + cell.model.name: cell for cell in table.cells}.values():
        config = config_of_cell(cell, SETTINGS[scale])
        experiment = build(config, reads_data=False)
        assert experiment.shape == ((8, 8, 1) if scale == "laptop" else (32, 32, 3))
        assert config.eval.num_samples == SETTINGS[scale].samples


@pytest.mark.parametrize("scale", SETTINGS)
def test_the_same_computation(scale):
    """In table 1 all columns but the first take 2 N evaluations, without the last denoising."""
    for cell in TABLES["table1"](scale).cells:
        steps, changes = cell.changes["sampling.steps"], cell.changes
        parts = (changes["sampling.predictor"] != "none") + (
            changes["sampling.corrector"] != "none"
        )
        wanted = int(cell.column.lstrip("PC"))
        assert steps * parts == (2 * wanted if cell.column.startswith("PC") else wanted)


def test_published_figures():
    """The published figures are in the right cells."""
    cells = {(c.row, c.column): c for name in ("table1",) for c in TABLES[name]("paper").cells}
    assert cells["VE, probability flow", "PC1000"].published["frechet"] == 3.51
    assert cells["VP, no predictor", "C2000"].published["frechet"] == 19.06
    solver = {(c.row, c.column): c for c in TABLES["dpm_solver"]("paper").cells}
    assert solver["DPM-Solver, eps 1e-4", "20"].published["frechet"] == 2.87
    assert solver["DDIM", "20"].published["frechet"] is None


# The tests below use a network trained for a few steps.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a tiny model like those of `tables.base.digits`, and the folder of models."""
    folder = tmp_path_factory.mktemp("table")
    config = folder / "tiny_digits.py"
    config.write_text("from tiny import tiny\n\n\ndef get_config():\n    return tiny('vp')\n")
    return Model("tiny", str(config), {"training.n_iters": 6}), folder / "models"


@pytest.fixture(scope="module")
def cells(model):
    one = {**CHANGES, "sampling.predictor": "ancestral"}
    return [
        Cell("ancestral", "3", model[0], one, {"frechet": 4.0}),
        Cell("ancestral", "6", model[0], {**one, "sampling.steps": 6}, {"frechet": None}),
        Cell("likelihood", "3", model[0], CHANGES, {"bits": None, "inception_score": 9.0}),
    ]


@pytest.fixture(scope="module")
def results(model, cells, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SETTINGS, "laptop", SETTING)
        found = make(Table("two", "A caption.", cells), "laptop", out, model[1])
    return found, out


def test_a_cell_is_what_it_says(model, cells, results):
    """A cell has the distance to the training images per seed, and bits/dim of the test images."""
    config = config_of_cell(cells[0], SETTING)
    experiment = build(config)
    _, params = restore_ema(experiment, model[1] / "tiny")
    space = judges(experiment)[0].space
    assert accuracy(space, *unit_and_labels(experiment.test)) > 0.8
    reference = Moments.of(features(space, of_source(experiment.train)))
    for seed, value in zip((0, 1), results[0][0]["frechet_values"]):
        levels = to_levels(experiment.scaler, draw(experiment, params, range(40), seed).x)[0]
        found = Moments.of(features(space, of_levels(levels, 17)))
        assert frechet_distance(found, reference) == pytest.approx(value, rel=1e-6)
    first = results[0][0]
    assert first["frechet"] == pytest.approx(np.mean(first["frechet_values"]))
    assert first["frechet_std"] == pytest.approx(np.std(first["frechet_values"], ddof=1))
    assert (first["nfe"], first["samples"], first["seeds"]) == (4, 40, [0, 1])
    assert results[0][1]["nfe"] == 7
    last = results[0][2]
    assert "frechet" not in last and 1.0 <= last["inception_score"] <= 10.0
    assert 3.0 < last["bits"] < 12.0 and 0 < last["bits_std"] < 1.0
    assert len(last["bits_values"]) == 297
    assert np.mean(last["bits_values"]) == pytest.approx(last["bits"], rel=1e-6)


def unit_and_labels(source):
    return of_source(source).first(source.size), source.labels


def test_files(results):
    found, out = results
    text = (out / "two_laptop.md").read_text()
    assert text.startswith("# two\n\nA caption.\n\n| | 3 Fréchet |") and "(4.00)" in text
    assert json.loads((out / "two_laptop.json").read_text()) == found
    # The samples are deleted, and the results of the cells are stored.
    names = ["ancestral_3.json", "ancestral_6.json", "likelihood_3.json"]
    assert sorted(path.name for path in (out / "two_laptop").iterdir()) == names


def test_what_is_finished_is_not_computed_again(model, cells, results, monkeypatch):
    found, out = results
    monkeypatch.setattr("tables.cells.stored_samples", None)
    folder, workdir = out / "two_laptop", model[1] / "tiny"
    again = finished(cells[0], SETTING, workdir, folder, References())
    assert again == found[0]
    # With more samples, other seeds or other steps, a cell has another result.
    for setting in (SETTING._replace(samples=50), SETTING._replace(seeds=(2, 3))):
        with pytest.raises(TypeError):
            finished(cells[0], setting, workdir, folder, References())
    other = cells[0]._replace(changes={**cells[0].changes, "sampling.eps": 0.01})
    with pytest.raises(TypeError):
        finished(other, SETTING, workdir, folder, References())


def test_samples_that_failed_are_counted_and_left_out(model, cells, results, tmp_path, monkeypatch):
    """A quarter of them: the figure is that of the others."""
    from tables import cells as module

    plain, kept = module.stored_samples, []

    def failing(*args):
        found = plain(*args)
        failed = np.arange(40) % 4 == 0
        kept.append(found["x"][~failed])
        x = np.where(failed[:, None, None, None], 0, found["x"])
        return {**found, "x": x, "failed": failed}

    monkeypatch.setattr(module, "stored_samples", failing)
    found = finished(cells[0], SETTING, model[1] / "tiny", tmp_path, References())
    judge, reference = References().of(build(config_of_cell(cells[0], SETTING)))
    moments = [Moments.of(features(judge.space, of_levels(x, 17))) for x in kept]
    truth = [frechet_distance(each, reference) for each in moments]
    assert found["failed"] == 10 and found["frechet_values"] == pytest.approx(truth, rel=1e-6)


def test_stopped_within_a_cell(model, cells, results, tmp_path, monkeypatch):
    """A cell stopped after its first seed goes on with the second, and gives the same figures."""
    from tables import cells as module

    plain, calls = module.stored_samples, []

    def stopping(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*args)

    workdir = model[1] / "tiny"
    monkeypatch.setattr(module, "stored_samples", stopping)
    with pytest.raises(KeyboardInterrupt):
        finished(cells[0], SETTING, workdir, tmp_path, References())
    assert len(list((tmp_path / "ancestral_3" / "seed_0").glob("batch_*"))) == 3
    assert finished(cells[0], SETTING, workdir, tmp_path, References()) == results[0][0]


def test_rendering(cells):
    table = Table("two", "A caption.", cells)
    result = {"frechet": 0.51249, "frechet_std": 0.0104}
    last = {"bits": 12.5, "bits_std": None, "inception_score": 9.1, "inception_score_std": 0.2}
    lines = markdown(table, [result, None, last]).splitlines()
    assert lines[4] == "| | 3 Fréchet | 6 Fréchet | 3 bits/dim | 3 IS |"
    assert lines[6] == "| ancestral | 0.512 ± 0.010 (4.00) | - |  |  |"
    assert lines[7] == "| likelihood |  |  | 12.50 | 9.100 ± 0.200 (9.00) |"
    alone = markdown(table._replace(cells=cells[:2]), [result, None]).splitlines()
    assert alone[4] == "| | 3 | 6 |"


def test_a_model_that_is_not_there(tmp_path):
    cell = TABLES["table2"]("paper").cells[0]
    sentence = (
        r"no checkpoint in .*/vp_ddpm_cifar10_continuous; import .*tools.import_score_sde "
        r"CHECKPOINT --config configs/vp/ddpm/cifar10_continuous.py"
    )
    with pytest.raises(CheckpointError, match=sentence):
        make_ready(cell.model, "paper", tmp_path)
    with pytest.raises(SystemExit, match="no checkpoint in"):
        main(["table1", "--scale", "paper", "--out", str(tmp_path)])


def test_a_model_that_is_trained_half_way_goes_on(model, monkeypatch):
    """A model trained half way is trained on to the step of its config, and no further."""
    called = []
    monkeypatch.setattr(tables.models, "run_training", lambda experiment, folder: called.append(1))
    make_ready(model[0], "laptop", model[1])
    assert not called
    make_ready(model[0]._replace(changes={"training.n_iters": 9}), "laptop", model[1])
    assert called
    assert tiny("vp").training.n_iters == 6
