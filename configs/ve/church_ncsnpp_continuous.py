"""LSUN churches at 256 px, NCSN++, continuous VE law."""

from configs.high_resolution import high_resolution


def get_config():
    config = high_resolution("ve", "ncsnpp", "lsun/church_outdoor")
    config.sde.sigma_max = 380.0
    return config
