"""A network that estimates the noise level of noisy digits, for denoising MCMC.

python main.py --config configs/digits_vp_noise_level.py --workdir runs/levels --mode train
python main.py --config configs/digits_vp.py --workdir runs/digits --mode sample \\
    --config.sampling.method=denoising_mcmc --config.sampling.denoising_mcmc.network=runs/levels \\
    --config.sampling.grid=karras --config.sampling.predictor=heun

Adam and its rate are those of Kim & Ye 2023 (arXiv 2209.14593); the cosine schedule is not.
"""

from configs.base import base


def get_config():
    config = base("vp", "noise_level_mlp", "digits")

    config.optim.lr = 1e-3
    config.optim.warmup = 0
    config.optim.grad_clip = 0.0
    config.optim.schedule = "cosine"

    config.training.batch_size = 100
    config.training.n_iters = 5000
    config.training.ema_rate = 0.999
    config.training.log_freq = 100
    config.training.eval_freq = 1000
    config.training.snapshot_freq = 1000

    config.data.centered = True
    config.data.uniform_dequantization = True
    config.eval.batch_size = 297
    return config
