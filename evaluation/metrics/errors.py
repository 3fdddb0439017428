"""Standard errors: of a mean, and, by a jackknife over groups, of a statistic of a whole set."""

import numpy as np

GROUPS = 10


def mean_and_stderr(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of independent values (n,) and its standard error, nan for one value."""
    mean, n = float(np.mean(values)), len(values)
    return mean, float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else np.nan


def groups(n: int) -> np.ndarray:
    """Return the group of each of n samples, (n,), out of at most ten groups.

    Samples are dealt to the groups in turn, so that sorted samples are spread over all groups.
    """
    return np.arange(n) % min(GROUPS, n)


def jackknife(left_out) -> float:
    """Standard error of a statistic, from its g values s_{-j}, each without one of g groups.

    se^2 = (g - 1)/g sum_j (s_{-j} - mean s)^2, for groups of one size (Efron and Tibshirani 1993,
    section 11.5).
    """
    return float(np.sqrt((len(left_out) - 1) * np.var(left_out)))
