"""Single layers: outputs against the original's, and initial values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.attention import AttnBlockpp
from models.embeddings import GaussianFourierProjection, timestep_embedding
from models.layers import NIN, Combine, Downsample, Upsample, default_init, group_norm

TAPS = (1, 3, 3, 1)
F32 = jnp.float32


@pytest.fixture(scope="module")
def layers(load):
    return load("layers")


@pytest.mark.parametrize("dim", [8, 9, 32, 128])
def test_timestep_embedding(dim, layers):
    y = jax.jit(timestep_embedding, static_argnums=1)(layers["timestep_embedding/t"], dim)
    # The sine's arguments are up to 1e3, and are rounded to 6e-5.
    np.testing.assert_allclose(y, layers[f"timestep_embedding/dim{dim}"], atol=1e-4)


def test_timestep_embedding_refuses_a_width_without_frequencies():
    with pytest.raises(ValueError, match="at least 4, got 3"):
        timestep_embedding(np.zeros(2), 3)


def test_fourier_projection(layers):
    w = layers["fourier/W"]
    module = GaussianFourierProjection(len(w))
    y = jax.jit(module.apply)({"params": {"W": w}}, np.log(layers["fourier/sigma"]))
    np.testing.assert_allclose(y, layers["fourier/out"], atol=2e-4)


@pytest.mark.parametrize(
    "key, module",
    [
        ("ddpm_downsample_conv", Downsample(False, TAPS, True)),
        ("ddpm_upsample_conv", Upsample(False, TAPS, True)),
        ("ddpm_downsample_pool", Downsample(False, TAPS)),
        ("ddpm_upsample_nearest", Upsample(False, TAPS)),
        ("fir_1331/downsample", Downsample(True, TAPS)),
        ("fir_1331/upsample", Upsample(True, TAPS)),
        ("fir_1331/conv_down", Downsample(True, TAPS, True, 5)),
        ("fir_1331/conv_up", Upsample(True, TAPS, True, 5)),
    ],
)
def test_resampling_modules(key, module, layers, jit, rel):
    if module.fir:
        conv = {"weight": layers["fir_1331/conv_weight"], "bias": layers["fir_1331/conv_bias"]}
        params = {"Conv2d_0": conv}
    else:
        params = {"Conv_0": {"kernel": layers["conv3x3/kernel"], "bias": layers["conv3x3/bias"]}}
    assert rel(jit(module.apply)({"params": params}, layers["x"]), layers[key]) < 1e-5


def test_group_norm(layers, jit, rel):
    params = {k: layers[f"group_norm/{k}"].reshape(-1) for k in ("scale", "bias")}
    # With inputs of 1e-3 the epsilon of 1e-6 is as large as the variance.
    y = jit(group_norm(4, dtype=F32).apply)({"params": params}, 1e-3 * layers["x"])
    assert rel(y, layers["group_norm/out_groups1"]) < 1e-5


@pytest.mark.parametrize(
    "channels, groups", [(3, 1), (8, 2), (24, 6), (128, 32), (384, 32), (200, 25), (18, 3)]
)
def test_number_of_groups(channels, groups):
    assert group_norm(channels, dtype=F32).num_groups == groups


@pytest.mark.parametrize("skip_rescale", [False, True])
def test_attention(skip_rescale, layers, jit, rel):
    params = {f"NIN_{i}": {k: layers[f"nin/{k}_{i}"] for k in ("W", "b")} for i in range(4)}
    params["GroupNorm_0"] = {k: layers[f"group_norm/{k}"].reshape(-1) for k in ("scale", "bias")}
    y = jit(AttnBlockpp(skip_rescale, 0.0).apply)({"params": params}, layers["x"])
    assert rel(y, layers[f"attn_block/skip_rescale_{str(skip_rescale).lower()}"]) < 1e-5


def test_combine():
    pyramid, h = (np.full((1, 2, 2, c), value, np.float32) for c, value in ((1, 3.0), (2, 10.0)))
    conv = {"kernel": np.array([[[[2.0, -1.0]]]], "f"), "bias": np.array([0.5, 0.0], "f")}
    run = lambda how: Combine(how).apply({"params": {"Conv_0": conv}}, pyramid=pyramid, h=h)
    found = jax.device_get(jax.jit(lambda: {how: run(how) for how in ("sum", "cat")})())
    assert found["sum"][0, 0, 0].tolist() == [16.5, 7.0]
    assert found["cat"][0, 0, 0].tolist() == [6.5, -3.0, 10.0, 10.0]


@pytest.mark.parametrize("scale, expected", [(1.0, 1.0), (0.1, 0.1), (0.0, 1e-10)])
def test_default_init(scale, expected):
    draw = jax.jit(lambda key: default_init(scale)(key, (3, 3, 40, 60)))
    kernel = np.asarray(draw(jax.random.key(0)))
    fan_average = 9 * (40 + 60) / 2
    variance = expected / fan_average
    # With 21600 uniform draws the sample variance is right to 0.6 %.
    assert np.var(kernel) == pytest.approx(variance, rel=0.03)
    assert np.abs(kernel).max() <= np.sqrt(3 * variance) * 1.0001


def test_nin_starts_small():
    w = jax.jit(NIN(100).init)(jax.random.key(0), np.ones((1, 100), np.float32))["params"]["W"]
    assert np.var(w) == pytest.approx(0.1 / 100, rel=0.05)
