"""LSUN bedrooms at 256 px, NCSN++, continuous VE law."""

from configs.high_resolution import high_resolution


def get_config():
    config = high_resolution("ve", "ncsnpp", "lsun/bedroom")
    config.sde.sigma_max = 378.0
    return config
