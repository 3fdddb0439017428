"""Inception-v3, its released weights, and the features and class probabilities of images."""

from evaluation.spaces.inception.extractor import Inception, load_inception
from evaluation.spaces.inception.network import InceptionV3, Outputs
from evaluation.spaces.inception.releases import RELEASES, find_weights
from evaluation.spaces.inception.resize import RESIZES

__all__ = [
    "RELEASES",
    "RESIZES",
    "Inception",
    "InceptionV3",
    "Outputs",
    "find_weights",
    "load_inception",
]
