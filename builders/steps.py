"""One step of a method: the predictor and the corrector of a config, and the grid they go down."""

import contextlib
from collections.abc import Callable, Container, Iterator, Mapping
from inspect import signature
from typing import Any, NamedTuple

from jax import Array
from ml_collections import ConfigDict

import exact
import samplers
import sde_lib

# Predictors that follow an ODE, which may be turned whole; others may have noise or memory.
TURNED = ("heun", "dpm_solver", "adams_bashforth", "unipc", "velocity_ab")


class Known(NamedTuple):
    """What some methods must know besides their section and the law.

    `continuous`: the network knows all times, not just levels. `moments()` reads the
    training data, and `levels(workdir) -> LevelNetwork` another run; they are called only by what
    needs them.
    """

    continuous: bool = True
    moments: Callable[[], exact.GaussianMoments] | None = None
    levels: Callable[[str], Any] | None = None


class Parts(NamedTuple):
    """What a method of sampling is made of: the law, the section `sampling`, and what is known."""

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
    """Calls a constructor with its section, and with those of `given` that it has arguments for.

    Args:
        where: the section's name, such as "sampling.edm". Where the constructor refuses one of its
            options, the sentence begins with the whole key.
    """
    takes = signature(make).parameters
    given = {name: value for name, value in given.items() if name in takes}
    with naming(where, section):
        return make(**given, **section)


@contextlib.contextmanager
def naming(where: str, keys: Container[str]) -> Iterator[None]:
    """Puts the section's name before a sentence that begins with one of its keys, or with a key of
    a section in it."""
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
    """The last node: eps, or where the recipe of the two-stage grid stops."""
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
    """The same one by one and in order, each step of the corrector by itself: for what has to act
    after each of them."""
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
    """Refuses to turn a predictor whose noise or memory would be turned with it."""
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
