"""`sampling.method = "denoising_mcmc"`: a chain near the data, whose states are denoised."""

from pathlib import Path

from jax import Array
from ml_collections import ConfigDict

import samplers
import sde_lib
from builders.steps import Known, build_method
from models.noise_level import FILE, Trained, load
from samplers.base import SampleFn, SampleResult
from samplers.denoising_mcmc import denoising_mcmc
from samplers.langevin_gibbs import Walk
from samplers.levels import make_levels
from sde_lib.prediction import PredictFn


def build_denoising_mcmc(section: ConfigDict, path: sde_lib.AffinePath, known: Known) -> SampleFn:
    """Chains that begin with a run of Heun, and whose states the configured method denoises."""
    del known
    network = build_level_network(section)
    levels = make_levels(path, network.options["levels"], network.sigma_min, network.sigma_max)
    ts = samplers.make_grid(section.grid, path, section.chain_start_steps, section.eps)
    walk = Walk(
        section.chain_eta,
        section.chain_moves,
        section.chain_update,
        build_burn_in(section),
        section.chain_start_std,
    )

    def start(key: Array, predict: PredictFn, x: Array) -> SampleResult:
        return samplers.sample(key, predict, samplers.heun(path), x, ts, denoise=True)

    return denoising_mcmc(
        path,
        levels,
        network.logits,
        start,
        build_method(section, path),
        walk,
        steps=section.steps,
        eps=section.eps,
        grid=section.grid,
        outputs=section.chain_outputs,
    )


def build_level_network(section: ConfigDict) -> Trained:
    """The network of p(level | y), which must be there before anything is built on it."""
    if not section.denoise:
        raise ValueError(
            "sampling.denoise is False, and sampling.method 'denoising_mcmc' ends with the "
            "conditional mean of the data always; set it to True."
        )
    if section.batch_size % section.chain_outputs:
        raise ValueError(
            f"sampling.batch_size is {section.batch_size} and sampling.chain_outputs "
            f"{section.chain_outputs}; a batch is made of whole chains: make it a multiple."
        )
    if not section.chain_network:
        raise ValueError(
            "sampling.chain_network is empty; train a network of the noise level with `python -m "
            "tools.train_noise_level --config FILE --workdir DIR` and name its folder with "
            "--config.sampling.chain_network=DIR."
        )
    return load(Path(section.chain_network) / FILE)


def build_burn_in(section: ConfigDict) -> tuple[tuple[int, float], ...]:
    """The rows `(number, eta)` of `sampling.chain_burn_in`."""
    for row in section.chain_burn_in:
        if not isinstance(row, tuple) or len(row) != 2 or int(row[0]) != row[0]:
            raise ValueError(
                f"sampling.chain_burn_in has the row {row!r}; a row is (number of moves, step "
                "size), and the rows stand in a tuple."
            )
    return tuple((int(number), eta) for number, eta in section.chain_burn_in)
