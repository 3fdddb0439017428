"""A warning before training for data whose scale does not fit the law.

Sampling starts from the prior, which knows nothing of the data. What is left of the data at t1,
a(t1) x0, must therefore be small beside the standard deviation of the prior. Sampling ends at
`sampling.eps`, where the noise, c / a in units of the data, must be small beside the data. If the
data do not fit, a network trains nevertheless, and its loss looks normal.
"""

from typing import Any, NamedTuple

import numpy as np

from data.order import permutation

EXAMPLES = 256
VALUES = 2**24  # the largest number of values that is read: 64 MiB in float32
KEPT = 0.1  # of the prior's standard deviation
NOISE = 0.5  # of the data's standard deviation
# Keys of a law that change its noise at t1, and its noise at t0.
FURTHER = {"sigma_max": "raise", "beta_max": "raise", "end": "lower", "t1": "raise"}
NEARER = {"sigma_min": "lower", "beta_min": "lower"}


class Scale(NamedTuple):
    """Means and standard deviations `(D,)` over n examples."""

    n: int
    mean: np.ndarray
    std: np.ndarray


def scale_of(train: Any, seed: int = 0) -> Scale:
    """The scale of some examples of a `Source` of continuous data, chosen by a permutation."""
    size = int(np.prod(train.shape))
    n = max(2, min(EXAMPLES, VALUES // size))
    rows = np.sort(permutation(seed, 0, train.size)[:n])
    x = np.asarray(train.fetch(rows), np.float64).reshape(len(rows), size)
    return Scale(len(rows), x.mean(axis=0), x.std(axis=0))


def scale_warning(path: Any, scale: Scale, eps: float) -> str | None:
    """One sentence if the noise at t1 does not hide the data, or if the noise at `eps` does; else
    None.

    The test at t1 is on the value of an example that fits least: the largest of
    `a sqrt(mean^2 + std^2) / prior_std` must be at most a tenth. At `eps` the noise `c / a` must be
    at most half of the standard deviation of the data, the root mean square over the values.

    Args:
        path: an affine law.
        eps: the time at which sampling ends.
    """
    size = scale.mean.size
    spread = lambda v: np.broadcast_to(np.asarray(v, np.float64).reshape(-1), size)
    a, prior = spread(path.coeffs(np.float32(path.t1)).a), spread(path.prior_std())
    worst = int(np.argmax(a * np.hypot(scale.mean, scale.std) / prior))
    mean, std = scale.mean[worst], scale.std[worst]
    if a[worst] * np.hypot(mean, std) > KEPT * prior[worst]:
        return (
            f"Warning: over {scale.n} training examples the value {worst} of {size} has mean "
            f"{mean:.4g} and standard deviation {std:.4g}, of which {a[worst] * mean:.3g} and "
            f"{a[worst] * std:.3g} are left at sde.t1 = {float(path.t1):g}. Sampling begins with a "
            f"prior of mean 0 and standard deviation {prior[worst]:.3g}, and would not find the "
            f"data: train on (x - mean) / std, or {key_of(path, FURTHER)}."
        )
    a, c = path.coeffs(np.float32(eps))
    noise, std = np.sqrt(np.mean(spread(c / a) ** 2)), np.sqrt(np.mean(scale.std**2))
    if std > 0 and noise > NOISE * std:
        return (
            f"Warning: over {scale.n} training examples the values have standard deviation "
            f"{std:.3g}, and the noise that is left at sampling.eps = {eps:g} has {noise:.3g} in "
            "their units, in which samples would drown: train on (x - mean) / std, or lower "
            f"sampling.eps{more_of(path)}."
        )
    return None


def key_of(path: Any, keys: dict[str, str]) -> str:
    """The key of the law that mends the fault, with the direction of the change."""
    key = next(key for key in keys if hasattr(path, key))
    return f"{keys[key]} sde.{key} = {float(getattr(path, key)):g}"


def more_of(path: Any) -> str:
    return f" and {key_of(path, NEARER)}" if any(hasattr(path, key) for key in NEARER) else ""
