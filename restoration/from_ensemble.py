"""Restorations of one measurement as draws from an ensemble of weighted particles."""

import numpy as np
from jax import Array

from restoration.base import Problem, Restorer
from restoration.ensemble import ensemble
from restoration.misfit import gaussian_misfit
from restoration.particles import draws
from samplers.base import SampleResult, finished
from sde_lib import split
from sde_lib.prediction import PredictFn


def by_ensemble(
    problem: Problem,
    particles: int = 1000,
    fraction: float = 0.5,
    eta: float = 1.0,
    threshold: float = 0.5,
    corrections: int = 1,
    probes: int = 1,
) -> Restorer:
    """Restorations of a measurement as draws from weighted particles.

    Args:
        particles: the number of particles.
        fraction: the part of the misfit's gradient that moves particles; the rest weights them.
        eta: the strength of the noise, at least 0.
        threshold: resample if the effective sample size is below this part of particles.
        corrections: evaluations that correct the Langevin part of a step.
        probes: the number of random probes of an estimated Laplacian.
    """
    path, operator, ts = problem.path, problem.operator, problem.ts
    options = {"fraction": fraction, "eta": eta, "threshold": threshold}
    options |= {"corrections": corrections, "probes": probes}

    def start(y: Array):
        misfit = gaussian_misfit(operator, y, problem.noise_std)
        return ensemble(path, misfit, ts, particles, **options)

    start(np.zeros(operator.shape_out))  # what does not fit is refused here
    if problem.samples > particles:
        raise ValueError(
            f"particles is {particles} and guidance.samples {problem.samples}; draws of an "
            "ensemble repeat each other then: take more particles."
        )

    def together(key: Array, predict: PredictFn, y: Array) -> SampleResult:
        moving, drawing = split(key, 2)
        found = start(y)(moving, predict)
        x = draws(drawing, found, problem.samples)
        if problem.denoise:
            x = predict(x, ts[-1]).x0
        return finished(x, None, found.nfe + problem.denoise)

    return Restorer(together=together)
