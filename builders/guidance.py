"""Guidance to classes, from the section `guidance` of a config.

Guidance is built for the modes that sample, on top of an experiment. A classifier is the network of
another run and is read from the workdir of that run, with its config.
"""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

import guidance
import models
from builders.experiment import Experiment, build
from builders.runs import Asked, other_run, states_of
from builders.sections import sections
from builders.steps import construct
from sde_lib.classifier import log_prob
from sde_lib.prediction import PredictFn
from training.restore import restore_ema

# If the outputs for two classes differ by less than this share of the largest value, the network
# ignores the class.
IGNORED = 1e-5
# Sections that do not concern a classifier itself.
BESIDE = ("sampling", "likelihood", "eval", "latents", "guidance")
ASKED = Asked(
    "guidance.classifier",
    "classifier",
    models.CLASSIFIERS,
    "train a classifier, with a config such as configs/digits_vp_classifier.py, and name its "
    "workdir.",
)


class Classes(NamedTuple):
    """Guidance to classes.

    - `label(indices) -> (B,)`: the class of each sample.
    - `own`: parameters of the guide itself, those of a classifier; None if it has none.
    - `predict(params, own) -> PredictFn`, whose condition is the class.
    - `answer(params, own, label, x, t)`: the output that depends on the class, for any strength of
      the guidance: x0 of a network that gets classes, log p(label | x_t) of a classifier.
    """

    label: Callable[[Array], Array]
    own: Any
    predict: Callable[[Any, Any], PredictFn]
    answer: Callable[..., Array]


def build_classes(experiment: Experiment) -> Classes | None:
    """Build the guidance of a config to classes; None if `guidance.method` is another.

    Raises:
        ValueError: for a network or classifier that does not have the class, or a classifier of
            another law or other data.
        CheckpointError: the classifier has no checkpoint.
    """
    section = experiment.config.guidance
    if section.method not in guidance.CLASS_GUIDES:
        return None
    guide = guidance.CLASS_GUIDES[section.method]
    by = by_classifier if "logits" in signature(guide).parameters else by_network
    classes, parts = by(experiment, section, guide)
    if not section.label < classes:
        raise ValueError(
            f"guidance.label is {section.label} and there are {classes} classes; give 0 to "
            f"{classes - 1}, or -1 for all in turn."
        )
    label = lambda indices: (
        indices % classes if section.label < 0 else jnp.full_like(indices, section.label)
    )
    return Classes(label, **parts)


def by_network(
    experiment: Experiment, section: ConfigDict, make: Callable
) -> tuple[int, dict[str, Any]]:
    """Guidance by a network that may get a class or none: number of classes, parts of `Classes`."""
    classes = experiment.num_classes
    if not classes:
        raise ValueError(
            f"guidance.method is {section.method!r}, and the network knows no classes "
            "(model.num_classes is 0); take a config such as configs/digits_vp_conditional.py, or "
            "guidance.method='classifier'."
        )

    given = {"path": experiment.path, "null": classes, "scale": section.scale}

    def predict(params, own) -> PredictFn:
        del own
        return constructed(section, make, predict=experiment.predict(params), **given)

    def answer(params, own, label: Array, x: Array, t: Array) -> Array:
        return experiment.predict(params)(x, t, label).x0

    predict(None, None)  # raises the errors of the guide's options
    return classes, {"own": None, "predict": predict, "answer": answer}


def by_classifier(
    experiment: Experiment, section: ConfigDict, make: Callable
) -> tuple[int, dict[str, Any]]:
    """Guidance by the classifier of another run: number of its classes, and parts of `Classes`."""
    other = load_classifier(experiment, section.classifier)
    _, own = restore_ema(other, Path(section.classifier).absolute())

    def predict(params, own) -> PredictFn:
        given = {"path": experiment.path, "logits": other.logits(own), "scale": section.scale}
        guide = lambda label: constructed(section, make, label=label, **given)
        return guidance.by_cond(guide, experiment.predict(params))

    def answer(params, own, label: Array, x: Array, t: Array) -> Array:
        return log_prob(other.logits(own), x, t, label)

    return other.num_classes, {"own": own, "predict": predict, "answer": answer}


def constructed(section: ConfigDict, make: Callable, **given: Any) -> Callable:
    """Make a guide with the options of its own section, if it has one.

    `guidance.classifier` is no section but the workdir of a classifier.
    """
    own = section[section.method] if section.method in sections("guidance") else {}
    return construct(f"guidance.{section.method}", make, own, **given)


def load_classifier(experiment: Experiment, workdir: str) -> Experiment:
    """Build the experiment of a classifier from the config in its workdir.

    Sections that do not concern a classifier itself are taken from this run.

    Raises:
        ValueError: no workdir is given, or the run there is no classifier for the same states.
    """
    ours = experiment.config.to_dict()
    beside = {name: ours[name] for name in BESIDE}
    same = states_of(experiment.config, experiment.shape)
    return other_run(build, ASKED, workdir, same, beside)


def check_condition(experiment: Experiment, params: Any) -> None:
    """Refuse a network or classifier whose output at a noisy state is the same for two classes.

    Raises:
        ValueError: the outputs are the same; nothing has been sampled yet.
    """
    classes = experiment.classes
    if classes is None:
        return
    t = experiment.path.t_of_lam(jnp.asarray(0.0))
    x = experiment.path.coeffs(t).c * jax.random.normal(jax.random.key(0), (2, *experiment.shape))
    answer = jax.jit(lambda params, own, k: classes.answer(params, own, jnp.full(2, k), x, t))
    one, other = (np.asarray(answer(params, classes.own, k)) for k in (0, 1))
    if np.max(np.abs(one - other)) <= IGNORED * np.max(np.abs(one)):
        raise ValueError(
            f"guidance.method is {experiment.config.guidance.method!r}, and class 0 and class 1 "
            "give the same answer: the condition is ignored. Train longer, or name another "
            "checkpoint."
        )
