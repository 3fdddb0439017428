"""Likelihoods by two PyTorch packages, for `benchmarks.likelihood`, on the same data.

`k_diffusion` is `k_diffusion.sampling.log_likelihood`, under EDM, over the noise level;
`flow_matching` is `ODESolver.compute_likelihood`, under the flow law, over `(t1 - t) / (t1 - t0)`.
Both solve by torchdiffeq's dopri5, with one step size for the batch and one Rademacher probe, whose
product with the Jacobian is taken in reverse mode. The exact score is written here again, in torch.
The density at t1 is the problem's, also for k-diffusion, in place of its N(0, t1^2). A package that
cannot be imported is left out, see requirements-bench.txt.
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
    """Return {(source, method): make}, where `make(exact)` returns a `Method`.

    `exact` says whether the trace is exact. Only installed packages for the problem's law are in
    the dict.
    """
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
    """Return `(y, s) -> E[x0 | y], E[eps | y]` for `y = x0 + s eps`, on torch tensors `(B, D)`.

    The data are N(m, U diag(L) U^T), U square, or N(x_i, std^2) over points: `(points, std)`.

        x0 = m + U diag(L / v) U^T (y - m),        v = L + s^2
        x0 = m + std^2 / v (y - m),                v = std^2 + s^2,   m = sum_i w_i x_i

    with weights w_i ~ exp(-|y - x_i|^2 / 2 v). eps is `(y - x0) / s`, computed by a formula without
    this difference.
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
        # |y|^2 is the same for all points, so the weights do not depend on it.
        rest = y - torch.softmax((y @ points.T - half) / v, dim=1) @ points
        return centre + y - s**2 / v * rest, s / v * rest

    return of_points


def k_diffusion(problem, probe: jax.Array, exact: bool, tol: float) -> Method:
    """Return the likelihood of k-diffusion.

    For the exact trace, every example is D times in the batch, with the rows h of a Hadamard matrix
    as probes. The mean of `h^T J h` over the rows is the trace. The rows are signs like the
    package's own probes, so the steps are the same. D must be a power of two.
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
        # The package's probe is `2 randint - 1`. It does not return the end of its solve, so
        # `odeint` above keeps the solution.
        drawn = mock.patch.object(torch, "randint_like", lambda x, high: (signs + 1.0) / 2.0)
        with drawn, mock.patch.object(sampling, "odeint", odeint):
            _, info = sampling.log_likelihood(model, x, path.t0, path.t1, atol=tol, rtol=tol)
        latent, moved = (part[-1].reshape(count, -1).numpy() for part in kept[0])
        latent = jnp.asarray(latent[:, :dims])  # that of each example's first copy
        return Run(np.asarray(end(latent)) + moved.mean(axis=1), info["fevals"], info["fevals"])

    return Method(run, [])


def flow_matching(problem, probe: jax.Array, exact: bool, tol: float) -> Method:
    """Return the likelihood of flow-matching, which draws its own probe.

    The exact trace is the package's own, by D gradients in each evaluation. The package's time runs
    from noise at 0 to data at 1; the law's time, from t1 to t0, is mapped to it.
    """
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
