"""Old names of keys and of values.

They come from configs that were written before methods had sections, and from score_sde. One table,
`OLD`, gives the present place of each.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from builders.sections import choices, chosen, sections, used


class Old(NamedTuple):
    """The present place of an old key.

    A name in braces stands for the chosen method of that key: with `sampling.corrector = "ald"`,
    `sampling.{corrector}.snr` is `sampling.ald.snr`. Of several `places` the first one in use
    is taken. `values` maps values to their present names.
    """

    places: tuple[str, ...]
    values: Mapping[Any, Any] = MappingProxyType({})


def at(*places: str, **values: str) -> Old:
    return Old(places, values)


OLD = {
    # Values of keys that have kept their names. A section may still have the old name of a method.
    "sde.name": at("sde.name", vpsde="vp", subvpsde="subvp", vesde="ve"),
    "sampling.predictor": at(
        "sampling.predictor", ancestral_sampling="ancestral", restoration="restoration_degradation"
    ),
    # A key whose name is now that of a section: its value is an option of the section.
    "guidance.mask": at("guidance.mask.keep"),
    # Keys of score_sde in other sections.
    "training.reduce_mean": at("loss.{name}.reduce_mean"),
    "training.likelihood_weighting": Old(
        ("loss.{name}.weighting",), {True: "likelihood", False: "variance"}
    ),
    "sampling.noise_removal": at("sampling.denoise"),
    # Keys of methods, from before methods had sections.
    "loss.weighting": at("loss.{name}.weighting"),
    "loss.time_sampling": at("loss.{name}.time_sampling"),
    "loss.stratify": at("loss.{name}.stratify"),
    "loss.reduce_mean": at("loss.{name}.reduce_mean"),
    "sampling.order": at("sampling.pc.order"),
    "sampling.restarts": at("sampling.pc.restarts"),
    "sampling.teleport_sigma": at("sampling.pc.teleport_sigma"),
    "sampling.teleport_rank": at("sampling.pc.teleport_rank"),
    "sampling.lml": at("sampling.pc.lml"),
    "sampling.lml_placement": at("sampling.pc.lml_placement"),
    "sampling.lml_freeze": at("sampling.pc.lml_freeze"),
    "sampling.snr": at("sampling.{corrector}.snr"),
    "sampling.n_steps_each": at("sampling.{corrector}.n_steps"),
    "sampling.norm": at("sampling.{corrector}.norm"),
    "sampling.variance": at("sampling.{predictor}.variance"),
    "sampling.eta": at("sampling.{predictor}.eta"),
    "sampling.solver_order": at("sampling.{predictor}.order", "sampling.dpm_adaptive.order"),
    "sampling.form": at(
        "sampling.{predictor}.form", "sampling.dpm_fast.form", "sampling.dpm_adaptive.form"
    ),
    "sampling.variant": at("sampling.{predictor}.variant"),
    "sampling.s_churn": at("sampling.{predictor}.s_churn"),
    "sampling.s_tmin": at("sampling.{predictor}.s_tmin"),
    "sampling.s_tmax": at("sampling.{predictor}.s_tmax"),
    "sampling.s_noise": at("sampling.{predictor}.s_noise"),
    "sampling.gamma": at("sampling.{predictor}.gamma"),
    "sampling.look_back": at("sampling.{predictor}.look_back"),
    "sampling.probability_flow": at("sampling.{predictor}.probability_flow"),
    "sampling.sigma_data": at("sampling.{predictor}.sigma_data", "sampling.{method}.sigma_data"),
    "sampling.recipe": at("sampling.{grid}.recipe"),
    "sampling.schedule": at("sampling.unified.schedule"),
    "sampling.solver": at("sampling.ode.solver"),
    "sampling.variable": at("sampling.{method}.variable"),
    "sampling.rtol": at("sampling.ode.rtol"),
    "sampling.atol": at("sampling.ode.atol"),
    "sampling.sde_rtol": at("sampling.sde.rtol"),
    "sampling.sde_atol": at("sampling.sde.atol"),
    "sampling.sde_eta": at("sampling.sde.eta"),
    "sampling.max_steps": at("sampling.{method}.max_steps"),
    "sampling.batching": at("sampling.{method}.batching"),
    "sampling.chain_network": at("sampling.denoising_mcmc.network"),
    "sampling.chain_eta": at("sampling.denoising_mcmc.eta"),
    "sampling.chain_moves": at("sampling.denoising_mcmc.moves"),
    "sampling.chain_update": at("sampling.denoising_mcmc.update"),
    "sampling.chain_outputs": at("sampling.denoising_mcmc.outputs"),
    "sampling.chain_start_steps": at("sampling.denoising_mcmc.start_steps"),
    "sampling.chain_start_std": at("sampling.denoising_mcmc.start_std"),
    "sampling.chain_burn_in": at("sampling.denoising_mcmc.burn_in"),
    "guidance.interval": at("guidance.{method}.interval"),
    "guidance.rescale": at("guidance.{method}.rescale"),
    "guidance.zeta": at("guidance.{method}.zeta"),
    "guidance.data_std": at("guidance.{method}.data_std"),
    "guidance.iterations": at("guidance.mmps.iterations"),
    "guidance.repeats": at("guidance.{method}.repeats"),
    "guidance.jump": at("guidance.{method}.jump"),
    "guidance.particles": at("guidance.{method}.particles"),
    "guidance.eta": at("guidance.ddrm.eta"),
    "guidance.eta_b": at("guidance.ddrm.eta_b"),
    "guidance.blur_std": at("guidance.blur.std"),
    "guidance.factor": at("guidance.downsample.factor"),
    "guidance.lines": at("guidance.fourier.lines"),
    "guidance.angles": at("guidance.radon.angles"),
    "edit.strength": at("edit.{method}.strength"),
    "edit.unit": at("edit.{method}.unit"),
    "edit.keep": at("edit.{method}.keep"),
    "edit.content": at("edit.{method}.content"),
    "edit.source_label": at("edit.flow.source_label"),
    "edit.eta": at("edit.flow.eta"),
    "edit.eta_kept": at("edit.flow.eta_kept"),
    "edit.repeats": at("edit.flow.repeats"),
    "edit.window": at("edit.flow.window"),
    "likelihood.num_probes": at("likelihood.{divergence}.num_probes"),
    "likelihood.steps": at("likelihood.{solver}.steps"),
    "likelihood.order": at("likelihood.{solver}.order"),
    "likelihood.variable": at("likelihood.{solver}.variable"),
    "likelihood.sigma_data": at("likelihood.{solver}.sigma_data"),
    "likelihood.rtol": at("likelihood.{solver}.rtol"),
    "likelihood.atol": at("likelihood.{solver}.atol"),
    "likelihood.max_steps": at("likelihood.{solver}.max_steps"),
}
SECTIONS = tuple(dict.fromkeys(old.split(".")[0] for old in OLD))


def named_today(key: str, value: Any) -> Any:
    """The present name of a value of a key."""
    return OLD[key].values.get(value, value)


def with_today(argument: str) -> str:
    """Rename the key of a flag if it is now a section; return other flags unchanged."""
    for key, (places, _) in OLD.items():
        if places[0].startswith(f"{key}."):
            argument = re.sub(rf"^(--?config\.){key}(=|$)", rf"\1{places[0]}\2", argument)
    return argument


def old_keys(name: str) -> dict[str, Any]:
    """The old keys of a section as placeholders: fields with a type and no value."""
    gone = {k: o for k, o in OLD.items() if not o.places[0].startswith(k)}
    ours = {key.split(".")[1]: old for key, old in gone.items() if key.startswith(f"{name}.")}
    return {key: config_dict.placeholder(type_of(old)) for key, old in ours.items()}


def type_of(old: Old) -> type:
    """The type of an old key: that of its present option, or that of its old values."""
    name, *method, option = old.places[0].split(".")
    if old.values or not method:
        return bool
    tables = {f"{{{choice.key}}}": choice.table for choice in choices(name)}
    own = sections(name)
    methods = tables.get(method[0], method)
    return type(next(own[m][option] for m in methods if option in own.get(m, {})))


def modernised(config: ConfigDict, strict: bool = True) -> ConfigDict:
    """Return a config with its old keys moved to their present places; see `modern`."""
    config = config.copy_and_resolve_references()
    if config.loss.name == "denoising" and not config.training.continuous:
        config.loss.name = "discrete"  # this loss had no name in old configs
    for name, section in moved({n: config[n].to_dict() for n in SECTIONS}, strict).items():
        config[name] = ConfigDict(section)
    return config


def modern(name: str, section: ConfigDict, strict: bool = True) -> ConfigDict:
    """Return a section of a config with its old keys moved to their present places.

    Args:
        strict: refuse an old key whose method is not chosen. A stored config has old keys of all
            methods; with `strict=False` those of other methods are left out.

    Raises:
        ValueError: with `strict`, for an old key whose method is not chosen.
    """
    return ConfigDict(moved({name: section.to_dict()}, strict)[name])


def moved(tree: dict[str, dict], strict: bool) -> dict[str, dict]:
    """The sections by name, with their old keys moved."""
    ours = {key: old for key, old in OLD.items() if key.split(".")[0] in tree}
    for key, (places, values) in ours.items():
        section, option = tree[key.split(".")[0]], key.split(".")[1]
        if places == (key,) and option in section:
            section[option] = named_today(key, section[option])
            for old in values.keys() & section.keys():
                section[values[old]] = {**section.get(values[old], {}), **section.pop(old)}
    in_use = {name: used(name, section) for name, section in tree.items() if choices(name)}
    for key, (places, _) in ours.items():
        (name, option), section = key.split("."), tree[key.split(".")[0]]
        if places == (key,) or isinstance(section.get(option), dict):
            continue
        value = section.pop(option, None)
        if places[0].startswith(f"{key}."):
            section[option] = dict(sections(name)[option])
        if value is None:
            continue
        found = [(place_in(tree, place, in_use), place.split(".")[-1]) for place in places]
        where = next((pair for pair in found if pair[0] is not None), None)
        if where is not None:
            where[0][where[1]] = named_today(key, value)
        elif strict:
            of = places[0].split(".")[0]
            raise ValueError(unused(key, value, of, tree[of]))
    return {name: {**section, **old_keys(name)} for name, section in tree.items()}


def place_in(tree: dict[str, dict], place: str, in_use: dict[str, set[str]]) -> dict | None:
    """The section that has a present key; None if the method of the section is not in use."""
    name, *method, option = place.split(".")
    if not method:
        return tree[name]
    picked = chosen(name, tree[name])
    own = picked.get(method[0][1:-1], "") if method[0].startswith("{") else method[0]
    section = tree[name].get(own, {})
    return section if own in in_use[name] and option in section else None


def unused(key: str, value: Any, name: str, section: Mapping[str, Any]) -> str:
    """The error sentence for a key of a method that is not chosen."""
    picked = ", ".join(f"{name}.{k} is {v!r}" for k, v in chosen(name, section).items())
    return (
        f"{key} is set to {value!r}, and no chosen method reads it ({picked}); leave the key out, "
        "or choose its method."
    )
