"""Programs beside `main.py`, run as `python -m tools.NAME`."""

import xla_flags  # noqa: F401 - sets XLA's flags before jax is imported
