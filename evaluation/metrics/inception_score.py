"""The inception score: confidence of a classifier in each image, and diversity of its classes.

    IS = exp( E_x KL(p(y | x) || p(y)) ) = exp( H(E p(y | x)) - E H(p(y | x)) )

Salimans et al. 2016, "Improved Techniques for Training GANs", arXiv:1606.03498, section 4. The
score lies between 1 and the number of classes; higher is better. It is computed from samples alone:
it does not compare them with data, and a model with a single image per class can score high.

The estimate is biased downwards by an amount that falls as 1/n, because few examples do not show
all classes and the entropy is concave (Chong and Forsyth 2020, arXiv:1911.07023). The mean over
splits therefore lies below the score of all examples at once: compare equal n and equal splits.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import xlogy

from evaluation.metrics.errors import jackknife

TOLERANCE = 1e-3  # of the sum of a row: rounding of probabilities in half precision


class ClassSums(NamedTuple):
    """Sums over n examples from which the score follows; sets of any size can be streamed.

    `p`: (C,), the sum of p(y | x). `plogp`: the sum of p log p over examples and classes, nats.
    """

    n: int
    p: np.ndarray
    plogp: float

    @classmethod
    def of(cls, probabilities) -> "ClassSums":
        """Return the sums over rows (N, C), N >= 1, each the probabilities of C >= 2 classes.

        Raises:
            ValueError: the shape is another; a value is below 0 or not finite; the sum of a row
                differs from 1 by more than 0.001.
        """
        p = np.asarray(probabilities, np.float64)
        if p.ndim != 2 or len(p) == 0 or p.shape[1] < 2:
            raise ValueError(
                f"probabilities have shape {p.shape}; the inception score needs (N, C) with N >= 1 "
                "examples and C >= 2 classes"
            )
        # The comparison is written so that a NaN fails it too.
        wrong = ~((p.min(axis=1) >= 0) & (np.abs(p.sum(axis=1) - 1) <= TOLERANCE))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{int(wrong.sum())} of {len(p)} rows are no probabilities (row {row} runs from "
                f"{p[row].min():.4g} to {p[row].max():.4g} and sums to {p[row].sum():.6g}); each "
                "must be >= 0 and sum to 1: apply softmax to logits"
            )
        return cls(len(p), p.sum(axis=0), float(xlogy(p, p).sum()))


class InceptionScore(NamedTuple):
    """Score of all n examples with its standard error; mean and spread over splits as published.

    `stderr` is a jackknife over the splits. `split_std` is what papers print after the +-: the
    standard deviation over single splits (sum of squares divided by their number, not by one less),
    which is not the error of their mean.
    """

    value: float
    stderr: float
    split_mean: float
    split_std: float
    splits: int
    n: int


def inception_score(probabilities, splits: int = 10) -> InceptionScore:
    """The score of probabilities (N, C), in `splits` consecutive parts, N >= splits >= 2.

    The parts are those of the published code, rows floor(i N / splits) to floor((i+1) N / splits).
    Examples that are sorted by class must be shuffled first.

    Raises:
        ValueError: fewer than two splits, fewer examples than splits, or rows that are not
            probabilities.
    """
    p = np.asarray(probabilities)
    if not 2 <= splits <= len(p):
        raise ValueError(
            f"{splits} splits of {len(p)} examples were asked for; the score with its error needs "
            "at least two splits and an example in each: take fewer splits or draw more"
        )
    edges = [i * len(p) // splits for i in range(splits + 1)]
    return score_of_splits([ClassSums.of(p[a:b]) for a, b in itertools.pairwise(edges)])


def score_of_splits(splits: Sequence[ClassSums]) -> InceptionScore:
    """The score from the sums of each split; `merge_sums` adds up the sums of streamed batches.

    The error is a jackknife that leaves out one of the splits, which have (nearly) one size. It
    estimates the spread over fresh sets; the bias is not in it.

    Raises:
        ValueError: fewer than two splits, or splits of unequal numbers of classes.
    """
    if len(splits) < 2:
        raise ValueError(f"{len(splits)} split was given; the jackknife needs at least two")
    total = merge_sums(splits)
    each = np.array([score(split) for split in splits])
    rest = [merge_sums([*splits[:j], *splits[j + 1 :]]) for j in range(len(splits))]
    stderr = jackknife([score(sums) for sums in rest])
    return InceptionScore(
        score(total), stderr, float(each.mean()), float(each.std()), len(splits), total.n
    )


def merge_sums(parts: Sequence[ClassSums]) -> ClassSums:
    """Return the sums of the union of one or more parts.

    Raises:
        ValueError: the parts have different numbers of classes.
    """
    classes = sorted({part.p.size for part in parts})
    if len(classes) > 1:
        raise ValueError(
            f"sums over {classes} classes do not add; take all probabilities from one classifier"
        )
    n, p, plogp = zip(*parts)
    return ClassSums(sum(n), np.sum(p, axis=0), float(sum(plogp)))


def score(sums: ClassSums) -> float:
    """exp(mean over x of sum_y p(y|x) log p(y|x) - sum_y p(y) log p(y)), p(y) = mean p(y | x)."""
    marginal = sums.p / sums.n
    return float(np.exp(sums.plogp / sums.n - xlogy(marginal, marginal).sum()))
