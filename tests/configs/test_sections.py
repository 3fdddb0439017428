"""A section has the keys of its constructor's signature. Keys that no chosen method reads, and old
names, are handled here too."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import Gaussian
from ml_collections import ConfigDict

import likelihood
import samplers
from builders.aliases import OLD, modern, modernised
from builders.describe import describe
from builders.experiment import build, replaced
from builders.likelihood import build_flow_solver
from builders.sampling import build_sampler
from builders.sections import CHOICES, options, pruned, sections, used
from builders.unused import check_file, check_flags, config_of_file
from configs.base import base
from samplers import edm
from samplers.base import Sampler, State, start
from sde_lib import VP
from training.workdir import claim


def config(**sampling):
    config = base("vp", "mlp", "digits")
    config.sampling.update(sampling)
    return config


def test_a_section_is_the_signature():
    assert sections("sampling")["edm"] == {
        "s_churn": 0.0, "s_tmin": 0.0, "s_tmax": 1e6, "s_noise": 1.0, "eta": 0.0
    }  # fmt: skip
    assert sections("likelihood")["adams"] == likelihood.Adams()._asdict()
    assert options(edm) == sections("sampling")["edm"]
    assert base("vp", "mlp", "digits").sampling.langevin.to_dict() == {
        "snr": 0.16, "n_steps": 1, "norm": "example"
    }  # fmt: skip


def test_a_new_predictor_is_a_function_and_a_line(monkeypatch):
    """The predictor's option is in the config and in --describe, and it reaches the formula. The
    sections of the other predictors are pruned."""

    def shrink(path, share: float = 0.5) -> Sampler:
        """Multiplies x by a share.

        Args:
            share: what is left of x after a step.
        """
        del path
        return Sampler(start, lambda key, predict, state, span: State(share * state.x), nfe=0)

    monkeypatch.setitem(samplers.PREDICTORS, "shrink", shrink)
    ours = config(predictor="shrink", steps=3, denoise=False)
    ours.sampling.shrink.share = 0.25
    found = build_sampler(ours.sampling, VP())(jax.random.key(0), None, jnp.ones((2, 1)))
    np.testing.assert_allclose(found.x, 0.25**3)
    assert "shrink" in pruned(ours).sampling and "ddim" not in pruned(ours).sampling
    said = describe("sampling.shrink", ours)
    assert "share: float = 0.25  what is left of x after a step." in said
    assert "sampling.predictor is 'shrink'" in said


def test_the_old_name_of_a_method_is_that_of_its_section_too():
    stored = {**config().sampling.to_dict(), "restoration": {"look_back": 0.4}}
    found = modern("sampling", ConfigDict({**stored, "predictor": "restoration"}))
    assert found.predictor == "restoration_degradation" and "restoration" not in found
    assert found.restoration_degradation.look_back == 0.4


def test_a_new_solver_and_a_new_divergence(monkeypatch):
    monkeypatch.setitem(likelihood.FLOW_SOLVERS, "few", lambda steps=5: likelihood.Adams(steps, 1))
    section = base("vp", "mlp", "digits").likelihood
    section.solver = "few"
    section.few.steps = 7
    section.few.steps = 7
    assert build_flow_solver(section) == likelihood.Adams(7, 1)


def test_a_number_that_no_method_takes_is_told_with_its_key():
    for keys, words in {
        ("langevin", "snr", -1.0): r"sampling\.langevin\.snr is -1.0; it must be finite",
        ("ancestral", "variance", "none"): r"sampling\.ancestral\.variance is 'none'",
    }.items():
        ours = config(predictor="ancestral", corrector="langevin")
        ours.sampling[keys[0]][keys[1]] = keys[2]
        with pytest.raises(ValueError, match=words):
            build_sampler(ours.sampling, VP())


def test_keys_of_methods_that_are_not_chosen_are_refused():
    ours = config(predictor="ddim")
    ours.sampling.edm.s_churn = 40.0
    words = r"sampling\.edm\.s_churn is set to 40.0, and .*sampling\.predictor is 'ddim'"
    with pytest.raises(ValueError, match=words):
        check_flags(ours, ["sampling.edm.s_churn", "sampling.steps"])
    with pytest.raises(ValueError, match=words):
        check_file(ours)
    check_flags(ours, ["sampling.ddim.eta", "sampling.steps", "training.n_iters"])
    ours.sampling.predictor = "edm"
    check_file(ours)
    check_flags(ours, ["sampling.edm.s_churn"])
    ours.sampling.method = "ode"  # a method without a predictor
    with pytest.raises(ValueError, match=r"sampling\.method is 'ode'"):
        check_flags(ours, ["sampling.edm.s_churn"])


@pytest.mark.parametrize("law", ["vp", "ve", "edm"])
def test_defaults_of_every_law_refuse_nothing(law):
    for continuous in (True, False):
        check_file(base(law, "ncsnpp", "digits", continuous))


def test_old_names_reach_the_chosen_method():
    """Every option has a value of its own, so that a swap of two options is seen."""
    section = config(predictor="unipc", corrector="ald", snr=0.3, n_steps_each=4).sampling
    section.update(solver_order=3, form="noise", variant="b1", order="original", norm="batch")
    found = modern("sampling", section)
    assert found.unipc.to_dict() == {"order": 3, "form": "noise", "variant": "b1"}
    assert found.ald.to_dict() == {"snr": 0.3, "n_steps": 4, "norm": "batch"}
    assert found.pc.order == "original" and found.langevin.snr == 0.16
    assert modern("sampling", found) == found


def test_names_of_score_sde_from_other_sections():
    """Each old key moves to its new place, which depends on the chosen loss."""
    ours = config(noise_removal=False)
    ours.training.update(reduce_mean=False, likelihood_weighting=True)
    found = modernised(ours)
    loss = found.loss.denoising
    assert (loss.reduce_mean, loss.weighting, found.sampling.denoise) == (
        False, "likelihood", False
    )  # fmt: skip
    assert modernised(found) == found and "reduce_mean" not in pruned(found).training
    levels = base("ve", "ncsnpp", "digits", continuous=False)
    levels.training.reduce_mean = True
    assert modernised(levels).loss.discrete.reduce_mean is True
    levels.training.likelihood_weighting = True
    with pytest.raises(
        ValueError, match=r"training\.likelihood_weighting is set to True, .*'discrete'"
    ):
        modernised(levels)


def test_an_old_name_of_a_method_that_is_not_chosen():
    section = config(predictor="heun", snr=0.3).sampling
    with pytest.raises(ValueError, match=r"sampling\.snr is set to 0.3.*corrector is 'none'"):
        modern("sampling", section)
    assert modern("sampling", section, strict=False).langevin.snr == 0.16


# Part of the `sampling` of an old config.json, before methods had sections.
FLAT = {
    "order": "paper", "solver_order": 2, "form": "data", "variant": "b2", "eta": 0.5, "snr": 0.3,
    "n_steps_each": 2, "norm": "example", "sigma_data": 1.25, "lml": 0.0, "gamma": 1.0,
    "rtol": 1e-3, "max_steps": 77, "solver": "dopri5", "variable": "t", "batching": "example",
    "s_churn": 0.0, "restarts": (), "probability_flow": False, "chain_moves": 10,
}  # fmt: skip


def test_a_stored_config_of_before_fits_every_method():
    """An old config has the keys of all methods. Each key goes to the chosen method that reads it,
    and the others are dropped."""
    for predictor in samplers.PREDICTORS:
        section = config(predictor=predictor, corrector="langevin", **FLAT).sampling
        found = modern("sampling", section, strict=False)
        assert (found.pc.order, found.langevin.snr, found.langevin.n_steps) == ("paper", 0.3, 2)
        for key, value in {"order": 2, "form": "data", "eta": 0.5}.items():
            assert found.get(predictor, {}).get(key, value) == value
        build_sampler(found, VP())
    found = modern("sampling", config(method="ode", **FLAT).sampling, strict=False)
    assert (found.ode.rtol, found.ode.max_steps, found.ode.solver) == (1e-3, 77, "dopri5")
    found = modern("sampling", config(method="dpm_adaptive", **FLAT).sampling, strict=False)
    assert (found.dpm_adaptive.order, found.dpm_adaptive.form) == (2, "data")


def test_a_workdir_of_before_losses_had_sections(tmp_path):
    """The run goes on under the same config, and a change of the loss is still refused."""
    ours = config()
    ours.loss.denoising.stratify = True
    kept = pruned(modernised(ours)).to_dict()
    kept["loss"] = {"name": "denoising", **kept["loss"]["denoising"]}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    experiment = build(ours)
    again = {"training": True, "read": experiment.stored}
    assert claim(tmp_path, experiment.settings, **again) == []
    ours.loss.denoising.weighting = "likelihood"
    with pytest.raises(ValueError, match=r"loss\.denoising\.weighting is 'variance' there"):
        claim(tmp_path, build(ours).settings, **again)


def test_every_old_name_has_a_place():
    """Each target of an old name is an option of some method."""
    targets = [place for old in OLD.values() for place in old.places if place.count(".") == 2]
    assert len(targets) > 60
    for target in targets:
        name, place, option = target.split(".")
        tables = {choice.key: choice.table for choice in CHOICES if choice.section == name}
        methods = tables[place[1:-1]] if place[0] == "{" else (place,)
        assert any(option in sections(name).get(method, {}) for method in methods), target


def test_a_run_writes_the_sections_that_it_uses():
    ours = pruned(config(predictor="edm", corrector="langevin", grid="karras"))
    inner = {key for key, value in ours.sampling.items() if isinstance(value, ConfigDict)}
    assert inner == {"pc", "edm", "langevin", "karras"}
    assert None not in ours.sampling.values()
    assert used("sampling", config(method="ode").sampling) == {"ode"}
    # A method may read another's section: `denoising_mcmc` takes its steps from "pc".
    chains = config(method="denoising_mcmc", predictor="heun")
    assert used("sampling", chains.sampling) == {"denoising_mcmc", "pc"}
    check_flags(chains, ["sampling.pc.order", "sampling.denoising_mcmc.eta"])


def test_keywords_of_a_run_may_be_keys_of_its_methods():
    experiment = build(config(steps=2))
    other = replaced(experiment, "sampling", s_churn=40.0, predictor="edm", steps=5)
    assert (other.config.sampling.edm.s_churn, other.config.sampling.steps) == (40.0, 5)
    assert experiment.config.sampling.predictor == "euler_maruyama"
    with pytest.raises(ValueError, match=r"sampling\.s_churn is set to 40.0"):
        replaced(experiment, "sampling", s_churn=40.0)


def test_grids_have_options():
    """`rho` reaches the grid: at `rho = 1` the noise levels of `karras` are evenly spaced."""
    ours = config(predictor="heun", grid="karras", steps=4, denoise=False)
    ours.sampling.karras.rho = 1.0
    predict = Gaussian.scalar(0.0, 1.0).predict(VP())
    ts = build_sampler(ours.sampling, VP())(jax.random.key(0), predict, jnp.ones((1, 1))).ts
    sigma = np.exp(-np.asarray(VP().lam(ts), np.float64))
    np.testing.assert_allclose(np.diff(sigma), np.diff(sigma).mean(), rtol=1e-3)


def test_sections_are_described():
    ours = base("vp", "mlp", "digits")
    assert "s_churn: float = 0.0" in describe("sampling.edm", ours)
    assert "sampling.predictor is one of euler_maruyama" in describe("sampling", ours)
    assert "It has no keys of its own" in describe("sampling.heun", ours)
    with pytest.raises(ValueError, match="did you mean 'langevin'"):
        describe("sampling.langevine", ours)
    with pytest.raises(ValueError, match="did you mean 'sampling'"):
        describe("samplng", ours)


@pytest.mark.parametrize(
    "line, words",
    [
        (
            'c.guidance.mask = "left"',
            r"guidance\.mask to 'left', .* such as guidance\.mask\.keep\.$",
        ),
        ('c.sampling.steps = "many"', r"sampling\.steps to 'many', .* int; .* its default 1000\.$"),
        (
            "s = c.sampling; s.edm.s_churn = ()",
            r"sampling\.edm\.s_churn to \(\), .* default 0\.0\.$",
        ),
        ('c.seed = "x"', r" seed to 'x', and it is of type int"),
        ("c.eval.update(features=3)", r"eval\.features to 3, and it is of type tuple"),
    ],
)
def test_a_file_that_sets_a_value_of_another_type(tmp_path, line, words):
    file = tmp_path / "mine.py"
    start = (
        "from configs.base import base\ndef get_config():\n    c = base('vp', 'mlp', 'digits')\n"
    )
    file.write_text(f"{start}    {line}\n    return c\n")
    with pytest.raises(ValueError, match=words) as error:
        config_of_file(str(file))
    assert str(error.value).startswith(f"{file} sets ") and "\n" not in str(error.value)
    file.write_text("def get_config():\n    return len(3)\n")
    with pytest.raises(TypeError, match="has no len"):
        config_of_file(str(file))
