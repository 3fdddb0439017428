"""CelebA at 64 px, NCSN++ in discrete time, VE."""

from configs.celeba import celeba


def get_config():
    return celeba("ncsnpp")
