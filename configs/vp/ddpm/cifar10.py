"""CIFAR-10, DDPM in discrete time (Ho et al. 2020). Song et al. 2021: FID 3.24, 3.28 bits/dim."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("vp", "ddpm", continuous=False)
