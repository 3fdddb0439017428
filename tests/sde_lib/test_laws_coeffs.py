"""The affine laws against autodiff, against each other, and in float32 near t = 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from any_law import AnyLaw
from scipy import stats

from sde_lib import SDES, VE, VP, AffinePath, SubVP
from sde_lib.vp import integral_of_beta

LAWS = {name: law() for name, law in SDES.items()}
laws = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)


def times(law, n=201):
    """Return times even in t, together with times even in log t."""
    even = np.linspace(law.t0, law.t1, n)
    return np.union1d(even, np.geomspace(law.t0, law.t1, n)[1:-1])


number = {id(law): i for i, law in enumerate(LAWS.values())}


@jax.jit
def ours_and_derived(which, x, t):
    """Return f, g2, lam as the law defines them and as derived, and drift and diffusion.

    The derived values follow from the law's coefficients by autodiff.
    """
    law, names = AnyLaw(LAWS.values(), which), ("f", "g2", "lam")
    ours = {name: getattr(law, name)(t) for name in names}
    derived = {name: getattr(AffinePath, name)(law, t) for name in names}
    return ours, derived, law.drift(x, t), law.diffusion(x, t)


@laws
def test_drift_and_diffusion_follow_from_the_coefficients(law, x64, strict_ranks):
    """`f = a'/a`, `g^2 = (c^2)' - 2 f c^2` and `lam = log(a/c)`, with derivatives by autodiff."""
    t = times(law)
    x = np.ones((len(t), 3))
    ours, derived, drift, diffusion = jax.device_get(ours_and_derived(number[id(law)], x, t))
    for name, value in ours.items():
        np.testing.assert_allclose(value, derived[name], rtol=1e-10, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(drift, x * ours["f"][:, None])
    np.testing.assert_allclose(diffusion**2, ours["g2"])
    assert diffusion.shape == t.shape


@laws
def test_rates_are_the_slopes_of_the_coefficients(law, x64):
    t, h = times(law)[1:-1], 1e-4
    up, down = law.coeffs(t * (1 + h)), law.coeffs(t * (1 - h))
    for rate, high, low in zip(*jax.device_get((law.rates(t), up, down))):
        np.testing.assert_allclose(rate, (high - low) / (2 * h * t), rtol=1e-6, atol=1e-7)


@laws
def test_lam_falls_and_its_inverse_inverts(law, x64):
    t = times(law)
    lam = law.lam(t)
    assert np.all(np.diff(lam) < 0)
    np.testing.assert_allclose(law.t_of_lam(lam), t, rtol=1e-9)
    a, c = law.coeffs(t)
    np.testing.assert_allclose(law.sigma(t), c / a, rtol=1e-9)
    np.testing.assert_allclose(law.t_of_sigma(c / a), t, rtol=1e-9)


def float64_coeffs(law, t):
    """The coefficients at float32 times, computed in float64."""
    with jax.enable_x64(True):
        t = np.asarray(t, np.float64)
        return [np.asarray(v) for v in (*law.coeffs(t), law.lam(t), law.g2(t))]


@laws
def test_float32_keeps_its_digits_near_the_data(law):
    """Coefficients in float32 are exact to 5e-6.

    A naive `sqrt(1 - exp(-B))` would be wrong by one or two per cent at t = 1e-5.
    """
    t = times(law).astype(np.float32)
    exact = float64_coeffs(law, t)
    ours = (*law.coeffs(t), law.lam(t), law.g2(t))
    for name, got, want in zip(("a", "c", "lam", "g2"), ours, exact):
        assert got.dtype == jnp.float32, name
        np.testing.assert_allclose(got, want, rtol=5e-6, atol=5e-6 if name == "lam" else 0.0)


def test_float32_naive_form_is_as_bad_as_said():
    """The naive form has the error that the docstring above states."""
    naive = jax.jit(lambda t: jnp.sqrt(1.0 - jnp.exp(-integral_of_beta(VP(), t))))
    t = np.float32(1e-5)
    assert 0.005 < abs(naive(t) / float64_coeffs(VP(), [t])[1][0] - 1.0) < 0.03


@jax.jit
def there_and_back(which, t):
    law = AnyLaw(LAWS.values(), which)
    return law.t_of_lam(law.lam(t)), jax.vmap(jax.grad(law.lam))(t)


@laws
def test_float32_round_trip_of_lam(law):
    """`t_of_lam(lam(t))` is t to rounding.

    Near the data the error is relative to t. Near the prior it is the rounding of lam divided by
    the slope of lam.
    """
    t = times(law).astype(np.float32)
    back, slope = jax.device_get(there_and_back(number[id(law)], t))
    lam = np.abs(float64_coeffs(law, t)[2])
    limit = 4e-7 * (t + (1.0 + lam) / np.abs(slope))
    assert np.all(np.abs(back - t) < limit)


def test_sub_vp_stays_below_vp(x64):
    t = times(VP())
    vp, sub = jax.device_get((VP().coeffs(t), SubVP().coeffs(t)))
    np.testing.assert_allclose(sub.a, vp.a, rtol=1e-14)
    assert np.all(sub.c < vp.c)
    np.testing.assert_allclose(sub.c, vp.c**2, rtol=1e-12)


@jax.jit
def forward_step(which, s, t):
    return AnyLaw(LAWS.values(), which).forward_step(s, t)


@laws
def test_forward_steps_compose(law, x64):
    """The kernel from s to u followed by that from u to t is the kernel from s to t.

    From t0 the kernel leads to the marginal.
    """
    grid = times(law)
    step = lambda s, t: jax.device_get(forward_step(number[id(law)], s, t))
    s, u, t = (grid[i] for i in (slice(0, -2), slice(1, -1), slice(2, None)))
    first, second, both = step(s, u), step(u, t), step(s, t)
    np.testing.assert_allclose(second.r * first.r, both.r, rtol=1e-12)
    two = second.r**2 * first.q**2 + second.q**2
    np.testing.assert_allclose(two, both.q**2, rtol=1e-7)
    start = np.full_like(t, law.t0)
    (a0, c0), (a, c) = jax.device_get((law.coeffs(start), law.coeffs(t)))
    r, q = step(start, t)
    np.testing.assert_allclose(r * a0, a, rtol=1e-12)
    np.testing.assert_allclose(r**2 * c0**2 + q**2, c**2, rtol=1e-12)
    np.testing.assert_array_equal(step(t, t).q, 0.0)


@laws
def test_forward_step_in_float32_on_a_fine_grid(law):
    """For 2000 steps, as in the longest published chains, rounding is far below a step's change."""
    t = np.linspace(law.t0, law.t1, 2001).astype(np.float32)
    ours = forward_step(number[id(law)], t[:-1], t[1:])
    with jax.enable_x64(True):
        wide = t.astype(np.float64)
        exact = jax.device_get(forward_step(number[id(law)], wide[:-1], wide[1:]))
    np.testing.assert_allclose(ours.r, exact[0], rtol=1e-6)
    np.testing.assert_allclose(ours.q, exact[1], rtol=1.5e-4)


@jax.jit
def drawn_from_prior(which):
    return AnyLaw(LAWS.values(), which).prior_sample(jax.random.key(0), (20_000,))


@laws
def test_prior(law, x64):
    """The prior's density equals SciPy's, and its draws have the density's standard deviation."""
    std = {"ve": 50.0, "edm": 80.0, "vp": 1.0, "subvp": 1.0, "flow": 0.999}
    std = std[next(name for name, other in LAWS.items() if other is law)]
    x = 1.5 * std * np.random.default_rng(0).standard_normal((4, 2, 3))
    logp = stats.norm(0.0, std).logpdf(x).sum((1, 2))
    np.testing.assert_allclose(law.prior_logp(x), logp, rtol=1e-12)
    drawn = np.asarray(drawn_from_prior(number[id(law)]))
    assert abs(np.mean(drawn)) < 4 * std / 20_000**0.5
    assert abs(np.std(drawn) / std - 1.0) < 4 / 40_000**0.5


@laws
def test_a_law_is_a_pytree_of_numbers(law):
    """A law can be traced, mapped over and differentiated."""
    leaves, tree = jax.tree.flatten(law)
    assert leaves and all(isinstance(leaf, float) for leaf in leaves)
    traced = jax.jit(lambda law, t: law.coeffs(t))(law, 0.5)
    plain = law.coeffs(np.float32(0.5))
    np.testing.assert_allclose(traced, plain, rtol=1e-6)
    many = jax.tree.unflatten(tree, [np.array([leaf, leaf], np.float32) for leaf in leaves])
    mapped = jax.jit(jax.vmap(lambda law: law.coeffs(jnp.asarray(0.5)).c))(many)
    np.testing.assert_allclose(mapped, np.full(2, plain.c), rtol=1e-6)


@pytest.mark.parametrize("sizes", [(0.01, 50.0), (0.1, 2.0)])
def test_ve_noise_is_geometric(sizes, x64):
    law = VE(*sizes)
    c = law.coeffs(np.linspace(0.0, 1.0, 5)).c
    np.testing.assert_allclose(c, np.geomspace(*sizes, 5), rtol=1e-12)


@pytest.mark.parametrize("law", [VP(0.1, 400.0), SubVP(0.1, 400.0)], ids=["vp", "subvp"])
def test_where_nothing_is_left_of_the_data_in_float32(law):
    """lam, its inverse and the kernel are right in float32 even where a rounds to 0.

    With beta_max = 400, `B(1) = 200` and a = exp(-100). The truth is computed in float64.
    """
    t, s = np.float32([0.3, 0.9, 1.0]), np.float32([0.2, 0.85, 0.98])
    B = lambda t: t * (0.1 + 0.5 * t * 399.9)
    exact = lambda t: np.asarray(t, np.float64)
    log_c = np.log(-np.expm1(-B(exact(t)))) * (1.0 if isinstance(law, SubVP) else 0.5)
    lam = -0.5 * B(exact(t)) - log_c
    np.testing.assert_allclose(law.lam(t), lam, rtol=1e-5)
    np.testing.assert_allclose(law.t_of_lam(law.lam(t)), t, rtol=1e-5)
    if isinstance(law, VP):
        r = np.exp(-0.5 * (B(exact(t)) - B(exact(s))))
        np.testing.assert_allclose(law.forward_step(s, t).r, r, rtol=1e-4)
        np.testing.assert_allclose(law.forward_step(s, t).q, np.sqrt(1 - r**2), rtol=1e-5)
