"""CelebA at 64 px, NCSN with averaged parameters: technique 5 of Song and Ermon 2020."""

from configs.annealed import annealed
from configs.celeba import celeba


def get_config():
    return annealed(celeba("ncsn"), "5")
