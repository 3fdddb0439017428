"""A linear measurement of Gaussian data with a known posterior, for the tests of guides.

The posterior is computed from precision matrices by the textbook formula. It is a Gaussian again,
so `closed_form` gives the exact conditional prediction at every time.
"""

import numpy as np
from closed_form import Gaussian

from operators import matrix
from sde_lib import EDM, VE, VP, Flow, SubVP

LAWS = {"vp": VP(), "subvp": SubVP(), "ve": VE(), "edm": EDM(), "flow": Flow()}
EPS = {"vp": 1e-3, "subvp": 1e-3, "ve": 1e-5, "edm": 2e-3, "flow": 1e-4}
D, NOISE = 6, 0.2
RNG = np.random.default_rng(0)
ROOT = RNG.standard_normal((D, D)) / np.sqrt(D)
PRIOR = Gaussian(RNG.standard_normal(D), ROOT @ ROOT.T + 0.05 * np.eye(D))
A = RNG.standard_normal((3, D))
Y = RNG.standard_normal(3)
OPERATOR = matrix((D,), A)
ROUND = Gaussian(RNG.standard_normal(D), 0.7**2 * np.eye(D))


def posterior(data, A, y, noise):
    """Return N(m, C), the posterior of x0 given y = A x0 + noise n, by precision matrices."""
    cov = np.linalg.inv(np.linalg.inv(data.cov) + A.T @ A / noise**2)
    return Gaussian(cov @ (np.linalg.solve(data.cov, data.mean) + A.T @ y / noise**2), cov)


def states(law, data, t, n=4):
    """Return n draws of x_t at a time t, a number."""
    mean, cov = data.moments(law, t)
    return np.random.default_rng(1).multivariate_normal(mean, cov, n)


def times(law):
    """Return four times from one end of the law to the other."""
    return (law.t0, 0.01, 0.3 * law.t1, law.t1)


# Data of two correlated values.
PAIR = Gaussian(np.array([0.5, -0.2]), np.array([[1.0, 0.8], [0.8, 1.0]]))


def covariance_error(cov, n):
    """Return the standard errors of the entries of a covariance estimated from n Gaussian draws."""
    return np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
