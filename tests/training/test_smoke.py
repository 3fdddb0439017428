"""Every law and both networks, from data to samples and likelihoods.

A fresh network says zero, and for the kind `edm` that is the exact denoiser of data that are
N(0, sigma_data^2) in each dimension. Three steps at a small learning rate leave it close to that,
so what every sampler must draw, and what the density of any x must be, is known.
"""

import json

import numpy as np
import pytest
from program import ROOT

SMOKE = """
import json, sys
sys.path.insert(0, "tests")
import jax, numpy as np
from types import SimpleNamespace
from tiny import tiny
from builders.experiment import build
from configs.base import base
from data import Loader
from evaluation.sampling import draw
from parallel.mesh import make_mesh, put_batch
from training.restore import initial_or_latest
from training.sharding import jit_step
from training.step import make_train_step

law, network, path = sys.argv[1:]
config = tiny(law, optim__lr=1e-5)
config.likelihood.update(rtol=1e-3, atol=1e-3)
config.sampling.update(steps=200, batch_size=16, sde_rtol=0.1, sde_atol=0.1)
if network == "ncsnpp":
    config.model = base(law, "ncsnpp", "npz").model
    config.model.update(nf=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,))
    config.prediction.conditioning = "label"
    config.sampling.update(steps=60, batch_size=8, rtol=1e-3, atol=1e-3)
if path:
    config.data = base(law, "mlp", "npz").data
    config.data.update(path=path, centered=False)
experiment = build(config)
mesh = make_mesh()
state = initial_or_latest(experiment, SimpleNamespace(latest=lambda: None), mesh)
before = jax.device_get(state.params)
step = jit_step(make_train_step(experiment.loss, experiment.tx, 0.5), mesh)
loader = Loader(experiment.train, 16, 0)
for n in range(3):
    state, metrics = step(state, put_batch(loader.batch(n), mesh))
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
params = state.ema_params
moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), params, before)
assert 1e-6 < max(jax.tree.leaves(moved)) < 3e-5

found = {}
for method in ("pc", "ode", "sde"):
    config.sampling.method = method
    result = draw(build(config), params, range(config.sampling.batch_size), 0)
    assert result.x.shape[1:] == experiment.shape and not result.failed.any(), method
    found[method] = result.x.tolist()
x = np.random.default_rng(0).normal(0, 0.5, (8, *experiment.shape)).astype(np.float32)
key = jax.random.key(1)
logp = jax.jit(lambda p: experiment.log_likelihood(key, experiment.predict(p), x).logp)(params)
print(json.dumps({"samples": found, "x": x.tolist(), "logp": logp.tolist()}))
"""

SIGMA_DATA = 0.7  # of the digits configs


def smoke(program, law, network, path=""):
    result = program.script(SMOKE, law, network, path)
    assert result.status == 0, result.err
    found = json.loads(result.out.splitlines()[-1])
    for method, x in found["samples"].items():
        x = np.asarray(x)
        # Four standard errors, and 3 % for steps that are few and tolerances that are loose.
        assert abs(x.mean()) < 4 * SIGMA_DATA / x.size**0.5, method
        bound = 4 * SIGMA_DATA / (2 * x.size) ** 0.5 + 0.03 * SIGMA_DATA
        assert abs(x.std() - SIGMA_DATA) < bound, (method, x.std())
        assert len(np.unique(x)) > 0.99 * x.size
    x = np.asarray(found["x"]).reshape(8, -1)
    exact = -0.5 * np.sum(x**2 / SIGMA_DATA**2 + np.log(2 * np.pi * SIGMA_DATA**2), axis=1)
    np.testing.assert_allclose(found["logp"], exact, rtol=5e-3, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["vp", "subvp", "ve", "edm", "flow"])
def test_laws(program, law):
    assert (ROOT / "configs" / f"digits_{law}.py").is_file()
    smoke(program, law, "mlp")


@pytest.mark.slow
def test_convolutions(program):
    smoke(program, "vp", "ncsnpp")


@pytest.mark.slow
def test_vectors(program, tmp_path):
    """Continuous data of five dimensions: all but bits/dim."""
    x = np.random.default_rng(0).normal(0.2, 0.9, (100, 5))
    np.savez(tmp_path / "x.npz", x=x)
    smoke(program, "ve", "mlp", tmp_path / "x.npz")
