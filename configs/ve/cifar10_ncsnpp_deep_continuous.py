"""CIFAR-10, deep NCSN++, continuous VE law. The paper: FID 2.20."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("ve", "ncsnpp", deep=True)
