"""What a trained model is worth: loss, bits/dim, distances between samples and data, one report."""

from evaluation.features import Features, FeatureSpace
from evaluation.frechet import Moments, frechet_distance
from evaluation.manifold import density_coverage, precision_recall
from evaluation.mixture import fit_mixture
from evaluation.mmd import gaussian_mmd, kid
from evaluation.spaces import feature_space
from evaluation.statistics import read_statistics, stream, write_statistics

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
