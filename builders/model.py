"""The sections `model` and `prediction` of a config as a network and a prediction function."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

import models
import sde_lib
from builders.checks import choose
from builders.constructors import arguments_of
from builders.steps import naming
from builders.training import build_prediction
from sde_lib.classifier import LogitsFn, make_logits
from sde_lib.prediction import PredictFn

DTYPES = ("float32", "bfloat16")


def build_model(
    config: ConfigDict, shape: tuple[int, ...], section: ConfigDict | None = None
) -> Any:
    """The network of a section `model`, that of the config itself if no other is given."""
    network, kwargs = arguments_of("model", section or config.model)
    known = {field.name for field in dataclasses.fields(network)}
    kwargs["dtype"] = jnp.dtype(choose("model.dtype", kwargs["dtype"], DTYPES))
    if "centered" in known:
        kwargs["centered"] = config.data.centered
    if "sigma_min" in known and "sigma_min" in config.sde:
        kwargs.update(sigma_min=config.sde.sigma_min, sigma_max=config.sde.sigma_max)
    with naming("model", kwargs):
        model = network(**kwargs)
        model.check(shape)
    return model


def build_predict(config: ConfigDict, path: sde_lib.AffinePath, model: Any):
    """`params -> PredictFn`, whose condition is the class of each example."""
    kind = build_prediction(config)

    def predict(params) -> PredictFn:
        if config.model.name not in models.MODELS:
            raise ValueError(no_score(config.model.name))

        def apply(x: Array, level: Array, label: Array | None = None) -> Array:
            known = {} if label is None else {"label": label}
            return model.apply({"params": params}, x, level, **known)

        return sde_lib.parametrize(path=path, apply=apply, **kind)

    return predict


def no_score(name: str) -> str:
    """The error sentence for a network without a score."""
    by = "guidance.classifier" if name in models.CLASSIFIERS else "sampling.denoising_mcmc.network"
    return (
        f"model.name is {name!r}, a classifier, which has no score; name its workdir in {by} of a "
        "run that samples."
    )


def build_logits(
    config: ConfigDict, path: sde_lib.AffinePath, model: Any
) -> Callable[[Any], LogitsFn] | None:
    """`params -> (x, t) -> logits` for a classifier; None for other networks."""
    if config.model.name not in models.CLASSIFIERS:
        return None
    apply_of = lambda params: lambda x, sigma: model.apply({"params": params}, x, sigma)
    return lambda params: make_logits(path, apply_of(params), config.prediction.sigma_data)
