"""CelebA-HQ at 1024 px, NCSN++, continuous VE law.

The released config file imports torch to choose a device, and does not load without torch.
"""

from configs.high_resolution import faces_1024


def get_config():
    return faces_1024("celebahq")
