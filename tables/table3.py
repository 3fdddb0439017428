"""Samples of the best networks, each by its own sampler (Song et al. 2021, table 3).

As in the paper, the continuous VE networks are sampled by reverse diffusion with a Langevin
corrector, and the continuous VP and sub-VP networks by Euler-Maruyama.
"""

from tables.base import Cell, Table, digits, released

EULER = {
    "sampling.method": "pc",
    "sampling.predictor": "euler_maruyama",
    "sampling.corrector": "none",
    "sampling.grid": "uniform",
    "sampling.steps": 1000,
}
CORRECTED = {
    **EULER,
    "sampling.predictor": "reverse_diffusion",
    "sampling.corrector": "langevin",
    "sampling.langevin.snr": 0.16,
}
# Config of a released model, changes for its sampler, published FID and Inception score.
PUBLISHED = {
    "DDPM++": ("vp/cifar10_ddpmpp.py", {"sampling.steps": 1000}, 2.78, 9.64),
    "DDPM++ cont., VP": ("vp/cifar10_ddpmpp_continuous.py", EULER, 2.55, 9.58),
    "DDPM++ cont., sub-VP": ("subvp/cifar10_ddpmpp_continuous.py", EULER, 2.61, 9.56),
    "DDPM++ cont. deep, VP": ("vp/cifar10_ddpmpp_deep_continuous.py", EULER, 2.41, 9.68),
    "DDPM++ cont. deep, sub-VP": ("subvp/cifar10_ddpmpp_deep_continuous.py", EULER, 2.41, 9.57),
    "NCSN++": ("ve/cifar10_ncsnpp.py", {"sampling.steps": 1000}, 2.45, 9.73),
    "NCSN++ cont., VE": ("ve/cifar10_ncsnpp_continuous.py", CORRECTED, 2.38, 9.83),
    "NCSN++ cont. deep, VE": ("ve/cifar10_ncsnpp_deep_continuous.py", CORRECTED, 2.20, 9.89),
}
LAPTOP = {
    "perceptron, VP": (digits("vp"), EULER),
    "perceptron, sub-VP": (digits("subvp"), EULER),
    "perceptron, VE": (digits("ve"), CORRECTED),
}


def table3(scale: str) -> Table:
    """Return the table at the scale "laptop" or "paper"."""
    caption = "Fréchet distance to the training images and Inception score, mean over 10 splits. "
    if scale == "laptop":
        caption += "Both by a classifier of digits: no published figure compares."
        figures = {"frechet": None, "inception_score": None}
        cells = [Cell(row, "", model, how, figures) for row, (model, how) in LAPTOP.items()]
        return Table("table3", caption, cells)
    caption += "In brackets Song et al. 2021, table 3, on CIFAR-10."
    cells = [
        Cell(row, "", released(config), how, {"frechet": fid, "inception_score": score})
        for row, (config, how, fid, score) in PUBLISHED.items()
    ]
    return Table("table3", caption, cells)
