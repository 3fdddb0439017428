"""azula's guidance on the same problems, with the same exact denoiser through azula's own API.

A guide of azula is either a denoiser that any of its samplers can use, or a sampler. Evaluations
are counted inside the denoiser; passes through its derivative are counted by a function on its
input. The last evaluation at 0.002 uses the guided denoiser if the guide is one.
"""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.guidance.problem import LAW, NOISE, SAMPLES, Problem


class Row(NamedTuple):
    """A method to measure. `run(starts, n) -> (ends, evaluations, passes through the derivative)`.

    `affine` is True if on Gaussian data the ends are an affine map of the starts.
    """

    source: str
    method: str
    sampler: str
    affine: bool
    run: Callable[[np.ndarray, int], tuple[np.ndarray, int, int]]


def peers(problem: Problem) -> list[Row]:
    if importlib.util.find_spec("azula") is None:
        print("azula is not installed and left out; see requirements-bench.txt.")
        return []
    return azula(problem)


def exact_denoiser(problem: Problem):
    """Return the conditional mean of mixture data, a differentiable function of torch tensors."""
    import torch

    weights, means, covs = map(torch.tensor, problem.data)
    L, U = torch.linalg.eigh(covs)

    def denoise(x, sigma):
        v = L + sigma**2
        d = torch.einsum("bkd,kde->bke", x[:, None] - means, U)
        logp = torch.log(weights) - 0.5 * torch.sum(d**2 / v + torch.log(v), dim=-1)
        shift = torch.einsum("bke,kde->bkd", L / v * d, U)
        return torch.einsum("bk,bkd->bd", torch.softmax(logp, dim=-1), means + shift)

    return denoise


class Derivative:
    """Counts how often a gradient reaches the input of the denoiser."""

    def __init__(self):
        self.calls = self.passes = 0

    def wrap(self, denoise):
        import torch

        counter = self

        class Watch(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, gradient):
                counter.passes += 1
                return gradient

        def counted(x, sigma):
            self.calls += 1
            return denoise(Watch.apply(x), sigma)

        return counted


def azula(problem: Problem) -> list[Row]:
    import torch
    from azula import guidance, sample
    from azula.denoise import Denoiser, DiracPosterior
    from azula.linalg.covariance import IsotropicCovariance
    from azula.noise import Schedule

    # For arrays this small, several threads are slower than one.
    torch.set_num_threads(1)
    y, A, inverse = map(torch.tensor, (problem.y, problem.A, np.linalg.pinv(problem.A)))
    forward = lambda x: x @ A.T
    isotropic = lambda value: IsotropicCovariance(torch.tensor(value, dtype=torch.float64))

    class Karras(Schedule):
        """sigma^(1/7) linear in t."""

        def __call__(self, t):
            low, high = LAW.t0 ** (1 / 7), LAW.t1 ** (1 / 7)
            return torch.ones_like(t), (low + t * (high - low)) ** 7

    class Exact(Denoiser):
        def __init__(self, counter):
            super().__init__()
            self.schedule, self.model = Karras(), counter.wrap(exact_denoiser(problem))

        def forward(self, x_t, t, **kwargs):
            return DiracPosterior(self.model(x_t, self.schedule(t)[1]))

    def go(make, starts, n):
        """Run a method; `make(denoiser, n)` returns its sampler and the denoiser for the end."""
        torch.manual_seed(0)
        counter = Derivative()
        sampler, last = make(Exact(counter), n)
        x = sampler(torch.from_numpy(starts))
        out = last(x, torch.tensor(0.0, dtype=torch.float64)).mean
        return out.detach().numpy(), counter.calls, counter.passes

    options = lambda n: {"steps": n, "dtype": torch.float64, "silent": True}
    guided = {
        **{
            f"MMPS {n}, {solver}": lambda d, n=n, solver=solver: guidance.MMPSDenoiser(
                d, y, forward, isotropic(NOISE**2), solver, n
            )
            for n, solver in ((1, "gmres"), (3, "gmres"), (3, "cg"), (5, "cg"))
        },
        "TMPD": lambda d: guidance.TMPDenoiser(d, y, forward, NOISE**2),
        "DiffPIR": lambda d: guidance.DiffPIRDenoiser(d, y, forward, NOISE**2),
        "JFPS 5": lambda d: guidance.JFPSDenoiser(
            d, y, forward, isotropic(NOISE**2), isotropic(problem.data_std**2), "cg", 5
        ),
    }
    methods = {"DDIM": sample.DDIMSampler, "xEAB": sample.xEABSampler, "vAB": sample.vABSampler}
    rows = []
    for name, guide in guided.items():
        for kind, method in methods.items():

            def make(denoiser, n, guide=guide, method=method):
                found = guide(denoiser)
                return method(found, **options(n)), found

            rows.append(Row("azula", name, kind, True, partial(go, make)))

    def dps(zeta, denoiser, n):
        # azula takes the norm of the residual over the whole batch. Scaling zeta by the root of
        # the batch size gives the step of the norm of one sample.
        zeta = zeta * SAMPLES**0.5
        return guidance.DPSSampler(denoiser, y, forward, zeta, **options(n)), denoiser

    def pgdm(denoiser, n):
        undo = lambda v: v @ inverse.T
        return guidance.PGDMSampler(denoiser, y, forward, undo, **options(n)), denoiser

    own = {f"DPS {zeta}": ("DDPM", False, partial(dps, zeta)) for zeta in (0.3, 1.0)}
    own["PGDM"] = ("DDIM", True, pgdm)
    return rows + [
        Row("azula", name, kind, affine, partial(go, make))
        for name, (kind, affine, make) in own.items()
    ]
