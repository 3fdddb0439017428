"""What a trained model is worth: loss, bits/dim, distances between samples and data, one report."""

from evaluation.features import Features, FeatureSpace, feature_space
from evaluation.frechet import Moments, frechet_distance
from evaluation.mixture import fit_mixture
from evaluation.mmd import gaussian_mmd, kid

__all__ = [
    "FeatureSpace",
    "Features",
    "Moments",
    "feature_space",
    "fit_mixture",
    "frechet_distance",
    "gaussian_mmd",
    "kid",
]
