"""CIFAR-10, DDPM in discrete time, without the time as input (Song and Ermon 2020, technique 3)."""

from configs.cifar10 import cifar10


def get_config():
    config = cifar10("vp", "ddpm", continuous=False)
    config.model.conditional = False
    return config
