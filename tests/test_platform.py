"""Errors once found in the libraries that the project uses, and their workarounds."""

import os
import subprocess
import sys

from program import ROOT

# Runs in a process of its own, which compiles with the program's flags and not with the tests'.
FUSED = """
import xla_flags
import jax
import jax.numpy as jnp
import numpy as np

def f(B, z):
    return jnp.sum(z * z * jnp.expm1(-B)[:, None], -1) * jnp.expm1(B)

B = np.linspace(0.1, 5.0, 8192, dtype=np.float32)
z = np.random.default_rng(0).standard_normal((8192, 3)).astype(np.float32)
truth = np.sum(z * z, -1) * np.expm1(-B) * np.expm1(B)
np.testing.assert_allclose(jax.jit(f)(B, z), truth, rtol=1e-4)
"""


def test_two_expm1_in_one_fused_sum_are_two():
    """XLA's YNNPACK fusions on the CPU (jaxlib 0.10.2) confuse two arguments of a function.

    They treat expm1, log1p or log of an array and of a multiple of that array as equal. From 4096
    rows on, `sum(z^2) expm1(-B) expm1(B)` is computed as `sum(z^2) expm1(-B)^2`, which gives a
    wrong weight in a loss, without a warning. xla_flags.py switches these fusions off by
    `XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type=` (empty).
    """
    compiling = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {key: value for key, value in os.environ.items() if key not in compiling}
    given = {"capture_output": True, "text": True, "cwd": ROOT, "env": environment}
    result = subprocess.run([sys.executable, "-c", FUSED], check=False, **given)
    assert result.returncode == 0, result.stderr
