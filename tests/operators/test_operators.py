"""Every operator: its transpose, its singular values, and its definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import convolve

from operators import (
    COLOUR,
    OPERATORS,
    blur,
    complex_fourier,
    dense,
    downsample,
    fourier,
    gaussian_kernel,
    greyscale,
    in_basis,
    mask,
    matrix,
    measure,
    radon,
    random_lines,
)

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
RNG = np.random.default_rng(0)
KERNEL = RNG.random((3, 5))
MATRIX = RNG.standard_normal((3, 5))
LINES = random_lines(6, 3, 1, np.random.default_rng(1))
CASES = {
    "mask": mask((5, 4, 2), RNG.integers(0, 2, (5, 4))),
    "mask of channels": mask((5, 4, 2), RNG.integers(0, 2, (5, 4, 2))),
    "mask of a vector": mask((5,), [0, 1, 1, 0, 1]),
    "blur": blur((7, 6, 2), KERNEL),
    "blur, reflect": blur((7, 6, 2), KERNEL, "reflect"),
    "blur, zero": blur((7, 6, 2), KERNEL, "zero"),
    "downsample": downsample((6, 4, 2), 2),
    "fourier, lines": fourier((5, 6, 2), LINES),
    "fourier, points": fourier((6, 4, 1), RNG.integers(0, 2, (6, 4))),
    "fourier, odd": fourier((5, 3, 1), RNG.integers(0, 2, (5, 3))),
    "complex_fourier, lines": complex_fourier((5, 6, 4), LINES),
    "complex_fourier, points": complex_fourier((4, 3, 2), RNG.integers(0, 2, (4, 3))),
    "radon": radon((6, 5, 1), 7),
    "matrix": matrix((5,), MATRIX),
    "matrix, tall, of rank 2": matrix(
        (2, 2, 1), RNG.standard_normal((6, 2)) @ RNG.standard_normal((2, 4)), (2, 3)
    ),
    "greyscale": greyscale((3, 4, 3)),
    "blur, rotated": in_basis(blur((4, 4, 3), 0.7), COLOUR),
}
WITHOUT_SVD = {"blur, reflect", "blur, zero"}
FLOAT32 = (
    "mask", "blur", "blur, reflect", "downsample", "fourier, lines", "complex_fourier, lines",
    "radon", "greyscale",
)  # fmt: skip


def draw(shape, n=3):
    return np.random.default_rng(2).standard_normal((n, *shape))


def dot(u, v):
    return np.sum(np.asarray(u * v).reshape(len(u), -1), axis=1)


def test_all_of_the_table_are_here():
    names = {operator.name.split(" ")[0].rstrip(",") for operator in CASES.values()}
    assert set(OPERATORS) <= names


@functools.cache
def images_of(name):
    """Return an operator's results for a few states, measurements and unit vectors."""
    A = CASES[name]
    svd, k = A.svd, len(A.svd.s) if A.svd else 0
    unit = np.eye(int(np.prod(A.shape_in))).reshape(-1, *A.shape_in)

    def run(x, y, unit, eye):
        found = {"Ax": A.forward(x), "Aty": A.adjoint(y), "columns": A.forward(unit)}
        if svd:
            s = jnp.asarray(svd.s)[None]
            found |= {"USVt x": svd.u(s * svd.vt(x)), "VSUt y": svd.v(s * svd.ut(y))}
            found |= {"VtV": svd.vt(svd.v(eye)), "UtU": svd.ut(svd.u(eye))}
        return found

    x, y = draw(A.shape_in), draw(A.shape_out) + 1.0
    return A, x, y, jax.device_get(jax.jit(run)(x, y, unit, np.eye(k)))


@pytest.mark.parametrize("name", CASES)
def test_adjoint(name):
    """A is a linear map with the stated shapes, and <A x, y> = <x, A^T y> for each example."""
    A, x, y, found = images_of(name)
    assert found["Ax"].shape == y.shape and found["Aty"].shape == x.shape
    np.testing.assert_allclose(dot(found["Ax"], y), dot(x, found["Aty"]), rtol=1e-12, atol=1e-12)
    matrix = found["columns"].reshape(int(np.prod(A.shape_in)), -1)
    np.testing.assert_allclose(
        found["Ax"].reshape(3, -1), x.reshape(3, -1) @ matrix, rtol=1e-12, atol=1e-12
    )
    assert np.linalg.norm(matrix) > 0.0


@pytest.mark.parametrize("name", sorted(set(CASES) - WITHOUT_SVD))
def test_svd(name):
    """The SVD gives the operator's matrix, and its singular values are NumPy's."""
    A, _, _, found = images_of(name)
    s = np.sort(A.svd.s)[::-1]
    np.testing.assert_allclose(found["USVt x"], found["Ax"], atol=1e-12)
    np.testing.assert_allclose(found["VSUt y"], found["Aty"], atol=1e-12)
    np.testing.assert_allclose(found["VtV"], np.eye(len(s)), atol=1e-12)
    np.testing.assert_allclose(found["UtU"], np.diag(A.svd.s > 1e-9), atol=1e-12)
    true = np.linalg.svd(found["columns"].reshape(-1, int(np.prod(A.shape_out))))[1]
    n = min(len(s), len(true))
    np.testing.assert_allclose(s[:n], true[:n], atol=1e-7)
    assert np.all(s[n:] < 1e-7) and np.all(true[n:] < 1e-7)


@pytest.mark.parametrize("name", FLOAT32)
def test_float32_stays(name):
    """Operators keep float32, and run under vmap."""
    A, x, y, found = images_of(name)
    x, y = x.astype(np.float32), y.astype(np.float32)
    run = jax.jit(lambda x, y: (jax.vmap(lambda v: A.forward(v[None])[0])(x), A.adjoint(y)))
    for value, truth in zip(run(x, y), (found["Ax"], found["Aty"])):
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, truth, atol=1e-5)
    if A.svd:
        parts = jax.eval_shape(lambda x, y: (A.svd.v(A.svd.vt(x)), A.svd.u(A.svd.ut(y))), x, y)
        assert parts[0].dtype == parts[1].dtype == np.float32


def test_dense():
    np.testing.assert_allclose(dense(CASES["matrix"]) @ np.eye(5), MATRIX, atol=1e-15)


@pytest.mark.parametrize(
    ("boundary", "mode"), [("circular", "wrap"), ("reflect", "reflect"), ("zero", "constant")]
)
def test_blur_is_the_convolution_of_scipy(boundary, mode):
    name = "blur" if boundary == "circular" else f"blur, {boundary}"
    _, x, _, found = images_of(name)
    truth = np.stack(
        [np.stack([convolve(v[..., c], KERNEL, mode=mode) for c in (0, 1)], -1) for v in x]
    )
    np.testing.assert_allclose(found["Ax"], truth, atol=1e-12)


def test_gaussian_kernel():
    """The kernel has sum one, the requested variance, and the right number of pixels."""
    kernel = gaussian_kernel(2.0)
    n = np.arange(kernel.shape[0]) - kernel.shape[0] // 2
    assert kernel.shape == (13, 13) and np.isclose(kernel.sum(), 1.0)
    assert abs(kernel.sum(0) @ n**2 - 4.0) < 0.2
    assert gaussian_kernel(2.0, 8).shape == (7, 7)


def test_fourier_is_that_of_numpy():
    _, x, _, found = images_of("fourier, lines")
    F = np.fft.fft2(x, axes=(1, 2), norm="ortho")[:, :, LINES == 1]
    y = found["Ax"]
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], F.reshape(3, -1, 2), atol=1e-12)


def test_conjugate_lines_say_nothing_twice():
    """A line and its conjugate have the rank of one line; singular values are sqrt(2) times its."""
    one = fourier((4, 5, 1), [0, 1, 0, 0, 0]).svd.s
    two = fourier((4, 5, 1), [0, 1, 0, 0, 1]).svd.s
    assert np.sum(one > 0) == np.sum(two > 0) == 8
    np.testing.assert_allclose(np.sort(two)[-8:], np.sqrt(2.0) * np.sort(one)[-8:])


def test_complex_fourier_is_that_of_numpy():
    """Channels 0 and 1 are one complex image, 2 and 3 another."""
    _, x, _, found = images_of("complex_fourier, lines")
    image = np.stack([x[..., 0] + 1j * x[..., 1], x[..., 2] + 1j * x[..., 3]], axis=-1)
    F = np.fft.fft2(image, axes=(1, 2), norm="ortho")[:, :, LINES == 1]
    y = found["Ax"]
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], F.reshape(3, -1, 2), atol=1e-12)


def test_a_complex_image_is_measured_as_often_as_a_scan_does():
    """Three of eight lines of a complex image of 8 x 8 are 24 points, 48 numbers; as two real
    images 96, of which 80 say something of their own: those of lines 0, 1, 7, 3 and 5."""
    keep = [1, 1, 0, 1, 0, 0, 0, 0]
    scan, real = complex_fourier((8, 8, 2), keep), fourier((8, 8, 2), keep)
    assert np.prod(scan.shape_out) == np.linalg.matrix_rank(dense(scan)) == len(scan.svd.s) == 48
    assert np.prod(real.shape_out) == 96 and np.linalg.matrix_rank(dense(real)) == 80


def test_random_lines():
    keep = random_lines(64, 16, 6, np.random.default_rng(0))
    assert keep.sum() == 16 and np.all(keep[[0, 1, 2, -1, -2]] == 1)
    assert not np.array_equal(keep, random_lines(64, 16, 6, np.random.default_rng(1)))


def test_radon_of_a_square():
    """The Radon transform of an image of ones has the chords of a square, for all angles."""
    side, angles = 12, np.array([0.0, 0.3, np.pi / 4, np.pi / 2, 2.5])
    y = radon((side, side, 1), angles, 15, svd=False).forward(np.ones((1, side, side, 1)))
    offsets = np.arange(15) - 7.0
    for row, angle in zip(np.asarray(y)[0], angles):
        cos, sin = abs(np.cos(angle)), abs(np.sin(angle))
        # As a function of the offset, the chord is flat and then falls to zero at the corner.
        top = side / max(cos, sin)
        fall = side * (cos + sin) / 2 - np.abs(offsets)
        chord = np.clip(fall / max(cos * sin, 1e-15), 0.0, top)
        inside = np.abs(np.abs(offsets) - side * (cos + sin) / 2) > 1e-9
        np.testing.assert_allclose(row[inside], chord[inside], atol=1e-10)


def test_radon_turns_the_right_way():
    """At angle 0 rays run along columns, at pi / 2 along rows, as an image of one pixel shows."""
    x = np.zeros((1, 6, 6, 1))
    x[0, 1, 4, 0] = 1.0
    y = np.asarray(radon((6, 6, 1), [0.0, np.pi / 2], 6).forward(x))[0]
    np.testing.assert_allclose(y, [[0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 0]], atol=1e-12)


def test_greyscale_sees_grey_alone():
    _, x, _, found = images_of("greyscale")
    y = found["Ax"]
    np.testing.assert_allclose(y, x.sum(-1).reshape(3, -1) / np.sqrt(3.0), atol=1e-12)
    # A change of colour that keeps the grey value changes nothing.
    moved = x + np.array([-2.0, 1.0, 1.0])
    np.testing.assert_allclose(greyscale((3, 4, 3)).forward(moved), y, atol=1e-12)


def test_measure_has_the_noise_asked_for():
    A = CASES["downsample"]
    x = np.broadcast_to(draw(A.shape_in, 1), (1000, *A.shape_in))
    run = jax.jit(lambda key, x: measure(key, A, x, 0.3) - A.forward(x))
    error = np.asarray(run(jax.random.key(0), x))
    # With 12000 values, the standard error of the standard deviation is 0.65 %.
    assert error.size == 12_000 and abs(np.std(error) / 0.3 - 1.0) < 4 * 0.0065
