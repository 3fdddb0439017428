"""Where arrays live: one `jit` over a mesh, the same code path on one device and on many."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from training.step import StepFn

# On CPUs XLA drops optimisation barriers before it fuses: rematerialised activations are then kept
# all the same, and the gradients of residual blocks computed over and over. This keeps barriers.
KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}


def make_mesh() -> Mesh:
    """All devices in one line, axis `data`."""
    return Mesh(np.asarray(jax.devices()), ("data",))


def check_batch(batch_size: int, mesh: Mesh, name: str) -> None:
    """Raises ValueError where a batch does not divide over the devices."""
    devices = mesh.devices.size
    if batch_size % devices:
        raise ValueError(
            f"{name} is {batch_size}, which does not divide over {devices} devices; "
            f"take a multiple of {devices}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_over_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The batch axis, at position `axis`, spread over the devices."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, axis: int = 0) -> dict[str, jax.Array]:
    """A batch from the host, of which each process holds its share, onto the devices."""
    sharding = split_over_batch(mesh, axis)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def jit_step(step: StepFn, mesh: Mesh, n_jitted_steps: int = 1) -> Any:
    """Compiles a step (or a scan of steps): state replicated and donated, batch split."""
    batch_axis = 0 if n_jitted_steps == 1 else 1
    return jax.jit(
        step,
        in_shardings=(replicated(mesh), split_over_batch(mesh, batch_axis)),
        out_shardings=(replicated(mesh), replicated(mesh)),
        donate_argnums=0,
        compiler_options=KEEP_BARRIERS if jax.default_backend() == "cpu" else None,
    )
