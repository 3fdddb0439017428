"""The Inception score against SciPy's entropies, closed forms, and its own spread and bias."""

import numpy as np
import pytest
from scipy.stats import entropy

from evaluation.metrics.inception_score import (
    ClassSums,
    inception_score,
    merge_sums,
    score,
    score_of_splits,
)


def soft(rng, n, classes=6):
    return rng.dirichlet(np.full(classes, 0.3), n)


def by_scipy(p):
    return np.exp(np.mean([entropy(row, p.mean(axis=0)) for row in p]))


def test_is_the_exponential_of_the_mean_divergence():
    p = soft(np.random.default_rng(0), 203)
    p[3] = [1, 0, 0, 0, 0, 0]
    result = inception_score(p, splits=10)
    parts = [p[i * 203 // 10 : (i + 1) * 203 // 10] for i in range(10)]
    each = [by_scipy(part) for part in parts]
    np.testing.assert_allclose(result.value, by_scipy(p), rtol=1e-12)
    np.testing.assert_allclose(result.split_mean, np.mean(each), rtol=1e-12)
    np.testing.assert_allclose(result.split_std, np.std(each), rtol=1e-12)
    left_out = [by_scipy(np.concatenate(parts[:j] + parts[j + 1 :])) for j in range(10)]
    np.testing.assert_allclose(result.stderr**2, 9 * np.var(left_out), rtol=1e-9)
    assert (result.splits, result.n) == (10, 203)


@pytest.mark.parametrize("blur", [0.0, 0.2, 1.0])
def test_classes_that_come_equally_often(blur):
    """Each image has the probability `1 - blur` at one of 5 classes, and `blur` spread evenly.

    The log of the score is log 5 minus the entropy of a row. So the score is 5 for certain
    probabilities and 1 for even ones.
    """
    p = (1 - blur) * np.tile(np.eye(5), (20, 1)) + blur / 5
    truth = 5 / np.exp(entropy(p[0]))
    result = inception_score(p)
    np.testing.assert_allclose([result.value, result.split_mean], truth, rtol=1e-12)
    assert result.stderr < 1e-12 and result.split_std < 1e-12


def test_batches_add_up_to_the_whole():
    p = soft(np.random.default_rng(1), 120)
    whole = inception_score(p, splits=4)
    splits = [merge_sums([ClassSums.of(b) for b in np.split(s, [1, 20])]) for s in np.split(p, 4)]
    np.testing.assert_allclose(score_of_splits(splits), whole, rtol=1e-12)
    assert score(merge_sums(splits)) == pytest.approx(by_scipy(p), rel=1e-12)
    rounded = inception_score(p.astype(np.float16), splits=4)
    np.testing.assert_allclose(rounded.value, whole.value, rtol=2e-3)


def test_stderr_is_the_spread_over_fresh_samples():
    rng = np.random.default_rng(0)
    results = [inception_score(soft(rng, 400)) for _ in range(100)]
    spread = np.std([r.value for r in results], ddof=1)
    assert 0.8 < np.mean([r.stderr for r in results]) / spread < 1.25


def test_bias_is_downwards_and_falls_with_n():
    """With certain probabilities and C equally likely classes the log is an estimate of an entropy.
    Its bias is -(C - 1) / (2 n) to first order (Miller 1955), so ten times larger in a split."""
    rng, classes, n = np.random.default_rng(0), 20, 2000
    results = [inception_score(np.eye(classes)[rng.integers(classes, size=n)]) for _ in range(60)]
    for size, values in (
        (n, [r.value for r in results]),
        (n / 10, [r.split_mean for r in results]),
    ):
        bias = np.log(np.mean(values) / classes)
        assert abs(bias / (-(classes - 1) / (2 * size)) - 1) < 0.15


def test_refusals():
    p = soft(np.random.default_rng(0), 20)
    for wrong in (p[0], p[:, :1], p[None]):
        with pytest.raises(ValueError, match=r"\(N, C\)"):
            inception_score(wrong, splits=2) if len(wrong) > 1 else ClassSums.of(wrong)
    logits = np.log(p)
    scaled, holed, negative = 2 * p, p.copy(), p.copy()
    holed[4, 1] = np.nan
    negative[7, :2] += [-2, 2]
    for wrong, said in ((logits, "20 of 20"), (scaled, "sums to 2"), (holed, "1 of 20 .*row 4")):
        with pytest.raises(ValueError, match=f"{said}.*softmax"):
            ClassSums.of(wrong)
    with pytest.raises(ValueError, match="row 7"):
        ClassSums.of(negative)
    for splits in (1, 21):
        with pytest.raises(ValueError, match=f"{splits} splits of 20"):
            inception_score(p, splits)
    with pytest.raises(ValueError, match="at least two"):
        score_of_splits([ClassSums.of(p)])
    with pytest.raises(ValueError, match=r"\[2, 6\] classes"):
        merge_sums([ClassSums.of(p), ClassSums.of(np.full((3, 2), 0.5))])
