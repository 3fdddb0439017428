"""`sampling.method = "denoising_mcmc"`: samples are denoised states of a chain near the data."""

from jax import Array

import samplers
from builders.steps import Parts
from samplers.base import SampleFn, SampleResult
from samplers.mcmc import denoising_mcmc as mcmc
from samplers.mcmc.langevin_gibbs import Walk
from sde_lib.prediction import PredictFn

# Advice for a config without a network of the noise level.
MEND = (
    "train one, with a config such as configs/digits_vp_noise_level.py, and name its workdir with "
    "--config.sampling.denoising_mcmc.network=DIR."
)


def denoising_mcmc(
    parts: Parts,
    network: str = "",
    eta: float = 0.1,
    moves: int = 10,
    update: str = "argmax",
    outputs: int = 1,
    start_steps: int = 20,
    start_std: float = 0.5,
    burn_in: tuple = ((10, 0.1),),
) -> SampleFn:
    """Chains that start at samples of Heun, with states denoised by predictor and corrector.

    Args:
        network: the workdir of a run that trained a network of the noise level.
        eta: step size of a move, in units of data^2.
        moves: moves of the chain for a sample.
        update: choice of the next noise level, "argmax" or "gibbs".
        outputs: number of samples of one chain; above 1 all share the seed of the first.
        start_steps: steps of the run of Heun at whose end the chain starts.
        start_std: standard deviation of the noise added to the end of that run.
        burn_in: moves before the first sample, as rows (number, step size).
    """
    path, section = parts.path, parts.section
    check_chain(section, network, outputs)
    levels, logits = parts.known.levels(network)
    ts = samplers.make_grid(section.grid, path, start_steps, section.eps)
    walk = Walk(eta, moves, update, burn_in_rows(burn_in), start_std)
    down = mcmc.Descent(parts.step(), section.steps, section.eps, section.grid)

    def start(key: Array, predict: PredictFn, x: Array) -> SampleResult:
        return samplers.sample(key, predict, samplers.heun(path), x, ts, denoise=True)

    return mcmc.denoising_mcmc(path, levels, logits, start, walk, down, outputs)


def check_chain(section, network: str, outputs: int) -> None:
    """Refuse options that no chain can have.

    Raises:
        ValueError: no final denoising, a batch that is not made of whole chains, or no network.
    """
    if not section.denoise:
        raise ValueError(
            "sampling.denoise is False, and sampling.method 'denoising_mcmc' ends with the "
            "conditional mean of the data always; set it to True."
        )
    if outputs < 1 or section.batch_size % outputs:
        raise ValueError(
            f"sampling.batch_size is {section.batch_size} and sampling.denoising_mcmc.outputs "
            f"{outputs}; a batch is made of whole chains: make it a multiple."
        )
    if not network:
        raise ValueError(f"sampling.denoising_mcmc.network is empty; {MEND}")


def burn_in_rows(rows: tuple) -> tuple[tuple[int, float], ...]:
    """Check the rows `(number of moves, step size)` and return them."""
    for row in rows:
        if not isinstance(row, tuple) or len(row) != 2 or int(row[0]) != row[0]:
            raise ValueError(
                f"sampling.denoising_mcmc.burn_in has the row {row!r}; a row is (number of moves, "
                "step size), and the rows stand in a tuple."
            )
    return tuple((int(number), eta) for number, eta in rows)
