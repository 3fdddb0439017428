"""FFHQ at 1024 px, NCSN++, continuous VE law.

The loss is a mean over pixels, not a sum as for all other VE models. The released file asks torch
for the device, and does not load without it.
"""

from configs.high_resolution import faces_1024


def get_config():
    config = faces_1024("ffhq")
    config.loss.denoising.reduce_mean = True
    return config
