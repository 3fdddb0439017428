"""The chains of DDPM and SMLD against their definitions and the original's tables."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import EDM, VE, VP, SubVP, expand, parametrize
from sde_lib.prediction import condition
from sde_lib.tables import discretise, make_tables

GOLDENS = np.load(Path(__file__).parent / "goldens" / "sde.npz")
CONFIG = json.loads(str(GOLDENS["config"]))
LAWS = {"VPSDE": VP, "subVPSDE": SubVP, "VESDE": VE}
X, T = GOLDENS["x"], GOLDENS["t"]


def build(settings):
    numbers = {key: value for key, value in settings.items() if key not in ("sde", "N")}
    return LAWS[settings["sde"]](**numbers), settings["N"]


def chain_of(name):
    """Return the law and r, q of each level in float64.

    The formulas are those of Ho et al. 2020, sec. 2, and Song et al. 2021, eq. 8 and 10.
    """
    i = np.arange(50)
    if name == "vp":
        beta = 0.1 / 50 + i / 49 * (20.0 / 50 - 0.1 / 50)
        return VP(), np.sqrt(1 - beta), np.sqrt(beta)
    sigma = 0.01 * (50.0 / 0.01) ** (i / 49)
    before = np.where(i == 0, 0.0, 0.01 * 5000.0 ** ((i - 1) / 49))
    return VE(), np.ones(50), np.sqrt(sigma**2 - before**2)


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_levels_are_the_chain_of_their_kernels(name):
    """The chain `x_i = r_i x_{i-1} + q_i z` from clean data has the marginals a_i and c_i."""
    law, r, q = chain_of(name)
    tables, i = make_tables(law, 50), jnp.arange(50)
    np.testing.assert_allclose(tables.kernel(i).r, r, rtol=2e-7)
    np.testing.assert_allclose(tables.kernel(i).q, q, rtol=2e-7)
    a, c2 = 1.0, 0.0
    for level in range(50):
        a, c2 = r[level] * a, r[level] ** 2 * c2 + q[level] ** 2
        found = tables.coeffs(jnp.asarray(level))
        np.testing.assert_allclose([found.a, found.c], [a, c2**0.5], rtol=2e-7)
    assert tables.num_scales == 50
    assert {v.dtype for v in tables.kernel(i)} == {jnp.dtype("float32")}


def test_ve_levels_lie_on_the_law_and_vp_levels_approach_it():
    """SMLD's sigmas are `sigma(i / (N - 1))`; DDPM's marginals differ from VP's like 1/N."""
    t = jnp.linspace(0.0, 1.0, 50)
    np.testing.assert_allclose(make_tables(VE(), 50).c, VE().coeffs(t).c, rtol=1e-6)

    def gap(N):
        law_a = VP().coeffs(jnp.arange(1, N + 1) / N).a
        return np.max(abs(make_tables(VP(), N).a - law_a))

    assert gap(4000) < 0.02
    np.testing.assert_allclose(gap(1000) / gap(4000), 4.0, rtol=0.1)


@pytest.mark.parametrize("name", CONFIG["sdes"])
def test_original_discretisation(name):
    """f and G of the step `x + f + G z` equal the original's, for t from 1e-5 to 1, N to 1000.

    The tolerances are those of the original's float32. It computes f as a difference of two numbers
    of the size of x, and VE's G as a difference of neighbouring squares; sub-VP's diffusion has its
    `1 - exp`.
    """
    law, N = build(CONFIG["sdes"][name])
    r, q = discretise(law, N)(jnp.asarray(T))
    get = lambda key: GOLDENS[f"{name}/{key}"]
    np.testing.assert_allclose((expand(r, X) - 1.0) * X, get("f"), rtol=0, atol=3e-7)
    B = 0.1 * T.astype(np.float64) + 0.5 * 19.9 * T.astype(np.float64) ** 2
    rtol = {
        "vp": 1e-6,
        "ve": 4e-5 if N == 1000 else 3e-6,
        "subvp": 1e-6 + 6e-8 / -np.expm1(-B),
    }[name.split("_")[0]]
    assert np.all(abs(q / get("G") - 1.0) < rtol)


@pytest.mark.parametrize("name", [name for name in CONFIG["sdes"] if "subvp" not in name])
def test_original_tables(name):
    """The tables equal the original's to the precision of float32.

    The original's cumulative product and `1 - alphas_cumprod` have errors of 2e-7. At level 0,
    where the latter is 1e-4, its root has a relative error of 8e-5.
    """
    law, N = build(CONFIG["sdes"][name])
    tables = make_tables(law, N)
    get = lambda key: GOLDENS[f"{name}/{key}"]
    np.testing.assert_array_equal(tables.index(T), get("timestep"))
    if isinstance(law, VE):
        np.testing.assert_allclose(tables.c, get("discrete_sigmas"), rtol=1e-6)
        return
    np.testing.assert_allclose(tables.q**2, get("discrete_betas"), rtol=1e-6)
    np.testing.assert_allclose(tables.a**2, get("alphas_cumprod"), rtol=2e-6)
    error = abs(tables.c / get("sqrt_1m_alphas_cumprod") - 1.0)
    assert np.all(error < 1e-6 + 1.5e-7 / tables.c.astype(np.float64) ** 2)


@pytest.mark.parametrize("name", CONFIG["get_sigmas"])
def test_original_noise_levels_of_the_networks(name):
    """The noise levels of the original's networks are the levels of the chain, in falling order."""
    numbers = CONFIG["get_sigmas"][name]
    law = VE(numbers["sigma_min"], numbers["sigma_max"])
    sigmas = make_tables(law, numbers["num_scales"]).c[::-1]
    np.testing.assert_allclose(sigmas, GOLDENS[f"get_sigmas/{name}"], rtol=1e-6)


@pytest.mark.parametrize("N", [10, 232, 1000])
def test_labels_of_levels(N):
    """At the time of level i, a network gets i ("step") or N - 1 - i ("level")."""
    i = jnp.arange(N)
    told = {
        name: condition(name, VE(), jnp.zeros((N, 1)), i / (N - 1), N) for name in ("step", "level")
    }
    np.testing.assert_allclose(told["step"], i, rtol=1e-6)
    np.testing.assert_array_equal(told["level"], N - 1 - i)


def test_refusals():
    with pytest.raises(ValueError, match="SubVP has no chain"):
        make_tables(SubVP(), 100)
    with pytest.raises(ValueError, match="EDM has no chain"):
        discretise(EDM(t1=1.0), 100)
    with pytest.raises(ValueError, match="at least 2"):
        make_tables(VE(), 1)
    with pytest.raises(ValueError, match="must be below 1"):
        make_tables(VP(), 20)
    with pytest.raises(ValueError, match="t1"):
        discretise(SubVP(t1=0.9), 100)
    with pytest.raises(ValueError, match="no derivatives"):
        make_tables(VP(), 100).g2(jnp.arange(3))
    for name in ("step", "level"):
        with pytest.raises(ValueError, match="num_scales is not given"):
            parametrize("eps", VP(), lambda x, cond: x, name)
