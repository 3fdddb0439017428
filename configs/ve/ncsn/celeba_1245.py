"""CelebA at 64 px, NCSN with techniques 1, 2, 4 and 5 of Song and Ermon 2020."""

from configs.annealed import annealed
from configs.celeba import celeba


def get_config():
    return annealed(celeba("ncsn"), "1245")
