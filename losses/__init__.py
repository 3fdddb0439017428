"""What a network is trained on. `LOSSES` is the table of names for a config (`loss.name`).

The keyword arguments of a loss are its section, `loss.denoising.weighting`. "discrete" goes with
`training.continuous` off. Each loss declares which networks it trains, and what it needs besides
its section (`losses.needs`).
"""

from losses.classification import classification_loss
from losses.denoising import denoising_loss, denoising_terms
from losses.discrete import discrete_loss
from losses.labels import drop_labels
from losses.needs import MAIN, needs, needs_of
from losses.noise_level import noise_level_loss
from losses.sliced import sliced_loss
from losses.time_sampling import TIME_SAMPLING
from losses.weighting import WEIGHTINGS

LOSSES = {
    "denoising": denoising_loss,
    "discrete": discrete_loss,
    "classification": classification_loss,
    "noise_level": noise_level_loss,
}

__all__ = [
    "LOSSES",
    "MAIN",
    "TIME_SAMPLING",
    "WEIGHTINGS",
    "classification_loss",
    "denoising_loss",
    "denoising_terms",
    "discrete_loss",
    "drop_labels",
    "needs",
    "needs_of",
    "noise_level_loss",
    "sliced_loss",
]
