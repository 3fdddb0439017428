"""CIFAR-10, DDPM++, continuous sub-VP law. The paper: FID 2.61, 3.02 bits/dim."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("subvp", "ddpmpp")
