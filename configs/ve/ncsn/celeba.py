"""CelebA at 64 px, NCSN (Song and Ermon 2019): ten noise levels.

The released file says `training.loss = "vesde"` for `training.sde`, and does not run.
"""

from configs.annealed import annealed
from configs.celeba import celeba


def get_config():
    return annealed(celeba("ncsn"), "")
