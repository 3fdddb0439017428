"""Likelihoods as two packages of torch compute them, for `benchmarks.likelihood`, on the same data.

`k_diffusion` is `k_diffusion.sampling.log_likelihood`, under EDM, over the noise level;
`flow_matching` is `ODESolver.compute_likelihood`, under the flow law, over `(t1 - t) / (t1 - t0)`.
Both solve by torchdiffeq's dopri5 with one step size a batch and one probe of signs, whose product
with the Jacobian is taken in reverse. The exact score is written here once more, in torch. The
density at t1 is the problem's, put in place of k-diffusion's N(0, t1^2). A package that cannot be
imported is left out, see requirements-bench.txt.
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import hadamard

from benchmarks.likelihood.peers import Method, Run
from benchmarks.samplers.peers import load_k_diffusion
from exact import GaussianMoments
from sde_lib import EDM, Flow

NEEDED = {"k_diffusion": EDM, "flow_matching": Flow}


def torch_methods(problem, probe: jax.Array) -> dict[tuple[str, str], Callable[[bool], Method]]:
    """By `(source, method)` a function of whether the trace is exact: those of the law, where they
    are installed."""
    makers = {"k_diffusion": k_diffusion, "flow_matching": flow_matching}
    found = {}
    for package, law in NEEDED.items():
        if problem.data is None or not isinstance(problem.path, law):
            continue
        if missing := [p for p in ("torch", "torchdiffeq", package) if not installed(p)]:
            print(f"{package}: left out, {missing[0]} is not installed.")
            continue
        for tol in (1e-4, 1e-5):
            name = package.replace("_", "-"), f"dopri5 {tol:.0e}, a step size a batch"
            found[name] = partial(makers[package], problem, probe, tol=tol)
    return found


def installed(package: str) -> bool:
    return package in sys.modules or importlib.util.find_spec(package) is not None


def posterior(data: GaussianMoments | tuple[np.ndarray, float]) -> Callable:
    """`(y, s) -> E[x0 | y], E[eps | y]` at `y = x0 + s eps`, torch tensors of one row an example.

    The data are N(m, U diag(L) U^T), U square, or N(x_i, std^2) over points: `(points, std)`.

        x0 = m + U diag(L / v) U^T (y - m),        v = L + s^2
        x0 = m + std^2 / v (y - m),                v = std^2 + s^2,   m = sum_i w_i x_i

    with weights of w_i ~ exp(-|y - x_i|^2 / 2 v); and `eps = (y - x0) / s`, without the difference.
    """
    import torch

    tensor = lambda v: torch.as_tensor(np.array(v, np.float32))
    if isinstance(data, GaussianMoments):
        mean, U, L = map(tensor, data)

        def of_gaussian(y, s):
            along, v = (y - mean) @ U, L + s**2
            return mean + (L / v * along) @ U.T, (s / v * along) @ U.T

        return of_gaussian
    centre = data[0].mean(axis=0)
    points, std, centre = tensor(data[0] - centre), data[1], tensor(centre)
    half = 0.5 * (points**2).sum(dim=1)

    def of_points(y, s):
        v, y = std**2 + s**2, y - centre
        # |y|^2 is common to all points, and so in no weight.
        rest = y - torch.softmax((y @ points.T - half) / v, dim=1) @ points
        return centre + y - s**2 / v * rest, s / v * rest

    return of_points


def k_diffusion(problem, probe: jax.Array, exact: bool, tol: float) -> Method:
    """For the exact trace every example stands D times in the batch, with the rows of a Hadamard
    matrix as probes: signs like the package's own, so its steps are the same, and the mean of
    `h^T J h` over them is the trace. D must be a power of two.
    """
    import torch

    sampling = sys.modules.get("k_diffusion.sampling") or load_k_diffusion()
    path, denoised = problem.path, posterior(problem.data)
    dims, count = problem.x[0].size, problem.x.shape[0]
    x, signs = torch.tensor(np.asarray(problem.x)), torch.tensor(np.asarray(probe))
    if exact:
        x = x.repeat_interleave(dims, dim=0)
        signs = torch.tensor(hadamard(dims), dtype=x.dtype).repeat(count, 1)
    end = jax.jit(problem.end).lower(problem.x).compile()
    model = lambda x, sigma: denoised(x, sigma[:, None])[0]

    def run() -> Run:
        kept = []

        def odeint(*args, **kwargs):
            kept.append(package_odeint(*args, **kwargs))
            return kept[0]

        package_odeint = sampling.odeint
        # Its own probe is `2 randint - 1`; the end of its solve is not in what it returns.
        drawn = mock.patch.object(torch, "randint_like", lambda x, high: (signs + 1.0) / 2.0)
        with drawn, mock.patch.object(sampling, "odeint", odeint):
            _, info = sampling.log_likelihood(model, x, path.t0, path.t1, atol=tol, rtol=tol)
        latent, moved = (part[-1].reshape(count, -1).numpy() for part in kept[0])
        latent = jnp.asarray(latent[:, :dims])  # of the first of an example's copies
        return Run(np.asarray(end(latent)) + moved.mean(axis=1), info["fevals"], info["fevals"])

    return Method(run, [])


def flow_matching(problem, probe: jax.Array, exact: bool, tol: float) -> Method:
    """The exact trace is the package's own, D gradients an evaluation. Its time runs from noise, 0,
    to data, 1; the law's from t0 to t1 is mapped to it, so that both solve the same path. Its probe
    it draws itself."""
    del probe
    import torch
    from flow_matching.solver import ODESolver

    path, parts = problem.path, posterior(problem.data)
    x, span, calls = torch.tensor(np.asarray(problem.x)), path.t1 - path.t0, []
    program = jax.jit(problem.end).lower(problem.x).compile()
    end = lambda y: torch.tensor(np.asarray(program(jnp.asarray(y.detach().numpy()))))

    def velocity(x, t):
        calls.append(t)
        t = path.t1 - t * span
        x0, eps = parts(x / (1.0 - t), t / (1.0 - t))
        return span * (x0 - eps)

    def run() -> Run:
        calls.clear()
        _, logp = ODESolver(velocity).compute_likelihood(
            x.clone(), end, None, "dopri5", tol, tol, exact_divergence=exact
        )
        return Run(logp.numpy(), len(calls), len(calls))

    return Method(run, [])
