"""Few evaluations of a VP network (Lu et al. 2022, DPM-Solver, arXiv 2206.00927, on CIFAR-10).

The table has the published rows, and later solvers at the same numbers of evaluations.
"""

from typing import Any

from tables.base import Cell, Table, digits, released

NFE = (10, 12, 15, 20)
PLAIN = {"sampling.corrector": "none", "sampling.denoise": False}
FAST = {**PLAIN, "sampling.method": "dpm_fast", "sampling.dpm_fast.form": "noise"}
FAST |= {"sampling.grid": "uniform_lam"}
STEPS = {**PLAIN, "sampling.method": "pc", "sampling.eps": 1e-3}
MULTISTEP = {**STEPS, "sampling.grid": "uniform_lam"}
# The config of each method, and its published FID at 10, 12, 15 and 20 evaluations, if any.
ROWS: dict[str, tuple[dict[str, Any], tuple[float | None, ...]]] = {
    "Euler-Maruyama": (
        {**STEPS, "sampling.predictor": "euler_maruyama", "sampling.grid": "uniform"},
        (304.7, 278.9, 248.1, 193.9),
    ),
    "DPM-Solver, eps 1e-3": ({**FAST, "sampling.eps": 1e-3}, (4.70, 3.75, 3.24, 3.99)),
    "DPM-Solver, eps 1e-4": ({**FAST, "sampling.eps": 1e-4}, (6.96, 4.93, 3.35, 2.87)),
    "DDIM": ({**STEPS, "sampling.predictor": "ddim", "sampling.grid": "uniform_lam"}, ()),
    "DPM-Solver++ 2M": (
        {**MULTISTEP, "sampling.predictor": "dpm_multistep"},
        (),
    ),
    "DEIS, order 3": (
        {
            **MULTISTEP,
            "sampling.predictor": "adams_bashforth",
            "sampling.adams_bashforth.order": 3,
            "sampling.adams_bashforth.form": "noise",
        },
        (),
    ),
    "UniPC, order 2": (
        {**MULTISTEP, "sampling.predictor": "unipc"},
        (),
    ),
    "velocity_ab, tangent": (
        {
            **STEPS,
            "sampling.predictor": "velocity_ab",
            "sampling.velocity_ab.order": 4,
            "sampling.grid": "tangent",
        },
        (),
    ),
}


def dpm_solver(scale: str) -> Table:
    """Return the table at the scale "laptop" or "paper"."""
    model = released("vp/cifar10_ddpmpp_deep_continuous.py") if scale == "paper" else digits("vp")
    caption = (
        "Fréchet distance to the training images by network evaluations, without a last denoising. "
        "In brackets Lu et al. 2022: FID on CIFAR-10 by the deep continuous VP network."
    )
    cells = [
        Cell(row, str(nfe), model, {**how, "sampling.steps": nfe}, {"frechet": value})
        for row, (how, published) in ROWS.items()
        for nfe, value in zip(NFE, published or (None,) * len(NFE))
    ]
    return Table("dpm_solver", caption, cells)
