"""A prediction function for a law without a Gaussian kernel, of which only a score is known."""

from sde_lib.base import SDE, expand
from sde_lib.prediction import PredictFn, Prediction
from sde_lib.reverse import ScoreFn, flow_drift, reverse_drift


def score_only(sde: SDE, score: ScoreFn) -> PredictFn:
    """`(x, t) -> Prediction` from a score, which is evaluated once, for any law.

    `velocity` is the drift of the probability-flow ODE (`flow_drift`), so Heun, the adaptive ODE
    solves in the variable t and the likelihood take it as they take that of an affine law. `x0` is
    the Euler step of the reverse SDE to t0 without its noise,

        x0 = x - (t - t0) [f - div(G G^T) - G G^T score],

    the conditional mean to first order in t - t0: meant for the end of sampling, and nothing more
    than a direction far from it. `eps` is None: there is no one noise that x0 and x_t differ by.
    """

    def predict(x, t):
        value = score(x, t)
        held = lambda x, t: value
        x0 = x - expand(t - sde.t0, x) * reverse_drift(sde, held)(x, t)
        return Prediction(x0, None, value, flow_drift(sde, held)(x, t))

    return predict
