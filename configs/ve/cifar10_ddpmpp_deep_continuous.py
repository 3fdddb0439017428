"""CIFAR-10, deep DDPM++, continuous VE law."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("ve", "ddpmpp", deep=True)
