"""The conversion of the original's parameters and configs to ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import DDPM, NCSN, NCSNpp
from tools.original import fit, model_of

LEVELS = {"sigma_min": 0.01, "sigma_max": 50.0, "num_scales": 7}
BLOCKS = {
    **LEVELS,
    "nf": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [8],
    "resamp_with_conv": True,
    "conditional": True,
    "normalization": "GroupNorm",
    "nonlinearity": "swish",
    "scale_by_sigma": False,
}
NCSNPP = {
    **BLOCKS,
    "name": "ncsnpp",
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_input": "residual",
    "progressive_combine": "sum",
    "embedding_type": "positional",
    "attention_type": "ddpm",
    "conv_size": 3,
}
NCSN_ = {
    **LEVELS,
    "name": "ncsn",
    "nf": 4,
    "normalization": "InstanceNorm++",
    "nonlinearity": "elu",
    "interpolation": "bilinear",
    "scale_by_sigma": False,
}


def config(model, size=16, continuous=True, **options):
    data = {"image_size": size, "num_channels": 3, "centered": False}
    training = {"continuous": continuous, "sde": "vesde"}
    return {"data": data, "model": {**model, **options}, "training": training}


def test_fit():
    row = np.arange(3.0)
    source = {"norm": {"scale": row.reshape(1, 1, 1, 3), "bias": row}, "conv": {"kernel": row}}
    leaf = jax.ShapeDtypeStruct((3,), jnp.float32)
    equal = fit(source, {"norm": {"scale": leaf, "bias": leaf}, "conv": {"kernel": leaf}})
    assert equal[1:] == ((), (), ()) and equal.problem() is None
    assert equal.params["norm"]["scale"].tolist() == row.tolist()

    wide = jax.ShapeDtypeStruct((1, 1, 1, 3), jnp.float32)
    other = fit(source, {"norm": {"scale": leaf, "bias": wide}, "dense": {"kernel": leaf}})
    assert other.missing == ("dense/kernel",)
    assert other.unexpected == ("conv/kernel",)
    assert other.mismatched == (("norm/bias", (3,), (1, 1, 1, 3)),)
    assert list(other.params) == ["norm"] and list(other.params["norm"]) == ["scale"]
    assert other.problem() == "dense/kernel is missing (1 such)"


def test_a_transposed_kernel_does_not_fit():
    found = fit({"kernel": np.zeros((2, 3))}, {"kernel": np.zeros((3, 2))})
    assert found.mismatched == (("kernel", (2, 3), (3, 2)),)
    assert found.problem() == "kernel has shape (2, 3), not (3, 2) (1 such)"


def test_model_of():
    module, key = model_of(config(NCSNPP, progressive="Output_Skip", dropout=0.3))
    assert isinstance(module, NCSNpp) and key == "time_cond"
    assert module.ch_mult == (1, 2) and module.progressive == "output_skip"
    assert module.fir_kernel == (1, 3, 3, 1) and module.dropout == 0.3 and not module.centered
    module, key = model_of(config(BLOCKS, name="ddpm", normalization="VarianceNorm"))
    assert isinstance(module, DDPM) and key == "labels"
    assert module.normalization == "VarianceNorm" and module.num_scales == 7
    module, key = model_of(config(NCSN_, num_classes=5))
    assert isinstance(module, NCSN) and module.num_classes == 5


@pytest.mark.parametrize(
    "kernel, taps", [([[1, 2], [2, 4]], (3, 6)), ([5], (0, 5, 0)), ([4, 1, 2], (4, 1, 2))], ids=str
)
def test_kernels(kernel, taps):
    assert model_of(config(NCSNPP, fir_kernel=kernel))[0].fir_kernel == taps


@pytest.mark.parametrize(
    "given, message",
    [
        (config(NCSNPP, name="wideresnet"), "Unknown model.name 'wideresnet'; known: 'ncsnpp'"),
        (config(NCSNPP, progressive="skip"), "Unknown progressive 'skip'"),
        (config(NCSN_, normalization="VarianceNorm"), r"known: 'InstanceNorm\+\+'"),
        (config(BLOCKS, name="ddpm", nonlinearity="gelu"), "Unknown nonlinearity 'gelu'"),
        (config(NCSN_, interpolation="bicubic"), "Unknown interpolation 'bicubic'"),
        (config(BLOCKS, name="ncsnv2_64"), "lacks model.interpolation"),
        (config({}), "lacks model.name"),
        ({"data": {}}, "no section 'model'"),
        ([], "no section 'data'"),
        (config(NCSN_, size=15), "15x15 do not fit"),
        (config(NCSNPP, fir_kernel=[[1, 2], [3, 4]]), "not the outer product of a list with"),
        (config(NCSNPP, embedding_type="Fourier", continuous=False), "continuous training only"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(ValueError, match=message):
        model_of(given)
