"""The common part of the CelebA configs: 64 px, discrete-time VE, noise levels from 90 to 0.01.

The middle 140 x 140 pixels of the aligned photographs (218 x 178) are resized to 64 x 64. As in the
released code, the held-out split is `validation` of TFDS, which also has a `test`. Samples are
compared with the training images in the features of Inception, as for CIFAR-10.
"""

from ml_collections import ConfigDict

from configs.base import base


def celeba(architecture: str) -> ConfigDict:
    """A config for the network `ncsnpp`, or for a RefineNet, which `annealed` then completes."""
    config = base("ve", architecture, "tfds", continuous=False)
    if architecture == "ncsnpp":
        config.model.fir = True
        config.model.progressive_input = "residual"
        config.sampling.langevin.snr = 0.17
    config.model.scale_by_sigma = architecture != "ncsn"
    config.sde.sigma_max = 90.0
    config.sampling.steps = config.model.num_scales
    config.sampling.batch_size = 1024
    config.eval.batch_size = 1024
    config.eval.features = ("inception",)
    config.eval.reference = "train"
    config.eval.enable_bpd = False
    config.data.name = "celeb_a"
    config.data.eval_split = "validation"
    config.data.crop = (140, 140)
    config.data.image_size = (64, 64)
    config.data.random_flip = True
    return config
