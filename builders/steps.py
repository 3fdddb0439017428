"""One step of a sampling method: predictor and corrector of a config, and their grid."""

import contextlib
from collections.abc import Callable, Container, Iterator, Mapping
from inspect import signature
from typing import Any, NamedTuple

from jax import Array
from ml_collections import ConfigDict

import exact
import samplers
import sde_lib

# Predictors of an ODE, whose whole step may be turned; others may have noise or memory.
TURNED = ("heun", "dpm_solver", "adams_bashforth", "unipc", "velocity_ab")


class Known(NamedTuple):
    """Inputs of some methods besides their section and the law.

    `continuous`: whether the network is trained for all times, not for discrete levels. `moments()`
    reads the training data, and `levels(workdir) -> LevelNetwork` another run; only the methods
    that need them call these functions.
    """

    continuous: bool = True
    moments: Callable[[], exact.GaussianMoments] | None = None
    levels: Callable[[str], Any] | None = None


class Parts(NamedTuple):
    """The inputs of a method of sampling: the law, the section `sampling`, and `Known`."""

    path: sde_lib.AffinePath
    section: ConfigDict
    known: Known = Known()

    def step(self) -> samplers.Sampler:
        return build_method(self.section, self.path)

    def grid(self) -> Array:
        return build_grid(self.section, self.path)

    def end(self) -> float:
        return build_end(self.section, self.path)


def construct(where: str, make: Callable, section: Mapping[str, Any], **given: Any) -> Any:
    """Call a constructor with its section, and with those of `given` that are its arguments.

    Args:
        where: the name of the section, such as "sampling.edm". If the constructor refuses one of
            its options, the error sentence begins with the whole key.

    Raises:
        ValueError: as the constructor.
    """
    takes = signature(make).parameters
    given = {name: value for name, value in given.items() if name in takes}
    with naming(where, section):
        return make(**given, **section)


@contextlib.contextmanager
def naming(where: str, keys: Container[str]) -> Iterator[None]:
    """Put the section's name before an error sentence that begins with one of its keys, or with a
    key of a section in it."""
    try:
        yield
    except ValueError as error:
        if str(error).split(" ")[0].split(".")[0] in keys:
            raise ValueError(f"{where}.{error}") from None
        raise


def build_grid(section: ConfigDict, path: sde_lib.AffinePath) -> Array:
    own = section.get(section.grid, {})
    make = lambda **own: samplers.make_grid(section.grid, path, section.steps, section.eps, **own)
    return construct(f"sampling.{section.grid}", make, own)


def build_end(section: ConfigDict, path: sde_lib.AffinePath) -> float:
    """The last node of the grid: eps, or the end of the recipe of the two-stage grid."""
    recipe = section.get(section.grid, {}).get("recipe", "")
    return (
        samplers.early_end(path, samplers.RECIPES[recipe], section.eps) if recipe else section.eps
    )


def build_method(section: ConfigDict, path: sde_lib.AffinePath) -> samplers.Sampler:
    """The predictor and the corrector of one step."""
    parts = {"predictor": build_predictor(section, path)}
    parts["corrector"] = build_corrector(section, path)
    own = {"order": section.pc.order}
    return construct("sampling.pc", samplers.predictor_corrector, own, **parts)


def build_parts(section: ConfigDict, path: sde_lib.AffinePath) -> list[samplers.Sampler]:
    """The predictor and the single corrector steps of one step as a list, in their order.

    Restorers and edits act after each of these parts.
    """
    predictor, corrector = build_predictor(section, path), build_corrector(section, path, n_steps=1)
    count = section[section.corrector].n_steps if corrector else 0
    correctors = [corrector] * count
    parts = [predictor, *correctors] if section.pc.order == "paper" else [*correctors, predictor]
    return [part for part in parts if part is not None]


def build_predictor(section: ConfigDict, path: sde_lib.AffinePath) -> samplers.Sampler | None:
    """The predictor of one step, None if there is none."""
    name = section.predictor
    if name == "none":
        if section.corrector == "none":
            raise ValueError("sampling.predictor and sampling.corrector are both 'none'; name one.")
        return None
    own = section.get(name, {})
    predictor = construct(f"sampling.{name}", samplers.PREDICTORS[name], own, path=path)
    if not section.pc.lml:
        return predictor
    check_turned(name, own, section.pc)
    return samplers.lml(
        path, predictor, section.pc.lml, section.pc.lml_placement, section.pc.lml_freeze
    )


def build_corrector(
    section: ConfigDict, path: sde_lib.AffinePath, **changes: Any
) -> samplers.Sampler | None:
    """The corrector of one step, None if there is none."""
    if section.corrector == "none":
        return None
    at = "end" if section.pc.order == "paper" else "start"
    own, name = {**section[section.corrector], **changes}, section.corrector
    return construct(f"sampling.{name}", samplers.CORRECTORS[name], own, path=path, at=at)


def check_turned(name: str, own: Mapping[str, Any], pc: ConfigDict) -> None:
    """Refuse `lml` around a predictor whose noise or memory would be turned too.

    Raises:
        ValueError: with predictors that are allowed.
    """
    noisy = own.get("eta", 0.0) or own.get("s_churn", 0.0)
    solves = name in TURNED or (name in ("ddim", "dpm_multistep", "edm") and not noisy)
    solves = solves or (name == "euler_maruyama" and own["probability_flow"])
    turns_eps = name == "ddim" and pc.lml_placement == "direction"
    if not (solves or turns_eps):
        raise ValueError(
            f"sampling.pc.lml is {pc.lml} around the predictor {name!r}, whose noise or memory "
            "it would turn too; take ddim, dpm_solver, dpm_multistep, adams_bashforth or unipc "
            "without noise, or set sampling.pc.lml=0."
        )
