"""A new law, network, loss or predictor is one file and one line of a table.

This file defines one of each, and `monkeypatch` adds the lines. No other code names them. Their
options are set in their sections, and the results have the values that these options give.
"""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from tiny import TINY

import losses
import models
import samplers
import sde_lib
from builders.describe import describe
from builders.experiment import build
from builders.stored import stored_config
from builders.unused import check_flags
from configs.base import base
from evaluation.tasks.sampling import draw
from losses.needs import needs
from samplers.base import Sampler, State, start
from sde_lib import ranges
from sde_lib.affine import AffinePath, Coeffs
from training.metrics import read_metrics
from training.run import run_training


@struct.dataclass
class Turning(AffinePath):
    """`a = cos(turn t)`, `c = sin(turn t)`.

    Args:
        turn: the angle at t = 1.
    """

    turn: float = 1.5
    t0: float = 1e-3
    t1: float = 1.0

    def coeffs(self, t):
        return Coeffs(jnp.cos(self.turn * t), jnp.sin(self.turn * t))

    def t_of_lam(self, lam):
        return jnp.arctan(jnp.exp(-lam)) / self.turn


def absolute(path, network, *, scale: float = 1.0):
    """The mean of |F(x_t) - z|.

    Args:
        scale: a factor of the loss.
    """

    def loss(params, state, key, batch):
        (x0,) = (batch[k] for k in ("x0", "image") if k in batch)
        t = jnp.linspace(path.t0, path.t1, len(x0))
        z = jax.random.normal(key, x0.shape)
        error = jnp.abs(network(params, path.marginal(x0, z, t), t, key) - z)
        return scale * jnp.mean(error), {"loss": scale * jnp.mean(error), "t": t}

    return loss


def shrink(path, share: float = 0.5):
    """Multiplies x by a share.

    Args:
        share: what is left of x after a step.
    """
    del path
    return Sampler(start, lambda key, predict, state, span: State(share * state.x), nfe=0)


class Gain(nn.Module):
    """`F(x) = gain w x`, with w = 1 at first.

    Attributes:
        gain: a factor.
    """

    gain: float = 2.0
    dtype: jnp.dtype = jnp.float32

    def check(self, shape):
        ranges.positive(gain=self.gain)

    @nn.compact
    def __call__(self, x, cond, train=False):
        return self.gain * self.param("w", nn.initializers.ones, (), self.dtype) * x


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.setitem(models.MODELS, "gain", Gain)
    monkeypatch.setitem(sde_lib.SDES, "turning", Turning)
    monkeypatch.setitem(losses.LOSSES, "absolute", absolute)
    monkeypatch.setitem(samplers.PREDICTORS, "shrink", shrink)


def config(**changes):
    found = base("turning", "mlp", "digits")
    found.update_from_flattened_dict(
        {**TINY, "training.n_iters": 2, "training.snapshot_freq": 2, "training.eval_freq": 2}
    )
    found.loss.name, found.sampling.predictor, found.sampling.denoise = "absolute", "shrink", False
    found.update_from_flattened_dict({key.replace("__", "."): v for key, v in changes.items()})
    return found


def test_a_law_a_loss_and_a_predictor_are_a_line_each(tables, tmp_path):
    ours = config(sde__turn=0.9, loss__absolute__scale=3.0, sampling__shrink__share=0.25)
    given = ["sde.turn", "loss.absolute.scale", "sampling.shrink.share"]
    check_flags(ours, given)
    experiment = build(ours)
    np.testing.assert_allclose(experiment.path.coeffs(1.0), (np.cos(0.9), np.sin(0.9)), rtol=1e-6)
    state = run_training(experiment, tmp_path)
    assert int(state.step) == 2
    # The network starts at 0 and E |z| = sqrt(2 / pi). There are 16 images of 64 pixels, scale 3.
    first = read_metrics(tmp_path)[0]["training_loss"]
    error = 3.0 * (1.0 - 2.0 / np.pi) ** 0.5 / (16 * 64) ** 0.5
    assert abs(first - 3.0 * (2.0 / np.pi) ** 0.5) < 4.0 * error
    rows = [row for row in read_metrics(tmp_path) if "eval_loss" in row]
    assert len(rows) == 1 and np.isfinite(rows[0]["eval_loss"])
    # Each of the three steps multiplies x by a quarter.
    x = jnp.full((2, 8, 8, 1), 2.0)
    found = experiment.sample(jax.random.key(0), experiment.predict(state.ema_params), x)
    np.testing.assert_allclose(found.x, 2.0 * 0.25**3)
    drawn = draw(experiment, state.ema_params, range(4), seed=0)
    assert drawn.x.shape == (4, 8, 8, 1) and np.all(np.isfinite(drawn.x))
    # The run's stored config has the three sections, and no sections of unused methods.
    kept = json.loads((tmp_path / "config.json").read_text())
    assert kept["sde"] == {"name": "turning", "turn": 0.9, "t0": 1e-3, "t1": 1.0}
    assert kept["loss"] == {"name": "absolute", "absolute": {"scale": 3.0}}
    assert kept["sampling"]["shrink"] == {"share": 0.25} and "ddim" not in kept["sampling"]
    assert build(stored_config(tmp_path)).settings.to_dict().keys() == kept.keys()


def test_they_are_described_and_refused(tables):
    ours = config()
    for key, line in (
        ("sde", "turn = 1.5  the angle at t = 1."),
        ("sde", "sde.name is one of "),
        ("loss", "loss.name is one of denoising, discrete, classification, noise_level, absolute"),
        ("loss.absolute", "scale: float = 1.0  a factor of the loss."),
        ("sampling.shrink", "share: float = 0.5  what is left of x after a step."),
    ):
        assert line in describe(key, ours)
    ours.loss.name = "denoising"
    with pytest.raises(ValueError, match=r"loss\.absolute\.scale is set to 1.0, and no chosen"):
        check_flags(ours, ["loss.absolute.scale"])
    with pytest.raises(ValueError, match=r"sde\.t0 is 2.0; it must lie between 0 and t1 = 1.0"):
        build(config(sde__t0=2.0))


def test_a_network_is_a_line(tables):
    """Its option is in the section, told by --describe, checked, and in what the network says."""
    ours = base("vp", "gain", "digits")
    assert ours.model.to_dict() == {"name": "gain", "gain": 2.0, "dtype": "float32"}
    assert ours.loss.name == "denoising" and "model.name is one of " in describe("model", ours)
    ours.model.gain = 3.0
    experiment = build(ours)
    params, x = experiment.init_params(jax.random.key(0)), jnp.full((2, 8, 8, 1), 0.5)
    said = experiment.predict({"w": 2.0 * params["w"]})(x, jnp.full(2, 0.5))
    np.testing.assert_allclose(said.eps, 3.0 * 2.0 * 0.5)
    ours.model.gain = -1.0
    with pytest.raises(ValueError, match=r"^model\.gain is -1.0; it must be positive"):
        build(ours)


def test_a_loss_says_what_it_trains(monkeypatch):
    """A loss of the networks of another table is a line too."""
    monkeypatch.setitem(losses.LOSSES, "grade", needs(trains="classifiers")(absolute))
    ours = base("vp", "mlp_classifier", "digits")
    assert ours.loss.name == "classification"
    ours.loss.name, ours.model.num_classes = "grade", 10
    assert build(ours).logits is not None
    other = base("vp", "mlp", "digits")
    other.loss.name = "grade"
    with pytest.raises(ValueError, match="'grade', which trains wideresnet, mlp_classifier and no"):
        build(other)
