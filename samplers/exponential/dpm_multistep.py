"""DPM-Solver multistep (2M and 3M) at one evaluation a step.

Lu et al. 2022, DPM-Solver++, algorithm 2, and section 5 for the SDE; the noise form and 3M follow
the authors' code.
"""

from samplers.base import Sampler
from samplers.exponential.integrals import check_form
from samplers.exponential.multistep import check, multistep
from sde_lib import AffinePath, check_data_left


def dpm_multistep(
    path: AffinePath,
    order: int = 2,
    form: str = "data",
    eta: float = 0.0,
    lower_order_final: bool = False,
) -> Sampler:
    """DPM-Solver multistep; the order rises from 1 over 2 to `order` as the history fills.

    Args:
        form: "noise" is DPM-Solver, "data" DPM-Solver++.
        eta: strength of the noise, for the data form: 0 the ODE, 1 the reverse SDE (SDE-DPM-
            Solver++). Order 1 with eta = 1 is ancestral sampling.
        lower_order_final: lower the order again at the end of a run: the last step has order 1,
            the one before at most order 2. Steadier below about ten steps.

    Raises:
        ValueError: for an order or form that does not exist, a negative eta, or eta in the form
            "noise".
    """
    check_form(form)
    if eta > 0.0 and form == "noise":
        raise ValueError(f"eta is {eta}; steps with noise exist in the form 'data' only.")
    check(order, eta, "multistep DPM-Solver")
    check_data_left(path, "a step of DPM-Solver")
    return multistep(path, order, form, eta, lower_order_final, "half")
