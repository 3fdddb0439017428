"""Sets flags of XLA, before jax is imported: `import xla_flags` comes first in every program.

On CPUs some fused sums of jaxlib 0.10.2 are wrong (docs/training.md), so that fusion is switched
off. Another release may not know the flag and would then refuse to start.
"""

import os
from importlib.metadata import version

if version("jaxlib") == "0.10.2":
    NO_FUSION = "--xla_cpu_experimental_ynn_fusion_type="
    os.environ["XLA_FLAGS"] = f"{NO_FUSION} {os.environ.get('XLA_FLAGS', '')}"
