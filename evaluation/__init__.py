"""Evaluation of a trained model: loss, bits/dim, distances of samples to data, one report."""

from evaluation.metrics.frechet import Moments, frechet_distance
from evaluation.metrics.manifold import density_coverage, precision_recall
from evaluation.metrics.mixture import fit_mixture
from evaluation.metrics.mmd import gaussian_mmd, kid
from evaluation.metrics.statistics import read_statistics, stream, write_statistics
from evaluation.spaces.features import Features, FeatureSpace
from evaluation.spaces.table import feature_space

# Functions with the name of their module (`fid_infinity`, `inception_score`, `sliced_wasserstein`)
# are imported from that module: exported here, the function would hide the module.
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
