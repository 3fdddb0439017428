"""Rules for the code that can be checked: which package imports which, and the length of files."""

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAWS = {"sde_lib"}
# Files that every package may import.
FOUNDATION = {"whole_files"}
SOLVING = {"samplers", "guidance", "restoration", "editing", "operators", "likelihood"}

# The packages of the project that each package may import, besides itself. A training run draws
# samples on the way, so `training` imports `evaluation`, and `evaluation` must not import it.
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
    # The defaults of sections are read from signatures, by `builders`.
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
    """Yield the top-level names of all imports in a file, also of those inside functions."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Relative imports here have one dot, so they stay inside their own package.
            yield path.parts[0] if node.level else node.module.split(".")[0]


FILES = [str(path) for path in python_files()]


def part_of(file):
    return Path(file).parts[0].removesuffix(".py")


def test_the_walk_finds_the_packages():
    """If the walk found no files, all tests below would pass."""
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
    """Only benchmarks and tests may import benchmarks and tests.

    Benchmarks need the closed forms of the tests, and tests check the benchmarks.
    """
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
