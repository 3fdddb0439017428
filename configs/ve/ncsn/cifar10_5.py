"""CIFAR-10, NCSN with averaged parameters: technique 5 of Song and Ermon 2020."""

from configs.annealed import annealed
from configs.cifar10 import cifar10


def get_config():
    return annealed(cifar10("ve", "ncsn", continuous=False), "5")
