"""Ancestral sampling: a draw from q(x_s | x_t, x0) with the predicted x0 in place of x0.

Ho et al. 2020 (DDPM), eq. 6 and 7; for VE, Song et al. 2021, appendix F.
"""

from samplers.base import Kernel, Sampler, drawn
from sde_lib import AffinePath, expand
from sde_lib.ranges import one_of

VARIANCES = ("posterior", "forward")


def ancestral(path: AffinePath, variance: str = "posterior") -> Sampler:
    """`x_s = mean + std z`, `mean = (r c_s^2 x + a_s q^2 x0) / c_t^2 = (x + q^2 score) / r`.

    `variance` is `"posterior"`, std = q c_s / c_t, exact for data at one point, or `"forward"`,
    std = q, exact for standard normal data and the paper's choice for VP (its `sqrt(beta)`). On VE
    `"forward"` leaves noise in the result.

    Raises:
        ValueError: for another variance.
    """
    one_of(VARIANCES, variance=variance)

    def kernel(predict, state, span):
        x, t, s = state.x, span.t, span.s
        r, q = path.forward_step(s, t)
        a_s, c_s = path.coeffs(s)
        c_t = path.coeffs(t).c
        x0 = predict(x, t).x0
        mean = expand(r * (c_s / c_t) ** 2, x) * x + expand(a_s * (q / c_t) ** 2, x) * x0
        std = q * c_s / c_t if variance == "posterior" else q
        return Kernel(mean, expand(std, x))

    return drawn(path, kernel)
