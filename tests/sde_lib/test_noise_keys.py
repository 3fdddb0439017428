"""Keys that belong to an example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import SDES, example_keys, fold_in, normal_like, split
from sde_lib.noise import rademacher_like


@pytest.mark.parametrize("draw", [normal_like, rademacher_like])
def test_example_does_not_depend_on_its_batch(draw):
    """Alone, in a batch of seven, in another order: bit for bit the same draw."""
    keys = example_keys(3, jnp.arange(7))
    x = jnp.zeros((7, 4, 3))
    batch = draw(keys, x)
    order = jnp.asarray([5, 0, 6, 2, 1, 4, 3])
    np.testing.assert_array_equal(draw(keys[order], x), batch[order])
    np.testing.assert_array_equal(draw(keys[4:5], x[:1])[0], batch[4])
    assert len(np.unique(np.asarray(normal_like(keys, x))[:, 0, 0])) == 7


def test_keys_are_of_the_index_not_of_the_position():
    a, b = example_keys(3, jnp.asarray([10, 11])), example_keys(3, jnp.asarray([11, 12]))
    assert a[1] == b[0]
    assert a[0] != example_keys(4, jnp.asarray([10]))[0]


@pytest.mark.parametrize("draw", [normal_like, rademacher_like])
def test_wrong_number_of_keys_is_refused(draw):
    keys = example_keys(0, jnp.arange(3))
    with pytest.raises(ValueError, match="3 keys for a batch of 4"):
        draw(keys, jnp.zeros((4, 2)))


@pytest.mark.parametrize("law", [law() for law in SDES.values()], ids=SDES)
def test_laws_take_keys_per_example(law):
    keys = example_keys(0, jnp.arange(3))
    alone = [law.prior_sample(keys[i : i + 1], (1, 5))[0] for i in range(3)]
    np.testing.assert_array_equal(law.prior_sample(keys, (3, 5)), jnp.stack(alone))
    with pytest.raises(ValueError, match="3 keys for a batch of 2"):
        law.perturb(keys, jnp.zeros((2, 5)), jnp.asarray(0.5))


def test_fold_in_and_split_work_key_by_key():
    keys = example_keys(0, jnp.arange(3))
    folded, parts = fold_in(keys, 7), split(keys, 2)
    assert folded.shape == (3,) and [part.shape for part in parts] == [(3,), (3,)]
    for i in range(3):
        assert folded[i] == fold_in(keys[i], 7)
        for part, single in zip(parts, split(keys[i], 2)):
            assert part[i] == single
    assert parts[0][0] != parts[1][0]


@pytest.mark.parametrize("key", [jax.random.key(0), example_keys(0, jnp.arange(20_000))])
def test_laws_of_the_draws(key):
    """Mean and variance of normals and signs, within four standard errors."""
    x = jnp.zeros((20_000, 4))
    n = x.size
    normal, signs = normal_like(key, x), rademacher_like(key, x)
    assert abs(jnp.mean(normal)) < 4 / n**0.5
    assert abs(jnp.var(normal) - 1) < 4 * (2 / n) ** 0.5
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(jnp.mean(signs)) < 4 / n**0.5
    assert signs.dtype == x.dtype
