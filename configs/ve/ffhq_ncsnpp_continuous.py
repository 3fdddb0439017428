"""FFHQ at 1024 px, NCSN++, continuous VE law.

The loss is a mean over pixels, not a sum as for all other VE models. The released config file
imports torch to choose a device, and does not load without torch.
"""

from configs.high_resolution import faces_1024


def get_config():
    config = faces_1024("ffhq")
    config.loss.denoising.reduce_mean = True
    return config
