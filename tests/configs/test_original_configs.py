"""The configs of yang-song/score_sde are complete and have its numbers and network sizes.

The table is copied from the files of that code (commit 0acb9e0), with its slips corrected.
`network_sizes` counts parameters layer by layer; the counts are compared with published sizes.
"""

import dataclasses
import functools
import json
import runpy

import jax
import pytest
from network_sizes import attention, refinenet, unet
from program import ROOT

from builders.checks import check_combinations, check_numbers
from builders.constructors import section_of
from builders.likelihood import build_likelihood
from builders.path import build_path
from builders.sampling import build_sampler
from builders.steps import Known
from builders.training import build_loss, build_optimizer
from data import Scaler
from tools.describe import KNOWN, network_of
from training.state import parameter_count

# `px` is the side of the images, `kiters` thousands of iterations, `time` continuous or discrete,
# `scales` the number of noise levels and steps, `each` the number of corrector steps. `loss` is a
# mean or a sum over pixels.
# fmt: off
COLUMNS = (
    "config", "net", "px", "batch", "kiters", "time", "sigma_max", "scales",
    "predictor", "corrector", "each", "snr",
    "ema", "lr", "warmup", "clip", "dropout", "loss",
)
# fmt: on
TABLE = """
subvp/cifar10_ddpm_continuous        ddpm         32 128 1300 c    - 1000 em -     1  .16 .9999 2e-4 5000 1 .1 mean
subvp/cifar10_ddpmpp_continuous      ddpm++       32 128 1300 c    - 1000 em -     1  .16 .9999 2e-4 5000 1 .1 mean
subvp/cifar10_ddpmpp_deep_continuous ddpm++8      32 128  950 c    - 1000 em -     1  .16 .9999 2e-4 5000 1 .1 mean
subvp/cifar10_ncsnpp_continuous      ncsn++       32 128 1300 c    - 1000 em -     1  .16 .9999 2e-4 5000 1 .1 mean
subvp/cifar10_ncsnpp_deep_continuous ncsn++8      32 128  950 c    - 1000 em -     1  .16 .9999 2e-4 5000 1 .1 mean
vp/cifar10_ddpmpp                    ddpm++       32 128 1300 d    - 1000 as -     1  .16 .9999 2e-4 5000 1 .1 mean
vp/cifar10_ddpmpp_continuous         ddpm++       32 128 1300 c    - 1000 em -     1  .16 .9999 2e-4 5000 1 .1 mean
vp/cifar10_ddpmpp_deep_continuous    ddpm++8      32 128  950 c    - 1000 em -     1  .16 .9999 2e-4 5000 1 .1 mean
vp/cifar10_ncsnpp                    ncsn++       32 128 1300 d    - 1000 rd -     1  .16 .9999 2e-4 5000 1 .1 mean
vp/cifar10_ncsnpp_continuous         ncsn++       32 128 1300 c    - 1000 em -     1  .16 .9999 2e-4 5000 1 .1 mean
vp/cifar10_ncsnpp_deep_continuous    ncsn++8      32 128  950 c    - 1000 em -     1  .16 .9999 2e-4 5000 1 .1 mean
vp/ddpm/bedroom                      ddpm256     256  64 2400 d    - 1000 as -     1 .075 .9999 2e-5 5000 1  0 mean
vp/ddpm/celebahq                     ddpm256     256  64 2400 d    - 1000 as -     1 .075 .9999 2e-5 5000 1  0 mean
vp/ddpm/church                       ddpm256     256  64 2400 d    - 1000 as -     1 .075 .9999 2e-5 5000 1  0 mean
vp/ddpm/cifar10                      ddpm         32 128 1300 d    - 1000 as -     1  .16 .9999 2e-4 5000 1 .1 mean
vp/ddpm/cifar10_continuous           ddpm         32 128 1300 c    - 1000 em -     1  .16 .9999 2e-4 5000 1 .1 mean
vp/ddpm/cifar10_unconditional        ddpm-        32 128 1300 d    - 1000 as -     1  .16 .9999 2e-4 5000 1 .1 mean
ve/bedroom_ncsnpp_continuous         ncsn++256   256  64 2400 c  378 2000 rd lc    1 .075  .999 2e-4 5000 1  0 sum
ve/celeba_ncsnpp                     ncsn++       64 128 1300 d   90 1000 rd lc    1  .17  .999 2e-4 5000 1 .1 sum
ve/celebahq_256_ncsnpp_continuous    ncsn++256   256  64 2400 c  348 2000 rd lc    1 .075  .999 2e-4 5000 1  0 sum
ve/celebahq_ncsnpp_continuous        ncsn++1024 1024   8 2400 c 1348 2000 rd lc    1  .15 .9999 2e-4 5000 1  0 sum
ve/church_ncsnpp_continuous          ncsn++256   256  64 2400 c  380 2000 rd lc    1 .075  .999 2e-4 5000 1  0 sum
ve/cifar10_ddpm                      ddpm         32 128 1300 d   50 1000 rd lc    1  .16  .999 2e-4 5000 1 .1 sum
ve/cifar10_ncsnpp                    ncsn++       32 128 1300 d   50 1000 rd lc    1  .16  .999 2e-4 5000 1 .1 sum
ve/cifar10_ncsnpp_continuous         ncsn++       32 128 1300 c   50 1000 rd lc    1  .16  .999 2e-4 5000 1 .1 sum
ve/cifar10_ncsnpp_deep_continuous    ncsn++8      32 128  950 c   50 1000 rd lc    1  .16  .999 2e-4 5000 1 .1 sum
ve/ffhq_256_ncsnpp_continuous        ncsn++256   256  64 2400 c  348 2000 rd lc    1 .075  .999 2e-4 5000 1  0 sum
ve/ffhq_ncsnpp_continuous            ncsn++1024 1024   8 2400 c 1348 2000 rd lc    1  .15 .9999 2e-4 5000 1  0 mean
ve/ncsn/celeba                       ncsn         64 128 1300 d    1   10 -  ald 100 .316     0 1e-3    0 0  - sum
ve/ncsn/celeba_124                   ncsn         64 128 1300 d   90  500 -  ald   5 .128     0 1e-3    0 0  - sum
ve/ncsn/celeba_1245                  ncsn         64 128 1300 d   90  500 -  ald   5 .128  .999 1e-3    0 0  - sum
ve/ncsn/celeba_5                     ncsn         64 128 1300 d    1   10 -  ald 100 .316  .999 1e-3    0 0  - sum
ve/ncsn/cifar10                      ncsn         32 128 1300 d    1   10 -  ald 100 .316     0 1e-3    0 0  - sum
ve/ncsn/cifar10_124                  ncsn         32 128 1300 d   50  232 -  ald   5 .176     0 1e-3    0 0  - sum
ve/ncsn/cifar10_1245                 ncsn         32 128 1300 d   50  232 -  ald   5 .176  .999 1e-3    0 0  - sum
ve/ncsn/cifar10_5                    ncsn         32 128 1300 d    1   10 -  ald 100 .316  .999 1e-3    0 0  - sum
ve/ncsnv2/bedroom                    ncsnv2_128  128 128 2400 d  190 1086 -  ald   3 .095 .9999 1e-4    0 0  - sum
ve/ncsnv2/celeba                     ncsnv2_64    64 128 1300 d   90  500 -  ald   5 .128  .999 1e-4    0 0  - sum
ve/ncsnv2/cifar10                    ncsnv2_64    32 128 1300 d   50  232 -  ald   5 .176  .999 1e-4    0 0  - sum
"""  # noqa: E501
ROWS = {line.split()[0]: dict(zip(COLUMNS, line.split())) for line in TABLE.split("\n") if line}

# The values that all configs share.
COMMON = {
    "seed": 42,
    "training.snapshot_freq": 50_000,
    "training.log_freq": 50,
    "optim.optimizer": "adam",
    "optim.beta1": 0.9,
    "optim.eps": 1e-8,
    "optim.weight_decay": 0.0,
    "sampling.denoise": True,
    "sde.t0": 1e-5,
    "sde.t1": 1.0,
    # The settings for the FID of the papers.
    "eval.features": ("inception",),
    "eval.reference": "train",
    "eval.bpd_dataset": "test",
    "data.random_flip": True,
    "data.uniform_dequantization": False,
}
OF_LAW = {"beta_min": 0.1, "beta_max": 20.0, "sigma_min": 0.01}
METHODS = {
    "em": "euler_maruyama",
    "rd": "reverse_diffusion",
    "as": "ancestral",
    "lc": "langevin",
    "ald": "ald",
    "-": "none",
}

# Options of the networks that the table names.
UNET = {
    "nf": 128,
    "ch_mult": (1, 2, 2, 2),
    "attn_resolutions": (16,),
    "resamp_with_conv": True,
    "conditional": True,
    "nonlinearity": "swish",
}
PLUSPLUS = {
    **UNET,
    "num_res_blocks": 4,
    "fir": False,
    "fir_kernel": (1, 3, 3, 1),
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_input": "none",
    "progressive_combine": "sum",
    "fourier_scale": 16.0,
    "init_scale": 0.0,
}
NCSNPP = {**PLUSPLUS, "fir": True, "progressive_input": "residual"}
SKIPS = {**NCSNPP, "progressive": "output_skip", "progressive_input": "input_skip"}
REFINENET = {
    "nf": 128,
    "normalization": "InstanceNorm++",
    "nonlinearity": "elu",
    "interpolation": "bilinear",
}
NETS = {
    "ddpm": ("ddpm", {**UNET, "num_res_blocks": 2}),
    "ddpm-": ("ddpm", {**UNET, "num_res_blocks": 2, "conditional": False}),
    "ddpm256": ("ddpm", {**UNET, "num_res_blocks": 2, "ch_mult": (1, 1, 2, 2, 4, 4)}),
    "ddpm++": ("ncsnpp", PLUSPLUS),
    "ddpm++8": ("ncsnpp", {**PLUSPLUS, "num_res_blocks": 8}),
    "ncsn++": ("ncsnpp", NCSNPP),
    "ncsn++8": ("ncsnpp", {**NCSNPP, "num_res_blocks": 8}),
    "ncsn++256": ("ncsnpp", {**SKIPS, "num_res_blocks": 2, "ch_mult": (1, 1, 2, 2, 2, 2, 2)}),
    "ncsn++1024": (
        "ncsnpp",
        {**SKIPS, "num_res_blocks": 1, "nf": 16, "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32)},
    ),
    "ncsn": ("ncsn", REFINENET),
    "ncsnv2_64": ("ncsnv2_64", REFINENET),
    "ncsnv2_128": ("ncsnv2_128", REFINENET),
}


def law_of(row):
    return row["config"].split("/")[0]


def corrections(row):
    """The options of the corrector. Without a corrector the released file's have no effect."""
    name = METHODS[row["corrector"]]
    if name == "none":
        return {}
    own = {"n_steps": int(row["each"]), "snr": float(row["snr"])}
    return {f"sampling.{name}.{key}": value for key, value in own.items()}


def expected(row):
    """Return a row as the keys and values of our config."""
    law, name = law_of(row), NETS[row["net"]][0]
    discrete, ve = row["time"] == "d", law == "ve"
    loss = "discrete" if discrete else "denoising"
    config = {
        **COMMON,
        "sde.name": law,
        "model.name": name,
        "model.num_scales": int(row["scales"]),
        "model.scale_by_sigma": ve and name != "ncsn",
        "training.continuous": not discrete,
        "training.batch_size": int(row["batch"]),
        "training.n_iters": 1000 * int(row["kiters"]),
        "training.ema_rate": float(row["ema"]),
        "loss.name": loss,
        f"loss.{loss}.reduce_mean": row["loss"] == "mean",
        "loss.denoising.weighting": "variance",
        "optim.lr": float(row["lr"]),
        "optim.warmup": int(row["warmup"]),
        "optim.grad_clip": float(row["clip"]),
        "sampling.method": "score_sde" if discrete else "pc",
        "sampling.predictor": METHODS[row["predictor"]],
        "sampling.corrector": METHODS[row["corrector"]],
        **corrections(row),
        "sampling.steps": int(row["scales"]),
        "sampling.eps": 1e-5 if ve else 1e-3,
        "prediction.kind": "score" if ve else "eps",
        # At 1024 px the original has batches of 1024 and 146 GiB of samples, too much to run.
        "eval.num_samples": 1000 if row["px"] == "1024" else 50_000,
        "eval.batch_size": {"32": 1024, "64": 1024, "1024": 8}.get(row["px"], 512),
        "data.centered": not ve,
    }
    told = ("level", "sigma") if ve else ("step", "label")
    config["prediction.conditioning"] = told[0 if discrete else 1]
    if name == "ncsnpp":
        config["model.embedding_type"] = "fourier" if ve and not discrete else "positional"
    if row["dropout"] != "-":
        config["model.dropout"] = float(row["dropout"])
    numbers = ("sigma_min",) if ve else ("beta_min", "beta_max")
    config |= {f"sde.{key}": OF_LAW[key] for key in numbers}
    if ve:
        config["sde.sigma_max"] = float(row["sigma_max"])
    return config | {f"model.{key}": value for key, value in NETS[row["net"]][1].items()}


SECTIONS = {
    "cifar10": {"dataset": "tfds", "name": "cifar10", "image_size": ()},
    "celeba": {
        "dataset": "tfds",
        "name": "celeb_a",
        "eval_split": "validation",
        "crop": (140, 140),
    },
    "bedroom": {"dataset": "tfds", "name": "lsun/bedroom", "eval_split": "validation"},
    "church": {"dataset": "tfds", "name": "lsun/church_outdoor", "eval_split": "validation"},
    "celebahq": {"dataset": "image_folder", "num_channels": 3},
    "ffhq": {"dataset": "image_folder", "num_channels": 3},
}


def load(name):
    return runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()


def at(config, keys):
    """Return the values of a config by dotted key."""
    return {key: functools.reduce(lambda part, k: part[k], key.split("."), config) for key in keys}


def test_the_table_is_complete():
    assert len(ROWS) == 39 and all(len(row) == len(COLUMNS) for row in ROWS.values())


@pytest.mark.parametrize("name", ROWS)
def test_numbers_are_the_originals(name):
    wanted = expected(ROWS[name])
    assert at(load(name), wanted) == wanted


@pytest.mark.parametrize("name", ROWS)
def test_data(name):
    config, side = load(name), int(ROWS[name]["px"])
    wanted = {"image_size": (side, side), **SECTIONS[name.split("/")[-1].split("_")[0]]}
    assert {key: config.data[key] for key in wanted} == wanted
    own = {"dataset", "eval_split", "centered", "random_flip", "uniform_dequantization"}
    assert set(config.data) - own == section_of("data", config.data.dataset).keys() - own


@pytest.mark.parametrize("name", ROWS)
def test_nothing_is_refused(name):
    config = load(name)
    json.dumps(config.to_dict())
    check_numbers(config)
    check_combinations(config)
    path, (model, _) = build_path(config.sde), network_of(config)
    assert build_loss(config, path, model, Scaler(256, config.data.centered, False))
    assert build_sampler(config.sampling, path, Known(config.training.continuous))
    assert build_likelihood(config.likelihood, path)
    assert build_optimizer(config.optim, config.training.n_iters)


# Parameters.


def walked(row):
    """The number of parameters of a row's network, from its layers."""
    network, model = NETS[row["net"]]
    if network in ("ncsn", "ncsnv2_64", "ncsnv2_128"):
        levels = int(row["scales"]) if network == "ncsn" else 0
        return refinenet(model["nf"], levels, large=network == "ncsnv2_128")
    pyramids = {"residual": "residual", "input_skip": "skip"}
    return unet(
        *(model["nf"], model["ch_mult"], model["num_res_blocks"], int(row["px"])),
        ddpm=network == "ddpm",
        fourier=network == "ncsnpp" and law_of(row) == "ve" and row["time"] == "c",
        told=model["conditional"],
        pyramid=pyramids.get(model.get("progressive_input"), "none"),
    )


def test_the_walk_is_right():
    """Ho et al. 2020, appendix B, have 35.7 and 114 million, with two more attention blocks."""
    assert round((walked(ROWS["vp/ddpm/cifar10"]) + 2 * attention(256)) / 1e6, 1) == 35.7
    assert round((walked(ROWS["vp/ddpm/church"]) + 2 * attention(512)) / 1e6) == 114
    counts = {name: walked(row) for name, row in ROWS.items()}
    assert counts.items() >= {(name, KNOWN[name]) for name in KNOWN.keys() & counts.keys()}
    # The sizes of RefineNets with 4 and 8 channels in the released code.
    assert refinenet(8) == 134_043
    assert refinenet(4, large=True) == 82_535
    assert refinenet(4, levels=10) == 48_187


# Fields that do not affect the shapes of a network. `num_scales` does in the embedding of `ncsn`.
WITHOUT_SHAPE = ("dropout", "centered", "scale_by_sigma", "sigma_min", "sigma_max", "num_scales")


@functools.cache
def traced(model, shape):
    inputs = (jax.ShapeDtypeStruct((2, *shape), "float32"), jax.ShapeDtypeStruct((2,), "float32"))
    return jax.eval_shape(model.init_with_output, jax.random.key(0), *inputs)


@pytest.mark.parametrize("name", ROWS)
def test_networks_have_their_size(name):
    model, shape = network_of(load(name))
    side = int(ROWS[name]["px"])
    assert shape == (side, side, 3)
    plain = {
        field.name: field.default
        for field in dataclasses.fields(model)
        if field.name in WITHOUT_SHAPE
        and not (field.name == "num_scales" and NETS[ROWS[name]["net"]][0] == "ncsn")
    }
    output, variables = traced(dataclasses.replace(model, **plain), shape)
    assert parameter_count(variables["params"]) == walked(ROWS[name])
    assert (output.shape, output.dtype) == ((2, *shape), "float32")
