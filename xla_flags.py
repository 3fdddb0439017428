"""Sets flags of XLA, before jax is imported: `import xla_flags` comes first in every program.

On CPUs some fused sums of jaxlib 0.10.2 are wrong (docs/training.md), so this fusion is switched
off. The flag is set for this release only, because XLA stops at a flag that it does not know.
"""

import os
from importlib.metadata import version

if version("jaxlib") == "0.10.2":
    NO_FUSION = "--xla_cpu_experimental_ynn_fusion_type="
    os.environ["XLA_FLAGS"] = f"{NO_FUSION} {os.environ.get('XLA_FLAGS', '')}"
