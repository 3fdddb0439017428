"""The common part of the configs from 128 px on: LSUN bedrooms and churches, CelebA-HQ and FFHQ.

Batch 64, 2.4 M iterations, no dropout. NCSN++ has 2000 noise levels in place of 1000, and at
1024 px batch 8 and fewer channels. LSUN comes from TFDS, which has `train` and `validation`; images
are cropped to their central square and resized. The faces come from a folder of images, named by
`--config.data.path=DIR`. (The released code reads TFRecords of the same images and evaluates on the
training images; here a tenth is held out.)

Samples are compared with the training images by the Frechet distance of Inception features, as for
CIFAR-10. Its moments are streamed, so that three million bedrooms need no memory. 50,000 samples of
256 px take 9 GiB of the host's memory.

The numbers are those of Song et al. 2021, appendix H; the networks of Ho et al. 2020 have those of
their appendix B, at 256 px.
"""

from ml_collections import ConfigDict

from configs.base import base

FACES = ("celebahq", "ffhq")


def high_resolution(
    law: str, network: str, data: str, side: int = 256, continuous: bool = True
) -> ConfigDict:
    """A config for `data` "lsun/bedroom", "lsun/church_outdoor", "celebahq" or "ffhq"."""
    config = base(law, network, "image_folder" if data in FACES else "tfds", continuous)
    config.training.batch_size = 64
    config.training.n_iters = 2_400_000
    # For one device. The released code takes the batch size of `eval`, split over many devices.
    config.sampling.batch_size = 32
    config.eval.batch_size = 512
    config.eval.loss_examples = 512
    config.eval.features = ("inception",)
    config.eval.reference = "train"
    config.eval.metrics = ("frechet",)
    config.eval.enable_bpd = False

    config.data.image_size = (side, side)
    config.data.random_flip = True
    if data in FACES:
        config.data.num_channels = 3
    else:
        config.data.name = data
        config.data.eval_split = "validation"

    if "dropout" in config.model:
        config.model.dropout = 0.0
    shape = {"ncsnpp": ncsnpp, "ddpm": ddpm}.get(network)
    if shape is not None:
        shape(config)
    config.sampling.steps = config.model.num_scales
    return config


def ncsnpp(config: ConfigDict) -> None:
    """Set the NCSN++ of 256 px, whose images enter and leave at every resolution by skips."""
    config.model.ch_mult = (1, 1, 2, 2, 2, 2, 2)
    config.model.num_res_blocks = 2
    config.model.fir = True
    config.model.progressive = "output_skip"
    config.model.progressive_input = "input_skip"
    config.model.scale_by_sigma = True
    config.model.num_scales = 2000
    config.sampling.langevin.snr = 0.075


def ddpm(config: ConfigDict) -> None:
    """Set the DDPM of 256 px, whose learning rate is a tenth of that for CIFAR-10."""
    config.model.ch_mult = (1, 1, 2, 2, 4, 4)
    config.optim.lr = 2e-5
    config.sampling.predictor = "ancestral"


def faces_1024(data: str) -> ConfigDict:
    """NCSN++ of 1024 px with the continuous VE law, for "celebahq" or "ffhq".

    The released code evaluates in batches of 1024, with 13 GB of pixels alone; here the batch size
    is 8. Its 50,000 samples would take 146 GiB; here 1000 samples are compared by KID, which has no
    bias in n.
    """
    config = high_resolution("ve", "ncsnpp", data, side=1024)
    config.sde.sigma_max = 1348.0
    config.model.nf = 16
    config.model.ch_mult = (1, 2, 4, 8, 16, 32, 32, 32)
    config.model.num_res_blocks = 1
    config.training.batch_size = 8
    config.training.ema_rate = 0.9999
    config.sampling.langevin.snr = 0.15
    config.sampling.batch_size = 8
    config.eval.batch_size = 8
    config.eval.num_samples = 1000
    config.eval.metrics = ("kid",)
    config.eval.loss_examples = 64
    return config
