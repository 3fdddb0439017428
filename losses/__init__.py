"""What a network is regressed on. `LOSSES` is the table of names for a config (`loss.name`)."""

from losses.denoising import denoising_loss, denoising_terms
from losses.time_sampling import TIME_SAMPLING
from losses.weighting import WEIGHTINGS

LOSSES = {"denoising": denoising_loss}

__all__ = ["LOSSES", "TIME_SAMPLING", "WEIGHTINGS", "denoising_loss", "denoising_terms"]
