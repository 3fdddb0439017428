"""Predictors, correctors and both, at equal network evaluations (Song et al. 2021, table 1)."""

from typing import Any, NamedTuple

from tables.base import Cell, Model, Table, digits, released

PREDICTORS = {
    "ancestral": {"sampling.predictor": "ancestral"},
    "reverse diffusion": {"sampling.predictor": "reverse_diffusion"},
    "probability flow": {
        "sampling.predictor": "reverse_diffusion",
        "sampling.reverse_diffusion.probability_flow": True,
    },
}
# Published FID of P at N and at 2N steps and of PC at N; for "none", of C at 2N. P at 2N, C at 2N
# and PC at N take the same number of evaluations.
PUBLISHED = {
    "ve": {
        "ancestral": (4.98, 4.88, 3.62),
        "reverse diffusion": (4.79, 4.74, 3.60),
        "probability flow": (15.41, 10.54, 3.51),
        "none": (20.43,),
    },
    "vp": {
        "ancestral": (3.24, 3.24, 3.21),
        "reverse diffusion": (3.21, 3.19, 3.18),
        "probability flow": (3.59, 3.23, 3.06),
        "none": (19.06,),
    },
}


class Scale(NamedTuple):
    """Settings of a scale: `steps` is N; `snr[law]` has the corrector's snr by predictor."""

    steps: int
    models: dict[str, Model]
    snr: dict[str, dict[str, float]]
    changes: dict[str, Any]


SCALES = {
    "laptop": Scale(
        50,
        {law: digits(law) for law in PUBLISHED},
        {
            "ve": dict(zip(("none", *PREDICTORS), (0.4, 0.1, 0.1, 0.2))),
            "vp": dict(zip(("none", *PREDICTORS), (0.4, 0.2, 0.2, 0.2))),
        },
        {"sampling.grid": "uniform"},
    ),
    # The best `snr` of the paper, and the paper's networks with a discrete objective.
    "paper": Scale(
        1000,
        {"ve": released("ve/cifar10_ddpm.py"), "vp": released("vp/ddpm/cifar10.py")},
        {
            "ve": dict(zip(("none", *PREDICTORS), (0.22, 0.17, 0.16, 0.17))),
            "vp": dict(zip(("none", *PREDICTORS), (0.27, 0.01, 0.01, 0.04))),
        },
        {"sampling.grid": "uniform", "sampling.langevin.norm": "batch"},
    ),
}


def table1(scale: str) -> Table:
    """Return the table at the scale "laptop" or "paper"."""
    made = SCALES[scale]
    n = made.steps
    cells = [cell for law in PUBLISHED for cell in cells_of(law, made)]
    caption = (
        f"Fréchet distance to the training images; P: predictor, C: corrector, both with {n} or "
        f"{2 * n} steps; P{2 * n}, C{2 * n} and PC{n} evaluate the network {2 * n} times. In "
        "brackets Song et al. 2021, table 1: FID on CIFAR-10 with 1000 and 2000 steps."
    )
    return Table("table1", caption, cells)


def cells_of(law: str, made: Scale) -> list[Cell]:
    n, model, snr = made.steps, made.models[law], made.snr[law]
    cells = []
    for name, predictor in PREDICTORS.items():
        langevin = {"sampling.corrector": "langevin", "sampling.langevin.snr": snr[name]}
        once, twice, both = PUBLISHED[law][name]
        for column, steps, more, value in (
            (f"P{n}", n, {"sampling.corrector": "none"}, once),
            (f"P{2 * n}", 2 * n, {"sampling.corrector": "none"}, twice),
            (f"PC{n}", n, langevin, both),
        ):
            changes = {**made.changes, **predictor, **more, **pc(steps)}
            title = f"{law.upper()}, {name}"
            cells.append(Cell(title, column, model, changes, {"frechet": value}))
    alone = {
        "sampling.predictor": "none",
        "sampling.corrector": "langevin",
        "sampling.langevin.snr": snr["none"],
    }
    changes = {**made.changes, **alone, **pc(2 * n)}
    value = {"frechet": PUBLISHED[law]["none"][0]}
    return [*cells, Cell(f"{law.upper()}, no predictor", f"C{2 * n}", model, changes, value)]


def pc(steps: int) -> dict[str, Any]:
    return {"sampling.method": "pc", "sampling.steps": steps}
