"""The edge distance: known values, its symmetries, and its purpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from evaluation.metrics.perceptual import contrast, edge_distance, halved

distance = jax.jit(edge_distance)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def mse(x, y):
    return jnp.mean((x - y) ** 2, axis=(1, 2, 3))


def test_two_pixels_a_side():
    """Computed by hand: the contrasts are 1 and 0, then the means are 1/2 and 0."""
    x, y = jnp.asarray([[[0.0, 1.0], [0.0, 1.0]]])[..., None], jnp.zeros((1, 2, 2, 1))
    np.testing.assert_allclose(distance(x, y), [(1.0 + 0.5) / 2], rtol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2])
def test_ramps(angle):
    """A ramp of slope 1 in any direction has contrast 1 everywhere. After halving the contrast is
    2, then 4, and the last term is the mean."""
    rows, columns = np.mgrid[:8, :8]
    ramp = jnp.asarray(np.cos(angle) * columns + np.sin(angle) * rows, jnp.float32)[None, ..., None]
    np.testing.assert_allclose(contrast(ramp), 1.0, rtol=1e-5)
    np.testing.assert_allclose(contrast(halved(ramp)), 2.0, rtol=1e-5)
    mean = 3.5 * (np.cos(angle) + np.sin(angle))
    np.testing.assert_allclose(distance(ramp, 0 * ramp), [(1 + 2 + 4 + mean) / 4], rtol=1e-5)


def test_against_loops():
    """The distance of images of 9 x 6 pixels and two channels equals loops. Halving an odd number
    of rows drops the last row."""
    x, y = normal(2, 9, 6, 2), normal(2, 9, 6, 2, seed=1)
    expected = [by_loops(np.float64(a), np.float64(b)) for a, b in zip(x, y)]
    np.testing.assert_allclose(distance(x, y), expected, rtol=1e-5)


def pool(image):
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    return np.array(
        [
            [image[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean((0, 1)) for c in range(columns)]
            for r in range(rows)
        ]
    )


def windows(image):
    rows, columns = image.shape[0] - 1, image.shape[1] - 1
    size = np.zeros((rows, columns, image.shape[2]))
    for r in range(rows):
        for c in range(columns):
            p = image[r : r + 2, c : c + 2]
            across, down = (p[:, 1] - p[:, 0]).mean(0), (p[1] - p[0]).mean(0)
            size[r, c] = np.hypot(across, down)
    height, width = min(4, rows), min(4, columns)
    return np.array(
        [
            [size[r : r + height, c : c + width].mean((0, 1)) for c in range(columns - width + 1)]
            for r in range(rows - height + 1)
        ]
    )


def by_loops(x, y):
    parts = []
    while min(x.shape[:2]) >= 2:
        parts.append(np.mean(np.abs(windows(x) - windows(y))))
        x, y = pool(x), pool(y)
    return np.mean([*parts, np.mean(np.abs(x - y))])


def test_symmetries():
    """The distance of an image to itself is zero. It is symmetric, and equal for both images
    mirrored or transposed. It doubles with the range of the images."""
    x, y = normal(20, 8, 8, 1), normal(20, 8, 8, 1, seed=1)
    np.testing.assert_allclose(distance(x, x), 0.0, atol=1e-6)
    between = distance(x, y)
    assert np.all(between > 0.0)
    np.testing.assert_allclose(distance(y, x), between, rtol=1e-5)
    for turn in (lambda z: z[:, ::-1], lambda z: z[:, :, ::-1], lambda z: z.swapaxes(1, 2)):
        np.testing.assert_allclose(distance(turn(x), turn(y)), between, rtol=1e-4)
    np.testing.assert_allclose(distance(2.0 * x, 2.0 * y), 2.0 * between, rtol=1e-5)
    # A constant added to both images has no effect. Added to one, it changes only the last scale.
    np.testing.assert_allclose(distance(x + 3.0, y + 3.0), between, rtol=1e-4)
    np.testing.assert_allclose(distance(x, x + 0.4), 0.4 / 4, rtol=1e-4)


def test_not_a_metric():
    """Different images with equal contrasts, as a picture and its negative, have distance 0."""
    x = normal(3, 8, 8, 1)
    x = x - jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    assert np.all(mse(x, -x) > 1.0)
    np.testing.assert_allclose(distance(x, -x), 0.0, atol=1e-6)


def test_blur_costs_more_than_a_texture_that_sits_elsewhere():
    """A blurred texture is further away than a shifted one; squared errors say the reverse."""
    z = normal(50, 8, 8, 1)
    moved = jnp.roll(z, 1, axis=2)
    blurred = (z + moved + jnp.roll(z, -1, axis=2)) / 3
    assert np.mean(mse(z, moved)) > 2.0 * np.mean(mse(z, blurred))
    assert np.mean(distance(z, moved)) < 0.7 * np.mean(distance(z, blurred))


def test_a_mean_of_digits_is_further_than_a_digit_of_the_same_class():
    """The blurry mean of a class has the smaller squared error, but the larger distance."""
    data = load_digits()
    threes = jnp.asarray(data.images[data.target == 3] / 8.0 - 1.0, jnp.float32)[..., None]
    mean = jnp.broadcast_to(jnp.mean(threes, axis=0), threes.shape)
    other = jnp.roll(threes, 1, axis=0)
    assert np.mean(mse(threes, mean)) < 0.9 * np.mean(mse(threes, other))
    assert np.mean(distance(threes, mean)) > np.mean(distance(threes, other))


@pytest.mark.parametrize(
    ("x", "y"),
    [((2, 8, 8, 1), (2, 4, 4, 1)), ((2, 1, 8, 1), (2, 1, 8, 1)), ((2, 8, 8), (2, 8, 8))],
)
def test_refusals(x, y):
    with pytest.raises(ValueError, match=r"The images have the shapes \(2, .* takes two batches"):
        edge_distance(jnp.zeros(x), jnp.zeros(y))
