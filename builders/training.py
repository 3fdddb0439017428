"""The sections `loss` and `optim` of a config as one loss and one optimizer."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import optax
from jax import Array
from ml_collections import ConfigDict

import data
import losses
import sde_lib
from builders.checks import choose, classes_told
from builders.constructors import arguments_of
from builders.steps import construct, naming
from losses.denoising import LossFn, NetworkFn
from models import CLASSIFIERS
from sde_lib.prediction import CONDITIONING, KINDS, kinds


def build_prediction(config: ConfigDict) -> dict[str, Any]:
    section = config.prediction
    choose("prediction.kind", section.kind, KINDS)
    choose("prediction.conditioning", section.conditioning, CONDITIONING)
    with naming("prediction", section):
        kinds(section.sigma_data)
    return {**section.to_dict(), "num_scales": config.model.get("num_scales")}


def build_loss(
    config: ConfigDict, path: sde_lib.AffinePath, model: Any, scaler: data.Scaler
) -> LossFn:
    """The loss of a run of one network and one source: flip, dequantise and scale on the device,
    then the named loss."""
    return build_losses(config, path, model, build_preprocessing(config.data, scaler))[losses.MAIN]


def build_losses(
    config: ConfigDict,
    path: sde_lib.AffinePath,
    model: Any,
    prepare: Callable[[Array, dict], dict],
    beside: Mapping[str, Callable] = MappingProxyType({}),
) -> dict[str, LossFn]:
    """The losses on raw batches by player: first `prepare`, then the named loss.

    Args:
        prepare: `(key, batch) -> batch`, see `build_preprocessing`.
        beside: arguments of the loss for teachers and further players, by name.
    """
    name = config.loss.name
    make = choose("loss.name", name, losses.LOSSES)
    given = {"path": path, "network": network_of(model), "levels": config.model.get("levels")}
    given |= {**build_prediction(config), **beside}
    own = {k: v for k, v in config.loss.get(name, {}).items() if k not in beside}
    made = construct(f"loss.{name}", make, own, **given)
    tell = build_labels(config)

    def on_raw(on_scaled: LossFn) -> LossFn:
        def loss(params, others, key, batch):
            data_key, loss_key = jax.random.split(key)
            batch = tell(jax.random.fold_in(key, 2), batch)
            return on_scaled(params, others, loss_key, prepare(data_key, batch))

        return loss

    by_player = made if losses.needs_of(make).players else {losses.MAIN: made}
    return {player: on_raw(loss) for player, loss in by_player.items()}


def network_of(model: Any) -> NetworkFn:
    """`(params, x, cond, dropout_key, **known) -> output` of a network in training mode."""

    def network(params, x, cond, dropout_key, **known):
        rngs = {"dropout": dropout_key}
        return model.apply({"params": params}, x, cond, train=True, rngs=rngs, **known)

    return network


def build_preprocessing(
    section: ConfigDict, scaler: data.Scaler, second: data.Scaler | None = None
) -> Callable[[Array, dict], dict]:
    """`(key, batch) -> batch` with `x0`, and `x1` if there is one, in units of the model.

    `x0` and `x1` of an example are both mirrored or both not. Each has its own dequantisation
    noise.

    Args:
        second: the scaler of `x1`; None for that of `x0`.
    """
    scalers = {"x0": scaler, "x1": second or scaler}

    def prepare(key: Array, batch: dict[str, Array]) -> dict[str, Array]:
        noise_key, flip_key = jax.random.split(key)
        keys, found = {"x0": noise_key, "x1": jax.random.fold_in(noise_key, 1)}, dict(batch)
        for name in scalers.keys() & batch.keys():
            found[name] = scalers[name].to_model(keys[name], batch[name])
            if section.random_flip and found[name].ndim == 4:
                found[name] = data.random_flip(flip_key, found[name])
        return found

    return prepare


def build_labels(config: ConfigDict) -> Callable[[Array, dict], dict]:
    """`(key, batch) -> batch` with the classes for the network, in the field `cond`.

    A network that gets classes as input has a share of them replaced by "none"; a classifier has
    all classes; other networks have no `cond`.
    """
    classes, rate = classes_told(config), config.training.label_dropout

    def tell(key: Array, batch: dict[str, Array]) -> dict[str, Array]:
        rest = {name: value for name, value in batch.items() if name != "cond"}
        if config.model.name in CLASSIFIERS:
            return batch
        if not classes:
            return rest
        return {**rest, "cond": losses.drop_labels(key, batch["cond"], classes, rate)}

    return tell


def build_optimizer(section: ConfigDict, n_iters: int) -> optax.GradientTransformation:
    make, own = arguments_of("optim", section)
    return construct("optim", make, own, n_iters=n_iters)
