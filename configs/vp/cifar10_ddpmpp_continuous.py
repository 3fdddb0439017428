"""CIFAR-10, DDPM++, continuous VP law. The paper: FID 2.55, 3.16 bits/dim."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("vp", "ddpmpp")
