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
import models
import samplers
import sde_lib
from build_sampling import Known, build_sampler, build_solver
from build_training import build_loss, build_optimizer, build_prediction
from check import (
    check_classes,
    check_combinations,
    check_data,
    check_numbers,
    choose,
    classes_told,
)
from configs.base import DATA
from losses.denoising import LossFn
from samplers.base import SampleFn
from sde_lib.classifier import LogitsFn, make_logits
from sde_lib.prediction import PredictFn

DTYPES = ("float32", "bfloat16")
MOMENTS_BATCH = 1000
HERE = Path(__file__).resolve().parent


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a run is made of. All functions are pure; none knows of the config.

    - `loss(params, state, key, batch)`: batch as the loader gives it, raw levels included.
    - `predict(params, label=None) -> PredictFn`: the network without dropout, told classes (B,) if
      it knows any.
    - `logits(params) -> LogitsFn` where the network is a classifier of noisy states, and None where
      it is not. A classifier predicts nothing else: the functions below then raise ValueError.
    - `sample(key, predict, x)`: x from the prior at `t1`.
    - `log_likelihood(key, predict, x)`: nats of scaled data, by `flow_solver`, as codes are.
    - `classes`, the guidance of samples to classes, which `build_guidance.py` adds; None for none.
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
    predict: Callable[..., PredictFn]
    logits: Callable[[Any], LogitsFn] | None
    sample: SampleFn
    flow_solver: samplers.Solver | likelihood.Adams
    log_likelihood: Callable[..., likelihood.LogLik]
    classes: Any = None

    @property
    def num_classes(self) -> int:
        """Classes that the network is told, or tells apart; 0 for none."""
        return classes_told(self.config)

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
        predict=build_predict(config, path, model),
        logits=build_logits(config, path, model),
        sample=build_sampler(config.sampling, path, known),
        flow_solver=build_flow_solver(config.likelihood),
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
    check_classes(config, train, test)
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
    network = choose("model.name", config.model.name, {**models.MODELS, **models.CLASSIFIERS})
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


def build_predict(config: ConfigDict, path: sde_lib.AffinePath, model: Any):
    """`(params, label=None) -> PredictFn`."""
    kind = build_prediction(config)

    def predict(params, label: Array | None = None) -> PredictFn:
        if config.model.name in models.CLASSIFIERS:
            raise ValueError(
                f"model.name is {config.model.name!r}, a classifier, which has no score; name its "
                "workdir in guidance.classifier of a run that samples."
            )
        known = {} if label is None else {"label": label}
        apply = lambda x, cond: model.apply({"params": params}, x, cond, **known)
        return sde_lib.parametrize(path=path, apply=apply, **kind)

    return predict


def build_logits(
    config: ConfigDict, path: sde_lib.AffinePath, model: Any
) -> Callable[[Any], LogitsFn] | None:
    """`params -> (x, t) -> logits`, where the network is a classifier."""
    if config.model.name not in models.CLASSIFIERS:
        return None
    apply_of = lambda params: lambda x, sigma: model.apply({"params": params}, x, sigma)
    return lambda params: make_logits(path, apply_of(params), config.prediction.sigma_data)


def build_likelihood(
    section: ConfigDict, path: sde_lib.AffinePath
) -> Callable[..., likelihood.LogLik]:
    """`(key, predict, x) -> LogLik`."""
    make = choose("likelihood.divergence", section.divergence, likelihood.DIVERGENCES)
    divergence, solver = make(section.num_probes), build_flow_solver(section)

    def run(key: Array, predict: PredictFn, x: Array) -> likelihood.LogLik:
        return likelihood.log_likelihood(
            key, path, predict, x, divergence=divergence, solver=solver, eps=section.eps
        )

    return run


def build_flow_solver(section: ConfigDict) -> samplers.Solver | likelihood.Adams:
    """Of the flow between data and noise: to a tolerance, or in fixed steps."""
    if section.solver != "adams":
        return build_solver("likelihood", section)
    choose("likelihood.variable", section.variable, samplers.VARIABLES)
    solver = likelihood.Adams(section.steps, section.order, section.variable, section.sigma_data)
    likelihood.check_adams(solver)
    return solver
