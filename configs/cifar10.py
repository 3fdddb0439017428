"""The common part of the CIFAR-10 configs: models of Song et al. 2021, appendix H, and older ones.

NCSN++ is the architecture that the paper found best for VE (FIR resampling, a residual pyramid of
the input), DDPM++ the best for VP and sub-VP. `ddpm` is the network of Ho et al. 2020. `annealed`
completes the configs of RefineNets. Batch 128, 1.3 M iterations; deep networks have 8 residual
blocks a level in place of 4, and 0.95 M iterations. The data come from TFDS (`data.path` is its
directory).

`--mode eval` measures the FID of the papers: 50,000 samples against the training images, in the
features of the Inception of 2015. Its weights are a file that the user fetches (docs/metrics.md).
Without the file, the evaluation is refused before anything is sampled;
`--config.eval.features="('pixels',)"` needs no file.
"""

from ml_collections import ConfigDict

from configs.base import base

# Two sets of options of one network; other architectures have the name of their network.
NETWORK = {"ncsnpp": "ncsnpp", "ddpmpp": "ncsnpp"}


def cifar10(law: str, architecture: str, deep: bool = False, continuous: bool = True) -> ConfigDict:
    config = base(law, NETWORK.get(architecture, architecture), "tfds", continuous)
    if architecture in NETWORK:
        config.model.num_res_blocks = 8 if deep else 4
    if architecture == "ncsnpp":
        config.model.fir = True
        config.model.progressive_input = "residual"
    if law == "ve" and architecture != "ncsn":
        config.model.scale_by_sigma = True
    if law == "vp" and not continuous:
        config.sampling.predictor = "reverse_diffusion" if architecture == "ncsnpp" else "ancestral"
    config.training.n_iters = 950_000 if deep else 1_300_000
    config.sampling.steps = config.model.num_scales
    config.sampling.batch_size = 1024
    config.eval.batch_size = 1024
    config.eval.features = ("inception",)
    config.eval.reference = "train"
    config.eval.bpd_repeats = 5
    # A score that is known at discrete levels only gives a flow with jumps in time, which adaptive
    # solvers cannot solve.
    config.eval.enable_bpd = continuous or law != "ve"
    config.data.random_flip = True
    return config
