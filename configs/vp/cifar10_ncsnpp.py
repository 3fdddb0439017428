"""CIFAR-10, NCSN++ in discrete time, VP."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("vp", "ncsnpp", continuous=False)
