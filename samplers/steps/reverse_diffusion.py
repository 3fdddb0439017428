"""The reverse-diffusion predictor: the forward chain's own discretisation, run backwards.

Song et al. 2021, section 4.1 and appendix E. The forward chain takes `x_s` to
`x_t = r x_s + q z`; the reverse step uses the same increment `(r - 1) x` and the same noise q.
"""

from samplers.base import Kernel, Sampler, drawn, mean_of
from sde_lib import AffinePath, expand


def reverse_diffusion(path: AffinePath, probability_flow: bool = False) -> Sampler:
    """`x_s = (2 - r) x + q^2 score + q z`; with `probability_flow`, half the score and no noise.

    `r = a_t / a_s` and `q^2 = c_t^2 - r^2 c_s^2` come from the law, so no coefficient depends on
    the number of steps. For VE this is the paper's `x + (sigma_t^2 - sigma_s^2) score + ...`; for
    VP its `(2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z`.
    """

    half = 0.5 if probability_flow else 1.0

    def kernel(predict, state, span):
        x = state.x
        r, q = path.forward_step(span.s, span.t)
        mean = expand(2.0 - r, x) * x + half * expand(q, x) ** 2 * predict(x, span.t).score
        return Kernel(mean, expand(q, x))

    return mean_of(kernel) if probability_flow else drawn(path, kernel)
