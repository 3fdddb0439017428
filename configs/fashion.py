"""The common part of the Fashion-MNIST configs: 28x28 grey, small networks for a laptop.

The data are the four IDX files (Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747) in the folder that
`--config.data.path` names. The networks are NCSN++ for VE and DDPM++ for VP and sub-VP, as in Song
et al. 2021, with a fourth of the channels, three resolutions and one residual block a level: 1.3 M
parameters, 85 GFLOP for a training step of 64 images. A laptop of 200 GFLOP/s makes the 6000 steps
in 45 minutes.
"""

from ml_collections import ConfigDict

from configs.base import base


def fashion(law: str) -> ConfigDict:
    config = base(law, "ncsnpp", "idx")
    config.model.nf = 32
    config.model.ch_mult = (1, 2, 2)
    config.model.num_res_blocks = 1
    config.model.attn_resolutions = (7,)
    config.model.fourier_scale = 16.0
    if law == "ve":
        config.sde.sigma_max = 25.0  # about the largest distance between two images
        config.model.fir = True
        config.model.progressive_input = "residual"
        config.model.scale_by_sigma = True

    config.loss.denoising.stratify = True
    config.loss.denoising.reduce_mean = True

    config.optim.lr = 5e-4
    config.optim.warmup = 300
    config.optim.schedule = "cosine"

    config.training.batch_size = 64
    config.training.n_iters = 6000
    config.training.ema_rate = 0.999
    config.training.log_freq = 100
    config.training.eval_freq = 1500
    config.training.snapshot_freq = 1500

    config.data.random_flip = False
    config.sampling.steps = 500
    config.sampling.batch_size = 100
    config.eval.batch_size = 100
    config.eval.loss_examples = 512
    config.eval.num_samples = 5000
    config.eval.features = ("classifier",)
    return config
