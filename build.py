"""From config to objects, one small function a section; nothing else turns names into code.

Data flows one way: flags, config, `build(config)`, pure functions, jitted step. A section is the
keyword arguments of one constructor. Everything that can be refused is refused here, before
anything is compiled or written.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from ml_collections import ConfigDict

import data
import likelihood
import losses
import models
import sde_lib
from build_sampling import Known, build_sampler, build_solver
from check import check_combinations, check_data, check_numbers, choose
from configs.base import DATA
from losses.denoising import LossFn
from samplers import VARIABLES
from samplers.base import SampleFn
from sde_lib.prediction import CONDITIONING, KINDS, PredictFn

DTYPES = ("float32", "bfloat16")
MOMENTS_BATCH = 1000
HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a run is made of. All functions are pure; none knows of the config.

    - `loss(params, state, key, batch)`: batch as the loader gives it, raw levels included.
    - `predict(params) -> PredictFn`: the network without dropout.
    - `sample(key, predict, x)`: x from the prior at `t1`.
    - `log_likelihood(key, predict, x)`: nats of scaled data.
    - `scaler` is that of training; `bits_scaler` always dequantises, as bits/dim needs.
    """

    config: ConfigDict
    path: sde_lib.AffinePath
    model: Any
    shape: tuple[int, ...]
    scaler: data.Scaler
    bits_scaler: data.Scaler
    train: data.Source
    test: data.Source
    loss: LossFn
    tx: optax.GradientTransformation
    predict: Callable[[Any], PredictFn]
    sample: SampleFn
    log_likelihood: Callable[..., likelihood.LogLik]

    def init_params(self, key: Array) -> Any:
        x, cond = jnp.zeros((1, *self.shape)), jnp.ones((1,))
        return self.model.init(key, x, cond)["params"]


def build(config: ConfigDict, reads_data: bool = True) -> Experiment:
    """Builds all parts of a run.

    With `reads_data` false, images that are not on the disk are no error where the config states
    their size, which is all that sampling needs.

    Raises:
        ValueError: for a name that is not known, or a number out of range. One sentence.
    """
    check_numbers(config)
    path = build_path(config.sde)
    check_combinations(config)
    train, test = build_sources(config, reads_data)
    scaler = data.Scaler(train.levels, config.data.centered, config.data.uniform_dequantization)
    model = build_model(config, train.shape)
    apply_of = lambda params: lambda x, c: model.apply({"params": params}, x, c)
    kind = build_prediction(config)
    rank = config.sampling.teleport_rank or None
    moments = lambda: data_moments(train, scaler, config.data.random_flip, rank)
    known = Known(config.training.continuous, moments)
    return Experiment(
        config=config,
        path=path,
        model=model,
        shape=train.shape,
        scaler=scaler,
        bits_scaler=scaler.replace(dequantize=train.levels > 0),
        train=train,
        test=test,
        loss=build_loss(config, path, model, scaler),
        tx=build_optimizer(config.optim, config.training.n_iters),
        predict=lambda params: sde_lib.parametrize(path=path, apply=apply_of(params), **kind),
        sample=build_sampler(config.sampling, path, known),
        log_likelihood=build_likelihood(config.likelihood, path),
    )


def arguments(section: ConfigDict, *without: str) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in without}


def build_sources(config: ConfigDict, reads_data: bool) -> tuple[data.Source, data.Source]:
    """Training and test split, checked against the config; or stand-ins, see `build`."""
    try:
        train, test = build_data(config.data)
    except FileNotFoundError:
        shape = data.stated_shape(config.data)
        if reads_data or shape is None:
            raise
        name = config.data.get("name", config.data.dataset)
        return tuple(data.unread(name, split, shape) for split in ("train", "test"))
    check_data(config, train, test)
    return train, test


def build_data(section: ConfigDict) -> tuple[data.Source, data.Source]:
    """Training and test split."""
    choose("data.dataset", section.dataset, data.SOURCES)
    own = arguments(section, "dataset", "centered", "random_flip", "uniform_dequantization")
    if set(own) != set(DATA[section.dataset]):
        raise ValueError(
            f"data.dataset is {section.dataset!r}, whose options are "
            f"{', '.join(DATA[section.dataset]) or 'none'}, but the section has "
            f"{', '.join(own) or 'none'}; start from a config file of such data."
        )
    if section.dataset in ("idx", "image_folder", "npz") and not section.path:
        raise ValueError(
            f"data.path is empty; data.dataset = {section.dataset!r} reads a file or folder: give "
            "it with --config.data.path=PATH."
        )
    splits = ("train", section.get("eval_split", "test"))
    kwargs = loader_arguments(section)
    return tuple(data.load(section.dataset, split, **kwargs) for split in splits)


def loader_arguments(section: ConfigDict) -> dict[str, Any]:
    """What the section says, by the names of the loader; what it leaves empty is left out."""
    renamed = {"name": "dataset", "num_channels": "channels"}
    if section.dataset == "tfds":
        renamed["path"] = "data_dir"
    kwargs = {}
    for key in set(DATA[section.dataset]) - {"eval_split"}:
        value = section[key]
        if value == "" or value == () or (key == "num_channels" and value == 0):
            continue
        if key in ("image_size", "crop") and len(value) == 1:
            # A flag can only give a tuple: --config.data.image_size=32 arrives as (32,).
            value = value[0]
        kwargs[renamed.get(key, key)] = value
    return kwargs


def data_moments(
    train: data.Source, scaler: data.Scaler, flip: bool, rank: int | None
) -> sde_lib.Moments:
    """Mean and covariance of the training data as the model sees them, read once in batches."""

    def batches():
        for first in range(0, train.size, MOMENTS_BATCH):
            raw = train.fetch(np.arange(first, min(first + MOMENTS_BATCH, train.size)))
            image = np.asarray(scaler.to_model(jax.random.key(first), jnp.asarray(raw)))
            yield image
            if flip and image.ndim == 4:
                yield image[:, :, ::-1]

    return sde_lib.moments(batches(), rank)


def build_path(section: ConfigDict) -> sde_lib.AffinePath:
    name = section.name.lower()
    laws = {**sde_lib.SDES, **sde_lib.TABLED}
    law = choose("sde.name", sde_lib.ALIASES.get(name, name), laws)
    fields = {field.name for field in dataclasses.fields(law)}
    kwargs = arguments(section, "name")
    if fields != set(kwargs):
        raise ValueError(
            f"sde.name is {section.name!r}, whose numbers are {', '.join(sorted(fields))}, but the "
            f"section has {', '.join(sorted(kwargs))}; start from a config file of that law."
        )
    if not 0.0 < kwargs["t0"] < kwargs["t1"]:
        raise ValueError(f"sde.t0 = {section.t0} must lie between 0 and sde.t1 = {section.t1}.")
    if name in ("flow", "kinetic") and not kwargs["t1"] < 1.0:
        raise ValueError(
            f"sde.t1 = {section.t1} must be below 1, where the drift of {name!r} is infinite."
        )
    for low, high in (("beta_min", "beta_max"), ("sigma_min", "sigma_max")):
        if low in kwargs and not 0.0 < kwargs[low] < kwargs[high]:
            raise ValueError(
                f"sde.{low} = {kwargs[low]} must lie between 0 and sde.{high} = {kwargs[high]}."
            )
    if name in sde_lib.TABLED:
        return law.from_file(table_file(section.table), section.t0, section.t1)
    return law(**kwargs)


def table_file(name: str) -> Path:
    """The file of a law's table: from the current folder, or else from that of the program."""
    if not name:
        raise ValueError(
            "sde.table is empty; make a table with `python -m tools.kinetic_path --config FILE "
            "--out TABLE.json` and name it with --config.sde.table=TABLE.json."
        )
    return next((p for p in (Path(name), HERE / name) if p.is_file()), Path(name))


def build_model(config: ConfigDict, shape: tuple[int, ...]) -> Any:
    network = choose("model.name", config.model.name, models.MODELS)
    kwargs = arguments(config.model, "name")
    known = {field.name for field in dataclasses.fields(network)} - {"parent", "name"}
    if not set(kwargs) <= known:
        extra = ", ".join(sorted(set(kwargs) - known))
        raise ValueError(
            f"model.name is {config.model.name!r}, which has no option {extra}; start from a "
            "config file of that network."
        )
    kwargs["dtype"] = jnp.dtype(choose("model.dtype", kwargs["dtype"], DTYPES))
    if "centered" in known:
        kwargs["centered"] = config.data.centered
    if "sigma_min" in known and "sigma_min" in config.sde:
        kwargs.update(sigma_min=config.sde.sigma_min, sigma_max=config.sde.sigma_max)
    model = network(**kwargs)
    model.check(shape)
    return model


def build_prediction(config: ConfigDict) -> dict[str, Any]:
    section = config.prediction
    choose("prediction.kind", section.kind, KINDS)
    choose("prediction.conditioning", section.conditioning, CONDITIONING)
    return {**arguments(section), "num_scales": config.model.get("num_scales")}


def build_loss(
    config: ConfigDict, path: sde_lib.AffinePath, model: Any, scaler: data.Scaler
) -> LossFn:
    """The loss on raw batches: flip, dequantise and scale on the device, then the named loss, or
    that of discrete levels where `training.continuous` is off."""
    section = config.loss
    make = choose("loss.name", section.name, losses.LOSSES)
    choose("loss.weighting", section.weighting, losses.WEIGHTINGS)
    choose("loss.time_sampling", section.time_sampling, losses.TIME_SAMPLING)

    def network(params, x, cond, dropout_key):
        return model.apply({"params": params}, x, cond, train=True, rngs={"dropout": dropout_key})

    kind = build_prediction(config)
    if config.training.continuous:
        del kind["num_scales"]
        on_scaled = make(path, network, **kind, **arguments(section, "name"))
    else:
        on_scaled = losses.discrete_loss(path, network, reduce_mean=section.reduce_mean, **kind)
    prepare = build_preprocessing(config.data, scaler)

    def loss(params, state, key, batch):
        data_key, loss_key = jax.random.split(key)
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


def build_optimizer(section: ConfigDict, n_iters: int) -> optax.GradientTransformation:
    """Adam with linear warm-up, then constant or cosine; clipping by the global norm first.

    Weight decay is decoupled and multiplied by the learning rate, as in the original.
    """
    choose("optim.optimizer", section.optimizer, ("adam",))
    choose("optim.schedule", section.schedule, ("constant", "cosine"))
    warmup = optax.linear_schedule(0.0, section.lr, max(section.warmup, 1))
    if section.schedule == "cosine":
        after = optax.cosine_decay_schedule(section.lr, max(n_iters - section.warmup, 1))
    else:
        after = optax.constant_schedule(section.lr)
    rate = optax.join_schedules([warmup, after], [section.warmup]) if section.warmup else after
    adam = optax.adamw(
        rate,
        b1=section.beta1,
        b2=section.beta2,
        eps=section.eps,
        weight_decay=section.weight_decay,
    )
    clip = optax.clip_by_global_norm(section.grad_clip) if section.grad_clip else optax.identity()
    return optax.chain(clip, adam)


def build_likelihood(
    section: ConfigDict, path: sde_lib.AffinePath
) -> Callable[..., likelihood.LogLik]:
    """`(key, predict, x) -> LogLik`."""
    make = choose("likelihood.divergence", section.divergence, likelihood.DIVERGENCES)
    divergence = make(section.num_probes)
    if section.solver == "adams":
        choose("likelihood.variable", section.variable, VARIABLES)
        solver = likelihood.Adams(
            section.steps, section.order, section.variable, section.sigma_data
        )
        likelihood.check_adams(solver)
    else:
        solver = build_solver("likelihood", section)

    def run(key: Array, predict: PredictFn, x: Array) -> likelihood.LogLik:
        return likelihood.log_likelihood(
            key, path, predict, x, divergence=divergence, solver=solver, eps=section.eps
        )

    return run
