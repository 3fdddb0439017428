"""CIFAR-10, NCSN++, continuous VE law. The paper: FID 2.38."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("ve", "ncsnpp")
