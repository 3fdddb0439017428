"""CIFAR-10, NCSNv2 (Song and Ermon 2020)."""

from configs.annealed import annealed
from configs.cifar10 import cifar10


def get_config():
    return annealed(cifar10("ve", "ncsnv2_64", continuous=False), "12345")
