"""Six Gaussians on a circle and noise levels, for Markov chains over data and noise level."""

import functools

import jax.numpy as jnp
import numpy as np
from closed_form import Mixture

from samplers.mcmc.levels import make_levels
from sde_lib import EDM, example_keys

LAW = EDM(t0=0.01, t1=50.0)
STD = 0.1
ANGLES = np.arange(6) * np.pi / 3.0
CENTRES = 2.0 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
RING = Mixture(np.full(6, 1 / 6), CENTRES, np.full(6, STD))


@functools.cache
def ring_levels():
    return make_levels(LAW, 60, 0.05, 10.0)


def keys_of(n, seed=0):
    return example_keys(seed, jnp.arange(n))


def nearest(y):
    return np.argmin(np.sum((np.asarray(y)[..., None, :] - CENTRES) ** 2, axis=-1), axis=-1)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(5).standard_normal(shape))
