"""CIFAR-10, NCSN with techniques 1, 2, 4 and 5 of Song and Ermon 2020."""

from configs.annealed import annealed
from configs.cifar10 import cifar10


def get_config():
    return annealed(cifar10("ve", "ncsn", continuous=False), "1245")
