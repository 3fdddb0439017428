"""Shared by all tests. Float32 is the default, as in training; see `x64` for the exceptions."""

import xla_flags  # noqa: F401, I001 - sets them, before jax is imported

import gc
import os
import sys
from pathlib import Path

import jax
import pytest

# `import closed_form` from any test file, whatever folder it is in.
sys.path.insert(0, str(Path(__file__).parent))

import budgets
from compiling import compile_laws, compile_quickly

from programs import check_programs

MOST_MEMORY = 2 * 2**30


compiled = [0]  # programs since the last report


def count(name: str, seconds: float, **_) -> None:
    """Counts a program that is compiled, or found among those that are kept."""
    if name.endswith("backend_compile_duration"):
        compiled[0] += 1


jax.monitoring.register_event_duration_secs_listener(count)


def pytest_configure(config):
    """Most of the time of the tests goes into compiling small programs: workers share them, and the
    next run finds them. `pytest --cache-clear` forgets them."""
    check_programs()
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compile_quickly()
    compile_laws()


def pytest_terminal_summary(terminalreporter):
    """Says what each folder took beside its budget, after a run of several folders."""
    seconds, programs = budgets.by_folder(terminalreporter.stats)
    if len(seconds) > 1:
        terminalreporter.section("seconds and programs by folder, of all workers together")
        for line in budgets.lines(seconds, programs):
            terminalreporter.write_line(line)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Adds to each report how many programs were compiled since the one before."""
    outcome = yield
    outcome.get_result().user_properties.append(("programs", compiled[0]))
    compiled[0] = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """XLA's optimiser is off, for it takes a third of the time of compiling small programs.

    `@pytest.mark.optimised` switches it on, for a test whose programs run for longer than they are
    compiled, or whose numbers need it. The fixtures that such a test is the first to use have it on
    too.
    """
    optimised = item.get_closest_marker("optimised") is not None
    jax.config.update("jax_disable_most_optimizations", not optimised)


@pytest.fixture(scope="session")
def program():
    """`main.py` in processes of its own: `program("--config", ...)`."""
    from program import Program  # which few tests need, and takes seconds to import

    program = Program()
    yield program
    program.close()


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Forgets the programs of a process that has grown large."""
    yield
    if resident() > MOST_MEMORY:
        jax.clear_caches()


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def damages():
    """For a module that reads damaged checkpoints: orbax gives up at the first array that is
    damaged, and the reads of the others find nobody who waits for them. They complain when they
    are collected, which here happens at the end of the module."""
    yield
    gc.collect()


@pytest.fixture
def x64():
    """Float64 for one test, so that what is left of an error is the method's and not rounding's.

    A module whose tests all want it says `pytestmark = pytest.mark.usefixtures("x64")`.
    """
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_ranks():
    """Makes it an error to broadcast `(B,)` against `(B, D)`, which for B = D goes unnoticed."""
    with jax.numpy_rank_promotion("raise"):
        yield
