"""The parts of an evaluation that do not depend on the checkpoint, each made once a process.

They are compiled programs, feature spaces with their networks, the metrics' statistics of the
reference, the metrics of real images, and the mixture baseline.
"""

import math
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import numpy as np

from evaluation.metrics.compare import Comparison, compare_with
from evaluation.metrics.mixture import BitsPerDim, Mixture, fit_mixture, suited
from evaluation.metrics.table import Values
from evaluation.report.images import Images, of_array, of_source
from evaluation.spaces.judges import Judge, judges
from evaluation.store.memory import check_memory, check_mixture
from evaluation.tasks.asked import check_asked, measured
from evaluation.tasks.bounds import make_batch_bits
from evaluation.tasks.loss import make_eval_loss
from evaluation.tasks.sampling import drawing, make_trajectory


class Prepared:
    """The parts of an evaluation; each is made at its first use, errors are raised at once.

    Raises:
        ValueError: for bits/dim of continuous data, for a metric that these data do not allow (see
            `check_asked`), for a feature space that does not fit the data, or if the evaluation
            needs more memory than the machine has.
        FileNotFoundError: the weights of a network or a file of statistics are missing.
    """

    def __init__(self, experiment):
        self.experiment, section = experiment, experiment.config.eval
        if section.enable_bpd and not experiment.train.levels:
            raise ValueError(
                "Bits/dim is not defined for continuous data; pass --config.eval.enable_bpd=false."
            )
        self.judges: list[Judge] = []
        check_asked(experiment)
        if self.has_mixture:
            check_mixture(experiment)
            suited(experiment.train.size, math.prod(experiment.shape))
        if section.enable_sampling:
            self.judges = judges(experiment) if measured(experiment) else []
            check_memory(experiment, [judge.widths for judge in self.judges])

    @property
    def has_mixture(self) -> bool:
        return bool(self.experiment.config.eval.mixture and self.experiment.train.levels)

    @cached_property
    def eval_loss(self) -> Callable[[Any], float]:
        return make_eval_loss(self.experiment)

    @cache  # noqa: B019 - an evaluation lives as long as its process
    def batch_bits(self, bound: str) -> Callable:
        return make_batch_bits(self.experiment, bound)

    @cached_property
    def drawing(self) -> Callable:
        return drawing(self.experiment, self.experiment.config.eval.seed)

    @cached_property
    def trajectory(self) -> Callable:
        return make_trajectory(self.experiment)

    @cached_property
    def mixture(self) -> Mixture | None:
        """The baseline; None where `eval.mixture` is off or the data are continuous."""
        train = self.experiment.train
        if not self.has_mixture:
            return None
        raw = train.fetch(np.arange(train.size))
        return fit_mixture(raw, train.levels, seed=self.experiment.config.seed)

    @cached_property
    def mixture_bits(self) -> BitsPerDim:
        source = self.split(self.experiment.config.eval.bpd_dataset)
        raw = source.fetch(np.arange(source.size))
        return self.mixture.bits_per_dim(raw, seed=self.experiment.config.seed)

    @cache  # noqa: B019
    def comparison(self, k: int) -> Comparison:
        """The comparison with the split `eval.reference` in the feature space of judge k."""
        section, judge = self.experiment.config.eval, self.judges[k]
        reference = of_source(self.split(section.reference))
        return compare_with(
            judge.space, reference, section.metrics, judge.statistics, section.reference
        )

    @cache  # noqa: B019
    def beside(self, k: int, n: int) -> dict[str, Values]:
        """Metrics in the feature space of judge k of n real images of the other split (or all, if
        there are fewer), and of n samples of the mixture; by the names of the sets."""
        other = "train" if self.experiment.config.eval.reference == "test" else "test"
        images: dict[str, Images] = {other: of_source(self.split(other), n)}
        if self.mixture is not None:
            drawn = self.mixture.sample(n, seed=self.experiment.config.seed)
            images["mixture"] = of_array(drawn)
        return {name: self.comparison(k).measure(x) for name, x in images.items()}

    def split(self, name: str):
        return {"train": self.experiment.train, "test": self.experiment.test}[name]
