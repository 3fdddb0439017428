"""Predictor-corrector sampling (Song et al. 2021, algorithm 1)."""

from samplers.base import Sampler, chain
from sde_lib.ranges import one_of

ORDERS = ("paper", "original")


def predictor_corrector(
    predictor: Sampler | None, corrector: Sampler | None, order: str = "paper"
) -> Sampler:
    """A predictor and a corrector in each step; either may be missing.

    `order="paper"` corrects after predicting, at the new time. `"original"` corrects first, at the
    old time, as in the released code; the last sample is then never corrected. The corrector must
    be built for the order: with `at="end"` for the paper's, `at="start"` for the original's.

    Raises:
        ValueError: for another order.
    """
    one_of(ORDERS, order=order)
    parts = [predictor, corrector] if order == "paper" else [corrector, predictor]
    return chain(*(part for part in parts if part is not None))
