"""CIFAR-10, DDPM in discrete time, not told the time (technique 3 of Song and Ermon 2020)."""

from configs.cifar10 import cifar10


def get_config():
    config = cifar10("vp", "ddpm", continuous=False)
    config.model.conditional = False
    return config
