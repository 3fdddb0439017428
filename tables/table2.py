"""Bits/dim, and the distance of samples of the flow ODE, by law (Song et al. 2021, table 2).

At laptop scale the table also has rows with likelihood weighting of the loss, and importance
sampling of the times for this weighting (Song et al. 2021b, arXiv 2101.09258, section 4).
"""

from tables.base import Cell, Model, Table, digits, released

ODE = {
    "sampling.method": "ode",
    "sampling.ode.solver": "dopri5",
    "sampling.ode.rtol": 1e-5,
    "sampling.ode.atol": 1e-5,
}
# Config of a released model, its published bits/dim and FID.
PUBLISHED = {
    "DDPM, VP": ("vp/ddpm/cifar10_continuous.py", 3.21, 3.69),
    "DDPM, sub-VP": ("subvp/cifar10_ddpm_continuous.py", 3.05, 3.56),
    "DDPM++, VP": ("vp/cifar10_ddpmpp_continuous.py", 3.16, 3.93),
    "DDPM++, sub-VP": ("subvp/cifar10_ddpmpp_continuous.py", 3.02, 3.16),
    "DDPM++ deep, VP": ("vp/cifar10_ddpmpp_deep_continuous.py", 3.13, 3.08),
    "DDPM++ deep, sub-VP": ("subvp/cifar10_ddpmpp_deep_continuous.py", 2.99, 2.92),
}


def weighted(law: str) -> Model:
    """Return the same network, trained with likelihood weighting and importance-sampled times."""
    changes = {
        "loss.denoising.weighting": "likelihood",
        "loss.denoising.time_sampling": "importance",
    }
    return digits(law)._replace(name=f"digits_{law}_likelihood", changes=changes)


LAPTOP = {
    "VP": digits("vp"),
    "sub-VP": digits("subvp"),
    "VP, likelihood weighting": weighted("vp"),
    "sub-VP, likelihood weighting": weighted("subvp"),
}


def table2(scale: str) -> Table:
    """Return the table at the scale "laptop" or "paper"."""
    caption = (
        "Bits/dim of the test images with uniform dequantisation, its standard error over images, "
        "and the Fréchet distance of samples of the flow ODE to the training images. "
    )
    if scale == "laptop":
        caption += "Published on CIFAR-10: VP 3.21, sub-VP 3.05 (Song et al. 2021, table 2)."
        both = {"bits": None, "frechet": None}
        cells = [Cell(row, "", model, ODE, both) for row, model in LAPTOP.items()]
        return Table("table2", caption, cells)
    caption += "In brackets Song et al. 2021, table 2, on CIFAR-10."
    cells = [
        Cell(row, "", released(config), ODE, {"bits": bits, "frechet": fid})
        for row, (config, bits, fid) in PUBLISHED.items()
    ]
    return Table("table2", caption, cells)
