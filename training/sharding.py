"""The training step as one compiled program over a mesh, on one device and on many."""

from typing import Any

import jax
from jax.sharding import Mesh

from parallel.mesh import replicated, split_over_batch
from training.step import StepFn

# On CPUs XLA drops optimisation barriers before it fuses: rematerialised activations are then kept
# all the same, and the gradients of residual blocks computed over and over. This keeps barriers.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def jit_step(
    step: StepFn,
    mesh: Mesh,
    n_jitted_steps: int = 1,
    shardings: Any = None,
    has_frozen: bool = False,
) -> Any:
    """Compiles a step (or a scan of steps): state donated, batch split.

    Args:
        shardings: of the leaves of the state; whole on every device if not given.
        has_frozen: the step has a third argument, networks that are not trained, which lie whole on
            every device.
    """
    batch_axis = 0 if n_jitted_steps == 1 else 1
    shardings = replicated(mesh) if shardings is None else shardings
    return jax.jit(
        step,
        in_shardings=(
            shardings,
            split_over_batch(mesh, batch_axis),
            *[replicated(mesh)] * has_frozen,
        ),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=KEEP_BARRIERS if jax.default_backend() == "cpu" else None,
    )
