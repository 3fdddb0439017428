"""Samplers of other packages on the same problem, each given the exact denoiser by its own API.

Each package gives a list of `Row(source, sampler, grid, run)`. `run(n) -> (result, NFE)` takes the
number n of grid levels; evaluations are counted inside the denoiser. `recipe(nfe)` marks rows of
our own. A package that cannot be imported is left out (requirements-bench.txt). A grid called
"... to 0" ends with a step from 0.002 to 0, which returns the denoised state. For a grid called
"... + denoise" this file adds the denoising evaluation.
"""

import importlib.util
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from search.problem import LAW, Problem, denoise

LEVELS = {"sigma_min": LAW.t0, "sigma_max": LAW.t1}


class Row(NamedTuple):
    source: str
    sampler: str
    grid: str
    run: Callable[[int], tuple[np.ndarray, int]]
    recipe: Callable[[int], str] = lambda nfe: ""


class Counted:
    """The exact denoiser for torch tensors, which counts its calls."""

    def __init__(self, problem: Problem):
        self.problem, self.calls = problem, 0

    def __call__(self, x, sigma):
        import torch

        self.calls += 1
        level = float(np.asarray(sigma).reshape(-1)[0])
        return torch.from_numpy(denoise(self.problem, x.double().numpy(), level))


def peers(problem: Problem) -> list[Row]:
    """Return the rows of all peers that are installed."""
    rows = []
    for name, make in (("diffusers", diffusers), ("k_diffusion", k_diffusion), ("azula", azula)):
        # What `load_k_diffusion` has put there has no specification to find.
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            print(f"{name} is not installed and left out; see requirements-bench.txt.")
        else:
            rows += make(problem)
    return rows


def k_diffusion(problem: Problem) -> list[Row]:
    sampling = load_k_diffusion()
    methods = {
        "euler": sampling.sample_euler,
        "heun": sampling.sample_heun,
        "dpm_2": sampling.sample_dpm_2,
        "lms": sampling.sample_lms,
        "dpmpp_2s": partial(sampling.sample_dpmpp_2s_ancestral, eta=0.0),
        "dpmpp_2m": sampling.sample_dpmpp_2m,
        "dpmpp_2m_sde, eta 0, midpoint": partial(sampling.sample_dpmpp_2m_sde, eta=0.0),
        "dpmpp_2m_sde, eta 0, heun": partial(
            sampling.sample_dpmpp_2m_sde, eta=0.0, solver_type="heun"
        ),
        "dpmpp_3m_sde, eta 0": partial(sampling.sample_dpmpp_3m_sde, eta=0.0),
    }
    grids = {
        "karras": sampling.get_sigmas_karras,
        "exponential": sampling.get_sigmas_exponential,
    }

    def run(method, grid, to_zero, n):
        import torch

        model = Counted(problem)
        x = torch.from_numpy(problem.starts)
        sigmas = grid(n, **LEVELS).double()
        # The SDE solvers need a noise source even at eta = 0.
        extra = {"noise_sampler": lambda *_: 0.0} if isinstance(method, partial) else {}
        out = method(model, x, sigmas if to_zero else sigmas[:-1], disable=True, **extra)
        return out.numpy(), model.calls

    rows = [
        Row("k-diffusion", name, key + tail, partial(run, method, grid, bool(tail)))
        for name, method in methods.items()
        for key, grid in grids.items()
        for tail in (" to 0", "")
    ]
    return [*rows, Row("k-diffusion", "dpm_fast", "exponential", partial(fast, sampling, problem))]


def fast(sampling, problem, n):
    import torch

    model = Counted(problem)
    x = torch.from_numpy(problem.starts)
    out = sampling.sample_dpm_fast(model, x, LAW.t0, LAW.t1, n, disable=True)
    return out.numpy(), model.calls


def load_k_diffusion():
    """Import `k_diffusion.sampling` alone.

    Importing the whole package needs skimage, clip and kornia. The samplers use a single function
    of its `utils`, which is defined here.
    """
    if "k_diffusion" in sys.modules:
        return importlib.import_module("k_diffusion.sampling")
    folder = importlib.util.find_spec("k_diffusion").submodule_search_locations[0]
    package = types.ModuleType("k_diffusion")
    package.__path__ = [folder]
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, ndim: x.reshape(x.shape + (1,) * (ndim - x.ndim))
    package.utils = utils
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": utils})
    return importlib.import_module("k_diffusion.sampling")


def azula(problem: Problem) -> list[Row]:
    import torch
    from azula import sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import Schedule, VESchedule

    class Karras(Schedule):
        """sigma^(1/7) linear in t."""

        def __call__(self, t):
            low, high = LAW.t0 ** (1 / 7), LAW.t1 ** (1 / 7)
            return torch.ones_like(t), (low + t * (high - low)) ** 7

    class Exact(Denoiser):
        def __init__(self, schedule):
            super().__init__()
            self.schedule, self.model = schedule, Counted(problem)

        def forward(self, x_t, t, **kwargs):
            return DiracPosterior(self.model(x_t, self.schedule(t)[1]))

    methods = {"DDIM": sample.DDIMSampler, "Euler": sample.EulerSampler}
    methods["Heun"] = sample.HeunSampler
    for kind in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
        for order in (2, 3, 4):
            make = getattr(sample, f"{kind}Sampler")
            methods[f"{kind} {order}"] = partial(make, order=order)

    def run(make, schedule, last, n):
        denoiser = Exact(schedule)
        sampler = make(denoiser, steps=n, silent=True, dtype=torch.float64)
        x = sampler(torch.from_numpy(problem.starts))
        out = denoiser.model(x, LAW.t0) if last else x
        return out.numpy(), denoiser.model.calls

    grids = {"karras": Karras(), "exponential": VESchedule(**LEVELS)}
    return [
        Row("azula", name, key + tail, partial(run, make, schedule, bool(tail)))
        for name, make in methods.items()
        for key, schedule in grids.items()
        for tail in (" + denoise", "")
    ]


def diffusers(problem: Problem) -> list[Row]:
    import diffusers as d

    multi, single = d.DPMSolverMultistepScheduler, d.DPMSolverSinglestepScheduler
    edm_multi = d.EDMDPMSolverMultistepScheduler
    rows = []
    for grid in ("karras", "exponential"):
        add = lambda name, run, grid=grid: rows.append(Row("diffusers", name, f"{grid} to 0", run))
        add("EDMEuler", partial(edm, problem, d.EDMEulerScheduler, grid, {}))
        for order in (2, 3):
            for end in (True, False):
                options = {"solver_order": order, "lower_order_final": end}
                tail = f" {order}{'' if end else ', full order at the end'}"
                add(f"EDMDPMSolver++{tail}", partial(edm, problem, edm_multi, grid, options))
                add(f"UniPC{tail}", partial(vp, problem, d.UniPCMultistepScheduler, grid, options))
                add(f"DPMSolver++{tail}", partial(vp, problem, multi, grid, options))
            options = {"solver_order": order}
            add(f"DEIS {order}", partial(vp, problem, d.DEISMultistepScheduler, grid, options))
            options |= {"lower_order_final": True}
            add(f"DPMSolver++ single {order}", partial(vp, problem, single, grid, options))
        add("Heun", partial(ve, problem, d.HeunDiscreteScheduler, grid))
        add("LMS", partial(ve, problem, d.LMSDiscreteScheduler, grid))
    return rows


def edm(problem, make, grid, options, n):
    """Run a scheduler of the EDM form, which expects the raw output of a preconditioned network.

    The raw output is computed from the denoised D: `(D - skip x) / out`.
    """
    import torch

    scheduler = make(**LEVELS, sigma_data=0.5, sigma_schedule=grid, **options)
    scheduler.set_timesteps(n)
    model, x = Counted(problem), torch.from_numpy(problem.starts)
    for i, t in enumerate(scheduler.timesteps):
        sigma, x = scheduler.sigmas[i].double(), x.double()
        scheduler.scale_model_input(x, t)
        total = sigma**2 + 0.25
        skip, out = 0.25 / total, 0.5 * sigma / total**0.5
        x = scheduler.step((model(x, sigma) - skip * x) / out, t, x).prev_sample
    return x.numpy(), model.calls


def with_levels(make, grid, **options):
    """Return a scheduler whose table of 1000 noise levels runs from 0.002 to 80, in float64."""
    import torch

    table = np.geomspace(LAW.t0, LAW.t1, 1000)
    kept = 1.0 / (1.0 + table**2)
    betas = 1.0 - kept / np.concatenate([[1.0], kept[:-1]])
    scheduler = make(trained_betas=betas, **{f"use_{grid}_sigmas": True}, **options)
    scheduler.alphas_cumprod = torch.from_numpy(kept)
    return scheduler


def vp(problem, make, grid, options, n):
    """Run a scheduler of the VP form, with noise prediction.

    The state is `x_t = (x_0 + sigma z) / sqrt(1 + sigma^2)`.
    """
    import torch

    scheduler = with_levels(make, grid, **options)
    scheduler.set_timesteps(n)
    scale = lambda sigma: (1.0 + sigma**2) ** 0.5
    sigmas = scheduler.sigmas.double()
    model, x = Counted(problem), torch.from_numpy(problem.starts) / scale(sigmas[0])
    for i, t in enumerate(scheduler.timesteps):
        y = x.double() * scale(sigmas[i])
        x = scheduler.step((y - model(y, sigmas[i])) / sigmas[i], t, x.double()).prev_sample
    return (x * scale(sigmas[-1])).numpy(), model.calls


def ve(problem, make, grid, n):
    """Run a scheduler whose state is `x_0 + sigma z`, with noise prediction."""
    import torch

    scheduler = with_levels(make, grid)
    scheduler.set_timesteps(n)
    model, x = Counted(problem), torch.from_numpy(problem.starts)
    for i, t in enumerate(scheduler.timesteps):
        sigma, x = scheduler.sigmas[i].double(), x.double()
        scheduler.scale_model_input(x, t)
        x = scheduler.step((x - model(x, sigma)) / sigma, t, x).prev_sample
    return x.numpy(), model.calls
