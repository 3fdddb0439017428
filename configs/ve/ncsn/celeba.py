"""CelebA at 64 px, NCSN (Song and Ermon 2019): ten noise levels.

The released config file sets `training.loss = "vesde"` in place of `training.sde`, and fails.
"""

from configs.annealed import annealed
from configs.celeba import celeba


def get_config():
    return annealed(celeba("ncsn"), "")
