"""Shared by all tests. Float32 is the default, as in training; see `x64` for the exceptions."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

# Before jax is imported: see test_platform.py. Another release may not know the flag.
if version("jaxlib") == "0.10.2":
    NO_FUSION = "--xla_cpu_experimental_ynn_fusion_type="
    os.environ["XLA_FLAGS"] = f"{NO_FUSION} {os.environ.get('XLA_FLAGS', '')}"

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
