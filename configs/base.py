"""Every default, once, with its type. A config file is the differences from `base(...)`.

A section is the keyword arguments of one constructor; `builders/` alone reads it. The sections
`sde` and `model` hold the arguments of the law and of the network that are named, and no others,
so a flag that the chosen law or network does not know is refused instead of ignored.
"""

from ml_collections import ConfigDict

from builders.aliases import old_keys
from builders.constructors import loss_of, section_of
from builders.sections import sections

# Where the defaults of a config are not those of the network.
NETWORKS = {
    "ncsnpp": {"fir": False, "progressive_input": "none", "embedding_type": "positional"},
    "mlp": {"embedding_scale": 1.0},
    "mlp_classifier": {"embedding_scale": 1.0, "embedding_type": "linear"},
}


def add_methods(section: ConfigDict, name: str) -> None:
    """Adds the sections of the methods that a section may choose, made from their signatures, and
    fields for the keys that they had before methods had sections."""
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

    Values of Song et al. 2021, appendices C to H, where the paper has them. With `continuous` false
    the run is one of the discrete-time ancestors, SMLD (`ve`) or DDPM (`vp`): their loss, their
    labels, and sampling as the released code does it.
    """
    config = ConfigDict()
    config.seed = 42

    config.sde = ConfigDict(section_of("sde", law))
    config.model = ConfigDict({**section_of("model", network), **NETWORKS.get(network, {})})
    config.model.dtype = "float32"
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
    config.loss.name = loss_of(network, continuous)
    add_methods(config.loss, "loss")
    if law == "edm":
        # Its times are noise levels, of which uniform ones would all be large.
        config.loss.denoising.time_sampling = "uniform_lam"
    if law == "ve":
        config.loss.denoising.reduce_mean = config.loss.discrete.reduce_mean = False

    config.optim = ConfigDict(section_of("optim", "adam"))

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
    add_methods(config.training, "training")  # score_sde's names

    config.players = ConfigDict()  # further networks, for a loss that trains several: `player`

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
    # "adams" takes a number of steps; the others choose their steps by tolerances.
    config.likelihood.solver = "tsit5"
    config.likelihood.eps = config.sde.t0
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

    config.data = ConfigDict(section_of("data", data))
    if data == "tfds":
        config.data.eval_split = "test"
    config.data.centered = law != "ve"  # the model sees [-1, 1]; otherwise [0, 1]
    config.data.random_flip = False
    config.data.uniform_dequantization = False
    # The second ends of pairs, for a loss that takes them, scaled as the first ones are.
    config.data2 = ConfigDict(section_of("data2", "none"))
    return config
