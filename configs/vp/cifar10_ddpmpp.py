"""CIFAR-10, DDPM++ in discrete time, VP. The paper: FID 2.78."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("vp", "ddpmpp", continuous=False)
