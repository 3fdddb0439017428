"""The config files are complete, can be built, and have the paper's values."""

import dataclasses
import inspect
import json
import runpy
from functools import reduce

import jax
import jax.numpy as jnp
import pytest
from program import ROOT

import data
import sde_lib
from builders import constructors
from builders.constructors import section_of
from builders.experiment import build
from builders.model import build_model
from builders.path import build_path
from builders.sampling import build_sampler
from builders.sections import pruned
from builders.sources import build_data
from builders.steps import Known
from configs.base import NETWORKS, base
from configs.cifar10 import cifar10
from configs.digits import digits
from training.state import parameter_count

FILES = sorted(
    path.relative_to(ROOT / "configs")
    for path in (ROOT / "configs").rglob("*.py")
    if "def get_config" in path.read_text()
)
# The models of the paper's main tables; the others, and sizes, are in test_original_configs.py.
CIFAR10 = [path for path in FILES if path.match("cifar10_*pp*_continuous.py")]


def load(path):
    return runpy.run_path(str(ROOT / "configs" / path))["get_config"]()


def fields(constructor):
    """Return the defaults of a dataclass's own fields, without those that Flax adds."""
    return {
        field.name: field.default
        for field in dataclasses.fields(constructor)
        if field.name not in ("parent", "name")
    }


COUNTS = {}


def count(config, shape=(32, 32, 3)):
    """Count the parameters of the config's network by tracing it. Each network is traced once."""
    model = build_model(config, shape)
    key = json.dumps(config.model.to_dict())
    if key not in COUNTS:
        x, cond = jnp.zeros((1, *shape)), jnp.ones(1)
        variables = jax.eval_shape(model.init, jax.random.key(0), x, cond)
        COUNTS[key] = parameter_count(variables["params"])
    return COUNTS[key]


# Sections of one constructor, and their values that differ from its defaults.


def test_laws():
    """Some laws have the values of their papers, and every section has exactly its law's fields."""
    assert section_of("sde", "vp") == {
        "name": "vp",
        "beta_min": 0.1,
        "beta_max": 20.0,
        "t0": 1e-5,
        "t1": 1.0,
    }
    assert section_of("sde", "edm") == {"name": "edm", "t0": 0.002, "t1": 80.0}
    assert section_of("sde", "kinetic") == {"name": "kinetic", "table": "", "t0": 1e-5, "t1": 0.999}
    for name, law in sde_lib.SDES.items():
        own = {field.name for field in dataclasses.fields(law)}
        assert section_of("sde", name).keys() == own | {"name"}


# Fields that the config sets in other sections (`data.centered`, `sde.sigma_min`).
FROM_ELSEWHERE = {"centered", "sigma_min", "sigma_max"}


@pytest.mark.parametrize("name", constructors.NETWORKS)
def test_networks(name):
    """A section has all fields of its network, also those whose default is no plain value."""
    own = fields(constructors.NETWORKS[name])
    found = base("vp", name, "digits").model.to_dict()
    assert found.keys() == own.keys() - FROM_ELSEWHERE | {"name"}
    differing = {key for key, value in found.items() if key in own and value != own[key]}
    assert differing == {"dtype", *NETWORKS.get(name, {})}


GIVEN = {"path": "p", "name": "n", "label_key": "l", "image_key": "i", "crop": (7,),
         "image_size": (8, 9), "num_channels": 2, "holdout": 0.3, "convert": True,
         "class_folders": True, "workers": 3}  # fmt: skip


@pytest.mark.parametrize("name", data.SOURCES)
def test_data(name, monkeypatch):
    """Each option reaches the loader's argument of the same name."""
    arguments = inspect.signature(data.SOURCES[name]).parameters.keys() - {"split"}
    section = base("vp", "mlp", name).data
    wanted = {key: GIVEN[key] for key in arguments}
    section.update(wanted)
    calls = []
    monkeypatch.setattr(data, "load", lambda *args, **given: calls.append((args, given)))
    build_data(section)
    assert calls == [((name, split), wanted) for split in ("train", "test")]


# Every file.


def test_there_are_configs():
    assert len(FILES) >= 15 and len(CIFAR10) >= 12


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_file_loads_and_every_part_can_be_built(path):
    config = load(path)
    json.dumps(config.to_dict())
    law = build_path(config.sde)
    assert (law.t0, law.t1) == (config.sde.t0, config.sde.t1)
    assert build_sampler(config.sampling, law, Known(config.training.continuous))
    if config.data.dataset == "digits":
        assert build(config).shape == (8, 8, 1)
    # Training and the likelihood use the same smallest time.
    assert config.likelihood.eps == config.sde.t0
    # A network conditioned on sigma takes its logarithm; one on a label or log-SNR must not.
    # Classifiers are always conditioned on sigma, so their section is not tested.
    if config.loss.name == "classification":
        return
    told_sigma = config.prediction.conditioning == "sigma"
    assert (config.model.get("embedding_type") == "fourier") == told_sigma


@pytest.mark.parametrize("law", sde_lib.SDES)
@pytest.mark.parametrize("network, dataset", [("mlp", "npz"), ("ncsnpp", "image_folder")])
def test_base_conditions_networks_in_their_own_terms(law, network, dataset):
    config = base(law, network, dataset)
    told_sigma = config.prediction.conditioning == "sigma"
    assert (config.model.embedding_type == "fourier") == told_sigma


@pytest.mark.parametrize("path", CIFAR10, ids=str)
def test_folders_and_names_say_what_is_inside(path):
    config, name = load(path), path.name
    assert config.sde.name == path.parent.name
    assert config.model.num_res_blocks == (8 if "_deep_" in name else 4)
    assert config.model.fir == ("ncsnpp" in name)
    assert config.model.progressive_input == ("residual" if "ncsnpp" in name else "none")


def test_parameter_counts():
    """62.8 and 107.6 million are the sizes of the released models."""
    ncsnpp, deep = count(cifar10("ve", "ncsnpp")), count(cifar10("ve", "ncsnpp", deep=True))
    assert round(ncsnpp / 1e6, 1) == 62.8
    assert round(deep / 1e6, 1) == 107.6
    # DDPM++ lacks the pyramid of the input: 3x3 convolutions for three halvings.
    pyramid = sum(9 * m * n + n for m, n in ((3, 128), (128, 256), (256, 256)))
    assert count(cifar10("ve", "ddpmpp")) == ncsnpp - pyramid
    # A positional embedding has no 128 frequencies, and its layer of 512 gets 128 features less.
    for law in ("vp", "subvp"):
        assert count(cifar10(law, "ncsnpp")) == ncsnpp - 128 - 128 * 512


# Song et al. 2021, appendices C, F, G, H. Adam's beta2 and epsilon are from the authors' code.
PAPER = {
    "optim.optimizer": "adam",
    "optim.lr": 2e-4,
    "optim.beta1": 0.9,
    "optim.beta2": 0.999,
    "optim.eps": 1e-8,
    "optim.warmup": 5000,
    "optim.grad_clip": 1.0,
    "optim.weight_decay": 0.0,
    "optim.schedule": "constant",
    "training.batch_size": 128,
    "training.snapshot_freq": 50_000,
    "model.nf": 128,
    "model.ch_mult": (1, 2, 2, 2),
    "model.attn_resolutions": (16,),
    "model.dropout": 0.1,
    "model.resblock_type": "biggan",
    "model.skip_rescale": True,
    "model.fir_kernel": (1, 3, 3, 1),
    "model.init_scale": 0.0,
    "model.fourier_scale": 16.0,
    "loss.denoising.weighting": "variance",
    "loss.denoising.time_sampling": "uniform",
    "loss.denoising.stratify": False,
    "sampling.steps": 1000,
    "sampling.grid": "uniform",
    "sampling.denoise": True,
    "sampling.langevin.n_steps": 1,
    "sampling.ode.rtol": 1e-5,
    "sampling.ode.atol": 1e-5,
    "likelihood.tsit5.rtol": 1e-5,
    "likelihood.tsit5.atol": 1e-5,
    "likelihood.eps": 1e-5,
    "likelihood.divergence": "rademacher",
    "likelihood.rademacher.num_probes": 1,
    "eval.bpd_repeats": 5,
    "eval.num_samples": 50_000,
    "data.name": "cifar10",
    "data.random_flip": True,
    "data.uniform_dequantization": False,
    "sde.t0": 1e-5,
    "sde.t1": 1.0,
}
BETAS = {"sde.beta_min": 0.1, "sde.beta_max": 20.0}
PAPER_OF = {
    "ve": {
        "sde.sigma_min": 0.01,
        "sde.sigma_max": 50.0,
        "training.ema_rate": 0.999,
        "loss.denoising.reduce_mean": False,
        "data.centered": False,
        "prediction.kind": "score",
        "prediction.conditioning": "sigma",
        "model.embedding_type": "fourier",
        "model.scale_by_sigma": True,
        "sampling.predictor": "reverse_diffusion",
        "sampling.corrector": "langevin",
        "sampling.langevin.snr": 0.16,
        "sampling.eps": 1e-5,
    },
    "vp": {
        **BETAS,
        "training.ema_rate": 0.9999,
        "loss.denoising.reduce_mean": True,
        "data.centered": True,
        "prediction.kind": "eps",
        "prediction.conditioning": "label",
        "model.embedding_type": "positional",
        "model.scale_by_sigma": False,
        "sampling.predictor": "euler_maruyama",
        "sampling.corrector": "none",
        "sampling.eps": 1e-3,
    },
}
PAPER_OF["subvp"] = PAPER_OF["vp"]


@pytest.mark.parametrize("path", CIFAR10, ids=str)
def test_numbers_of_the_paper(path):
    config = load(path)
    n_iters = 950_000 if "_deep_" in path.name else 1_300_000
    expected = {**PAPER, **PAPER_OF[config.sde.name], "training.n_iters": n_iters}
    found = {
        key: reduce(lambda section, name: section[name], key.split("."), config) for key in expected
    }
    assert found == expected


def test_digits_differ_by_their_law_alone():
    configs = {law: pruned(digits(law)).to_dict() for law in ("vp", "subvp", "ve")}
    for section in ("data", "model", "prediction", "loss", "optim", "training", "eval"):
        assert configs["vp"][section] == configs["subvp"][section] == configs["ve"][section]


# The values of flags.

PRINT = """
import json, sys
import main

main.parse_flags(sys.argv)
config = main.CONFIG.value.to_dict()
keys = [word.split("=")[0].removeprefix("--config.") for word in sys.argv if "=" in word]
for key in keys:
    section, name = key.split(".")
    print(repr(config[section][name]))
"""


def test_overrides_take_the_type_of_the_default(program):
    given = {
        "model.ch_mult=(1,2)": (1, 2),
        "model.attn_resolutions=[8,16]": (8, 16),
        "eval.features=pixels": ("pixels",),
        "optim.lr=1": 1.0,
        "optim.grad_clip=0": 0.0,
        "training.batch_size=16": 16,
        "training.n_iters=1_000": 1000,
        "model.fir=true": True,
        "data.path=7": "7",
        "sampling.corrector=none": "none",
    }
    result = program.script(
        PRINT,
        *("--config", ROOT / "configs" / "vp" / "cifar10_ncsnpp_continuous.py"),
        *("--workdir", "unused", "--mode", "train"),
        *(f"--config.{text}" for text in given),
    )
    assert result.status == 0, result.err
    assert result.out.splitlines() == [repr(value) for value in given.values()]


def test_overrides_in_the_other_spellings(program):
    """Boolean flags are given by `NAME` or `noNAME`, and a value can be a word of its own."""
    script = "import main, sys\nmain.parse_flags(sys.argv)\nconfig = main.CONFIG.value\n"
    script += "print(config.training.progress, config.sampling.denoise, config.training.n_iters)"
    result = program.script(
        script,
        "--config=configs/digits_vp.py",
        *("--workdir", "unused", "--mode", "train", "--noconfig.training.progress"),
        *("--config.sampling.denoise", "--config.training.n_iters", "77"),
    )
    assert (result.status, result.out) == (0, "False True 77\n"), result.err
