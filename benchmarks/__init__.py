"""Measurements: each script answers one question. See README.md."""

import xla_flags  # noqa: F401 - sets XLA's flags before jax is imported
