"""The held-out loss: the training loss with fixed draws on a given number of examples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known_data import LEVELS, N_TEST, Affine, affine

from builders.experiment import build
from builders.training import build_loss
from configs.base import base
from evaluation.tasks.loss import DRAWS, chosen, example_losses, make_eval_loss
from sde_lib import example_keys, fold_in


def test_loss_is_the_same_whenever_and_in_batches_of_any_size(file):
    values = []
    for batch_size in (20, 75, 1000, 20):
        experiment = affine(file, eval__batch_size=batch_size)
        values.append(make_eval_loss(experiment)({"w": jnp.asarray([0.3, -0.2])}))
    assert values[0] == values[3]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)
    other = make_eval_loss(experiment)({"w": jnp.asarray([0.3, -0.1])})
    assert abs(other - values[0]) > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction__kind": "eps", "loss__reduce_mean": False},
        {"loss__weighting": "likelihood", "loss__time_sampling": "importance"},
    ],
    ids=["eps_sum", "edm_weighted"],
)
def test_loss_is_that_of_training(file, changes):
    """The held-out loss and the training loss have the same expectation, within their errors."""
    experiment = affine(file, **changes)
    params = {"w": jnp.asarray([0.3, -0.2])}
    loss = build_loss(experiment.config, experiment.path, Affine(), experiment.scaler)
    batch = {"x0": jnp.asarray(experiment.test.fetch(np.arange(N_TEST)))}
    keys = jax.random.split(jax.random.key(1), 400)
    values = jax.jit(jax.vmap(lambda key: loss(params, None, key, batch)[0]))(keys)
    # The evaluation has 8 draws, spread over time; each of the 400 values has one draw.
    error = np.std(values) * np.sqrt(1 / 400 + 1 / 8)
    found = make_eval_loss(experiment)(params)
    assert found == pytest.approx(float(np.mean(values)), abs=3 * float(error))
    assert error < 0.1 * np.mean(values)


# Discrete levels.

N = 8  # equal to DRAWS, so that the spread draws of an example have each level once


class OfLevel:
    """A network whose output is one number per label and does not depend on x."""

    def apply(self, variables, x, cond, train=False, rngs=None):
        return jnp.broadcast_to(variables["params"][cond.astype(int)][:, None, None, None], x.shape)


def of_levels(file, law, **changes):
    """An experiment on N levels whose loss has a closed form, and the loss of each test example.

    For the kind `x0` the loss at level i is `(a_i / c_i)^2 |F_i - x0|^2`, independent of the noise.
    """
    config = base(law, "ncsnpp", "npz", continuous=False)
    config.data.path, config.model.num_scales, config.sampling.steps = str(file), N, N
    config.model.update(nf=8, ch_mult=(1,), num_res_blocks=1, attn_resolutions=())
    config.prediction.kind = "x0"
    config.update_from_flattened_dict(changes)
    answers = np.linspace(-0.6, 0.8, N)  # by label
    if law == "vp":
        config.sde.beta_max = 4.0
        a2 = np.cumprod(1 - np.linspace(0.1, 4.0, N) / N)
        weight, told = a2 / (1 - a2), answers
    else:
        weight, told = np.geomspace(0.01, 50.0, N) ** -2.0, answers[::-1]
    experiment = dataclasses.replace(build(config), model=OfLevel())
    x0 = experiment.test.fetch(np.arange(N_TEST)).reshape(N_TEST, 1, -1) / (LEVELS - 1.0)
    x0 = 2 * x0 - 1 if config.data.centered else x0
    errors = (told[:, None] - x0) ** 2
    reduced = errors.mean(-1) if config.loss.discrete.reduce_mean else errors.sum(-1) / 2
    return experiment, jnp.asarray(answers, jnp.float32), np.mean(weight * reduced, axis=1)


@pytest.mark.parametrize("law", ["vp", "ve"])
def test_loss_of_discrete_levels_in_closed_form(file, law):
    """All levels have equal weight, and the network gets the label of the level. The loss is the
    mean over pixels for VP and half the sum for VE."""
    experiment, params, expected = of_levels(file, law)
    found = make_eval_loss(experiment)(params)
    assert found == pytest.approx(expected.mean(), rel=2e-5)


def test_loss_of_some_examples(file):
    """The seed chooses some examples at random. Each keeps the draws that it has among all."""
    experiment, params, each = of_levels(file, "vp", **{"eval.batch_size": 7})
    numbers = chosen(N_TEST, 20, experiment.config.seed)
    assert len(set(numbers)) == 20 and max(numbers) > 40 and list(numbers) != list(range(20))
    assert set(numbers) <= set(chosen(N_TEST, 33, experiment.config.seed))
    assert set(numbers) != set(chosen(N_TEST, 20, experiment.config.seed + 1))
    assert list(chosen(N_TEST, N_TEST + 1, 0)) == list(chosen(N_TEST, 0, 0)) == list(range(N_TEST))
    found = make_eval_loss(experiment, most=20)(params)
    assert found == pytest.approx(each[numbers].mean(), rel=2e-5)
    assert found != pytest.approx(each[:20].mean(), rel=1e-3)


def test_examples_keep_their_draws_among_fewer(file):
    """With noise in the loss the parts of a split have the same total as the whole split."""
    experiment, params = affine(file), {"w": jnp.asarray([0.3, -0.2])}
    source, whole = experiment.test, make_eval_loss(experiment)(params)
    some = chosen(N_TEST, 30, experiment.config.seed)
    rest = np.setdiff1d(np.arange(N_TEST), some)
    part = make_eval_loss(experiment, most=30)(params)
    assert abs(part - whole) > 1e-4
    # If each example keeps its draws, the sum over the rest is the whole minus the part.
    values = per_example(experiment, params, source.fetch(rest), rest)
    assert part * 30 + values.sum() == pytest.approx(whole * N_TEST, rel=1e-5)


def per_example(experiment, params, raw, numbers):
    keys = example_keys(0, numbers.astype(np.int32))
    one = lambda k: example_losses(experiment, params, raw, fold_in(keys, k), k)
    return np.asarray(jax.jit(lambda: jax.lax.map(one, jnp.arange(DRAWS)))().mean(0), np.float64)
