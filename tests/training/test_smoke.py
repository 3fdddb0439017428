"""Every law and both networks, from data to samples and likelihoods.

A fresh network returns zero. For the kind `edm` this is the exact denoiser of data that are
N(0, sigma_data^2) in each dimension. Three steps at a small learning rate keep the network close
to this denoiser. So the distribution of the samples and the density of any x are known.
"""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from program import ROOT
from tiny import tiny

from builders.experiment import build
from configs.base import base
from data import Loader
from evaluation.tasks.sampling import draw
from parallel.mesh import make_mesh, put_batch
from training.restore import initial_or_latest
from training.sharding import jit_step
from training.step import make_train_step

SIGMA_DATA = 0.7  # the value in the digits configs
# Every law has at least one method, and every method at least one law. The samplers' own tests
# cover the other pairs.
LAWS = {"vp": ("pc", "ode", "sde"), "subvp": ("pc",), "ve": ("ode",), "edm": ("sde",)}
LAWS["flow"] = ("pc",)


def config_of(law, network="mlp", path=None):
    config = tiny(law, optim__lr=1e-5)
    config.likelihood.adams.steps = 16
    config.sampling.update(steps=200, batch_size=16)
    config.sampling.sde.update(rtol=0.1, atol=0.1)
    if network == "ncsnpp":
        config.model = base(law, "ncsnpp", "npz").model
        config.model.update(nf=8, ch_mult=(1,), num_res_blocks=1, attn_resolutions=())
        config.prediction.conditioning = "label"
        config.sampling.update(steps=60, batch_size=8)
    if path:
        config.data = base(law, "mlp", "npz").data
        config.data.update(path=str(path), centered=False)
    return config


def trained(experiment):
    """The averaged parameters after three steps."""
    mesh, empty = make_mesh(), SimpleNamespace(latest=lambda: None)
    state = initial_or_latest(experiment, empty, mesh)
    before = jax.device_get(state.params)
    step = jit_step(make_train_step(experiment.loss, experiment.tx, 0.5), mesh)
    loader = Loader(experiment.train, 16, 0)
    for n in range(3):
        state, metrics = step(state, put_batch(loader.batch(n), mesh))
        assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
    after = jax.device_get(state.ema_params)
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), after, before)
    assert 1e-6 < max(jax.tree.leaves(moved)) < 3e-5
    return after


def smoke(config, methods):
    experiment = build(config)
    params = trained(experiment)
    for method in methods:
        config.sampling.method = method
        result = draw(build(config), params, range(config.sampling.batch_size), 0)
        assert result.x.shape[1:] == experiment.shape and not result.failed.any(), method
        x = np.asarray(result.x, np.float64)
        # The bounds are four standard errors, plus 3 % of the standard deviation for few steps and
        # loose tolerances.
        assert abs(x.mean()) < 4 * SIGMA_DATA / x.size**0.5, method
        bound = 4 * SIGMA_DATA / (2 * x.size) ** 0.5 + 0.03 * SIGMA_DATA
        assert abs(x.std() - SIGMA_DATA) < bound, (method, x.std())
        assert len(np.unique(x)) > 0.99 * x.size
    x = np.random.default_rng(0).normal(0, 0.5, (8, *experiment.shape)).astype(np.float32)
    key = jax.random.key(1)
    found = jax.jit(lambda p: experiment.log_likelihood(key, experiment.predict(p), x).logp)(params)
    x = x.reshape(8, -1).astype(np.float64)
    exact = -0.5 * np.sum(x**2 / SIGMA_DATA**2 + np.log(2 * np.pi * SIGMA_DATA**2), axis=1)
    np.testing.assert_allclose(found, exact, rtol=5e-3, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
def test_laws(law):
    assert (ROOT / "configs" / f"digits_{law}.py").is_file()
    smoke(config_of(law), LAWS[law])


@pytest.mark.slow
def test_convolutions():
    """The network has one resolution; the tests of the models cover down- and upsampling."""
    smoke(config_of("vp", "ncsnpp"), ["pc"])


def test_vectors(tmp_path):
    """Continuous data of five dimensions, with the log-likelihood by adaptive steps."""
    x = np.random.default_rng(0).normal(0.2, 0.9, (100, 5))
    np.savez(tmp_path / "x.npz", x=x)
    config = config_of("ve", path=tmp_path / "x.npz")
    config.likelihood.update(solver="tsit5", rtol=1e-3, atol=1e-3)
    smoke(config, ["pc"])
