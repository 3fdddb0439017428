"""Problems for the tests of mean-reverting samplers: Gaussian given mu, and non-linear."""

import jax.numpy as jnp
import numpy as np
from rk4 import padded

from samplers import make_grid
from sde_lib.mean_reverting import MeanReverting
from sde_lib.mean_reverting_given import to_w
from sde_lib.prediction import Prediction, prediction_of

LAW = MeanReverting()
GAIN, SHIFT, SPREAD = 0.8, 0.1, 0.15


def pairs(n=8, d=2):
    rng = np.random.default_rng(0)
    mu = 0.5 + 0.3 * rng.standard_normal((n, d))
    return jnp.asarray(mu), jnp.asarray(mu + LAW.std * rng.standard_normal((n, d)))


def gaussian(mu, law=LAW, spread=SPREAD):
    """Return the exact `predict(x, t)` for `x0 | mu ~ N(GAIN mu + SHIFT, spread^2)`.

    The state is x_t = a x0 + b mu + c z.
    """
    centre = GAIN * mu + SHIFT

    def predict(x, t):
        a, b, c = (jnp.broadcast_to(v, x.shape[:1])[:, None] for v in law.ends.coeffs(t))
        v = a**2 * spread**2 + c**2
        off = x - a * centre - b * mu
        x0, eps = centre + a * spread**2 / v * off, c / v * off
        da, db, dc = (jnp.broadcast_to(r, x.shape[:1])[:, None] for r in law.ends.rates(t))
        return Prediction(x0, eps, -eps / c, da * x0 + db * mu + dc * eps)

    return predict


def bent(mu, law=LAW):
    """Return a prediction function whose fields are consistent, and far from linear in x and mu."""

    def predict(x, t):
        w = to_w(law, mu, x, t)
        a, c = law.coeffs(t)
        x0 = jnp.sin(3.0 * x) * mu + 0.2 * jnp.cos(x)
        made = prediction_of(law, w, t, x0, (w - a * x0) / c)
        return made._replace(velocity=made.velocity + law.ends.rates(t).b * mu)

    return predict


SIZES = (64, 128, 256)


def grids(eps=0.02):
    return padded([make_grid("uniform_lam", LAW, n, eps) for n in SIZES])


def moments_at(law, t, mu, spread):
    """Return the mean and variance of `x_t` given mu, and `a` at that time."""
    a, b, c = (np.asarray(v) for v in law.ends.coeffs(jnp.asarray(t)))
    return a * (GAIN * mu + SHIFT) + b * mu, a**2 * spread**2 + c**2, a
