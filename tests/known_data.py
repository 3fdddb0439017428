"""Experiments on data whose law, and so whose score, is known.

The levels of each pixel are draws of a wide Gaussian, rounded down. Dequantised levels have the law
of that Gaussian again, except for terms far below the precision of the tests. So the exact score of
a Gaussian is the perfect model, and its bits/dim are the entropy of the levels.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from closed_form import Gaussian
from tiny import tiny

from builders.experiment import build
from configs.base import base
from sde_lib.prediction import parametrize

LEVELS, MEAN, STD = 64, 30.0, 6.0
SHAPE = (3, 2, 1)
N_TRAIN, N_TEST = 120, 75


def levels(rng, n):
    return np.floor(rng.normal(MEAN, STD, (n, *SHAPE))).clip(0, LEVELS - 1).astype(np.uint8)


def config(file, law="vp", **changes):
    config = base(law, "mlp", "npz")
    tiny_digits = tiny(law)
    for section in ("model", "prediction", "sampling", "likelihood", "eval"):
        config[section] = tiny_digits[section]
    config.data.update(path=str(file), centered=True, random_flip=False)
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in changes.items()}
    )
    return config


def exact(file, law="vp", **changes):
    """Return an experiment whose prediction function is exact; parameters are not used."""
    experiment = build(config(file, law, **changes))
    scale = 2.0 / LEVELS
    data = Gaussian.scalar(MEAN * scale - 1.0, STD * scale, dims=int(np.prod(SHAPE)))
    return dataclasses.replace(experiment, predict=lambda params: data.predict(experiment.path))


PARAMS = {"w": jnp.zeros(2)}


class Affine:
    """A network `w0 x + w1` with two parameters, on which the loss depends; it compiles fast."""

    def apply(self, variables, x, cond, train=False, rngs=None):
        w = variables["params"]["w"]
        return w[0] * x + w[1]


def affine(file, **changes):
    experiment = build(config(file, **changes))
    apply = lambda params: lambda x, c: Affine().apply({"params": params}, x, c)
    kind = experiment.config.prediction.to_dict()
    predict = lambda params: parametrize(path=experiment.path, apply=apply(params), **kind)
    return dataclasses.replace(experiment, model=Affine(), predict=predict)


def vectors(folder, **changes):
    np.savez(folder / "x.npz", x=np.random.default_rng(0).normal(3.0, 9.0, (50, 5)))
    return affine(folder / "x.npz", data__centered=False, **changes)
