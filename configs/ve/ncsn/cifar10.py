"""CIFAR-10, NCSN (Song and Ermon 2019): ten noise levels."""

from configs.annealed import annealed
from configs.cifar10 import cifar10


def get_config():
    return annealed(cifar10("ve", "ncsn", continuous=False), "")
