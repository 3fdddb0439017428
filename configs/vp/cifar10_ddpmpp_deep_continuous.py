"""CIFAR-10, deep DDPM++, continuous VP law. The paper: FID 2.41, 3.13 bits/dim."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("vp", "ddpmpp", deep=True)
