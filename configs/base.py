"""Every default, once, with its type. A config file is the differences from `base(...)`.

A section is the keyword arguments of one constructor; `builders/` alone reads it. The sections
`sde` and `model` hold the arguments of the law and of the network that are named, and no others,
so a flag that the chosen law or network does not know is refused instead of ignored.
"""

from ml_collections import ConfigDict

from builders.aliases import old_keys
from builders.sections import sections

LAWS = {
    "vp": {"beta_min": 0.1, "beta_max": 20.0, "t0": 1e-5, "t1": 1.0},
    "subvp": {"beta_min": 0.1, "beta_max": 20.0, "t0": 1e-5, "t1": 1.0},
    "ve": {"sigma_min": 0.01, "sigma_max": 50.0, "t0": 1e-5, "t1": 1.0},
    "edm": {"t0": 0.002, "t1": 80.0},
    "flow": {"t0": 1e-5, "t1": 0.999},
}
# Laws made for given data, from the table in a file (`tools/kinetic_path.py`).
TABLED = {"kinetic": {"table": "", "t0": 1e-5, "t1": 0.999}}

NCSNV2 = {
    "nf": 128,
    "normalization": "InstanceNorm++",
    "nonlinearity": "elu",
    "interpolation": "bilinear",
    "scale_by_sigma": True,
    "num_scales": 232,
    "dtype": "float32",
    "remat": False,
}

NETWORKS = {
    "ncsnpp": {
        "nf": 128,
        "ch_mult": (1, 2, 2, 2),
        "num_res_blocks": 4,
        "attn_resolutions": (16,),
        "resamp_with_conv": True,
        "conditional": True,
        "fir": False,
        "fir_kernel": (1, 3, 3, 1),
        "skip_rescale": True,
        "resblock_type": "biggan",
        "progressive": "none",
        "progressive_input": "none",
        "progressive_combine": "sum",
        "embedding_type": "positional",
        "fourier_scale": 16.0,
        "init_scale": 0.0,
        "nonlinearity": "swish",
        "dropout": 0.1,
        "scale_by_sigma": False,
        "num_scales": 1000,
        "num_classes": 0,
        "dtype": "float32",
        "remat": False,
    },
    "ddpm": {
        "nf": 128,
        "ch_mult": (1, 2, 2, 2),
        "num_res_blocks": 2,
        "attn_resolutions": (16,),
        "resamp_with_conv": True,
        "conditional": True,
        "normalization": "GroupNorm",
        "nonlinearity": "swish",
        "dropout": 0.1,
        "scale_by_sigma": False,
        "num_scales": 1000,
        "num_classes": 0,
        "dtype": "float32",
        "remat": False,
    },
    "ncsnv2_64": NCSNV2,
    "ncsnv2_128": NCSNV2,
    "ncsnv2_256": NCSNV2,
    "ncsn": {**NCSNV2, "scale_by_sigma": False, "num_scales": 10, "num_classes": 0},
    "mlp": {
        "width": 512,
        "depth": 4,
        "expansion": 1,
        "dropout": 0.0,
        "nonlinearity": "swish",
        "time_dim": 128,
        "embedding_type": "positional",
        "embedding_scale": 1.0,
        "fourier_features": (),
        "num_classes": 0,
        "dtype": "float32",
    },
}
# Networks that classify noisy states, to guide one of the others (`guidance.method=classifier`).
CLASSIFIERS = {
    "wideresnet": {
        "num_classes": 10,
        "depth": 28,
        "widen": 10,
        "embedding_size": 128,
        "fourier_scale": 16.0,
        "nonlinearity": "swish",
        "dropout": 0.0,
        "dtype": "float32",
    },
    "mlp_classifier": {
        **NETWORKS["mlp"],
        "embedding_type": "linear",
        "num_classes": 10,
    },
}

# An image_size of () takes the images as they are; a crop of () and num_channels of 0, likewise.
DATA = {
    "digits": {},
    "tfds": {
        "name": "cifar10",
        "path": "",
        "eval_split": "test",
        "label_key": "",
        "crop": (),
        "image_size": (),
    },
    "idx": {"path": ""},
    "image_folder": {
        "path": "",
        "crop": (),
        "image_size": (),
        "num_channels": 0,
        "convert": False,
        "class_folders": False,
        "holdout": 0.1,
    },
    "npz": {"path": ""},
}


def add_methods(section: ConfigDict, name: str) -> None:
    """Adds the sections of the methods that a section may choose, made from their signatures, and
    fields for the keys that they had before methods had sections."""
    for method, options in sections(name).items():
        section[method] = ConfigDict(options)
    section.update(old_keys(name))


def base(law: str, network: str, data: str, continuous: bool = True) -> ConfigDict:
    """The defaults for a law, a network and a kind of data, by name.

    Values of Song et al. 2021, appendices C to H, where the paper has them. With `continuous` false
    the run is one of the discrete-time ancestors, SMLD (`ve`) or DDPM (`vp`): their loss, their
    labels, and sampling as the released code does it.
    """
    config = ConfigDict()
    config.seed = 42

    numbers = {**LAWS, **TABLED}[law]
    config.sde = ConfigDict({"name": law, **numbers})
    config.model = ConfigDict({"name": network, **{**NETWORKS, **CLASSIFIERS}[network]})
    if law == "ve" and continuous and network in ("ncsnpp", "mlp"):
        # Goes with the conditioning below: this embedding takes the logarithm of sigma.
        config.model.embedding_type = "fourier"

    # What the network's output means, and what it is told of the time.
    config.prediction = ConfigDict()
    config.prediction.kind = "score" if law == "ve" else "eps"
    config.prediction.conditioning = "sigma" if law == "ve" else "label"
    if not continuous:
        config.prediction.conditioning = "level" if law == "ve" else "step"
    config.prediction.sigma_data = 0.5  # the data's standard deviation; kind "edm" alone uses it

    config.loss = ConfigDict()
    config.loss.name = "classification" if network in CLASSIFIERS else "denoising"
    config.loss.weighting = "variance"  # or "likelihood"
    # Or "importance". The times of EDM are noise levels, of which uniform ones would all be large.
    by_level = law == "edm" or network in CLASSIFIERS
    config.loss.time_sampling = "uniform_lam" if by_level else "uniform"
    config.loss.stratify = False
    config.loss.reduce_mean = law != "ve"

    config.optim = ConfigDict()
    config.optim.optimizer = "adam"
    config.optim.lr = 2e-4
    config.optim.beta1 = 0.9
    config.optim.beta2 = 0.999
    config.optim.eps = 1e-8
    config.optim.weight_decay = 0.0
    config.optim.warmup = 5000
    config.optim.grad_clip = 1.0  # of the global norm; 0 switches it off
    config.optim.schedule = "constant"  # or "cosine", to zero at training.n_iters

    config.training = ConfigDict()
    config.training.continuous = continuous  # if not, model.num_scales levels: SMLD and DDPM
    config.training.batch_size = 128
    config.training.n_iters = 1_300_000
    config.training.accumulate = 1  # passes over parts of a batch for one update, to save memory
    config.training.n_jitted_steps = 1  # above 1, a scan: for accelerators, see benchmarks/
    config.training.ema_rate = 0.999 if law == "ve" else 0.9999
    config.training.label_dropout = 0.1  # of classes, where model.num_classes tells the network any
    config.training.max_skipped = 10  # steps in a row without a finite gradient; more end the run
    config.training.log_freq = 50
    config.training.eval_freq = 1000
    config.training.snapshot_freq = 50_000
    config.training.keep_snapshots = 0  # the newest so many; 0 keeps all
    config.training.snapshot_sampling = False
    config.training.progress = True

    # Devices over which parameters, average and moments are split; batches are split over all.
    config.mesh = ConfigDict()
    config.mesh.fsdp = 1

    config.sampling = ConfigDict()
    # "pc" takes fixed steps, "score_sde" too, as the released code does; "dpm_fast" spends `steps`
    # evaluations; "unified" does what its schedule says; "ode", "sde" and "dpm_adaptive" choose;
    # "denoising_mcmc" takes the steps of "pc" from the noise levels of a chain.
    config.sampling.method = "pc" if continuous else "score_sde"
    config.sampling.predictor = "reverse_diffusion" if law == "ve" else "euler_maruyama"
    config.sampling.corrector = "langevin" if law == "ve" else "none"
    config.sampling.steps = 1000
    config.sampling.grid = "uniform"
    config.sampling.eps = {"vp": 1e-3, "subvp": 1e-3, "edm": 0.002}.get(law, 1e-5)
    config.sampling.denoise = True  # end with the conditional mean at eps, one more evaluation
    config.sampling.batch_size = 64
    add_methods(config.sampling, "sampling")
    if not continuous:
        # As in the released code.
        config.sampling.langevin.norm = config.sampling.ald.norm = "batch"
    config.sampling.bdia.frame = "unit"
    config.sampling.two_stage.recipe = "sd15_5"

    config.likelihood = ConfigDict()
    config.likelihood.divergence = "rademacher"
    # "adams" takes a number of steps; the others choose their steps by tolerances.
    config.likelihood.solver = "tsit5"
    config.likelihood.eps = numbers["t0"]
    add_methods(config.likelihood, "likelihood")
    if law == "edm":
        # Nearly all of the time of EDM is noise.
        for section in (config.sampling, config.likelihood):
            for own in section.values():
                if isinstance(own, ConfigDict) and own.get("variable") == "t":
                    own.variable = "lam"

    config.eval = ConfigDict()
    config.eval.batch_size = 256
    config.eval.begin_ckpt = 0
    config.eval.end_ckpt = -1  # the last one
    config.eval.all_ckpts = False  # otherwise only the last within the range
    config.eval.enable_loss = True
    # Test examples in the loss that training looks at, a fixed choice; 0 takes all, as --mode eval
    # does. Each costs 8 forward passes and one of a batch about 3: of 8 times as many as a batch
    # has, every 1000 steps, that is 8 * 8 / (3 * 1000) = 2 % of the work of training.
    config.eval.loss_examples = 1024
    config.eval.enable_bpd = True
    config.eval.enable_sampling = True
    config.eval.bpd_dataset = "test"
    config.eval.bpd_repeats = 1  # passes with fresh dequantisation noise; the paper takes 5
    config.eval.bpd_samples = 1  # dequantisations in the bound of a pass; above 1, weighted
    # More bounds beside it: "elbo", "closed", "elbo_levels", "closed_levels".
    config.eval.bounds = ()
    config.eval.elbo_times = 64  # evaluations in an ELBO
    config.eval.num_samples = 50_000
    config.eval.seed = 0  # of sample i: example_keys(seed, i)
    # Spaces for the distances, the headline first: "pixels", "classifier", "inception" (of 2015, as
    # in papers), "inception_v3".
    config.eval.features = ("pixels",)
    # A file of tools.train_feature_classifier, or "digits"; fitted to the training images if empty.
    config.eval.classifier = ""
    config.eval.weights = ""  # file of Inception's weights or its folder; or ~/.cache/scorefield
    config.eval.resize = "clean"  # for Inception; or "legacy_tensorflow", "legacy_pytorch"
    # And "precision_recall", "density_coverage", "sliced_wasserstein", "fid_infinity",
    # "inception_score".
    config.eval.metrics = ("frechet", "kid", "mmd")
    # The split that distances are to: "test", unseen in training; or "train", as in papers.
    config.eval.reference = "test"
    config.eval.statistics = ""  # npz of the first space, the distance to which is told besides
    config.eval.statistics_space = ""  # id of its space, where the file does not say
    config.eval.mixture = False  # fit the mixture baseline: for data of a few hundred dimensions

    # Of --mode encode, decode and interpolate, by the solver of section `likelihood`.
    config.latents = ConfigDict()
    config.latents.dataset = "test"  # whose examples --seeds numbers; or "train"
    config.latents.file = ""  # the codes to decode; the latest of --mode encode if empty
    config.latents.temperature = 1.0  # they are multiplied by it
    config.latents.denoise = False  # end with the conditional mean at likelihood.eps
    config.latents.blend = "slerp"  # of a walk between two codes; or "linear", "spherical"
    config.latents.nodes = 9  # of a walk, both ends included

    # What samples are to agree with: of --mode sample, and for classes of --mode eval too.
    config.guidance = ConfigDict()
    # "none"; to classes: "classifier_free", "classifier"; to measurements y = A x0 + noise, by
    # guides: "dps", "pigdm", "mmps", "annealed"; by samplers: "impute", "repaint", "ddrm"; or by
    # weighted particles: "ensemble".
    config.guidance.method = "none"
    # The class of all samples; -1 for i mod model.num_classes of sample i.
    config.guidance.label = -1
    config.guidance.scale = 1.0  # w, for classes; 0 is without guidance, 1 the class itself
    config.guidance.classifier = ""  # the workdir of a run that trained a classifier
    # Measurements are made of examples of this split, those that --seeds numbers; or of the
    # pictures of a folder.
    config.guidance.dataset = "test"
    config.guidance.measurement = ""  # or an npz file with `y` (n, ...), whose rows they number
    config.guidance.samples = 8  # of each
    # "mask", "blur", "downsample", "fourier", "radon", "greyscale" or "matrix".
    config.guidance.operator = "mask"
    config.guidance.noise_std = 0.0  # of the measurement, in units of the model
    add_methods(config.guidance, "guidance")
    config.guidance.mmps.iterations = 5
    config.guidance.classifier_free.interval = (0.0, 1e6)  # JSON has no infinity

    config.edit = ConfigDict()
    # "none"; "sdedit", noised part of the way and sampled down; "flow", up the flow ODE and down.
    config.edit.method = "none"
    config.edit.images = "test"  # a split, or a picture, or a folder of pictures: --seeds numbers
    config.edit.samples = 4  # of each
    add_methods(config.edit, "edit")

    config.data = ConfigDict({"dataset": data, **DATA[data]})
    config.data.centered = law != "ve"  # the model sees [-1, 1]; otherwise [0, 1]
    config.data.random_flip = False
    config.data.uniform_dequantization = False
    return config
