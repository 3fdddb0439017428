"""Shared by all tests. Float32 is the default, as in training; see `x64` for the exceptions."""

import xla_flags  # noqa: F401, I001 - sets them, before jax is imported

import sys
from pathlib import Path

import jax
import pytest

# `import closed_form` from any test file, whatever folder it is in.
sys.path.insert(0, str(Path(__file__).parent))


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
