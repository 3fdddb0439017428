"""Class-conditional sampling by a classifier of noisy states (Song et al. 2021, section 5; Dhariwal
and Nichol 2021, algorithm 1).

    score(x | y) = score(x) + w grad log p(y | x_t),      p(y | x_t) of the noisy state

With w = 1 and exact factors this is the score of the class. A larger w gives the score of
`p(x) p(y | x)^w` at each time: samples are more typical of the class and less varied. These laws
are not the marginals of one noising process.
"""

import jax
import jax.numpy as jnp
from jax import Array

from guidance.base import GuideFn, check_path, with_score
from sde_lib import AffinePath
from sde_lib.classifier import LogitsFn, log_prob
from sde_lib.prediction import Cond, PredictFn, Prediction, bound
from sde_lib.ranges import strength


def classifier_guidance(
    path: AffinePath, logits: LogitsFn, label: Array, scale: float = 1.0
) -> GuideFn:
    """Classifier guidance: one evaluation of the network, and one of the classifier's gradient.

    Args:
        logits: `(x, t) -> (B, K)`, see `sde_lib.classifier.make_logits`; trained on the same law
            and the same scaling of the data.
        label: classes, `()` or `(B,)` integers from 0 to K - 1.
        scale: w. Zero leaves the prediction unchanged.

    Raises:
        ValueError: for a law that is not affine, or a scale that is not finite or above 1e6.
    """
    check_path(path)
    strength(scale=scale)

    def guide(predict: PredictFn) -> PredictFn:
        def guided(x: Array, t: Array, cond: Cond = None) -> Prediction:
            gradient = jax.grad(lambda x: jnp.sum(log_prob(logits, x, t, label)))(x)
            return with_score(path, bound(predict, cond)(x, t), x, t, scale * gradient)

        return guided

    return guide
