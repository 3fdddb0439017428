"""Samplers of a mean-reverting law, run in `w = x - (1 - a) mu`.

`reverting` lends any method of ours to x. `mr_multistep` has the MR sampler's updates (arXiv
2502.07856), whose ODE-1, 2, 3 and SDE-1, 2, in the noise and the data form, are exponential
integrators in w:

    ODE, eta = 0    x_s = ratio x_t + weight (phi_1(z) q + phi_2(z) D_1 + phi_3(z) D_2)
    SDE, eta = 1    the same with weight and std of the reverse SDE

`posterior` and `euler` are what IR-SDE is sampled with (Luo et al. 2023, arXiv 2301.11699, and the
released code). A prediction function here is that of x given mu, as `parametrize_given` makes it.
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
    """`sampler`, made for `path` as an affine law, as a method on x given `mu` `(B, ...)`.

    Its state is x and its memory is of w. Methods that stay at s within a step, such as correctors,
    are wrapped together with their predictor, as one `chain`: alone they would be told t.
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
    """A draw from q(x_s | x_t, x0) with the predicted x0, as DDPM's. It is MR-SDE-1, data form.

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

    Order 2 takes the slope's weight `phi_2` from the integral, as Adams-Bashforth does, where
    `dpm_multistep` takes `phi_1 / 2`; order 3 is the same as there once three outputs are known,
    and as there its `D_2` is half the second derivative, which limits it to a smaller error of
    order 2.

    Args:
        form: "noise" or "data", what is extrapolated.
        eta: strength of the noise: 0 the flow ODE, 1 the reverse SDE. In both forms.
        lower_order_final: let the order fall to 2, then 1, at the end of a run, as the authors do
            below ten steps.

    Raises:
        ValueError: for an order outside 1 to 3, an unknown form, or a negative eta.
    """
    check_form(form)
    check(order, eta, "the MR sampler")
    check_data_left(path, "a step in lam")
    return multistep(path, order, form, eta, lower_order_final, "line")
