"""A small network that ranks schedules before they are run (Liu et al. 2024, section 4.2).

The network learns from the schedules scored so far. Only its order of new schedules matters, which
Kendall's tau measures: 1 for the order of the scores, 0 for a random order.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from scipy.stats import kendalltau, rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from samplers.exponential.tableau import structure
from samplers.schedules.schedule import Schedule, nodes
from search.refine import numeric


def features(schedule: Schedule, nfe: int) -> np.ndarray:
    """The features `(F,)` of a schedule: the length, the place in lam and all decisions of each
    step, with zeros for the step that a last denoising replaces."""
    lam, parts = np.asarray(nodes(schedule)), structure(numeric(schedule))
    columns = [np.log(np.diff(lam)), lam[1:], parts.predict.data, parts.predict.start]
    columns += [parts.corrected]
    for rule in (parts.predict, parts.correct):
        columns += [*rule.points.T, *rule.c.T]
    table = np.stack([np.asarray(column, float) for column in columns], axis=1)
    padded = np.zeros((nfe, table.shape[1]))
    padded[: len(table)] = table
    return np.concatenate([padded.ravel(), [schedule.denoise]])


class Ranker:
    """A regression on the ranks of the scores, which predicts an order; lower is better."""

    def __init__(self, nfe: int, seed: int):
        self.nfe = nfe
        network = MLPRegressor(
            hidden_layer_sizes=(64, 64), alpha=1e-2, max_iter=300, random_state=seed
        )
        self.model = make_pipeline(StandardScaler(), network)

    def inputs(self, schedules: Sequence[Schedule]) -> np.ndarray:
        return np.stack([features(schedule, self.nfe) for schedule in schedules])

    def fit(self, schedules: Sequence[Schedule], scores: np.ndarray) -> None:
        """Fit the ranks of the scores. The scores themselves would be dominated by a few schedules
        that diverge."""
        ranks = rankdata(scores) / len(scores)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(self.inputs(schedules), ranks - 0.5)

    def predict(self, schedules: Sequence[Schedule]) -> np.ndarray:
        return self.model.predict(self.inputs(schedules))


def agreement(predicted: np.ndarray, scores: np.ndarray) -> float:
    """Kendall's tau of two orders."""
    return float(kendalltau(predicted, scores).statistic)
