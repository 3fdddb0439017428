"""Every default, once, with its type. A config file has the differences from `base(...)`.

A section has the keyword arguments of one constructor; `builders/` alone reads it. The sections
`sde` and `model` have only the arguments of the chosen law and network, so a flag that these do not
have is refused, not ignored.
"""

from ml_collections import ConfigDict

from builders.aliases import old_keys
from builders.constructors import loss_of, section_of
from builders.sections import sections

# Defaults of a config that differ from those of the network's constructor.
NETWORKS = {
    "ncsnpp": {"fir": False, "progressive_input": "none", "embedding_type": "positional"},
    "mlp": {"embedding_scale": 1.0},
    "mlp_classifier": {"embedding_scale": 1.0, "embedding_type": "linear"},
}


def add_methods(section: ConfigDict, name: str) -> None:
    """Add sections for all methods that a section may choose, made from their signatures.

    Fields for the old names of keys, from before methods had sections, are added too.
    """
    for method, options in sections(name).items():
        section[method] = ConfigDict(options)
    section.update(old_keys(name))


def player(network: str, optimizer: str = "adam") -> ConfigDict:
    """The section of a network that is trained beside the main one, `config.players.<name>`, for a
    loss that declares one (`losses.needs`)."""
    section = ConfigDict({"optim": section_of("optim", optimizer)})
    section.model = ConfigDict({**section_of("model", network), **NETWORKS.get(network, {})})
    section.model.dtype = "float32"
    section.ema_rate = 0.999
    section.every = 1  # its turns: the steps that are a multiple of it
    return section


def base(law: str, network: str, data: str, continuous: bool = True) -> ConfigDict:
    """The defaults for a law, a network and a kind of data, by name.

    The values are those of Song et al. 2021, appendices C to H, where the paper states them. With
    `continuous=False` the config is for SMLD (`ve`) or DDPM (`vp`) in discrete time: their loss,
    their conditioning, and the sampling of the released code.
    """
    config = ConfigDict()
    config.seed = 42

    config.sde = ConfigDict(section_of("sde", law))
    config.model = ConfigDict({**section_of("model", network), **NETWORKS.get(network, {})})
    config.model.dtype = "float32"
    if law == "ve" and continuous and network in ("ncsnpp", "mlp"):
        # This embedding takes the logarithm of sigma, the conditioning chosen below.
        config.model.embedding_type = "fourier"

    # The meaning of the network's output, and the form in which the network gets the time.
    config.prediction = ConfigDict()
    config.prediction.kind = "score" if law == "ve" else "eps"
    config.prediction.conditioning = "sigma" if law == "ve" else "label"
    if not continuous:
        config.prediction.conditioning = "level" if law == "ve" else "step"
    config.prediction.sigma_data = 0.5  # the data's standard deviation; kind "edm" alone uses it

    config.loss = ConfigDict()
    config.loss.name = loss_of(network, continuous)
    add_methods(config.loss, "loss")
    if law == "edm":
        # The times of EDM are noise levels; uniform ones would nearly all be large.
        config.loss.denoising.time_sampling = "uniform_lam"
    if law == "ve":
        config.loss.denoising.reduce_mean = config.loss.discrete.reduce_mean = False

    config.optim = ConfigDict(section_of("optim", "adam"))

    config.training = ConfigDict()
    config.training.continuous = continuous  # False: model.num_scales levels, for SMLD and DDPM
    config.training.batch_size = 128
    config.training.n_iters = 1_300_000
    config.training.accumulate = 1  # passes over parts of a batch for one update, to save memory
    config.training.n_jitted_steps = 1  # above 1: a scan of steps, for accelerators (benchmarks/)
    config.training.ema_rate = 0.999 if law == "ve" else 0.9999
    config.training.label_dropout = 0.1  # share of labels left out, for a network that gets classes
    config.training.max_skipped = 10  # steps in a row without a finite gradient; more end the run
    config.training.log_freq = 50
    config.training.eval_freq = 1000
    config.training.snapshot_freq = 50_000
    config.training.keep_snapshots = 0  # number of newest checkpoints to keep; 0 keeps all
    config.training.keep_every = 0  # those at multiples of this step are kept for good; 0: none
    # Minutes after which a checkpoint is written that the next one replaces; 0: none.
    config.training.save_minutes = 0.0
    config.training.snapshot_sampling = False
    config.training.progress = True
    add_methods(config.training, "training")  # score_sde's names

    # Further networks, for a loss that trains several: see `player`.
    config.players = ConfigDict()

    # Devices over which parameters, average and moments are split; batches are split over all
    # devices.
    config.mesh = ConfigDict()
    config.mesh.fsdp = 1

    config.sampling = ConfigDict()
    # "pc" takes fixed steps; "score_sde" too, in the loop of the released code. "dpm_fast" makes
    # `steps` evaluations. "unified" follows a schedule in a file. "ode", "sde" and "dpm_adaptive"
    # choose their steps by tolerances. "denoising_mcmc" takes the steps of "pc" from the noise
    # levels of a chain.
    config.sampling.method = "pc" if continuous else "score_sde"
    config.sampling.predictor = "reverse_diffusion" if law == "ve" else "euler_maruyama"
    config.sampling.corrector = "langevin" if law == "ve" else "none"
    config.sampling.steps = 1000
    config.sampling.grid = "uniform"
    config.sampling.eps = {"vp": 1e-3, "subvp": 1e-3}.get(law, config.sde.t0)
    config.sampling.denoise = True  # end with the conditional mean at eps, one more evaluation
    config.sampling.batch_size = 64
    config.loss.noise_level.eps = config.sampling.eps
    add_methods(config.sampling, "sampling")
    if not continuous:
        # As in the released code.
        config.sampling.langevin.norm = config.sampling.ald.norm = "batch"
    config.sampling.bdia.frame = "unit"
    config.sampling.two_stage.recipe = "sd15_5"

    config.likelihood = ConfigDict()
    config.likelihood.divergence = "rademacher"
    # "adams" takes a fixed number of steps; the others choose their steps by tolerances.
    config.likelihood.solver = "tsit5"
    config.likelihood.eps = config.sde.t0
    add_methods(config.likelihood, "likelihood")
    if law == "edm":
        # In t, nearly the whole interval of EDM is large noise.
        for section in (config.sampling, config.likelihood):
            for own in section.values():
                if isinstance(own, ConfigDict) and own.get("variable") == "t":
                    own.variable = "lam"

    config.eval = ConfigDict()
    config.eval.batch_size = 256
    config.eval.begin_ckpt = 0
    config.eval.end_ckpt = -1  # -1: the last checkpoint
    config.eval.all_ckpts = False  # False: only the last checkpoint from begin_ckpt to end_ckpt
    config.eval.enable_loss = True
    # Number of test examples, always the same, in the evaluation loss during training; 0 takes all,
    # as --mode eval does. An example costs 8 forward passes, an example in training about 3. With 8
    # times the batch size, every 1000 steps, that is 8 * 8 / (3 * 1000) = 2 % of training.
    config.eval.loss_examples = 1024
    config.eval.enable_bpd = True
    config.eval.enable_sampling = True
    config.eval.bpd_dataset = "test"
    config.eval.bpd_repeats = 1  # passes with fresh dequantisation noise; the paper takes 5
    config.eval.bpd_samples = 1  # dequantisations in the bound of a pass; above 1: IWAE bound
    # Further bounds: "elbo", "closed", "elbo_levels", "closed_levels".
    config.eval.bounds = ()
    config.eval.elbo_times = 64  # evaluations in an ELBO
    config.eval.num_samples = 50_000
    config.eval.seed = 0  # sample i is drawn from example_keys(seed, i)
    # Feature spaces for the distances, the most important first: "pixels", "classifier",
    # "inception" (of 2015, as in papers), "inception_v3".
    config.eval.features = ("pixels",)
    # A file of tools.train_feature_classifier, or "digits"; if empty, a classifier is fitted to the
    # training images.
    config.eval.classifier = ""
    config.eval.weights = ""  # Inception's weights or their folder; empty: ~/.cache/scorefield
    config.eval.resize = "clean"  # for Inception; or "legacy_tensorflow", "legacy_pytorch"
    # Others: "precision_recall", "density_coverage", "sliced_wasserstein", "fid_infinity",
    # "inception_score".
    config.eval.metrics = ("frechet", "kid", "mmd")
    # The split to which distances are measured: "test", or "train", as in papers.
    config.eval.reference = "test"
    config.eval.statistics = ""  # npz of moments in the first space, for one more distance
    config.eval.statistics_space = ""  # id of the file's space, if the file does not record it
    config.eval.mixture = False  # fit the mixture baseline: for data of a few hundred dimensions

    # For --mode encode, decode and interpolate; the section `likelihood` has the solver.
    config.latents = ConfigDict()
    config.latents.dataset = "test"  # the split of the examples --seeds; or "train"
    config.latents.file = ""  # the codes to decode; if empty, the latest of --mode encode
    config.latents.temperature = 1.0  # factor of the codes before they are decoded
    config.latents.denoise = False  # end with the conditional mean at likelihood.eps
    config.latents.blend = "slerp"  # interpolation of two codes; or "linear", "spherical"
    config.latents.nodes = 9  # of an interpolation, with both ends

    # Conditions on samples: for --mode sample; those on classes for --mode eval too.
    config.guidance = ConfigDict()
    # "none". On classes: "classifier_free", "classifier". On measurements y = A x0 + noise: guides
    # "dps", "pigdm", "mmps", "annealed"; samplers "impute", "repaint", "ddrm"; weighted particles
    # "ensemble".
    config.guidance.method = "none"
    # The class of all samples; -1: sample i has the class i mod model.num_classes.
    config.guidance.label = -1
    config.guidance.scale = 1.0  # w, for classes; 0: no guidance, 1: the law of the class
    config.guidance.classifier = ""  # the workdir of a run that trained a classifier
    # The split whose examples --seeds are measured; or a picture, or a folder of pictures.
    config.guidance.dataset = "test"
    config.guidance.measurement = ""  # or an npz with measurements `y` (n, ...), rows --seeds
    config.guidance.samples = 8  # of each
    # "mask", "blur", "downsample", "fourier", "complex_fourier", "radon", "greyscale" or "matrix".
    config.guidance.operator = "mask"
    config.guidance.noise_std = 0.0  # of the measurement, in units of the model
    add_methods(config.guidance, "guidance")
    config.guidance.mmps.iterations = 5
    config.guidance.classifier_free.interval = (0.0, 1e6)  # JSON has no infinity

    config.edit = ConfigDict()
    # "none"; "sdedit": images are noised part of the way and sampled back; "flow": up the flow ODE
    # and back.
    config.edit.method = "none"
    config.edit.images = "test"  # images --seeds of a split, a picture, or a folder of pictures
    config.edit.samples = 4  # edits of each image
    add_methods(config.edit, "edit")

    config.data = ConfigDict(section_of("data", data))
    if data == "tfds":
        config.data.eval_split = "test"
    config.data.centered = law != "ve"  # the model sees [-1, 1]; otherwise [0, 1]
    config.data.random_flip = False
    config.data.uniform_dequantization = False
    # The second ends of pairs, for a loss that takes them, scaled as the first ones are.
    config.data2 = ConfigDict(section_of("data2", "none"))
    return config
