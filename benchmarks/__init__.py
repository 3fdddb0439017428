"""One question a script; see README.md."""

import xla_flags  # noqa: F401 - sets them, before jax is imported
