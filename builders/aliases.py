"""Old names of keys, from configs that were written before methods had sections.

score_sde has some of these names too, such as `sampling.snr`. The table `ALIASES` maps each old key
to its targets. A name in braces stands for the chosen method of that key: with
`sampling.corrector = "ald"`, `sampling.snr` is `sampling.ald.snr`. If there are several targets,
the first that is in use is taken.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from builders.sections import choices, chosen, sections, used

ALIASES = {
    "loss.weighting": ("{name}.weighting",),
    "loss.time_sampling": ("{name}.time_sampling",),
    "loss.stratify": ("{name}.stratify",),
    "loss.reduce_mean": ("{name}.reduce_mean",),
    "sampling.order": ("pc.order",),
    "sampling.restarts": ("pc.restarts",),
    "sampling.teleport_sigma": ("pc.teleport_sigma",),
    "sampling.teleport_rank": ("pc.teleport_rank",),
    "sampling.lml": ("pc.lml",),
    "sampling.lml_placement": ("pc.lml_placement",),
    "sampling.lml_freeze": ("pc.lml_freeze",),
    "sampling.snr": ("{corrector}.snr",),
    "sampling.n_steps_each": ("{corrector}.n_steps",),
    "sampling.norm": ("{corrector}.norm",),
    "sampling.variance": ("{predictor}.variance",),
    "sampling.eta": ("{predictor}.eta",),
    "sampling.solver_order": ("{predictor}.order", "dpm_adaptive.order"),
    "sampling.form": ("{predictor}.form", "dpm_fast.form", "dpm_adaptive.form"),
    "sampling.variant": ("{predictor}.variant",),
    "sampling.s_churn": ("{predictor}.s_churn",),
    "sampling.s_tmin": ("{predictor}.s_tmin",),
    "sampling.s_tmax": ("{predictor}.s_tmax",),
    "sampling.s_noise": ("{predictor}.s_noise",),
    "sampling.gamma": ("{predictor}.gamma",),
    "sampling.look_back": ("{predictor}.look_back",),
    "sampling.probability_flow": ("{predictor}.probability_flow",),
    "sampling.sigma_data": ("{predictor}.sigma_data", "{method}.sigma_data"),
    "sampling.recipe": ("{grid}.recipe",),
    "sampling.schedule": ("unified.schedule",),
    "sampling.solver": ("ode.solver",),
    "sampling.variable": ("{method}.variable",),
    "sampling.rtol": ("ode.rtol",),
    "sampling.atol": ("ode.atol",),
    "sampling.sde_rtol": ("sde.rtol",),
    "sampling.sde_atol": ("sde.atol",),
    "sampling.sde_eta": ("sde.eta",),
    "sampling.max_steps": ("{method}.max_steps",),
    "sampling.batching": ("{method}.batching",),
    "sampling.chain_network": ("denoising_mcmc.network",),
    "sampling.chain_eta": ("denoising_mcmc.eta",),
    "sampling.chain_moves": ("denoising_mcmc.moves",),
    "sampling.chain_update": ("denoising_mcmc.update",),
    "sampling.chain_outputs": ("denoising_mcmc.outputs",),
    "sampling.chain_start_steps": ("denoising_mcmc.start_steps",),
    "sampling.chain_start_std": ("denoising_mcmc.start_std",),
    "sampling.chain_burn_in": ("denoising_mcmc.burn_in",),
    "guidance.interval": ("{method}.interval",),
    "guidance.rescale": ("{method}.rescale",),
    "guidance.zeta": ("{method}.zeta",),
    "guidance.data_std": ("{method}.data_std",),
    "guidance.iterations": ("mmps.iterations",),
    "guidance.repeats": ("{method}.repeats",),
    "guidance.jump": ("{method}.jump",),
    "guidance.particles": ("{method}.particles",),
    "guidance.eta": ("ddrm.eta",),
    "guidance.eta_b": ("ddrm.eta_b",),
    "guidance.blur_std": ("blur.std",),
    "guidance.factor": ("downsample.factor",),
    "guidance.lines": ("fourier.lines",),
    "guidance.angles": ("radon.angles",),
    "edit.strength": ("{method}.strength",),
    "edit.unit": ("{method}.unit",),
    "edit.keep": ("{method}.keep",),
    "edit.content": ("{method}.content",),
    "edit.source_label": ("flow.source_label",),
    "edit.eta": ("flow.eta",),
    "edit.eta_kept": ("flow.eta_kept",),
    "edit.repeats": ("flow.repeats",),
    "edit.window": ("flow.window",),
    "likelihood.num_probes": ("{divergence}.num_probes",),
    "likelihood.steps": ("{solver}.steps",),
    "likelihood.order": ("{solver}.order",),
    "likelihood.variable": ("{solver}.variable",),
    "likelihood.sigma_data": ("{solver}.sigma_data",),
    "likelihood.rtol": ("{solver}.rtol",),
    "likelihood.atol": ("{solver}.atol",),
    "likelihood.max_steps": ("{solver}.max_steps",),
}

# Keys of score_sde that are in another section here, or have other values.
MOVED = {
    "training.reduce_mean": ("loss.reduce_mean", {}),
    "training.likelihood_weighting": ("loss.weighting", {True: "likelihood", False: "variance"}),
    "sampling.noise_removal": ("sampling.denoise", {}),
}
# Old names of methods, by the key that chooses them; a section may still have the old name too.
NAMES = {"predictor": {"ancestral_sampling": "ancestral", "restoration": "restoration_degradation"}}

# Old keys whose name is now that of a section: their value is this option of the section.
SECTIONS_NOW = {"guidance.mask": "keep"}


def with_today(argument: str) -> str:
    """Rename the key of a flag if it is one of `SECTIONS_NOW`; return other flags unchanged."""
    for key, option in SECTIONS_NOW.items():
        argument = re.sub(rf"^(--?config\.{key})(=|$)", rf"\1.{option}\2", argument)
    return argument


def old_keys(name: str) -> dict[str, Any]:
    """The old keys of a section, as placeholders: fields with a type and no value."""
    moved = (key.split(".") for key in MOVED)
    fields = {key: config_dict.placeholder(bool) for section, key in moved if section == name}
    own, tables = sections(name), {choice.key: choice.table for choice in choices(name)}
    for key, targets in aliases_of(name):
        place, option = targets[0].split(".")
        methods = tables[place[1:-1]] if place.startswith("{") else (place,)
        values = (own[method][option] for method in methods if option in own.get(method, {}))
        fields[key] = config_dict.placeholder(type(next(values)))
    return fields


def aliases_of(name: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The old keys of a section with their targets."""
    for old, targets in ALIASES.items():
        section, key = old.split(".")
        if section == name:
            yield key, targets


SECTIONS = tuple(dict.fromkeys(old.split(".")[0] for old in ALIASES))


def modernised(config: ConfigDict, strict: bool = True) -> ConfigDict:
    """Return a config with its old keys moved to their present places; see `modern`."""
    config = config.copy_and_resolve_references()
    if config.loss.name == "denoising" and not config.training.continuous:
        config.loss.name = "discrete"  # which had no name of its own
    for old, (new, values) in MOVED.items():
        (section, key), (place, option) = old.split("."), new.split(".")
        found = config[section].to_dict()
        value = found.pop(key, None)
        config[section] = ConfigDict(found)
        if value is not None:
            config[place][option] = values.get(value, value)
    for name in SECTIONS:
        config[name] = modern(name, config[name], strict)
    return config


def modern(name: str, section: ConfigDict, strict: bool = True) -> ConfigDict:
    """Return a section of a config with its old keys moved to their present places.

    Args:
        strict: refuse an old key whose method is not chosen. A stored config has old keys of all
            methods; with `strict=False` those of other methods are left out.

    Raises:
        ValueError: with `strict`, for an old key whose method is not chosen.
    """
    values = section.to_dict()
    for key, names in NAMES.items():
        if key in values:
            values[key] = names.get(values[key], values[key])
            for old in names.keys() & values.keys():
                values[names[old]] = {**values.get(names[old], {}), **values.pop(old)}
    for old, option in SECTIONS_NOW.items():
        key = old.removeprefix(f"{name}.")
        if not isinstance(values.get(key, {}), dict):
            values[key] = {**sections(name)[key], option: values[key]}
    found = {k: v for k, v in values.items() if k not in dict(aliases_of(name))}
    in_use = used(name, found)
    for key, targets in aliases_of(name):
        value = values.get(key)
        if value is None:
            continue
        place = next(places(found, in_use, chosen(name, found), targets), None)
        if place is not None:
            found[place[0]] = {**found[place[0]], place[1]: value}
        elif strict:
            raise ValueError(unused(f"{name}.{key}", value, name, found))
    return ConfigDict({**found, **old_keys(name)})


def places(
    found: Mapping[str, Any], in_use: set[str], picked: Mapping[str, str], targets: tuple[str, ...]
) -> Iterator[tuple[str, str]]:
    """Yield `(section, option)` of the targets that are in use."""
    for target in targets:
        template, option = target.split(".")
        key = template.strip("{}")
        section = picked.get(key, "") if template.startswith("{") else key
        if section in in_use and option in found.get(section, {}):
            yield section, option


def unused(key: str, value: Any, name: str, section: Mapping[str, Any]) -> str:
    """The error sentence for a key of a method that is not chosen."""
    picked = ", ".join(f"{name}.{k} is {v!r}" for k, v in chosen(name, section).items())
    return (
        f"{key} is set to {value!r}, and no chosen method reads it ({picked}); leave the key out, "
        "or choose its method."
    )
