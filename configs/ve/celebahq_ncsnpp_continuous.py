"""CelebA-HQ at 1024 px, NCSN++, continuous VE law.

The released file asks torch for the device, and does not load without it.
"""

from configs.high_resolution import faces_1024


def get_config():
    return faces_1024("celebahq")
