"""What trains: the sections `loss` and `optim` of a config as one loss and one optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array
from ml_collections import ConfigDict

import data
import losses
import sde_lib
from builders.checks import choose, classes_told
from builders.steps import construct
from losses.denoising import LossFn
from models import CLASSIFIERS
from models.embeddings import frozen
from sde_lib.prediction import CONDITIONING, KINDS


def build_prediction(config: ConfigDict) -> dict[str, Any]:
    section = config.prediction
    choose("prediction.kind", section.kind, KINDS)
    choose("prediction.conditioning", section.conditioning, CONDITIONING)
    return {**section.to_dict(), "num_scales": config.model.get("num_scales")}


def build_loss(
    config: ConfigDict, path: sde_lib.AffinePath, model: Any, scaler: data.Scaler
) -> LossFn:
    """The loss on raw batches: flip, dequantise and scale on the device, then the named loss."""
    name = config.loss.name
    make = choose("loss.name", name, losses.LOSSES)

    def network(params, x, cond, dropout_key, **known):
        rngs = {"dropout": dropout_key}
        return model.apply({"params": params}, x, cond, train=True, rngs=rngs, **known)

    given = {"path": path, "network": network, "levels": config.model.get("levels")}
    given |= build_prediction(config)
    on_scaled = construct(f"loss.{name}", make, config.loss.get(name, {}), **given)
    prepare, tell = build_preprocessing(config.data, scaler), build_labels(config)

    def loss(params, state, key, batch):
        data_key, loss_key = jax.random.split(key)
        batch = tell(jax.random.fold_in(key, 2), batch)
        return on_scaled(params, state, loss_key, prepare(data_key, batch))

    return loss


def build_preprocessing(section: ConfigDict, scaler: data.Scaler) -> Callable[[Array, dict], dict]:
    """`(key, batch) -> batch` with the image as the model sees it."""

    def prepare(key: Array, batch: dict[str, Array]) -> dict[str, Array]:
        noise_key, flip_key = jax.random.split(key)
        image = scaler.to_model(noise_key, batch["image"])
        if section.random_flip and image.ndim == 4:
            image = data.random_flip(flip_key, image)
        return {**batch, "image": image}

    return prepare


def build_labels(config: ConfigDict) -> Callable[[Array, dict], dict]:
    """`(key, batch) -> batch` with the classes that the network is told, some of them left out, or
    those that it learns to tell; without any for other networks."""
    classes, rate = classes_told(config), config.training.label_dropout

    def tell(key: Array, batch: dict[str, Array]) -> dict[str, Array]:
        rest = {name: value for name, value in batch.items() if name != "label"}
        if config.model.name in CLASSIFIERS:
            return batch
        if not classes:
            return rest
        return {**rest, "label": losses.drop_labels(key, batch["label"], classes, rate)}

    return tell


def build_optimizer(section: ConfigDict, n_iters: int) -> optax.GradientTransformation:
    """Adam with linear warm-up, then constant or cosine; clipping by the global norm first.

    Weight decay is decoupled and multiplied by the learning rate, as in the original; what is never
    trained does not decay.
    """
    choose("optim.optimizer", section.optimizer, ("adam",))
    choose("optim.schedule", section.schedule, ("constant", "cosine"))
    warmup = optax.linear_schedule(0.0, section.lr, max(section.warmup, 1))
    if section.schedule == "cosine":
        after = optax.cosine_decay_schedule(section.lr, max(n_iters - section.warmup, 1))
    else:
        after = optax.constant_schedule(section.lr)
    rate = optax.join_schedules([warmup, after], [section.warmup]) if section.warmup else after
    adam = optax.chain(
        optax.scale_by_adam(b1=section.beta1, b2=section.beta2, eps=section.eps),
        decay_trained(section.weight_decay),
        optax.scale_by_learning_rate(rate),
    )
    clip = optax.clip_by_global_norm(section.grad_clip) if section.grad_clip else optax.identity()
    return optax.chain(clip, adam)


def decay_trained(weight_decay: float) -> optax.GradientTransformation:
    """`g + weight_decay p`, but g for what is `frozen`. The state is that of
    `optax.add_decayed_weights` without a mask, as checkpoints have it."""

    def update(updates, state, params):
        add = lambda path, g, p: g if frozen(path, p) else g + weight_decay * p
        return jax.tree_util.tree_map_with_path(add, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
