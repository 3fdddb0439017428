"""CIFAR-10, NCSN++, continuous sub-VP law."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("subvp", "ncsnpp")
