"""Interpolation of latents: norms, angles and variances against their formulas."""

import jax
import numpy as np
import pytest
from closed_form import Gaussian

from exact.gaussian import GaussianMoments, gaussian_flow
from samplers.around import interpolation as rules
from samplers.around.interpolation import INTERPOLATIONS, walk
from sde_lib import VE, VP

pytestmark = pytest.mark.usefixtures("x64", "strict_ranks")
B, D = 500, 3072
RNG = np.random.default_rng(0)
# Compiled, so that operations are not compiled one by one.
linear, slerp, spherical, angle = map(
    jax.jit, (rules.linear, rules.slerp, rules.spherical, rules.angle)
)
BLENDS = {"linear": linear, "slerp": slerp, "spherical": spherical}
Z1, Z2 = (RNG.standard_normal((B, 32, 32, 3)) for _ in range(2))


def norm(z):
    return np.linalg.norm(np.asarray(z).reshape(len(z), -1), axis=1)


@pytest.mark.parametrize(("blend", "size"), [(linear, 0.5**0.5), (slerp, 1.0), (spherical, 1.0)])
def test_norms_on_the_noise_shell(blend, size):
    """Norms at w = 1/2: over sqrt(D), a norm is 1 to O(1 / sqrt D), and its mean far closer."""
    found = norm(blend(Z1, Z2, 0.5)) / D**0.5
    assert abs(found.mean() - size) < 4 * size / (2 * D * B) ** 0.5 + 1 / D
    assert np.abs(found - size).max() < 5 * size / (2 * D) ** 0.5


def test_slerp_runs_on_the_great_circle_at_even_speed():
    """For equal norms slerp keeps the norm; its angle from z1 is w theta, with w per example."""
    z1, z2 = Z1[:5], Z2[:5] * (norm(Z1[:5]) / norm(Z2[:5]))[:, None, None, None]
    w = np.array([0.0, 0.2, 0.5, 0.9, 1.0])
    found = np.asarray(slerp(z1, z2, w))
    np.testing.assert_allclose(norm(found), norm(z1), rtol=1e-12)
    np.testing.assert_allclose(
        angle(z1, found), w * np.asarray(angle(z1, z2)), rtol=1e-7, atol=1e-7
    )
    np.testing.assert_allclose(found[0], z1[0], atol=1e-12)
    np.testing.assert_allclose(found[-1], z2[-1], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slerp_near_equal_and_opposite_latents(dtype):
    """slerp is continuous down to the angle 0, and finite at pi."""
    z1 = Z1[:1].astype(dtype)
    for distance in (0.0, 1e-8, 1e-4, 1e-2):
        z2 = z1 + dtype(distance) * Z2[:1].astype(dtype)
        found = slerp(z1, z2, dtype(0.25))
        expected = 0.75 * z1 + 0.25 * z2
        assert found.dtype == dtype
        atol = max(distance**2, 20 * np.finfo(dtype).eps)
        np.testing.assert_allclose(found, expected, atol=atol)
    assert np.all(np.isfinite(slerp(z1, -z1, dtype(0.3))))


def test_angles_keep_their_digits():
    turn = np.array([1e-9, 1e-4, 1.0, 3.0, np.pi - 1e-9])
    z1, z2 = np.tile([2.0, 0.0], (5, 1)), np.stack([np.cos(turn), np.sin(turn)], axis=1)
    found = np.asarray(angle(z1, z2))
    np.testing.assert_allclose(found, turn, rtol=1e-7)
    np.testing.assert_allclose(np.pi - found[-1], 1e-9, rtol=1e-6)


@pytest.mark.parametrize("law", [VP(), VE()])
def test_what_a_linear_blend_decodes_to_on_gaussian_data(law):
    """Linear blends of latents decode to `(1 - w)^2 + w^2` of the data's variance.

    The flow of Gaussian data is affine, so the loss of variance is the same for latents and data,
    in every direction.
    """
    data = Gaussian(np.array([0.4, -0.7]), np.array([[0.5, 0.2], [0.2, 0.3]]))
    L, U = np.linalg.eigh(data.cov)
    model = GaussianMoments(data.mean, U[:, ::-1], L[::-1])
    n = 40_000
    z1, z2 = (RNG.standard_normal((n, 2)) for _ in range(2))
    decode = jax.jit(lambda z: gaussian_flow(law, model, law.prior_std() * z, law.t1, 1e-3))
    whole = np.cov(np.asarray(decode(z1)).T)
    stderr = 1.5 * np.sqrt(2.0 / n) * np.sqrt(2.0)  # of a ratio of two variances, with room
    for name, share in (("linear", 0.75**2 + 0.25**2), ("spherical", 1.0)):
        found = np.cov(np.asarray(decode(BLENDS[name](z1, z2, 0.25))).T)
        np.testing.assert_allclose(np.diag(found) / np.diag(whole), share, atol=3 * stderr)


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_a_walk_goes_from_one_to_the_other(name):
    nodes = np.asarray(jax.jit(lambda a, b: walk(name, a, b, 5))(Z1[:3], Z2[:3]))
    assert nodes.shape == (5, 3, 32, 32, 3)
    np.testing.assert_allclose(nodes[0], Z1[:3], atol=1e-12)
    np.testing.assert_allclose(nodes[-1], Z2[:3], atol=1e-12)
    np.testing.assert_allclose(nodes[1], BLENDS[name](Z1[:3], Z2[:3], 0.25), atol=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match="one of linear, slerp"):
        walk("cubic", Z1, Z2, 3)
    with pytest.raises(ValueError, match="at least 2 nodes"):
        walk("slerp", Z1, Z2, 1)
    with pytest.raises(ValueError, match="equal shapes"):
        walk("slerp", Z1, Z2[:3], 3)
