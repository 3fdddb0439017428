"""LSUN bedrooms at 256 px, DDPM in discrete time (Ho et al. 2020)."""

from configs.high_resolution import high_resolution


def get_config():
    return high_resolution("vp", "ddpm", "lsun/bedroom", continuous=False)
