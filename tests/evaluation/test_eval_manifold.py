"""Precision, recall, density and coverage against loops, expectations and their own spread."""

import numpy as np
import pytest

from evaluation.metrics import manifold
from evaluation.metrics.manifold import density_coverage, precision_recall
from evaluation.spaces.features import Features


def features(values):
    return Features("toy", np.asarray(values, float))


def squared(a, b):
    return float(np.sum((a - b) ** 2))


def radii(x, k):
    """The squared radii. All other points count as neighbours, also those at the same place."""
    return [
        sorted(squared(a, b) for j, b in enumerate(x) if j != i)[k - 1] for i, a in enumerate(x)
    ]


def in_balls(x, y, k):
    """Whether x_i lies in the ball around y_j, of shape (len(x), len(y))."""
    r = radii(y, k)
    return np.array([[squared(a, b) <= r[j] for j, b in enumerate(y)] for a in x])


def four(x, y, k):
    samples_in, reference_in = in_balls(x, y, k), in_balls(y, x, k)
    return (
        samples_in.any(axis=1).mean(),
        reference_in.any(axis=1).mean(),
        samples_in.sum() / (k * len(x)),
        samples_in.any(axis=0).mean(),
    )


def measured(x, y, k, **kwargs):
    found = precision_recall(features(x), features(y), k, **kwargs)
    other = density_coverage(features(x), features(y), k, **kwargs)
    values = (found.precision, found.recall, other.density, other.coverage)
    errors = (
        *(found.precision_stderr, found.recall_stderr),
        *(other.density_stderr, other.coverage_stderr),
    )
    return np.array(values), np.array(errors)


@pytest.mark.parametrize("k, block", [(1, 1024), (3, 7), (4, 1)])
def test_equals_the_loops_whatever_the_block(k, block):
    rng = np.random.default_rng(k)
    x, y = rng.normal(size=(26, 3)), rng.normal(size=(35, 3)) * 1.3 + 0.4
    truth = four(x, y, k)
    assert min(truth) > 0.2 and truth[1] < 1 and truth[3] < 1  # no trivial values of 0 or 1
    np.testing.assert_allclose(measured(x, y, k, block=block)[0], truth, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_ties_are_inside_and_duplicates_are_neighbours(seed):
    """The points lie on a lattice, where the loops are exact and several points share most radii.
    They are far from the origin, as features are."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 4, (40, 3)) + 5000.0, rng.integers(1, 5, (60, 3)) + 5000.0
    assert 0 in radii(y, 1)
    for k in (1, 3):
        np.testing.assert_allclose(measured(x, y, k)[0], four(x, y, k), rtol=1e-12)
    x[5:] = x[0]  # more duplicates than neighbours, so the balls have radius 0
    np.testing.assert_allclose(measured(x, y, 3)[0], four(x, y, 3), rtol=1e-12)


def test_a_set_against_itself_and_against_one_far_away():
    """Each ball of a set has its centre and k neighbours, with the farthest on its boundary."""
    x = np.random.default_rng(0).normal(size=(50, 64)) + 30
    np.testing.assert_allclose(measured(x, x, 4)[0], [1, 1, 5 / 4, 1], rtol=1e-12)
    values, errors = measured(x, x + 100, 4)
    assert not values.any() and not errors.any()


def test_expectations_for_equal_laws():
    """For equal laws the density is 1, and the coverage follows from the order of n + m - 1
    exchangeable distances (Naeem et al. 2020, lemmas 1 and 2). The law here is skew."""
    rng, (n, m, k) = np.random.default_rng(0), (60, 45, 5)
    draw = lambda count: features(rng.exponential(size=(count, 3)) ** 2)
    results = [density_coverage(draw(n), draw(m)) for _ in range(150)]
    truth = 1 - np.prod([(m - i) / (n + m - i) for i in range(1, k + 1)])
    for values, expected in (
        ([r.density for r in results], 1.0),
        ([r.coverage for r in results], truth),
    ):
        error = np.std(values, ddof=1) / len(values) ** 0.5
        assert abs(np.mean(values) - expected) < 4 * error < 0.05


def test_errors_are_those_of_leaving_blocks_out():
    """The errors of recall and coverage agree with reruns without each tenth of the samples. Those
    of precision and density are standard errors of a mean."""
    rng, k = np.random.default_rng(3), 3
    x, y = rng.normal(size=(33, 2)), rng.normal(size=(41, 2)) + 0.5
    left_out = np.array([four(x[np.arange(33) % 10 != j], y, k) for j in range(10)])
    errors = (9 * left_out.var(axis=0)) ** 0.5
    found = measured(x, y, k)[1]
    np.testing.assert_allclose(found[[1, 3]], errors[[1, 3]], rtol=1e-10)
    inside = in_balls(x, y, k)
    np.testing.assert_allclose(found[0], inside.any(axis=1).std(ddof=1) / 33**0.5, rtol=1e-10)
    np.testing.assert_allclose(found[2], inside.sum(axis=1).std(ddof=1) / k / 33**0.5, rtol=1e-10)


def test_stderr_is_the_spread_over_fresh_samples():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(250, 3))
    draws = [measured(rng.normal(size=(200, 3)) * 0.8 + 0.3, y, 3) for _ in range(60)]
    values, errors = np.array(draws).transpose(1, 0, 2)
    ratio = errors.mean(axis=0) / values.std(axis=0, ddof=1)
    assert ((ratio > 0.75) & (ratio < 1.35)).all(), ratio


def test_distances_are_never_held_beyond_a_block(monkeypatch):
    sizes = []
    real = manifold.euclidean_distances

    def spy(a, b, **kwargs):
        sizes.append(len(a) * len(b))
        return real(a, b, **kwargs)

    monkeypatch.setattr(manifold, "euclidean_distances", spy)
    x = np.random.default_rng(0).normal(size=(50, 2))
    measured(x, x[:33] + 0.1, 3, block=8)
    assert max(sizes) == 64
    # Each metric needs the distances within the reference and from samples to the reference.
    # Recall also needs the distances within the samples.
    assert sum(sizes) == 2 * (33 * 33 + 50 * 33) + 50 * 50


def test_refusals():
    x = np.random.default_rng(0).normal(size=(8, 3))
    for measure in (precision_recall, density_coverage):
        with pytest.raises(ValueError, match="one space"):
            measure(features(x), Features("other", x))
        with pytest.raises(ValueError, match="one space"):
            measure(features(x), features(x[:, :2]))
        with pytest.raises(ValueError, match="1 of 8 feature rows"):
            measure(features(x), features(np.where(np.arange(8)[:, None] == 2, np.inf, x)))
        for k in (0, 7, 8):
            with pytest.raises(ValueError, match=f"k = {k} neighbours.*8 samples, 7 of them"):
                measure(features(x), features(x), k)
        with pytest.raises(ValueError, match="and 4 reference points"):
            measure(features(x), features(x[:4]), 4)
        measure(features(x), features(x[:7]), 6)
