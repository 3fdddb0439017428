"""NCSN and NCSNv2: RefineNets for discrete noise levels, sampled by annealed Langevin dynamics.

NCSN is Song and Ermon 2019: ten levels, 100 steps at each. Song and Ermon 2020 improve it by five
techniques, whose numbers are in the names of the config files: (1) the largest level is the largest
distance between two images; (2) neighbouring levels overlap, so there are hundreds of them; (3) the
network does not get the level as input, its output is divided by the level; (4) step size and
number of steps at a level follow from a bound; (5) the parameters are averaged. NCSNv2 has all
five; 1, 2 and 4 are used together.
"""

from typing import NamedTuple

from ml_collections import ConfigDict


class Levels(NamedTuple):
    """The largest noise level, the number of levels, Langevin steps at each, and their snr."""

    sigma_max: float
    number: int
    n_steps: int
    snr: float


NCSN = Levels(1.0, 10, 100, 0.316)
# Techniques 1, 2 and 4, by `data.name`.
IMPROVED = {
    "cifar10": Levels(50.0, 232, 5, 0.176),
    "celeb_a": Levels(90.0, 500, 5, 0.128),
    "lsun/bedroom": Levels(190.0, 1086, 3, 0.095),
}


def annealed(config: ConfigDict, techniques: str) -> ConfigDict:
    """Set levels, sampler and optimizer for `techniques`, e.g. "124", or "" for none.

    Technique 3 is the choice of the network, `ncsnv2_*` in place of `ncsn`, and is made in `config`
    before.
    """
    improved = set("124") <= set(techniques)
    levels = IMPROVED[config.data.name] if improved else NCSN
    config.sde.sigma_max = levels.sigma_max
    config.model.num_scales = levels.number
    config.sampling.steps = levels.number
    config.sampling.predictor = "none"
    config.sampling.corrector = "ald"
    config.sampling.ald.n_steps = levels.n_steps
    config.sampling.ald.snr = levels.snr
    config.training.ema_rate = 0.999 if "5" in techniques else 0.0  # at 0: no averaging
    config.optim.lr = 1e-4 if "3" in techniques else 1e-3
    config.optim.warmup = 0
    config.optim.grad_clip = 0.0
    return config
