"""Fixtures and settings of all tests. The default is float32, as in training; see `x64`."""

import xla_flags  # noqa: F401, I001 - sets XLA's flags before jax is imported

import gc
import os
import sys
from pathlib import Path

import jax
import pytest

# Makes `import closed_form` work in test files of every folder.
sys.path.insert(0, str(Path(__file__).parent))

import budgets
from compiling import compile_laws, compile_quickly

from programs import check_programs

MOST_MEMORY = 2 * 2**30


compiled = [0]  # number of programs since the last report


def count(name: str, seconds: float, **_) -> None:
    """Count a program that is compiled, or read from the cache."""
    if name.endswith("backend_compile_duration"):
        compiled[0] += 1


jax.monitoring.register_event_duration_secs_listener(count)


def pytest_configure(config):
    """Keep compiled programs on disk, and compile quickly.

    Most of the time of the tests is the compilation of small programs. The workers share the
    programs, and the next run finds them. `pytest --cache-clear` deletes them.
    """
    check_programs()
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compile_quickly()
    compile_laws()


def pytest_terminal_summary(terminalreporter):
    """Print the time of each folder beside its budget, after a run of several folders."""
    seconds, programs = budgets.by_folder(terminalreporter.stats)
    if len(seconds) > 1:
        terminalreporter.section("seconds and programs by folder, of all workers together")
        for line in budgets.lines(seconds, programs):
            terminalreporter.write_line(line)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Add to each report the number of programs compiled since the previous report."""
    outcome = yield
    outcome.get_result().user_properties.append(("programs", compiled[0]))
    compiled[0] = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Switch XLA's optimiser off, because it takes a third of the compilation of small programs.

    `@pytest.mark.optimised` switches the optimiser on, for tests whose programs run longer than
    they compile, or whose numbers need it. It is then also on for fixtures that such a test is the
    first to use.
    """
    optimised = item.get_closest_marker("optimised") is not None
    jax.config.update("jax_disable_most_optimizations", not optimised)


@pytest.fixture(scope="session")
def program():
    """Run `main.py` in processes of its own: `program("--config", ...)`."""
    from program import Program  # imported here: it takes seconds, and few tests need it

    program = Program()
    yield program
    program.close()


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Clear jax's caches after a module if the process holds more than `MOST_MEMORY`."""
    yield
    if resident() > MOST_MEMORY:
        jax.clear_caches()


def resident() -> int:
    """Return the bytes of memory that this process holds; 0 if the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def damages():
    """Collect garbage at the end of a module that reads damaged checkpoints.

    orbax stops at the first damaged array, and nothing awaits its reads of the other arrays. Python
    warns about these reads when they are collected; with this fixture the warnings appear at the
    end of the module, not in a later test.
    """
    yield
    gc.collect()


@pytest.fixture
def x64():
    """Use float64 in one test, so that its errors are those of the method and not of rounding.

    A module uses it in all its tests by `pytestmark = pytest.mark.usefixtures("x64")`.
    """
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_ranks():
    """Make it an error to broadcast `(B,)` against `(B, D)`; for B = D jax would not notice."""
    with jax.numpy_rank_promotion("raise"):
        yield
