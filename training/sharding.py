"""The training step as one compiled program over a mesh of one or more devices."""

from typing import Any

import jax
from jax.sharding import Mesh

from parallel.mesh import replicated, split_over_batch
from training.step import StepFn

# On CPUs XLA removes optimisation barriers before fusion. Rematerialised activations then stay in
# memory, and gradients of residual blocks are computed repeatedly. This option keeps the barriers.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def jit_step(
    step: StepFn,
    mesh: Mesh,
    n_jitted_steps: int = 1,
    shardings: Any = None,
    has_frozen: bool = False,
) -> Any:
    """Jit a step (or a scan of steps); the state is donated, the batch is split over the devices.

    Args:
        n_jitted_steps: steps of one call; above 1 the batch axis is the second axis.
        shardings: of the leaves of the state; None replicates the state on every device.
        has_frozen: whether the step has a third argument, networks that are not trained, which are
            replicated on every device.
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
