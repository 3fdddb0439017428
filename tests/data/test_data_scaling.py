"""The scaling between levels and model values: exact inverses, unbiased noise, right volume."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.scaling import Scaler, dequantization_noise, random_flip

LEVELS = [2, 17, 256, 1000, 65536]
SCALERS = [Scaler(levels, centered, True) for levels in LEVELS for centered in (False, True)]
PLAIN = [dataclasses.replace(scaler, dequantize=False) for scaler in SCALERS]
KEY = jax.random.key(0)


def all_levels(levels):
    return np.arange(levels, dtype=np.uint8 if levels <= 256 else np.uint16)


def round_trip(scaler, key, raw):
    return scaler.quantize(scaler.to_model(key, raw))


def test_levels_come_back_exactly_without_noise():
    """The round trip is exact for every scaler under `jit`, and for one scaler without `jit`, where
    XLA fuses no products."""
    given = [all_levels(scaler.levels) for scaler in PLAIN]
    found = jax.jit(lambda given: [round_trip(s, None, raw) for s, raw in zip(PLAIN, given)])(given)
    found.append(round_trip(PLAIN[3], None, given[3]))
    for scaler, raw, back in zip([*PLAIN, PLAIN[3]], [*given, given[3]], found):
        assert back.dtype == raw.dtype
        np.testing.assert_array_equal(back, raw, err_msg=str(scaler))


@pytest.mark.parametrize("bits", [0, 2**32 - 1, None])
def test_levels_come_back_exactly_from_noise(monkeypatch, bits):
    """The round trip is exact with random noise and with the smallest and the largest noise."""
    if bits is not None:
        constant = lambda key, shape, dtype: jnp.full(shape, bits, dtype)
        monkeypatch.setattr(jax.random, "bits", constant)
    many = lambda levels: 1 if bits is not None else max(1, 2**18 // levels)
    given = [np.tile(all_levels(scaler.levels), many(scaler.levels)) for scaler in SCALERS]
    both = lambda given: [round_trip(s, KEY, raw) for s, raw in zip(SCALERS, given)]
    found = jax.jit(both)(given)
    found.append(round_trip(SCALERS[3], KEY, given[3]))
    for scaler, raw, back in zip([*SCALERS, SCALERS[3]], [*given, given[3]], found):
        np.testing.assert_array_equal(back, raw, err_msg=str(scaler))


@pytest.mark.parametrize("levels", [17, 256])
def test_noise_is_uniform(levels):
    n = 2**18
    draw = jax.jit(lambda key: dequantization_noise(key, (n,), levels))
    u = np.asarray(draw(jax.random.key(1)), np.float64)
    assert u.min() > 0 and u.max() < 1
    # Each moment agrees with that of U(0, 1) within 4 standard errors.
    for power in (1, 2, 3, 4):
        variance = 1 / (2 * power + 1) - 1 / (power + 1) ** 2
        assert abs((u**power).mean() - 1 / (power + 1)) < 4 * math.sqrt(variance / n), power
    neighbours = np.corrcoef(u[:-1], u[1:])[0, 1]
    assert abs(neighbours) < 4 / math.sqrt(n)


@pytest.mark.parametrize("centered", [False, True])
def test_model_values_are_where_they_should_be(centered):
    raw = np.array([[0, 255]], np.uint8)
    low, high = (-1, 1) if centered else (0, 1)
    scalers = Scaler(256, centered, dequantize=False), Scaler(256, centered, dequantize=True)
    plain, noisy = jax.jit(lambda raw: [scaler.to_model(KEY, raw) for scaler in scalers])(raw)
    assert plain.dtype == np.float32
    np.testing.assert_array_equal(plain, [[low, high]])
    noisy = np.asarray(noisy)[0]
    width = (high - low) / 256
    assert low < noisy[0] < low + width and high - width < noisy[1] < high


@pytest.mark.parametrize("centered, dequantize", itertools.product([False, True], repeat=2))
def test_quantize_has_no_bias(centered, dequantize):
    """`quantize` is unbiased. Truncation without dequantisation would be off by half a level."""
    scaler = Scaler(256, centered, dequantize)
    n = 100_001
    unit = (np.arange(n) + 0.5) / n
    y = np.float32(2 * unit - 1 if centered else unit)
    level = np.asarray(jax.jit(scaler.quantize)(y), np.float64)
    exact = unit * 256 - 0.5 if dequantize else unit * 255
    assert abs((level - exact).mean()) < 1e-3
    assert np.abs(level - exact).max() < 0.501


def test_values_out_of_range_are_clipped():
    scaler = Scaler(17, True, True)
    y = np.array([-1.5, -1.0, 1.0, 7.0], np.float32)
    unit, level = jax.jit(lambda y: (scaler.to_unit(y), scaler.quantize(y)))(y)
    np.testing.assert_array_equal(unit, [0, 0, 1, 1])
    np.testing.assert_array_equal(level, [0, 0, 16, 16])


def test_half_precision_samples_quantize_as_their_float32_values():
    scaler = Scaler(256, True, True)
    y = np.linspace(-1, 1, 1001, dtype=np.float32).astype(jnp.bfloat16)
    quantize = jax.jit(scaler.quantize)
    np.testing.assert_array_equal(quantize(y), quantize(y.astype(np.float32)))


def test_log_volume_is_the_log_derivative():
    at = [np.linspace(0.0, scaler.levels, 5, dtype=np.float32) for scaler in SCALERS]
    slopes = lambda at: [jax.vmap(jax.grad(s.affine))(level) for s, level in zip(SCALERS, at)]
    for scaler, slope in zip(SCALERS, jax.jit(slopes)(at)):
        np.testing.assert_allclose(np.log(slope), scaler.log_volume(), rtol=1e-6)


def test_affine_is_to_model_without_noise():
    raw, scaler = all_levels(256), Scaler(256, True, True)

    @jax.jit
    def both(key, raw):
        level = raw.astype(jnp.float32) + dequantization_noise(key, raw.shape, 256)
        return scaler.to_model(key, raw), scaler.affine(level)

    np.testing.assert_array_equal(*both(KEY, raw))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("levels", LEVELS)
def test_bits_per_dim_of_the_uniform_law_is_log2_of_the_levels(levels, centered):
    scaler = Scaler(levels, centered, dequantize=True)
    log_density = -math.log(2) if centered else 0.0  # of the uniform law on the model's range
    bits = -(log_density + scaler.log_volume()) / math.log(2)
    assert bits == pytest.approx(math.log2(levels), rel=1e-12)


def test_bits_per_dim_of_a_known_law_is_its_code_length():
    """With a density that is constant on every bin, level u costs exactly -log2 P(u) bits."""
    scaler = Scaler(17, True, True)
    law = np.random.default_rng(0).dirichlet(np.ones(17))
    raw = np.random.default_rng(1).choice(17, 1000, p=law).astype(np.uint8)
    y = np.asarray(jax.jit(scaler.to_model)(KEY, raw), np.float64)
    # `np.digitize` finds the bin without the scaler.
    bins = np.digitize(y, np.linspace(-1, 1, 18)) - 1
    log_density = np.log(law[bins] / (2 / 17))
    bits = -(log_density + scaler.log_volume()) / math.log(2)
    np.testing.assert_allclose(bits, -np.log2(law[raw]), rtol=1e-9)


def test_the_offset_of_centered_8_bit_images_is_7():
    assert -Scaler(256, True, True).log_volume() / math.log(2) == pytest.approx(7)
    assert -Scaler(256, False, True).log_volume() / math.log(2) == pytest.approx(8)


@pytest.mark.parametrize("new_style", [True, False])
def test_noise_and_flip_of_an_example_depend_on_its_own_key_only(new_style):
    """An example gets the same noise and flip in another order of the batch, and alone."""
    raw = np.random.default_rng(1).integers(0, 256, (6, 4, 5, 3)).astype(np.uint8)
    scaler, order = Scaler(256, True, True), np.array([4, 1, 5, 0, 3, 2])

    @jax.jit
    def run(raw):
        keys = jax.random.split((jax.random.key if new_style else jax.random.PRNGKey)(0), 6)
        acts = (scaler.to_model, random_flip)
        given = (keys, raw), (keys[order], raw[order]), (keys[2:3], raw[2:3])
        return [[act(*each) for each in given] for act in acts], scaler.to_model(keys, 0 * raw)

    found, noise = jax.device_get(run(raw))
    for whole, moved, alone in found:
        np.testing.assert_array_equal(moved, whole[order])
        np.testing.assert_array_equal(alone, whole[2:3])
    assert len(np.unique(noise[:, 0, 0, 0])) == 6


def test_one_key_gives_every_pixel_its_own_noise():
    y = jax.jit(Scaler(256, False, True).to_model)(KEY, np.zeros((4, 3), int))
    assert len(np.unique(y)) == 12


def test_continuous_data_pass_unchanged():
    scaler = Scaler(0, centered=True, dequantize=True)
    raw = np.array([[-3.7, 0.0, 1e-9, 42.0]], np.float32)
    y = scaler.to_model(KEY, raw)
    np.testing.assert_array_equal(y, raw)
    np.testing.assert_array_equal(scaler.to_unit(y), raw)


def test_a_scaler_is_a_constant_of_a_jitted_program():
    assert jax.tree.leaves(Scaler(256, True, True)) == []
    to_model = jax.jit(lambda scaler, key, raw: scaler.to_model(key, raw))
    raw, scaler = all_levels(256), Scaler(256, True, True)
    np.testing.assert_array_equal(to_model(scaler, KEY, raw), jax.jit(scaler.to_model)(KEY, raw))


def test_flip_mirrors_left_to_right_half_of_the_time():
    n = 4000
    images = np.random.default_rng(0).integers(0, 256, (n, 2, 3, 1)).astype(np.uint8)
    out = np.asarray(jax.jit(random_flip)(jax.random.key(1), images))
    kept = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert out.dtype == np.uint8 and (kept | mirrored).all()
    changed = ~kept
    symmetric = (kept & mirrored).mean()
    assert abs(changed.mean() - 0.5 * (1 - symmetric)) < 4 * 0.5 / math.sqrt(n)


def test_errors_say_what_to_do():
    raw = np.zeros((2, 3), np.uint8)
    with pytest.raises(ValueError, match=r"continuous data \(levels=0\).*nats"):
        Scaler(0, True, True).log_volume()
    with pytest.raises(ValueError, match="dequantize=True"):
        Scaler(256, True, False).log_volume()
    with pytest.raises(ValueError, match="nothing to quantise"):
        Scaler(0, True, True).quantize(np.zeros(2))
    with pytest.raises(ValueError, match=r"float32, but levels=256 means integers 0 to 255"):
        Scaler(256, True, False).to_model(None, np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="needs a random key"):
        Scaler(256, True, True).to_model(None, raw)
    with pytest.raises(ValueError, match=r"Keys of shape \(1,\) for a batch of shape \(2, 3\)"):
        Scaler(256, True, True).to_model(jax.random.split(KEY, 1), raw)
    with pytest.raises(ValueError, match="levels=1"):
        Scaler(1, True, True)
    with pytest.raises(ValueError, match=r"images must be \(B, H, W, C\)"):
        random_flip(jax.random.key(0), raw)
