"""Known answers: laws of data whose score, flow, posterior or density is a formula.

Tests, benchmarks and the methods that need a closed form (teleportation, the moments of the
training data) take them from here. `empirical` is for a set of points, `gaussian` for moments,
`posterior` for mixtures and linear measurements, `fokker_planck` for a density on a grid.
"""

from exact.fokker_planck import GridDensity, fokker_planck, spectral_gap
from exact.gaussian import GaussianMoments, gaussian_flow, gaussian_predict, moments
from exact.posterior import (
    Mixture,
    gaussian_posterior,
    mixture_moments,
    mixture_posterior,
    mixture_predict,
)

__all__ = [
    "GaussianMoments",
    "GridDensity",
    "Mixture",
    "fokker_planck",
    "gaussian_flow",
    "gaussian_posterior",
    "gaussian_predict",
    "mixture_moments",
    "mixture_posterior",
    "mixture_predict",
    "moments",
    "spectral_gap",
]
