"""Programs beside `main.py`, run as `python -m tools.NAME`."""

import xla_flags  # noqa: F401 - sets them, before jax is imported
