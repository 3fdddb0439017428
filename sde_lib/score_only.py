"""A prediction function for a law without a Gaussian kernel, of which only a score is known."""

from sde_lib.base import SDE, expand
from sde_lib.prediction import PredictFn, Prediction
from sde_lib.reverse import ScoreFn, flow_drift, reverse_drift


def score_only(sde: SDE, score: ScoreFn) -> PredictFn:
    """`(x, t) -> Prediction` from a score, which is evaluated once, for any law.

    `velocity` is the drift of the probability-flow ODE (`flow_drift`), so Heun, the adaptive ODE
    solves in the variable t and the likelihood use it as they use the velocity of an affine law.
    `x0` is the Euler step of the reverse SDE to t0 without its noise,

        x0 = x - (t - t0) [f - div(G G^T) - G G^T score],

    which is the conditional mean to first order in t - t0. It is meant for the end of sampling; far
    from t0 it is only a direction. `eps` is None, because x_t is not a sum of data and one noise.
    """

    def predict(x, t):
        value = score(x, t)
        held = lambda x, t: value
        x0 = x - expand(t - sde.t0, x) * reverse_drift(sde, held)(x, t)
        return Prediction(x0, None, value, flow_drift(sde, held)(x, t))

    return predict
