"""The border between levels and model: exact inverses, unbiased noise, the right volume."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.scaling import Scaler, dequantization_noise, random_flip

LEVELS = [2, 17, 256, 1000, 65536]
LEVELS_AND_JIT = [(levels, True) for levels in LEVELS] + [(17, False), (256, False)]


def all_levels(levels):
    return jnp.arange(levels, dtype=jnp.uint8 if levels <= 256 else jnp.uint16)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("levels, jit", LEVELS_AND_JIT)
def test_levels_come_back_exactly_without_noise(levels, centered, jit):
    scaler = Scaler(levels, centered, dequantize=False)
    round_trip = lambda raw: scaler.quantize(scaler.to_model(None, raw))
    raw = all_levels(levels)
    back = (jax.jit(round_trip) if jit else round_trip)(raw)
    assert back.dtype == raw.dtype
    np.testing.assert_array_equal(back, raw)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("levels, jit", LEVELS_AND_JIT)
@pytest.mark.parametrize("bits", [0, 2**32 - 1, None])
def test_levels_come_back_exactly_from_noise(monkeypatch, levels, centered, jit, bits):
    """With drawn noise, and with the smallest and the largest that can be drawn."""
    if bits is not None:
        constant = lambda key, shape, dtype: jnp.full(shape, bits, dtype)
        monkeypatch.setattr(jax.random, "bits", constant)
    scaler = Scaler(levels, centered, dequantize=True)
    round_trip = lambda key, raw: scaler.quantize(scaler.to_model(key, raw))
    raw = jnp.tile(all_levels(levels), 1 if bits is not None else max(1, 2**18 // levels))
    back = (jax.jit(round_trip) if jit else round_trip)(jax.random.key(0), raw)
    np.testing.assert_array_equal(back, raw)


@pytest.mark.parametrize("levels", [17, 256])
def test_noise_is_uniform(levels):
    n = 2**18
    u = np.asarray(dequantization_noise(jax.random.key(1), (n,), levels), np.float64)
    assert u.min() > 0 and u.max() < 1
    # Moments of U(0, 1), each within 4 of its own standard errors.
    for power in (1, 2, 3, 4):
        variance = 1 / (2 * power + 1) - 1 / (power + 1) ** 2
        assert abs((u**power).mean() - 1 / (power + 1)) < 4 * math.sqrt(variance / n), power
    neighbours = np.corrcoef(u[:-1], u[1:])[0, 1]
    assert abs(neighbours) < 4 / math.sqrt(n)


@pytest.mark.parametrize("centered", [False, True])
def test_model_values_are_where_they_should_be(centered):
    raw = jnp.array([[0, 255]], jnp.uint8)
    low, high = (-1, 1) if centered else (0, 1)
    plain = Scaler(256, centered, dequantize=False).to_model(None, raw)
    assert plain.dtype == jnp.float32
    np.testing.assert_array_equal(plain, [[low, high]])
    noisy = np.asarray(Scaler(256, centered, True).to_model(jax.random.key(0), raw))[0]
    width = (high - low) / 256
    assert low < noisy[0] < low + width and high - width < noisy[1] < high


@pytest.mark.parametrize("centered, dequantize", itertools.product([False, True], repeat=2))
def test_quantize_has_no_bias(centered, dequantize):
    """Truncation of the undequantised would be off by half a level."""
    scaler = Scaler(256, centered, dequantize)
    n = 100_001
    unit = (np.arange(n) + 0.5) / n
    y = jnp.asarray(2 * unit - 1 if centered else unit, jnp.float32)
    level = np.asarray(scaler.quantize(y), np.float64)
    exact = unit * 256 - 0.5 if dequantize else unit * 255
    assert abs((level - exact).mean()) < 1e-3
    assert np.abs(level - exact).max() < 0.501


def test_values_out_of_range_are_clipped():
    scaler = Scaler(17, True, True)
    y = jnp.array([-1.5, -1.0, 1.0, 7.0])
    np.testing.assert_array_equal(scaler.to_unit(y), [0, 0, 1, 1])
    np.testing.assert_array_equal(scaler.quantize(y), [0, 0, 16, 16])


def test_half_precision_samples_quantize_as_their_float32_values():
    scaler = Scaler(256, True, True)
    y = jnp.linspace(-1, 1, 1001, dtype=jnp.bfloat16)
    np.testing.assert_array_equal(scaler.quantize(y), scaler.quantize(y.astype(jnp.float32)))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("levels", LEVELS)
def test_log_volume_is_the_log_derivative(levels, centered):
    scaler = Scaler(levels, centered, dequantize=True)
    slope = jax.vmap(jax.grad(scaler.affine))(jnp.linspace(0.0, levels, 5))
    np.testing.assert_allclose(np.log(slope), scaler.log_volume(), rtol=1e-6)


def test_affine_is_to_model_without_noise():
    raw = all_levels(256)
    scaler = Scaler(256, True, True)
    key = jax.random.key(3)
    level = raw.astype(jnp.float32) + dequantization_noise(key, raw.shape, 256)
    np.testing.assert_array_equal(scaler.to_model(key, raw), scaler.affine(level))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("levels", LEVELS)
def test_bits_per_dim_of_the_uniform_law_is_log2_of_the_levels(levels, centered):
    scaler = Scaler(levels, centered, dequantize=True)
    log_density = -math.log(2) if centered else 0.0  # of the uniform law on the model's range
    bits = -(log_density + scaler.log_volume()) / math.log(2)
    assert bits == pytest.approx(math.log2(levels), rel=1e-12)


def test_bits_per_dim_of_a_known_law_is_its_code_length():
    """A density that is constant on every bin codes level u in -log2 P(u) bits, no more."""
    scaler = Scaler(17, True, True)
    law = np.random.default_rng(0).dirichlet(np.ones(17))
    raw = jnp.asarray(np.random.default_rng(1).choice(17, 1000, p=law), jnp.uint8)
    y = np.asarray(scaler.to_model(jax.random.key(0), raw), np.float64)
    # np.digitize, so that the bin is found without the scaler.
    bins = np.digitize(y, np.linspace(-1, 1, 18)) - 1
    log_density = np.log(law[bins] / (2 / 17))
    bits = -(log_density + scaler.log_volume()) / math.log(2)
    np.testing.assert_allclose(bits, -np.log2(law[np.asarray(raw)]), rtol=1e-9)


def test_the_offset_of_centered_8_bit_images_is_7():
    assert -Scaler(256, True, True).log_volume() / math.log(2) == pytest.approx(7)
    assert -Scaler(256, False, True).log_volume() / math.log(2) == pytest.approx(8)


@pytest.mark.parametrize("new_style", [True, False])
def test_noise_and_flip_of_an_example_depend_on_its_own_key_only(new_style):
    keys = jax.random.split((jax.random.key if new_style else jax.random.PRNGKey)(0), 6)
    raw = np.random.default_rng(1).integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
    scaler = Scaler(256, True, True)
    order = np.array([4, 1, 5, 0, 3, 2])
    for act in (scaler.to_model, random_flip):
        whole = act(keys, raw)
        np.testing.assert_array_equal(act(keys[order], raw[order]), whole[order])
        np.testing.assert_array_equal(act(keys[2:3], raw[2:3]), whole[2:3])
    noise = scaler.to_model(keys, np.zeros_like(raw))
    assert len(np.unique(np.asarray(noise)[:, 0, 0, 0])) == 6


def test_one_key_gives_every_pixel_its_own_noise():
    y = np.asarray(Scaler(256, False, True).to_model(jax.random.key(0), jnp.zeros((4, 3), int)))
    assert len(np.unique(y)) == 12


def test_continuous_data_pass_unchanged():
    scaler = Scaler(0, centered=True, dequantize=True)
    raw = jnp.array([[-3.7, 0.0, 1e-9, 42.0]], jnp.float32)
    y = scaler.to_model(jax.random.key(0), raw)
    np.testing.assert_array_equal(y, raw)
    np.testing.assert_array_equal(scaler.to_unit(y), raw)


def test_a_scaler_is_a_constant_of_a_jitted_program():
    assert jax.tree.leaves(Scaler(256, True, True)) == []
    to_model = jax.jit(lambda scaler, key, raw: scaler.to_model(key, raw))
    raw, key = all_levels(256), jax.random.key(0)
    scaler = Scaler(256, True, True)
    np.testing.assert_array_equal(to_model(scaler, key, raw), scaler.to_model(key, raw))


def test_flip_mirrors_left_to_right_half_of_the_time():
    n = 4000
    images = jax.random.randint(jax.random.key(0), (n, 2, 3, 1), 0, 256).astype(jnp.uint8)
    out = np.asarray(random_flip(jax.random.key(1), images))
    kept = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert out.dtype == np.uint8 and (kept | mirrored).all()
    changed = ~np.asarray(kept)
    symmetric = np.asarray(kept & mirrored).mean()
    assert abs(changed.mean() - 0.5 * (1 - symmetric)) < 4 * 0.5 / math.sqrt(n)


def test_errors_say_what_to_do():
    raw = jnp.zeros((2, 3), jnp.uint8)
    with pytest.raises(ValueError, match=r"continuous data \(levels=0\).*nats"):
        Scaler(0, True, True).log_volume()
    with pytest.raises(ValueError, match="dequantize=True"):
        Scaler(256, True, False).log_volume()
    with pytest.raises(ValueError, match="nothing to quantise"):
        Scaler(0, True, True).quantize(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"float32, but levels=256 means integers 0 to 255"):
        Scaler(256, True, False).to_model(None, jnp.zeros((2, 3), jnp.float32))
    with pytest.raises(ValueError, match="needs a random key"):
        Scaler(256, True, True).to_model(None, raw)
    with pytest.raises(ValueError, match=r"Keys of shape \(1,\) for a batch of shape \(2, 3\)"):
        Scaler(256, True, True).to_model(jax.random.split(jax.random.key(0), 1), raw)
    with pytest.raises(ValueError, match="levels=1"):
        Scaler(1, True, True)
    with pytest.raises(ValueError, match=r"images must be \(B, H, W, C\)"):
        random_flip(jax.random.key(0), raw)
