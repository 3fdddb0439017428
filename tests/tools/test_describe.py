"""`tools.describe`: parameter counts and memory, computed from shapes only."""

import math
import sys

import jax
import jax.numpy as jnp
import pytest
from network_sizes import unet
from program import ROOT
from tiny import tiny

from configs.base import base
from tools import describe


def small():
    """The config of an NCSN++ whose activations need more memory than its parameters."""
    config = base("vp", "ncsnpp", "npz")
    config.model.update(nf=8, ch_mult=(1, 2), num_res_blocks=2, attn_resolutions=(16,))
    return config


def test_parameters_are_grouped_and_none_is_lost():
    model, shape = describe.network_of(small(), (32, 32, 3))
    kinds = describe.by_kind(describe.abstract_params(model, shape))
    assert sum(count for _, count in kinds.values()) == unet(8, (1, 2), 2, 32)
    # Each of two resolutions has 2 blocks down and 3 up; 2 blocks resample, 2 are in the middle.
    assert kinds["ResnetBlockBigGANpp"][0] == 2 * 2 + 2 * 3 + 2 + 2
    assert kinds["AttnBlockpp"][0] == 2 + 1 + 1


def test_arguments_and_results_of_a_step_are_its_state_and_batch():
    """A step takes parameters, their average, Adam's two moments, a batch and a few scalars."""
    config = tiny("vp")
    step = describe.abstract_step(config, (8, 8, 1), 16)
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(step.state.params))
    memory = describe.compiled_memory(step)
    assert memory.arguments * 2**20 == pytest.approx(4 * 4 * size + 16 * 64, abs=256)
    # On CPUs the result also has a table of addresses with 8 bytes per leaf.
    assert memory.outputs * 2**20 == pytest.approx(4 * 4 * size, abs=1024)
    # The state is updated in place, so it counts once.
    assert memory.total == pytest.approx(memory.arguments + memory.temporary, abs=1e-3)


def test_what_is_kept_for_the_gradient():
    """The gradient of `sum(sin(x w))` needs x and cos(x w); remat keeps only the blocks' inputs."""
    x, w = jax.ShapeDtypeStruct((64, 8), jnp.float32), jnp.zeros((8, 1024))
    state = describe.TrainState(0, w, w, None, None)
    loss = lambda params, state, key, batch: (jnp.sin(batch["x0"] @ params).sum(), {})
    step = describe.Step(loss, None, state, {"x0": x})
    assert describe.kept(step) * 2**20 == 4 * (64 * 8 + 64 * 1024)
    config = small()
    plain = describe.kept(describe.abstract_step(config, (32, 32, 3), 16))
    config.model.remat = True
    assert describe.kept(describe.abstract_step(config, (32, 32, 3), 16)) < 0.4 * plain


def test_shapes_come_from_the_config_or_are_asked_for():
    config = small()
    with pytest.raises(ValueError, match="--shape=H,W,C"):
        describe.network_of(config)
    config.data.image_size = (48,)  # the form that a flag gives
    assert describe.network_of(config)[1] == (48, 48, 3)
    assert describe.network_of(config, (32, 16, 1))[1] == (32, 16, 1)


def test_the_command(monkeypatch, capsys):
    path = ROOT / "configs" / "digits_vp.py"
    monkeypatch.setattr(sys, "argv", ["describe", f"--config={path}", "--no-compile"])
    describe.main()
    said = capsys.readouterr().out
    assert "mlp, vp, continuous, 8x8x1\n1,662,528 parameters" in said
    monkeypatch.setattr(sys, "argv", ["describe", f"--config={path}", "--shape=7,x"])
    with pytest.raises(SystemExit, match="invalid literal"):
        describe.main()
