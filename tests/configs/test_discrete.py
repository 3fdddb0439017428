"""`training.continuous = False`: the parts it selects, the configs it refuses, and a run."""

import jax
import numpy as np
import pytest

import losses
from builders.checks import check_combinations
from builders.experiment import build
from builders.path import build_path
from builders.sampling import build_sampler
from builders.unused import check_flags
from configs.base import base
from data import Loader
from evaluation.tasks.sampling import draw
from parallel.mesh import make_mesh, put_batch
from sde_lib.prediction import from_score
from training.restore import initial
from training.sharding import jit_step
from training.step import make_train_step

SMALL = {
    "model.nf": 8,
    "model.ch_mult": (1,),
    "model.num_res_blocks": 1,
    "model.attn_resolutions": (),
    "model.num_scales": 25,
    "sampling.steps": 25,
    "sampling.batch_size": 4,
    "training.batch_size": 8,
    "optim.warmup": 1,
}


def discrete(law, **changes):
    config = base(law, "ncsnpp", "digits", continuous=False)
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict({**SMALL, **changes})
    return config


@pytest.mark.slow
@pytest.mark.parametrize("law, conditioning", [("vp", "step"), ("ve", "level")])
def test_a_run(law, conditioning):
    """Training at integer levels lowers the loss on one batch. Sampling uses all 25 levels."""
    config = discrete(law, model__dropout=0.0, model__scale_by_sigma=law == "ve", optim__lr=2e-3)
    assert config.prediction.conditioning == conditioning
    experiment = build(config)
    mesh = make_mesh()
    step = jit_step(make_train_step(experiment.loss, experiment.tx, 0.9), mesh)
    batch = put_batch(Loader(experiment.train, 8, 0).batch(0), mesh)
    state, history = jax.jit(lambda: initial(experiment))(), []
    for _ in range(60):
        state, metrics = step(state, batch)
        history.append(float(metrics["loss"]))
    assert np.mean(history[-15:]) < 0.8 * np.mean(history[:15])
    levels = np.asarray(metrics["t"]) * 24
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    result = draw(experiment, state.params, range(4), seed=0)
    # A predictor step makes one network evaluation. For VE a corrector step makes one more.
    assert result.nfe == {"vp": 25, "ve": 50}[law] and np.all(np.isfinite(result.x))


def test_the_loss_is_that_of_the_levels(monkeypatch):
    calls = []
    keys = ("num_scales", "conditioning", "kind", "reduce_mean")

    def spy(path, network, num_scales, conditioning, kind, reduce_mean=True):
        calls.append(dict(zip(keys, (num_scales, conditioning, kind, reduce_mean))))

    monkeypatch.setitem(losses.LOSSES, "discrete", spy)
    build(discrete("ve"))
    (kwargs,) = calls
    assert (kwargs["num_scales"], kwargs["conditioning"], kwargs["kind"]) == (25, "level", "score")
    assert kwargs["reduce_mean"] is False


REFUSED = [
    ("vp", {"loss__name": "denoising"}, "continuous is False and loss.name is 'denoising'"),
    ("ve", {"sampling__steps": 30}, r"sampling\.steps is 30 and model\.num_scales 25"),
    ("ve", {"training__continuous": True}, "conditioning is 'level'"),
]


@pytest.mark.parametrize("law, changes, words", REFUSED)
def test_what_does_not_go_together(law, changes, words):
    check_combinations(discrete(law))
    with pytest.raises(ValueError, match=words):
        check_combinations(discrete(law, **changes))


@pytest.mark.parametrize(
    "changes",
    [{"weighting": "likelihood"}, {"stratify": True}, {"time_sampling": "importance"}],
)
def test_what_discrete_levels_do_not_have(changes):
    """An option that discrete levels lack is refused, also in an old config. Old configs have
    `loss.name = "denoising"` for discrete levels."""
    ((key, value),) = changes.items()
    config = discrete("vp", loss__name="denoising")
    assert build(config).config.loss.name == "discrete"
    config.loss[key] = value
    with pytest.raises(ValueError, match=rf"loss\.{key} is set .*loss\.name is 'discrete'"):
        build(config)
    config = discrete("vp", **{f"loss__denoising__{key}": value})
    with pytest.raises(ValueError, match=rf"loss\.denoising\.{key} is set"):
        check_flags(config, [f"loss.denoising.{key}"])


def test_networks_and_laws_without_levels():
    config = base("vp", "mlp", "digits", continuous=False)
    with pytest.raises(ValueError, match="no num_scales"):
        check_combinations(config)
    with pytest.raises(ValueError, match="SubVP has no chain"):
        build(discrete("subvp"))


def test_the_released_sampler_serves_continuous_models(monkeypatch):
    """The sampler takes its numbers from the section and its number of levels from `steps`."""
    config = base("vp", "mlp", "npz")
    config.sampling.update(method="score_sde", predictor="ancestral_sampling", steps=40, eps=1e-2)
    run = build_sampler(config.sampling, build_path(config.sde))
    score = lambda x, t: -x  # of standard normal data: all levels have unit variance
    x = np.random.default_rng(0).standard_normal((4000, 1)).astype(np.float32)
    predict = from_score(build_path(config.sde), score)
    draw_all = jax.jit(lambda key, x: run(jax.random.split(key, 4000), predict, x))
    result = draw_all(jax.random.key(1), x)
    assert result.nfe == 40
    # DDPM's steps keep N(0, 1). The last mean lacks the noise of the first level, beta = 0.1 / 40.
    assert abs(np.var(result.x) - 1.0) < 4 * (2 / 4000) ** 0.5
