"""Samplers of a mean-reverting law, run in `w = x - (1 - a) mu`.

`reverting` applies any sampler of an affine law to x. `mr_multistep` has the updates of the MR
sampler (arXiv 2502.07856): its ODE-1, 2, 3 and SDE-1, 2, in the noise and the data form, are
exponential integrators in w:

    ODE, eta = 0    x_s = ratio x_t + weight (phi_1(z) q + phi_2(z) D_1 + phi_3(z) D_2)
    SDE, eta = 1    the same with weight and std of the reverse SDE

`posterior` and `euler` are the samplers of IR-SDE (Luo et al. 2023, arXiv 2301.11699, and the
released code). Prediction functions here are those of x given mu, made by `parametrize_given`.
"""

from jax import Array

from samplers.base import Sampler, State, stay
from samplers.exponential.integrals import check_form
from samplers.exponential.multistep import check, multistep
from samplers.steps.ancestral import ancestral
from samplers.steps.euler_maruyama import euler_maruyama
from sde_lib import AffinePath, check_data_left
from sde_lib.mean_reverting import MeanReverting
from sde_lib.mean_reverting_given import MeanRevertingGiven, from_w, predict_w, to_w


def reverting(sampler: Sampler, path: MeanReverting, mu: Array) -> Sampler:
    """Turn `sampler`, built for `path` as an affine law, into a method on x given `mu` `(B, ...)`.

    The state is x, and the memory belongs to w. A method that acts at s within a step, such as a
    corrector, must be wrapped together with its predictor, as one `chain`: on its own, its x would
    be converted to w at t.
    """

    def init(x: Array, t: Array) -> State:
        return State(x, sampler.init(to_w(path, mu, x, t), t).memory)

    def step(key, predict, state, span):
        inner = State(to_w(path, mu, state.x, span.t), state.memory)
        w, memory = sampler.step(key, predict_w(path, mu, predict), inner, span)
        return State(from_w(path, mu, w, span.s), memory)

    def kernel(predict, state, span):
        inner = State(to_w(path, mu, state.x, span.t), state.memory)
        found = sampler.kernel(predict_w(path, mu, predict), inner, span)
        return found._replace(mean=from_w(path, mu, found.mean, span.s))

    def enter(x: Array, t: Array) -> Array:
        return from_w(path, mu, sampler.enter(to_w(path, mu, x, t), t), t)

    entered = stay if sampler.enter is stay else enter
    return Sampler(init, step, sampler.nfe, entered, kernel if sampler.kernel else None)


def mr_sampler(
    path: MeanReverting,
    mu: Array,
    order: int = 2,
    form: str = "data",
    eta: float = 0.0,
    lower_order_final: bool = False,
) -> Sampler:
    """The MR sampler on x given `mu`; arguments as in `mr_multistep`."""
    return reverting(mr_multistep(path, order, form, eta, lower_order_final), path, mu)


def posterior(path: MeanReverting, mu: Array) -> Sampler:
    """A draw from q(x_s | x_t, x0) with the predicted x0, as in DDPM: MR-SDE-1 in the data form.

    With `A = a_t / a_s`, `B = a_t`, `C = a_s`:

        x_s = mu + A (1 - C^2) / (1 - B^2) (x - mu) + C (1 - A^2) / (1 - B^2) (x0 - mu) + std_s z,
        std_s^2 = std^2 (1 - A^2) (1 - C^2) / (1 - B^2).
    """
    return reverting(ancestral(path), path, mu)


def euler(path: MeanReverting, mu: Array, probability_flow: bool = False) -> Sampler:
    """Euler-Maruyama on the reverse SDE of x, `theta (mu - x) - g^2 score`, or Euler on its ODE."""
    return euler_maruyama(MeanRevertingGiven(path, mu), probability_flow)


def mr_multistep(
    path: AffinePath,
    order: int = 2,
    form: str = "data",
    eta: float = 0.0,
    lower_order_final: bool = False,
) -> Sampler:
    """Exponential multistep for any affine law, one evaluation a step; the order rises 1, 2, k.

    In order 2 the weight of the slope is the integral `phi_2`, as in Adams-Bashforth;
    `dpm_multistep` has `phi_1 / 2` instead. Order 3 equals `dpm_multistep` once three outputs are
    known. Its `D_2` is half the second derivative, so its error is smaller but still of order 2.

    Args:
        form: the prediction that is extrapolated, "noise" or "data".
        eta: strength of the noise, in both forms: 0 the flow ODE, 1 the reverse SDE.
        lower_order_final: lower the order to 2, then 1, at the end of a run, as the authors do
            below ten steps.

    Raises:
        ValueError: for an order outside 1 to 3, an unknown form, or a negative eta.
    """
    check_form(form)
    check(order, eta, "the MR sampler")
    check_data_left(path, "a step in lam")
    return multistep(path, order, form, eta, lower_order_final, "line")
