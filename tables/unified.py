"""Searched schedules at very few evaluations (Liu et al. 2024, USF and S3, arXiv 2312.07243).

The schedules here (`configs/solvers/`) were searched on exact mixtures of digits, and are used
unchanged with other networks and data.
"""

from tables.base import Cell, Table, digits, released

NFE = (5, 8, 10)
PLAIN = {
    "sampling.method": "pc",
    "sampling.corrector": "none",
    "sampling.denoise": False,
    "sampling.eps": 1e-3,
    "sampling.grid": "uniform_lam",
}
# The config of each method, and its published FID at 5, 8 and 10 evaluations.
ROWS = {
    "DPM-Solver++": (
        {**PLAIN, "sampling.predictor": "dpm_multistep", "sampling.dpm_multistep.order": 3},
        (28.4, 5.33, 3.99),
    ),
    "UniPC": (
        {**PLAIN, "sampling.predictor": "unipc", "sampling.unipc.order": 3},
        (23.6, 5.16, 3.89),
    ),
    "velocity_ab, tangent": (
        {
            **PLAIN,
            "sampling.predictor": "velocity_ab",
            "sampling.velocity_ab.order": 4,
            "sampling.grid": "tangent",
        },
        (None, None, None),
    ),
}
SEARCHED = (5.40, 3.00, 2.70)


def unified(scale: str) -> Table:
    """Return the table at the scale "laptop" or "paper"."""
    model = released("vp/cifar10_ddpmpp_deep_continuous.py") if scale == "paper" else digits("vp")
    cells = [
        Cell(row, str(nfe), model, {**how, "sampling.steps": nfe}, {"frechet": value})
        for row, (how, published) in ROWS.items()
        for nfe, value in zip(NFE, published)
    ]
    for nfe, value in zip(NFE, SEARCHED):
        how = {"sampling.method": "unified", "sampling.unified.schedule": f"digits_{nfe}"}
        how |= {"sampling.eps": 1e-3}
        cells.append(Cell("searched schedule", str(nfe), model, how, {"frechet": value}))
    caption = (
        "Fréchet distance to the training images by network evaluations. In brackets the released "
        "tables of Liu et al. 2024: FID on CIFAR-10 by the deep continuous VP network, with "
        "schedules searched on it."
    )
    return Table("unified", caption, cells)
