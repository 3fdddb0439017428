"""Checks of a config, made before anything is compiled or written.

Each error is one sentence with the value, the rule, and what to change.
"""

import math
from typing import Any

from ml_collections import ConfigDict

import losses
import models
from builders.constructors import NETWORKS, trained
from builders.sections import FOLLOWED
from data import Source
from data.source import unknown
from evaluation.tasks.refused import check_evaluation
from samplers.around.interpolation import INTERPOLATIONS
from sde_lib.prediction import BY_LEVEL
from training.workdir import flatten


def choose(section: str, name: str, table) -> Any:
    """Return the entry `name` of a table; for a sequence of names, the name itself.

    Raises:
        ValueError: for an unknown name, with the nearest known ones.
    """
    if name not in table:
        raise ValueError(unknown(section, name, tuple(table)))
    return table[name] if hasattr(table, "keys") else name


# Keys that belong to no constructor, the rule for their numbers, and the rule in words.
RANGES = (
    (
        "training.batch_size training.n_iters training.accumulate training.n_jitted_steps "
        "training.log_freq sampling.steps sampling.batch_size "
        "eval.batch_size eval.num_samples eval.bpd_repeats eval.bpd_samples latents.temperature "
        "guidance.samples edit.samples",
        lambda x: 0 < x < math.inf,
        "be positive and finite",
    ),
    (
        "training.eval_freq training.snapshot_freq training.max_skipped training.keep_snapshots "
        "training.keep_every training.save_minutes eval.loss_examples guidance.noise_std",
        lambda x: 0 <= x < math.inf,
        "be finite and not negative",
    ),
    ("training.label_dropout", lambda x: 0 <= x <= 1, "lie in [0, 1]"),
    ("training.ema_rate", lambda x: 0 <= x < 1, "lie in [0, 1)"),
    ("guidance.label", lambda x: x >= -1, "be a class, or -1 for all in turn"),
    ("eval.elbo_times", lambda x: x >= 2 and x % 2 == 0, "be even, and at least 2"),
    ("latents.nodes", lambda x: 2 <= x < math.inf, "be at least 2, the two ends"),
    # jax would silently take the last 32 bits of a longer seed.
    ("seed eval.seed", lambda x: 0 <= x < 2**32, "lie in [0, 2**32)"),
)


def check_numbers(config: ConfigDict) -> None:
    """Refuse numbers outside their ranges, and numbers of steps that are no multiples."""
    flat = flatten(config.to_dict())
    for keys, holds, rule in RANGES:
        for key in keys.split():
            if key in flat and not holds(flat[key]):
                raise ValueError(f"{key} is {flat[key]}; it must {rule}.")
    if config.training.batch_size % config.training.accumulate:
        raise ValueError(
            f"training.batch_size is {config.training.batch_size}, which is not a multiple of "
            f"training.accumulate = {config.training.accumulate}; make it one."
        )
    if config.training.n_iters % config.training.n_jitted_steps:
        raise ValueError(
            f"training.n_iters is {config.training.n_iters}, which is not a multiple of "
            f"training.n_jitted_steps = {config.training.n_jitted_steps}; make it one."
        )
    every, freq = config.training.keep_every, config.training.snapshot_freq
    if every and (not freq or every % freq):
        raise ValueError(
            f"training.keep_every is {every}, which is not a multiple of training.snapshot_freq = "
            f"{freq}; checkpoints are written at multiples of the latter: make it one, or 0 to "
            "keep none for good."
        )


def check_combinations(config: ConfigDict) -> None:
    """Refuse values that are valid one by one and invalid together."""
    for section in ("sampling", "likelihood"):
        eps = config[section].eps
        if not config.sde.t0 <= eps < config.sde.t1:
            raise ValueError(
                f"{section}.eps is {eps}; it must lie between sde.t0 = {config.sde.t0}, below "
                f"which nothing is trained, and sde.t1 = {config.sde.t1}."
            )
    check_discrete(config)
    choose("latents.blend", config.latents.blend, INTERPOLATIONS)
    may_be_negative = config.prediction.conditioning in ("lam", "c_noise")
    if may_be_negative and config.model.get("embedding_type") == "fourier":
        raise ValueError(
            f"prediction.conditioning is {config.prediction.conditioning!r}, which takes negative "
            "values, and model.embedding_type is 'fourier', which takes their logarithm; condition "
            "on 'sigma', or take another embedding."
        )


def check_discrete(config: ConfigDict) -> None:
    """Refuse combinations of discrete levels with options of continuous time, and vice versa."""
    by_level = config.prediction.conditioning in BY_LEVEL
    if config.training.continuous and by_level:
        raise ValueError(
            f"prediction.conditioning is {config.prediction.conditioning!r}, which counts "
            "levels, and training.continuous is True; condition on 'label', 'sigma', 't' or "
            "'lam', or set training.continuous=False."
        )
    if config.training.continuous == (config.loss.name == "discrete"):
        raise ValueError(
            f"training.continuous is {config.training.continuous} and loss.name is "
            f"{config.loss.name!r}; the loss 'discrete' is for training.continuous=False, other "
            "losses are for True."
        )
    if config.training.continuous:
        return
    if "num_scales" not in config.model:
        raise ValueError(
            f"training.continuous is False and model.name {config.model.name!r} has no num_scales; "
            "take a network that knows levels, such as 'ncsnpp'."
        )
    steps, levels = config.sampling.steps, config.model.num_scales
    if config.sampling.method == "score_sde" and steps != levels:
        raise ValueError(
            f"sampling.steps is {steps} and model.num_scales {levels}; sampling.method "
            "'score_sde' visits every level of a discrete model: make them equal, or take 'pc'."
        )


def check_classes(config: ConfigDict, train: Source, test: Source) -> None:
    """Refuse a network whose classes the data do not have, and a loss for other networks."""
    name = choose("loss.name", config.loss.name, tuple(losses.LOSSES))
    choose("model.name", config.model.name, NETWORKS)
    networks = trained(name)
    if config.model.name not in networks:
        raise ValueError(
            f"model.name is {config.model.name!r} and loss.name {name!r}, which trains "
            f"{', '.join(networks)} and no other network."
        )
    if networks is not models.MODELS and config.training.snapshot_sampling:
        raise ValueError(
            f"training.snapshot_sampling is set, and model.name = {config.model.name!r} "
            "classifies, and draws no samples; set it to False."
        )
    classes = classes_told(config)
    if not classes:
        return
    for source in (train, test):
        if source.labels is None:
            raise ValueError(
                f"model.num_classes is {classes}, and {source.name} has no labels in "
                f"{source.split}; give data with labels, or set model.num_classes=0."
            )
        low, high = source.labels.min(), source.labels.max()
        if not 0 <= low <= high < classes:
            raise ValueError(
                f"model.num_classes is {classes}, and {source.name} has labels {low} to {high} "
                f"in {source.split}; they must lie in 0 to {classes - 1}: set "
                f"model.num_classes={high + 1}."
            )


def classes_told(config: ConfigDict) -> int:
    """The number of classes that a network gets as input or distinguishes; 0 for none."""
    # The classes of NCSN are noise levels.
    return 0 if config.model.name == "ncsn" else config.model.get("num_classes", 0)


def check_data(config: ConfigDict, train: Source, test: Source) -> None:
    """Refuse options that these data do not allow, and unknown names that no builder checks."""
    choose("guidance.method", config.guidance.method, ("none", *FOLLOWED))
    choose("latents.dataset", config.latents.dataset, ("train", "test"))
    check_evaluation(config.eval, train)
    if train.shape != test.shape:
        raise ValueError(
            f"{train.name} has examples of shape {train.shape} in training and {test.shape} in "
            "test; give data.image_size, or mend the data."
        )
