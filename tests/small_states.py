"""Small training states, and workdirs that hold them."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from parallel.mesh import abstract, make_mesh
from training.checkpoint import Checkpoints
from training.state import create_state

TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.0, 1e-3, 5)))


def params(width=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "input": {"kernel": rng.standard_normal((4, width), np.float32)},
        "output": {"kernel": rng.standard_normal((width, 2), np.float32)},
    }


@functools.cache
def maker(tx):
    def make(params, average, step):
        state = create_state(params, tx, seed=7)
        moments = jax.tree.map(lambda leaf: leaf + step, state.opt_state)
        return state.replace(step=step, ema_params=average, opt_state=moments)

    return jax.jit(make)


@functools.cache
def state_at(step, width=3, tx=TX):
    """Return a state whose parameters, average and moments all differ."""
    return maker(tx)(params(width, step), params(width, step + 100), np.int32(step))


@functools.cache
def shapes(width=3, tx=TX):
    return abstract(lambda: create_state(params(width), tx, 7), make_mesh())


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype, jax.tree_util.keystr(path)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y, err_msg=jax.tree_util.keystr(path))


def save(workdir, *steps, keep=0, **kwargs):
    checkpoints = Checkpoints(workdir, keep)
    for step in steps:
        checkpoints.save(state_at(step, **kwargs))
    checkpoints.wait()
    return checkpoints


def experiment(width=3):
    return SimpleNamespace(init_params=lambda key: jax.tree.map(jnp.asarray, params(width)))
