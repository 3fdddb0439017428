"""CelebA at 64 px, NCSNv2 (Song and Ermon 2020)."""

from configs.annealed import annealed
from configs.celeba import celeba


def get_config():
    return annealed(celeba("ncsnv2_64"), "12345")
