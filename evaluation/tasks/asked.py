"""Requests that an evaluation cannot fulfil: refused or reported before anything is drawn.

Distances are taken in spaces of features. They need data of a known range, that is, data with
levels, images or not. Each metric states the fewest examples that it takes
(`evaluation/metrics/table.py`).
"""

from typing import Any

from data import Source
from evaluation.metrics.table import METRICS, STATISTICS_SAMPLES

# The usual values of these keys; they do not count as a request.
USUAL = {"features": ("pixels",), "metrics": ("frechet", "kid", "mmd"), "statistics": ""}


def measured(experiment: Any) -> bool:
    """Whether samples are compared with data: only for data with levels, whose range is known."""
    return experiment.train.levels > 0


def check_asked(experiment: Any) -> None:
    """Refuse distances that are named in the config and cannot be taken; print a line for each that
    is left out by default.

    Raises:
        ValueError: for continuous data if `eval` names features, metrics or statistics other than
            the usual ones, or for splits that are smaller than a metric takes.
    """
    section, train = experiment.config.eval, experiment.train
    if section.bounds and not section.enable_bpd:
        print(f"eval.bounds are {section.bounds} and eval.enable_bpd is False: no bound is made.")
    if not measured(experiment) and section.mixture:
        print(f"eval.mixture is set, and {train.name} is continuous: no mixture is fitted.")
    if not section.enable_sampling:
        return
    if measured(experiment):
        check_sizes(section, {"train": train, "test": experiment.test})
        return
    for key, usual in USUAL.items():
        value = section[key]
        if value and (tuple(value) if isinstance(usual, tuple) else value) != usual:
            raise ValueError(
                f"eval.{key} is {value!r}, and {train.name} has continuous values, of an unknown "
                f"range, of which no distances are taken; take --config.eval.{key}={usual!r}, and "
                "samples are drawn and kept without distances."
            )
    print(f"{train.name} is continuous: samples are drawn and kept, and no distance is taken.")


def check_sizes(section: Any, splits: dict[str, Source]) -> None:
    """Refuse metrics for which a split is too small.

    Two splits count: the split `eval.reference`, to which distances are measured, and the other
    one, of which up to `eval.num_samples` real examples are compared with the reference as well.

    Raises:
        ValueError: a split is too small; the sentence has each such metric, its number, and the
            metrics that fit.
    """
    to, other = section.reference, "train" if section.reference == "test" else "test"
    sizes = {to: splits[to].size, other: min(splits[other].size, section.num_samples)}
    short = {}
    for name, (samples, reference) in needs(section).items():
        for split, fewest in ((to, reference), (other, samples)):
            if sizes[split] < fewest:
                short[name] = f"{name} takes {fewest} or more of {split}, which has {sizes[split]}"
    if not short:
        return
    fit = tuple(name for name in section.metrics if name not in short)
    without = " --config.eval.statistics=" if "eval.statistics" in short else ""
    raise ValueError(
        f"The splits of {splits[to].name} are too small for some of eval.metrics: "
        f'{", ".join(short.values())}; take --config.eval.metrics="{fit}"{without}, or '
        "--config.eval.enable_sampling=False, or more data."
    )


def needs(section: Any) -> dict[str, tuple[int, int]]:
    """The least number of samples, and of reference images, for each distance."""
    found = {name: (METRICS[name].samples, METRICS[name].reference) for name in section.metrics}
    return {**found, "eval.statistics": (STATISTICS_SAMPLES, 0)} if section.statistics else found


def too_few(section: Any, left: int) -> str | None:
    """The sentence if so many samples have failed that no distance can be taken from the rest; None
    if enough are left."""
    fewest = max((samples for samples, _ in needs(section).values()), default=0)
    if left >= fewest:
        return None
    return (
        f"{section.num_samples - left} of {section.num_samples} samples failed, and eval.metrics "
        f"take {fewest} or more: no distance is taken of the {left} that are left."
    )
