"""`--describe sampling.edm`: the keys of a section, with type, value and meaning.

The description of a method's section comes from the docstring of its constructor: the first line,
and the lines on its arguments.
"""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from builders.constructors import NAMED
from builders.sections import Choice, choices
from data.source import unknown


def describe(key: str, config: ConfigDict) -> str:
    """Describe a section and its keys; `key` is "sampling", "sampling.edm", ...

    Raises:
        ValueError: for a section that does not exist.
    """
    name, _, method = key.partition(".")
    if name not in config or not isinstance(config[name], ConfigDict):
        raise ValueError(unknown("section", name, [k for k, v in config.items() if is_section(v)]))
    if not method:
        return describe_section(name, config[name])
    for choice in choices(name):
        if method in choice.table:
            return describe_method(key, choice, config[name].get(method, {}))
    known = [entry for choice in choices(name) for entry in choice.table]
    raise ValueError(unknown(f"section of {name}", method, known))


def is_section(value: object) -> bool:
    return isinstance(value, ConfigDict)


def describe_section(name: str, section: ConfigDict) -> str:
    """Describe the section's own keys, and list the methods that may be chosen."""
    lines, told = [f"{name}: values of this config"], {}
    if name in NAMED:
        text = inspect.getdoc(NAMED[name].table[section[NAMED[name].key]]) or ""
        lines[0] = f"{name}: {text.partition(chr(10))[0]}"
        told = arguments(text)
    for key, value in section.items():
        if is_own(value):
            lines.append(f"  {key} = {value!r}  {told.get(key, '')}".rstrip())
    if name in NAMED:
        lines.append(f"{name}.{NAMED[name].key} is one of {', '.join(NAMED[name].table)}")
    for choice in choices(name):
        lines.append(f"{name}.{choice.key} is one of {', '.join(choice.table)}")
    if choices(name):
        lines.append(f"--describe {name}.METHOD tells the keys of a method.")
    return "\n".join(lines)


def is_own(value: object) -> bool:
    """Whether a field is a key of the section itself, not a section or an old name of a key."""
    return value is not None and not is_section(value)


def describe_method(key: str, choice: Choice, section: Mapping[str, Any]) -> str:
    """Describe a method and its options, with their values in this config."""
    method = key.split(".")[1]
    text = inspect.getdoc(choice.table[method]) or ""
    lines = [f"{key}, read where {choice.section}.{choice.key} is {method!r}"]
    lines.append(f"  {text.partition(chr(10))[0]}")
    told = arguments(text)
    for name, value in section.items():
        meaning = told.get(name, "")
        lines.append(f"  {name}: {type(value).__name__} = {value!r}  {meaning}".rstrip())
    return "\n".join(lines if len(lines) > 2 else [*lines, "  It has no keys of its own."])


def arguments(text: str) -> dict[str, str]:
    """Parse the block `Args:` or `Fields:` of a docstring: names of arguments to their text."""
    block = re.search(r"^(?:Args|Fields):\n((?:[ ]+.*\n?|\n)+)", text, re.MULTILINE)
    lines = block[1].splitlines() if block else []
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    found: dict[str, str] = {}
    for line in lines:
        if entry := re.match(rf"[ ]{{{indent}}}(\w[\w, ]*): (.*)", line):
            names = [name.strip() for name in entry[1].split(",")]
            found.update(dict.fromkeys(names, entry[2]))
        elif line.strip() and found:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found
