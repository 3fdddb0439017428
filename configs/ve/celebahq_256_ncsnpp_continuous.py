"""CelebA-HQ at 256 px, NCSN++, continuous VE law."""

from configs.high_resolution import high_resolution


def get_config():
    config = high_resolution("ve", "ncsnpp", "celebahq")
    config.sde.sigma_max = 348.0
    return config
