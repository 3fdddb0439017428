"""Shared by all tests. Float32 is the default, as in training; see `x64` for the exceptions."""

import xla_flags  # noqa: F401, I001 - sets them, before jax is imported

import gc
import sys
from pathlib import Path

import jax
import pytest

# `import closed_form` from any test file, whatever folder it is in.
sys.path.insert(0, str(Path(__file__).parent))

from compiling import compile_laws, compile_quickly


def pytest_configure(config):
    """Most of the time of the tests goes into compiling small programs: workers share them, and the
    next run finds them. `pytest --cache-clear` forgets them."""
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compile_quickly()
    compile_laws()


@pytest.fixture(autouse=True)
def optimiser(request):
    """XLA's optimiser is off, for it takes a third of the time of compiling small programs.

    `@pytest.mark.optimised` switches it on, for a test whose programs run for longer than they are
    compiled, or whose numbers need it.
    """
    optimised = request.node.get_closest_marker("optimised") is not None
    jax.config.update("jax_disable_most_optimizations", not optimised)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def program():
    """`main.py` in processes of its own: `program("--config", ...)`."""
    from program import Program  # which few tests need, and takes seconds to import

    program = Program()
    yield program
    program.close()


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
