"""The house rules that a machine can check: who imports whom, and how long a file may be."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAWS = {"sde_lib"}
# A single file, which every part may import.
FOUNDATION = {"whole_files"}
SOLVING = {"samplers", "guidance", "restoration", "editing", "operators", "likelihood"}

# What each part may import of ours, besides itself. A training run draws samples on the way, so
# `training` may import `evaluation`, and then not the other way round.
ALLOWED = {
    "sde_lib": set(),
    "models": set(),
    "data": set(),
    "parallel": set(),
    "losses": LAWS,
    "operators": LAWS,
    "exact": LAWS | {"operators"},
    "samplers": LAWS,
    "guidance": LAWS | {"operators", "samplers"},
    "restoration": LAWS | {"operators", "samplers", "guidance"},
    "editing": LAWS | {"operators", "samplers", "guidance", "restoration"},
    "search": LAWS | {"samplers"},
    "likelihood": LAWS | {"samplers"},
    "training": LAWS | SOLVING | {"exact", "models", "data", "losses", "parallel", "evaluation"},
    "evaluation": LAWS | SOLVING | {"exact", "models", "data", "losses", "parallel"},
    # For the signatures that sections are made from.
    "configs": {"builders"},
}
OURS = {
    *ALLOWED,
    "builders",
    "main",
    "scorefield",
    "xla_flags",
    "streams",
    "programs",
    *FOUNDATION,
    "tables",
    "tools",
    "benchmarks",
    "tests",
}
READS_CONFIGS = {
    "builders",
    "main",
    "tables",
    "tools",
    "configs",
}
SKIPPED = {".venv", ".git", "runs", "build", "dist", "node_modules"}


def python_files():
    for path in sorted(ROOT.rglob("*.py")):
        relative = path.relative_to(ROOT)
        if not SKIPPED & set(relative.parts[:-1]) and not relative.parts[0].startswith("."):
            yield relative


def imported(path):
    """Top-level names of all imports in a file, those inside functions included."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import stays inside its own package as long as it has one dot there.
            yield path.parts[0] if node.level else node.module.split(".")[0]


FILES = [str(path) for path in python_files()]


def part_of(file):
    return Path(file).parts[0].removesuffix(".py")


def test_the_walk_finds_the_packages():
    """An empty walk would pass everything below."""
    assert {"sde_lib", "samplers", "likelihood", "losses"} <= {part_of(file) for file in FILES}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_point_one_way(package):
    wrong = [
        f"{file} imports {name}"
        for file in FILES
        if part_of(file) == package
        for name in names(file)
        if name in OURS - FOUNDATION - ALLOWED[package] - {package}
    ]
    assert not wrong


def test_nobody_imports_main():
    assert not [
        f for f in FILES if part_of(f) not in ("main", "tests", "tools") if "main" in names(f)
    ]


def test_what_measures_is_imported_by_nothing_else():
    """Benchmarks may import tests, where the closed forms are, and tests benchmarks."""
    measuring = {"benchmarks", "tests"}
    assert not [f for f in FILES if part_of(f) not in measuring and measuring & names(f)]


def test_only_main_and_builders_see_a_config():
    reads = {"ml_collections", "configs"}
    readers = READS_CONFIGS | {"tests", "benchmarks"}
    assert not [f for f in FILES if part_of(f) not in readers if reads & names(f)]


@functools.cache
def names(file):
    return set(imported(Path(file)))


def test_files_are_short_and_named_for_what_they_hold():
    lengths = {file: len((ROOT / file).read_text().splitlines()) for file in FILES}
    assert not {file: n for file, n in lengths.items() if n > 400}
    assert not [file for file in FILES if Path(file).name in ("utils.py", "helpers.py", "misc.py")]
