"""CIFAR-10, the network of DDPM with the discrete VE law. The paper, table 1: FID 3.60."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("ve", "ddpm", continuous=False)
