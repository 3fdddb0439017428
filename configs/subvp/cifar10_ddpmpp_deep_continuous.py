"""CIFAR-10, deep DDPM++, continuous sub-VP law. The paper: FID 2.41, 2.99 bits/dim."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("subvp", "ddpmpp", deep=True)
