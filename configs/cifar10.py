"""What the CIFAR-10 configs share: the continuous-time models of Song et al. 2021, appendix H.

NCSN++ is the architecture the paper found best for VE (FIR resampling, a residual pyramid of the
input), DDPM++ the one for VP and sub-VP. Batch 128, 1.3 M iterations; the deep ones have 8 residual
blocks a level in place of 4, and 0.95 M. The data come from TFDS (`data.path` is its directory).
"""

from ml_collections import ConfigDict

from configs.base import base


def cifar10(law: str, architecture: str, deep: bool = False) -> ConfigDict:
    config = base(law, "ncsnpp", "tfds")
    config.model.num_res_blocks = 8 if deep else 4
    config.training.n_iters = 950_000 if deep else 1_300_000
    if architecture == "ncsnpp":
        config.model.fir = True
        config.model.progressive_input = "residual"
    if law == "ve":
        config.model.scale_by_sigma = True
    config.data.random_flip = True
    config.eval.batch_size = 1024
    config.eval.bpd_repeats = 5
    config.sampling.batch_size = 1024
    return config
