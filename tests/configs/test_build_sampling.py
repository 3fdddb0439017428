"""`build_sampler` passes each option of its section to the sampler that the section names."""

import inspect
from typing import NamedTuple

import jax
import numpy as np
import pytest
from closed_form import Gaussian

import exact
import samplers
import sde_lib
from builders.levels import LevelNetwork
from builders.sampling import build_sampler
from builders.steps import Known
from configs.base import base
from models.noise_level import NoiseLevelMLP
from samplers import (
    ancestral,
    annealed_langevin,
    ddim,
    euler_maruyama,
    heun,
    langevin,
    make_grid,
    predictor_corrector,
    reverse_diffusion,
)
from samplers.mcmc.denoising_mcmc import Descent, denoising_mcmc
from samplers.mcmc.langevin_gibbs import Walk
from samplers.mcmc.levels import make_levels
from samplers.schedules.schedule import save
from search import multistep

PATH = sde_lib.VP()
PREDICT = Gaussian.scalar(0.5, 0.3, dims=3).predict(PATH)


def section(**changes):
    config = base("vp", "mlp", "npz").sampling
    config.update(steps=5, **changes)
    return config


def alone(method):
    """Wrap a predictor or a corrector as `build` does without the other one."""
    return predictor_corrector(method, None, "paper")


# A section, and the sampler that it must build. The arguments differ from the defaults.
METHODS = {
    "euler": (section(predictor="euler_maruyama"), lambda p: alone(euler_maruyama(p))),
    "euler_ode": (
        section(predictor="euler_maruyama", probability_flow=True),
        lambda p: alone(euler_maruyama(p, probability_flow=True)),
    ),
    "reverse_diffusion_ode": (
        section(predictor="reverse_diffusion", probability_flow=True),
        lambda p: alone(reverse_diffusion(p, probability_flow=True)),
    ),
    "ancestral": (section(predictor="ancestral"), lambda p: alone(ancestral(p))),
    "ancestral_alias": (
        section(predictor="ancestral_sampling", variance="forward"),
        lambda p: alone(ancestral(p, variance="forward")),
    ),
    "ddim": (section(predictor="ddim", eta=0.6), lambda p: alone(ddim(p, eta=0.6))),
    "heun": (section(predictor="heun"), lambda p: alone(heun(p))),
    "dpm_solver": (
        section(predictor="dpm_solver", solver_order=3, form="noise"),
        lambda p: alone(samplers.dpm_solver(p, 3, "noise")),
    ),
    "dpm_multistep": (
        section(predictor="dpm_multistep", solver_order=3, eta=0.5),
        lambda p: alone(samplers.dpm_multistep(p, 3, "data", 0.5)),
    ),
    "adams_bashforth": (
        section(predictor="adams_bashforth", solver_order=4, form="noise"),
        lambda p: alone(samplers.adams_bashforth(p, 4, "noise")),
    ),
    "unipc": (
        section(predictor="unipc", solver_order=1, form="noise", variant="b1"),
        lambda p: alone(samplers.unipc(p, 1, "noise", "b1")),
    ),
    "edm": (
        section(predictor="edm", s_churn=2.0, s_tmin=0.01, s_tmax=2.0, s_noise=1.01),
        lambda p: alone(samplers.edm(p, 2.0, 0.01, 2.0, 1.01)),
    ),
    "bdia": (
        section(predictor="bdia", gamma=0.7),
        lambda p: alone(samplers.bdia(p, 0.7, frame="unit")),
    ),
    # "restoration" is an earlier name of this predictor.
    "restoration_degradation": (
        section(predictor="restoration", look_back=0.4),
        lambda p: alone(samplers.restoration_degradation(p, 0.4)),
    ),
    "velocity_ab": (
        section(predictor="velocity_ab", solver_order=3, sigma_data=0.3),
        lambda p: alone(samplers.velocity_ab(p, 3, 0.3)),
    ),
    "edm_by_strength": (
        section(predictor="edm", eta=0.7, s_noise=1.01),
        lambda p: alone(samplers.edm(p, s_tmax=1e6, s_noise=1.01, eta=0.7)),
    ),
    "lml": (
        section(predictor="ddim", lml=0.4, lml_placement="direction", lml_freeze=0.3),
        lambda p: alone(samplers.lml(p, ddim(p), 0.4, "direction", 0.3)),
    ),
    "langevin_alone": (
        section(predictor="none", corrector="langevin", snr=0.3, n_steps_each=2),
        lambda p: alone(langevin(p, 0.3, n_steps=2)),
    ),
    "langevin_batch_norm": (
        section(predictor="none", corrector="langevin", snr=0.3, norm="batch"),
        lambda p: alone(langevin(p, 0.3, norm="batch")),
    ),
    "ald_in_the_order_of_the_paper": (
        section(predictor="ddim", corrector="ald", snr=0.2, order="paper"),
        lambda p: predictor_corrector(ddim(p), annealed_langevin(p, 0.2, at="end"), "paper"),
    ),
    "ald_in_the_original_order": (
        section(predictor="ddim", corrector="ald", snr=0.2, order="original"),
        lambda p: predictor_corrector(ddim(p), annealed_langevin(p, 0.2, at="start"), "original"),
    ),
    "another_grid_and_end": (
        section(predictor="ddim", grid="karras", eps=0.02, denoise=False),
        lambda p: alone(ddim(p)),
    ),
}


X = np.random.default_rng(5).standard_normal((4, 3)).astype(np.float32)
KEY = jax.random.key(6)


class Program(NamedTuple):
    """A traced sampler: its operations with the literals, its constants, and its network
    evaluations.

    Two samplers with the same program draw the same samples. The comparison needs no compilation.
    """

    text: str
    constants: tuple[bytes, ...]
    nfe: int


def program(sampler):
    def run(key, x):
        result = sampler(key, PREDICT, x)
        return result.x, result.nfe

    closed = jax.make_jaxpr(run)(KEY, X)
    constants = tuple(np.asarray(value).tobytes() for value in closed.consts)
    return Program(str(closed.jaxpr), constants, int(closed.jaxpr.outvars[1].val))


@pytest.fixture(scope="module")
def built():
    return {name: program(build_sampler(config, PATH)) for name, (config, _) in METHODS.items()}


@pytest.mark.parametrize("name", METHODS)
def test_fixed_step_methods(built, name):
    config, make = METHODS[name]
    own, method = config.get(config.grid, {}), make(PATH)
    ts = make_grid(config.grid, PATH, 5, config.eps, **own)
    wanted = program(
        lambda key, predict, x: samplers.sample(key, predict, method, x, ts, None, config.denoise)
    )
    assert built[name] == wanted
    assert wanted.nfe == 5 * method.nfe + config.denoise


def test_methods_differ(built):
    """All programs differ, so the comparisons above can tell the methods apart."""
    assert len({(found.text, found.constants) for found in built.values()}) == len(METHODS)


# For methods that need the moments of the data.
MOMENTS = exact.moments(np.random.default_rng(0).normal(0.5, 0.3, (20, 3)))
KNOWN = Known(moments=lambda: MOMENTS)


def landing(ts):
    """Return the index of the first node below noise level 2, and the jump to it from node 0."""
    first = int(np.sum(np.exp(-np.asarray(PATH.lam(ts))) > 2.0))
    return first, lambda x: exact.gaussian_flow(PATH, MOMENTS, x, ts[0], ts[first])


def test_teleport():
    """The exact flow of the training data's Gaussian replaces the steps above the noise level."""
    config = section(predictor="ddim", grid="uniform_lam", teleport_sigma=2.0)
    ts, method = make_grid("uniform_lam", PATH, 5, config.eps), ddim(PATH)
    first, land = landing(ts)

    def wanted(key, predict, x):
        return samplers.sample(key, predict, method, land(x), ts[first:], denoise=True)

    result = assert_the_same(build_sampler(config, PATH, KNOWN), wanted)
    assert 0 < first < 5 and result.nfe == 5 - first + 1


def assert_the_same(sampler, wanted, atol=1e-6):
    """Assert that two samplers, run in one program, draw the same; return the first result."""
    run = jax.jit(lambda key, x: [f(key, PREDICT, x) for f in (sampler, wanted)])
    found, expected = jax.device_get(run(KEY, X))
    assert found.nfe == expected.nfe
    np.testing.assert_allclose(found.x, expected.x, rtol=10 * atol, atol=atol)
    return found


def test_restarts():
    rows = ((0.2, 1.0, 2, 3), (1.5, 3.0, 1, 2))
    config = section(predictor="heun", grid="karras", restarts=rows)
    ts = make_grid("karras", PATH, 5, config.eps)
    intervals = [samplers.Restarts(*row) for row in rows]
    wanted = samplers.restart(PATH, heun(PATH), ts, intervals, True)
    result = assert_the_same(build_sampler(config, PATH), wanted)
    assert result.nfe == 2 * (5 + 6 + 2) + 1
    # `ts` has the nodes of all steps, including the steps of the restarts.
    assert len(result.ts) == 5 + 6 + 2 + 1 and result.ts[0] == PATH.t1
    for wrong in ((0.2, 1.0, 2, 3), ((0.2, 1.0, 2),), ((0.2, 1.0, 2, 1.5),)):
        with pytest.raises(ValueError, match=r"sampling\.pc\.restarts has the row"):
            build_sampler(section(predictor="heun", restarts=wrong), PATH)
    with pytest.raises(ValueError, match=r"up to 0\.1"):
        build_sampler(section(predictor="heun", restarts=((0.2, 0.1, 1, 1),)), PATH)


def test_restarts_after_teleportation():
    more = {"teleport_sigma": 2.0, "restarts": ((0.2, 1.0, 2, 3),)}
    config = section(predictor="ddim", grid="uniform_lam", **more)
    ts = make_grid("uniform_lam", PATH, 5, config.eps)
    first, land = landing(ts)
    run = samplers.restart(PATH, ddim(PATH), ts[first:], [samplers.Restarts(0.2, 1.0, 2, 3)], True)
    wanted = lambda key, predict, x: run(key, predict, land(x))
    result = assert_the_same(build_sampler(config, PATH, KNOWN), wanted)
    assert result.nfe == 5 - first + 6 + 1


def test_unified(tmp_path):
    """A schedule is given by its name or its file. It sets the steps and the denoising, and its
    end is `sampling.eps`."""
    schedule = multistep(np.linspace(-5.0, 4.0, 7), 2, "data", "b2", denoise=True)
    save(tmp_path / "mine.json", schedule)
    config = section(method="unified", schedule=str(tmp_path / "mine.json"), denoise=False)
    wanted = samplers.unified(PATH, schedule, config.eps)
    result = assert_the_same(build_sampler(config, PATH), wanted)
    assert result.nfe == 6 + 1 and result.ts[-1] == np.float32(config.eps)
    named = build_sampler(section(method="unified", schedule="digits_5"), PATH)
    assert program(named).nfe == 5
    with pytest.raises(ValueError, match="no schedule 'mine'"):
        build_sampler(section(method="unified", schedule="mine"), PATH)
    with pytest.raises(ValueError, match=r"sampling\.unified\.schedule is empty"):
        build_sampler(section(method="unified", schedule=""), PATH)


def test_unified_with_an_analytic_first_step(tmp_path):
    """The first output is the mean of the training data, a flat vector as in their moments."""
    schedule = multistep(np.linspace(-5.0, 4.0, 7), 2)._replace(analytic=True)
    save(tmp_path / "mine.json", schedule)
    config = section(method="unified", schedule=str(tmp_path / "mine.json"))
    wanted = samplers.unified(PATH, schedule, config.eps, mean=np.float32(MOMENTS.mean))
    assert assert_the_same(build_sampler(config, PATH, KNOWN), wanted).nfe == 5


@pytest.fixture(scope="module")
def level_network():
    """An untrained noise-level network for vectors of length 3, and a `Known` that holds it."""
    model = NoiseLevelMLP(levels=12, width=8, depth=1)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(3), np.zeros((1, 3), np.float32)))
    network = LevelNetwork(make_levels(PATH, 12, 0.05, 50.0), lambda y: model.apply(params, y))
    return network, Known(levels={"runs/levels": network}.__getitem__)


def test_denoising_mcmc(level_network):
    """Every key of the chain, with a value that is not the default, reaches the chain."""
    network, known = level_network
    config = section(
        method="denoising_mcmc", predictor="ddim", eta=0.6, grid="karras", batch_size=4,
        chain_network="runs/levels", chain_eta=0.03, chain_moves=2, chain_update="gibbs",
        chain_outputs=2, chain_start_steps=2, chain_start_std=0.2, chain_burn_in=((2, 0.4),),
    )  # fmt: skip
    ts = make_grid("karras", PATH, 2, config.eps)
    wanted = denoising_mcmc(
        PATH,
        network.levels,
        network.logits,
        lambda key, predict, x: samplers.sample(key, predict, heun(PATH), x, ts, denoise=True),
        Walk(0.03, 2, "gibbs", ((2, 0.4),), 0.2),
        Descent(alone(ddim(PATH, eta=0.6)), 5, config.eps, "karras"),
        outputs=2,
    )
    result = assert_the_same(build_sampler(config, PATH, known), wanted, atol=1e-5)
    assert result.nfe == 2 + 5 + 1 + (2 * 2 + 1 + 2) / 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"denoise": False}, "denoise is False, and sampling.method 'denoising_mcmc' ends"),
        ({"chain_outputs": 3}, "batch_size is 64 and sampling.denoising_mcmc.outputs 3"),
        ({"chain_network": ""}, "denoising_mcmc.network is empty; train one, with a config such"),
        ({"chain_burn_in": ((1.5, 0.1),)}, r"denoising_mcmc\.burn_in has the row \(1.5, 0.1\)"),
        ({"grid": "learned"}, "The grid is 'learned'; each chain"),
    ],
)
def test_denoising_mcmc_refuses(level_network, change, words):
    given = {"grid": "karras", "chain_network": "runs/levels", **change}
    with pytest.raises(ValueError, match=words):
        build_sampler(section(method="denoising_mcmc", **given), PATH, level_network[1])


def recorded(monkeypatch, module, name):
    """Replace a function by one that only records its arguments by name; return the records."""
    signature, calls = inspect.signature(getattr(module, name)), []

    def note(*args, **kwargs):
        calls.append(signature.bind(*args, **kwargs).arguments)

    monkeypatch.setattr(module, name, note)
    return calls


@pytest.mark.parametrize("per_example", [True, False])
@pytest.mark.parametrize("denoise", [True, False])
def test_options_of_adaptive_methods(monkeypatch, per_example, denoise):
    numbers = {
        "rtol": 0.02,
        "atol": 0.03,
        "max_steps": 77,
        "solver": "bosh3",
        "variable": "lam",
        "sigma_data": 0.9,
    }
    solver = samplers.Solver("bosh3", 0.02, 0.03, 77, "lam", 0.9)
    more = {"eps": 0.04, "denoise": denoise, "batching": "example" if per_example else "batch"}
    expected = {"path": PATH, "eps": 0.04, "solver": solver, "denoise": denoise}
    calls = recorded(monkeypatch, samplers, "adaptive_ode")
    build_sampler(section(method="ode", **numbers, **more), PATH)
    assert calls == [{**expected, "per_example": per_example}]
    calls = recorded(monkeypatch, samplers, "adaptive_sde")
    own = {"sde_rtol": 0.05, "sde_atol": 0.06, "sde_eta": 0.7, "max_steps": 77, "variable": "lam"}
    own |= {"sigma_data": 0.9, "eps": 0.04, "denoise": denoise}
    build_sampler(section(method="sde", **own), PATH)
    sde_solver = samplers.Solver("tsit5", 0.05, 0.06, 77, "lam", 0.9)  # the SDE always uses ShARK
    assert calls == [{**expected, "solver": sde_solver, "eta": 0.7}]


def test_adaptive_ode():
    """The sampler follows the exact flow to eps and returns the conditional mean there."""
    run = build_sampler(section(method="ode"), PATH)
    found = jax.jit(lambda x: run(KEY, PREDICT, x).x)(X)
    end = Gaussian.scalar(0.5, 0.3, dims=3).flow_map(PATH, X, 1.0, 1e-3)
    np.testing.assert_allclose(found, PREDICT(end, 1e-3).x0, atol=1e-4)
