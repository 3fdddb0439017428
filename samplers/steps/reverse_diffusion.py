"""The reverse-diffusion predictor: the forward chain's own discretisation, run backwards.

Song et al. 2021, section 4.1 and appendix E. The forward chain takes `x_s` to
`x_t = r x_s + q z`; the reverse step uses the same increment `(r - 1) x` and the same noise q.
"""

from samplers.base import Sampler, State, start
from sde_lib import AffinePath, expand


def reverse_diffusion(path: AffinePath, probability_flow: bool = False) -> Sampler:
    """`x_s = (2 - r) x + q^2 score + q z`; with `probability_flow`, half the score and no noise.

    `r = a_t / a_s` and `q^2 = c_t^2 - r^2 c_s^2` come from the law, so no coefficient depends on
    the number of steps. For VE this is the paper's `x + (sigma_t^2 - sigma_s^2) score + ...`; for
    VP its `(2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z`.
    """

    def step(key, predict, state, t, s):
        x = state.x
        r, q = path.forward_step(s, t)
        score = predict(x, t).score
        if probability_flow:
            return State(expand(2.0 - r, x) * x + 0.5 * expand(q, x) ** 2 * score)
        x_mean = expand(2.0 - r, x) * x + expand(q, x) ** 2 * score
        return State(x_mean + expand(q, x) * path.noise(key, x))

    return Sampler(start, step, nfe=1)
