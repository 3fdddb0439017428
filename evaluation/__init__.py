"""What a trained model is worth: loss, bits/dim, distances between samples and data, one report."""

from evaluation.metrics.frechet import Moments, frechet_distance
from evaluation.metrics.manifold import density_coverage, precision_recall
from evaluation.metrics.mixture import fit_mixture
from evaluation.metrics.mmd import gaussian_mmd, kid
from evaluation.metrics.statistics import read_statistics, stream, write_statistics
from evaluation.spaces.features import Features, FeatureSpace
from evaluation.spaces.table import feature_space

# Functions named as their module (`fid_infinity`, `inception_score`, `sliced_wasserstein`) stay in
# it: here each would hide the other.
__all__ = [
    "FeatureSpace",
    "Features",
    "Moments",
    "density_coverage",
    "feature_space",
    "fit_mixture",
    "frechet_distance",
    "gaussian_mmd",
    "kid",
    "precision_recall",
    "read_statistics",
    "stream",
    "write_statistics",
]
