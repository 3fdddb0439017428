"""The predictor-corrector sampler of the released score_sde code, with that code's conventions.

It has these conventions, which `predictor_corrector(order="original")` on a grid does not have:

- N times, even from t1 to eps, with a step *at* each; the last one is made at eps. The original
  has N = `model.num_scales`, the number of levels, for continuous models too.
- Corrector first, then predictor, at the same time: the last sample is never corrected.
- Every step has the size 1 / N of the chain, though the times are (t1 - eps) / (N - 1) apart.
- Reverse diffusion, ancestral sampling, and Langevin's alpha take their coefficients from tables,
  at the truncated level `int(t (N - 1))`.
- `denoise` returns the mean of the last predictor step, that is, the result without the last noise,
  and costs no evaluation. With the predictor `none` it changes nothing.
- `nfe` counts the evaluations that are made. The original always reports `N (n_steps + 1)`, even if
  the predictor or the corrector is `none`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from samplers.base import SampleFn, SampleResult, State, finished
from samplers.released.score_sde_steps import CORRECTORS, PREDICTORS
from samplers.steps.corrector import NORMS
from sde_lib import VE, VP, AffinePath, SubVP, expand, fold_in
from sde_lib.prediction import Cond, PredictFn, bound
from sde_lib.reverse import ScoreFn
from sde_lib.tables import check_levels, make_tables


def score_reader(
    path: AffinePath, num_scales: int, continuous: bool
) -> Callable[[PredictFn], ScoreFn]:
    """The score as the original computes it, `predict -> ((x, t) -> score)`.

    For a continuous model and for a discrete VE model it is the score of the prediction. For a
    discrete VP model it is `-eps / c_i` at the truncated level i, although the network receives
    `t (N - 1)` unrounded.
    """
    if continuous or isinstance(path, VE):
        return lambda predict: lambda x, t: predict(x, t).score
    tables = make_tables(path, num_scales)

    def reader(predict: PredictFn) -> ScoreFn:
        return lambda x, t: -predict(x, t).eps / expand(tables.coeffs(tables.index(t)).c, x)

    return reader


def score_sde(
    path: AffinePath,
    predictor: str,
    corrector: str,
    *,
    num_scales: int,
    eps: float,
    snr: float = 0.16,
    n_steps: int = 1,
    denoise: bool,
    probability_flow: bool,
    continuous: bool,
    norm: str = "batch",
) -> SampleFn:
    """The sampler `(key, predict, x, cond=None, *, collect=None) -> SampleResult`, from the prior.

    Args:
        path: VP, VE, or sub-VP if `continuous`.
        predictor, corrector: names in the tables of `score_sde_steps.py`.
        num_scales: N, the number of levels and of steps.
        eps: the last time.
        snr, n_steps: of the corrector.
        denoise, probability_flow: of the predictor.
        continuous: whether the model was trained in continuous time, see `score_reader`.
        norm: Langevin's step size over the `"batch"`, as in the original, or by `"example"`.

    Step i draws from `fold_in(key, i)`. A sample depends only on its own key, except through
    Langevin's norms over the batch.

    Raises:
        ValueError: for cases that the original does not support (other laws, a discrete sub-VP
            model, ancestral sampling of sub-VP or as an ODE), for neither predictor nor corrector,
            and for unknown names and numbers out of range.
    """
    check(path, predictor, corrector, num_scales, eps, n_steps, continuous, norm)
    move = PREDICTORS[predictor](path, num_scales, probability_flow)
    make = CORRECTORS[corrector]
    correct = make and make(path, num_scales, snr, n_steps, norm)
    reader = score_reader(path, num_scales, continuous)
    ts = jnp.linspace(1.0, eps, num_scales, dtype=jnp.float32)
    nfe = num_scales * ((predictor != "none") + (n_steps if correct else 0))

    def run(
        key: Array, predict: PredictFn, x: Array, cond: Cond = None, *, collect=None
    ) -> SampleResult:
        score = reader(bound(predict, cond))

        def body(state: State, inputs):
            i, t = inputs
            x, correct_key, move_key = state.x, *(fold_in(fold_in(key, i), k) for k in (0, 1))
            if correct:
                x = correct(correct_key, score, x, t)
            mean, std = move(score, x, t)
            x = mean if std is None else mean + expand(std, x) * path.noise(move_key, x)
            return State(x, mean), (collect(State(x)) if collect else None)

        steps = (jnp.arange(num_scales), ts)
        (x, mean), trace = jax.lax.scan(body, State(x, x), steps)
        return finished(mean if denoise else x, trace, jnp.asarray(nfe))

    return run


def check(path, predictor, corrector, num_scales, eps, n_steps, continuous, norm) -> None:
    """Refuse invalid arguments; the predictors check their own restrictions.

    Raises:
        ValueError: see `score_sde`.
    """
    if not isinstance(path, VP | VE | SubVP):
        raise ValueError(
            f"sampling.method is 'score_sde' and the law {type(path).__name__}; the released code "
            "knows VP, sub-VP and VE: take sampling.method 'pc'."
        )
    for name, value, table in (
        ("predictor", predictor, PREDICTORS),
        ("corrector", corrector, CORRECTORS),
        ("norm", norm, NORMS),
    ):
        if value not in table:
            raise ValueError(
                f"sampling.{name} is {value!r}; with sampling.method 'score_sde' it must be one of "
                f"{', '.join(table)}."
            )
    if predictor == corrector == "none":
        raise ValueError("sampling.predictor and sampling.corrector are both 'none'; name one.")
    if isinstance(path, SubVP) and not continuous:
        raise ValueError(
            "training.continuous is False and the law sub-VP, which has no discrete ancestor; take "
            "VP or VE, or training.continuous=True."
        )
    if not 0.0 < eps < path.t1:
        raise ValueError(
            f"sampling.eps is {eps}; the end of sampling must lie between 0 and t1 = {path.t1}."
        )
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}; a corrector needs at least 1.")
    check_levels(path, num_scales)
