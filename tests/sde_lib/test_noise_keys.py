"""Random keys that belong to examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sde_lib import SDES, example_keys, fold_in, normal_like, split
from sde_lib.noise import rademacher_like


def drawn(draw):
    """Return `(indices, shape) -> draws` with the keys of these examples."""
    run = lambda indices, shape: draw(example_keys(3, indices), jnp.zeros(shape))
    run = jax.jit(run, static_argnums=1)
    return lambda indices, *shape: np.asarray(run(np.asarray(indices), (len(indices), *shape)))


@pytest.mark.parametrize("draw", [normal_like, rademacher_like])
def test_example_does_not_depend_on_its_batch(draw):
    """An example gets the same draw, bit for bit, alone, in a batch of seven, in another order."""
    run, order = drawn(draw), [5, 0, 6, 2, 1, 4, 3]
    batch = run(range(7), 4, 3)
    np.testing.assert_array_equal(run(order, 4, 3), batch[order])
    np.testing.assert_array_equal(run([4], 4, 3)[0], batch[4])
    if draw is normal_like:
        assert len(np.unique(batch[:, 0, 0])) == 7


@jax.jit
def own_keys(seed, indices):
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(indices)
    return jax.random.key_data(keys)


def test_keys_are_of_the_index_not_of_the_position():
    data = lambda seed, *indices: jax.random.key_data(example_keys(seed, np.array(indices)))
    a, b, other = (np.asarray(data(*given)) for given in ((3, 10, 11), (3, 11, 12), (4, 10, 11)))
    np.testing.assert_array_equal(a, own_keys(3, np.array([10, 11])))
    assert np.all(a[1] == b[0]) and np.any(a[0] != other[0])


@pytest.mark.parametrize("draw", [normal_like, rademacher_like])
def test_wrong_number_of_keys_is_refused(draw):
    keys = example_keys(0, np.arange(3))
    with pytest.raises(ValueError, match="3 keys for a batch of 4"):
        draw(keys, np.zeros((4, 2)))


@pytest.mark.parametrize("law", [law() for law in SDES.values()], ids=SDES)
def test_laws_take_keys_per_example(law):
    keys = example_keys(0, np.arange(3))
    draw = jax.jit(lambda keys: law.prior_sample(keys, (*keys.shape, 5)))
    together = np.asarray(draw(keys))
    for i in range(3):
        np.testing.assert_array_equal(draw(example_keys(0, np.array([i])))[0], together[i])
    with pytest.raises(ValueError, match="3 keys for a batch of 2"):
        law.perturb(keys, np.zeros((2, 5), np.float32), np.float32(0.5))


def test_fold_in_and_split_work_key_by_key():
    @jax.jit
    def run(keys):
        data = jax.random.key_data
        one_by_one = [(fold_in(keys[i], 7), *split(keys[i], 2)) for i in range(3)]
        together = fold_in(keys, 7), *split(keys, 2)
        return jax.tree.map(data, together), jax.tree.map(data, one_by_one)

    together, one_by_one = jax.device_get(run(example_keys(0, np.arange(3))))
    assert [part.shape[:1] for part in together] == [(3,)] * 3
    for i in range(3):
        for part, single in zip(together, one_by_one[i]):
            np.testing.assert_array_equal(part[i], single)
    assert np.any(together[1][0] != together[2][0])


@pytest.mark.parametrize("many", [False, True], ids=["one key", "a key each"])
def test_laws_of_the_draws(many):
    """Normals and signs have the right mean and variance within four standard errors."""
    n = 80_000

    @jax.jit
    def run():
        x = jnp.zeros((20_000, 4))
        key = example_keys(0, jnp.arange(20_000)) if many else jax.random.key(0)
        return normal_like(key, x), rademacher_like(key, x)

    normal, signs = jax.device_get(run())
    assert abs(np.mean(normal)) < 4 / n**0.5
    assert abs(np.var(normal) - 1) < 4 * (2 / n) ** 0.5
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(np.mean(signs)) < 4 / n**0.5
    assert signs.dtype == np.float32
