"""Programs beside `main.py`, run as `python -m tools.NAME`."""

import os
from importlib.metadata import version

# Before jax is imported, as in main.py: on CPUs some fused sums of this release are wrong
# (docs/training.md). Another release may not know the flag, and would stop at it.
if version("jaxlib") == "0.10.2":
    NO_FUSION = "--xla_cpu_experimental_ynn_fusion_type="
    os.environ["XLA_FLAGS"] = f"{NO_FUSION} {os.environ.get('XLA_FLAGS', '')}"
