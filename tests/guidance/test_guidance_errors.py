"""Errors of guidance name the value, the rule and a remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_gaussian import LAWS, NOISE, OPERATOR, D, Y

from guidance import GUIDES, annealed, dps, dps_steps, mmps, pigdm
from operators import (
    OPERATORS,
    blur,
    complex_fourier,
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
from restoration import ddrm
from samplers import heun
from sde_lib import VP, DoubleWell
from sde_lib.prediction import parametrize

LAW, IMAGE = VP(), (8, 8, 1)
NOT_BINARY = np.eye(8) * 0.5

OPERATOR_CASES = [
    (lambda: mask(IMAGE, np.ones((7, 8))), r"shape \(7, 8\) and a state \(8, 8, 1\)"),
    (lambda: mask(IMAGE, NOT_BINARY), "has the value 0.5; keep is 1"),
    (lambda: mask(IMAGE, np.full((8, 8), np.nan)), "has the value nan"),
    (lambda: mask(IMAGE, np.zeros((8, 8))), "keeps nothing of 64 values"),
    (lambda: blur((8, 8), 1.0), r"the shape is \(8, 8\); give \(H, W, C\)"),
    (lambda: blur(IMAGE, -1.0), "standard deviation -1.0; it must be positive"),
    (lambda: blur(IMAGE, 1.0, "mirror"), "boundary is 'mirror'; it must be one of circular"),
    (lambda: blur(IMAGE, np.ones((2, 3))), r"kernel has shape \(2, 3\).* two odd sides"),
    (lambda: blur(IMAGE, np.ones((9, 3))), "none longer than the image's"),
    (lambda: blur(IMAGE, np.zeros((3, 3))), "zero or not finite"),
    (lambda: gaussian_kernel(0.0), "must be positive"),
    (lambda: downsample((8, 6, 1), 4), "factor 4 for 8 x 6 pixels"),
    (lambda: downsample(IMAGE, 0), "at least 1 and divide both"),
    (lambda: fourier(IMAGE, np.zeros(8)), "keeps nothing"),
    (lambda: fourier(IMAGE, np.ones(7)), r"fourier has shape \(7,\)"),
    (lambda: complex_fourier((8, 8, 3)), "has 3 channels, and a complex image is two"),
    (lambda: complex_fourier((8, 8, 2), np.ones(7)), r"complex_fourier has shape \(7,\)"),
    (lambda: random_lines(8, 9, 2, np.random.default_rng(0)), "9 lines of 8 with 2"),
    (lambda: radon((8, 8, 3), 5), "one channel and at most 4096"),
    (lambda: radon((65, 64, 1), 5), "at most 4096 pixels"),
    (lambda: radon(IMAGE, 0), "angles 0 and"),
    (lambda: radon(IMAGE, 3, 0), "0 detectors; take at least 1"),
    (lambda: matrix((4,), np.ones((2, 3))), r"shape \(2, 3\).*it needs \(2, 4\)"),
    (lambda: matrix((3,), np.zeros((2, 3))), "zero or not finite"),
    (lambda: greyscale((8, 8, 1)), "has 1 channels; it takes 3"),
    (lambda: in_basis(mask((2, 2, 3), np.ones((2, 2))), np.ones((3, 3))), "off an orthogonal one"),
    (lambda: in_basis(mask((2, 2, 3), np.ones((2, 2))), np.eye(2)), r"give \(3, 3\)"),
    (
        lambda: measure(
            jax.random.key(0), mask(IMAGE, np.ones((8, 8))), jnp.ones((2, 8, 9, 1)), 0.1
        ),
        r"takes states of shape \(8, 8, 1\) and these have \(8, 9, 1\)",
    ),
]
NO_SVD = blur(IMAGE, 1.0, "zero")
METHOD_CASES = [
    (lambda: dps(LAW, OPERATOR, Y, 0.0), "noise_std is 0.0; .* above 0 for this method"),
    (lambda: dps(LAW, OPERATOR, Y, NOISE, zeta=-1.0), "zeta is -1.0"),
    (lambda: dps_steps(LAW, heun(LAW), OPERATOR, Y), "2 evaluations a step"),
    (lambda: pigdm(LAW, OPERATOR, Y, NOISE, data_std=0.0), "data_std is 0.0"),
    (lambda: pigdm(LAW, OPERATOR, Y, NOISE, iterations=0), "iterations is 0"),
    (lambda: mmps(LAW, OPERATOR, Y, NOISE, iterations=0), "iterations is 0"),
    (lambda: mmps(LAW, OPERATOR, Y, NOISE, products="hvp"), "'hvp'; take one of vjp, jvp"),
    (lambda: mmps(LAW, OPERATOR, Y, NOISE, solver="lu"), "'lu'; take one of cr, cg"),
    (lambda: mmps(LAW, OPERATOR, Y, NOISE, data_std=-1.0), "data_std is -1.0"),
    (lambda: annealed(LAW, OPERATOR, Y, NOISE, "sharp"), "form is 'sharp'"),
    (lambda: annealed(LAW, OPERATOR, Y, NOISE, "drawn"), "give a key"),
    (lambda: annealed(LAW, OPERATOR, Y, 0.0, gamma=0.0), "nor both zero"),
    (lambda: ddrm(LAW, NO_SVD, np.zeros(IMAGE), NOISE), r"'blur \(zero\)' has no SVD"),
    (lambda: ddrm(LAW, OPERATOR, Y, NOISE, eta=1.5), "eta is 1.5"),
]
ALL = {**GUIDES, "ddrm": ddrm}


@pytest.mark.parametrize(("build", "message"), OPERATOR_CASES + METHOD_CASES)
def test_each_has_its_sentence(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ALL)
def test_what_every_method_refuses(name):
    method = ALL[name]
    with pytest.raises(ValueError, match="noise_std is -0"):
        method(LAW, OPERATOR, Y, -0.1)
    with pytest.raises(ValueError, match="noise_std is nan"):
        method(LAW, OPERATOR, Y, float("nan"))
    with pytest.raises(ValueError, match=r"measurement has shape \(4,\) .* gives \(3,\)"):
        method(LAW, OPERATOR, np.zeros(4), NOISE)
    with pytest.raises(ValueError, match=r"DoubleWell has no coeffs\(t\)"):
        method(DoubleWell(), OPERATOR, Y, NOISE)


@pytest.mark.parametrize("name", GUIDES)
def test_what_is_seen_when_it_is_called(name):
    predict = parametrize("score", LAW, lambda x, t: -x)
    guided = lambda y: GUIDES[name](LAW, OPERATOR, y, NOISE)(predict)
    with pytest.raises(ValueError, match=r"takes states of shape \(6,\) and these have \(5,\)"):
        guided(Y)(jnp.ones((2, 5)), jnp.asarray(0.5))
    with pytest.raises(ValueError, match="There are 3 measurements for a batch of 2 states"):
        guided(np.zeros((3, 3)))(jnp.ones((2, D)), jnp.asarray(0.5))


def test_tables():
    assert all(callable(method) for method in {**ALL, **OPERATORS}.values())
    assert set(LAWS) == {"vp", "subvp", "ve", "edm", "flow"}
