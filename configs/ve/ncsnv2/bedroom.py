"""LSUN bedrooms at 128 px, NCSNv2 (Song and Ermon 2020).

The released config file sets `training.continuouse = False`, a misspelt key. It therefore trains in
continuous time, with a network that takes integer levels. This config trains in discrete time.
"""

from configs.annealed import annealed
from configs.high_resolution import high_resolution


def get_config():
    config = high_resolution("ve", "ncsnv2_128", "lsun/bedroom", side=128, continuous=False)
    config = annealed(config, "12345")
    config.training.batch_size = 128
    config.training.ema_rate = 0.9999
    return config
