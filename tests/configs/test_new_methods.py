"""A new guide, restorer, operator or edit is one function and one line of its table.

A config can then name it, and its options are its section. Here `monkeypatch` adds the line.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from known_data import LEVELS, PARAMS, SHAPE, exact, levels
from ml_collections import ConfigDict

import editing
import guidance
import operators
import restoration
from builders.aliases import modern, with_today
from builders.describe import describe
from builders.editing import build_editing
from builders.restoration import build_restoration
from builders.sections import pruned
from configs.base import base
from evaluation.tasks.editing import edit
from evaluation.tasks.restoration import restore
from samplers.base import SampleResult
from sde_lib import expand
from sde_lib.prediction import bound, prediction_of

N = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "x.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=levels(rng, 8), x_test=levels(rng, N), levels=LEVELS)
    return path


def experiment(file, **changes):
    options = {"sampling__steps": 3, "sampling__predictor": "ddim", "sampling__corrector": "none"}
    options |= {"sampling__denoise": True, "guidance__samples": 2, "edit__samples": 2}
    return exact(file, **options, **changes)


def restored(file, **changes):
    known = experiment(file, **changes)
    return restore(known, build_restoration(known), PARAMS, range(N))


def pull(path, operator, y, noise_std, share: float = 0.5):
    """Takes a share of `A^T y` for the mean of the data.

    Args:
        share: of the measurement.
    """
    del noise_std

    def guide(predict):
        def guided(x, t, cond=None):
            x0 = (1.0 - share) * bound(predict, cond)(x, t).x0 + share * operator.adjoint(y)
            a, c = (expand(v, x) for v in path.coeffs(t))
            return prediction_of(path, x, t, x0, (x - a * x0) / c)

        return guided

    return guide


def test_a_guide(images, monkeypatch):
    """With `share = 1` the samples end in `A^T y`."""
    monkeypatch.setitem(guidance.GUIDES, "pull", pull)
    options = {"guidance__method": "pull", "guidance__mask__keep": "top"}
    found = restored(images, **options, guidance__pull__share=1.0)
    truth = np.array(found.truth)
    truth[:, SHAPE[0] // 2 :] = 0.0
    np.testing.assert_allclose(found.x, np.repeat(truth[:, None], 2, axis=1), atol=1e-6)
    ours = base("vp", "mlp", "digits")
    assert "share: float = 0.5  of the measurement." in describe("guidance.pull", ours)
    assert "guidance.method is one of" in describe("guidance", ours)


def test_a_restorer(images, monkeypatch):
    def scaled(problem, factor: float = 1.0) -> restoration.Restorer:
        def run(keys, predict, x, y):
            shape = (len(x), *problem.operator.shape_in)
            return SampleResult(factor * problem.operator.adjoint(y).reshape(shape), None, 0)

        return restoration.Restorer(run)

    monkeypatch.setitem(restoration.RESTORERS, "scaled", scaled)
    options = {"guidance__method": "scaled", "guidance__operator": "fourier"}
    found = restored(images, **options, guidance__fourier__lines=2, guidance__scaled__factor=3.0)
    # With all lines of a real image measured, the adjoint is the inverse.
    np.testing.assert_allclose(found.x[:, 0], 3.0 * found.truth, atol=1e-5)


def test_an_operator(images, monkeypatch):
    def first(shape, count: int = 1):
        """The first values of an image."""
        return operators.mask(shape, (np.arange(np.prod(shape)) < count).reshape(shape))

    monkeypatch.setitem(operators.OPERATORS, "first", first)
    monkeypatch.setitem(guidance.GUIDES, "pull", pull)
    options = {"guidance__method": "pull", "guidance__operator": "first"}
    found = restored(images, **options, guidance__first__count=5)
    np.testing.assert_array_equal(found.y, np.asarray(found.truth).reshape(N, -1)[:, :5])
    known = experiment(images, **options).settings.guidance
    assert known.first.to_dict() == {"count": 1} and "mask" not in known


def test_an_edit(images, monkeypatch):
    def darker(setting, by: float = 0.1) -> editing.Edit:
        run = lambda keys, predict, guided, image: SampleResult(image - by, None, jnp.zeros(()))
        return editing.Edit(run, None)

    monkeypatch.setitem(editing.EDITS, "darker", darker)
    known = experiment(images, edit__method="darker", edit__darker__by=0.25)
    found = edit(known, build_editing(known), PARAMS, range(N))
    np.testing.assert_allclose(found.x[:, 0], found.image - 0.25, atol=1e-7)


def test_sections_of_operators_and_edits():
    ours = base("vp", "mlp", "digits")
    assert ours.guidance.blur.to_dict() == {"boundary": "circular", "std": 1.0}
    assert "std: float = 1.0  of a Gaussian kernel in pixels" in describe("guidance.blur", ours)
    assert "read where guidance.operator is 'blur'" in describe("guidance.blur", ours)
    assert "eta: float = 0.0  noise on the way down" in describe("edit.flow", ours)
    # By default no operator measures and no edit runs, so their sections are pruned.
    assert not {"mask", "blur"} & set(pruned(ours).guidance)
    assert not {"sdedit", "flow"} & set(pruned(ours).edit)
    ours.guidance.update(method="mmps", operator="radon")
    kept = pruned(ours).guidance
    assert "radon" in kept and "mask" not in kept


# The `guidance` and `edit` of an old config.json, before operators and edits had sections.
FLAT = {
    "guidance": {"mask": "left", "blur_std": 2.5, "factor": 4, "lines": 3, "angles": 5},
    "edit": {
        "strength": 0.3, "unit": "sigma", "keep": "top", "content": 2.0, "source_label": 1,
        "eta": 0.4, "eta_kept": 0.1, "repeats": 3, "window": (0.1, 0.9),
    },
}  # fmt: skip


def test_old_keys_reach_the_operator_and_the_edit():
    wanted = {
        "mask": {"keep": "left"}, "blur": {"std": 2.5, "boundary": "circular"},
        "downsample": {"factor": 4}, "fourier": {"lines": 3}, "radon": {"angles": 5, "svd": True},
    }  # fmt: skip
    for operator, section in wanted.items():
        stored = {**base("vp", "mlp", "digits").guidance.to_dict(), **FLAT["guidance"]}
        stored |= {"method": "dps", "operator": operator}
        found = modern("guidance", ConfigDict(stored), strict=False)
        assert found[operator].to_dict() == section
    ours = base("vp", "mlp", "digits").edit
    ours.update(method="flow", **FLAT["edit"])
    assert modern("edit", ours).flow.to_dict() == FLAT["edit"]
    with pytest.raises(ValueError, match=r"edit\.\w+ is set to .*edit\.method is 'sdedit'"):
        ours.method = "sdedit"
        modern("edit", ours)
    assert with_today("--config.guidance.mask=left") == "--config.guidance.mask.keep=left"
    for same in ("--config.guidance.mask.keep=left", "--config.guidance.masks=1", "left"):
        assert with_today(same) == same
