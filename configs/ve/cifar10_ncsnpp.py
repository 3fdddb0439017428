"""CIFAR-10, NCSN++ in discrete time, VE. The paper: FID 2.45."""

from configs.cifar10 import cifar10


def get_config():
    return cifar10("ve", "ncsnpp", continuous=False)
