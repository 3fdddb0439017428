"""A mesh of devices, and how batches and the state are spread over it.

A mesh has two axes. A batch is split over both. The state is whole on every device, or with
`fsdp` above 1 its large arrays are split over that axis. Parameters, their average and the
optimizer's moments then take 1/fsdp of the memory, and parameters are gathered for each step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
# An array of fewer elements stays whole, because gathering would cost more than it saves.
SMALL = 2**12


def make_mesh(fsdp: int = 1) -> Mesh:
    """A mesh of all devices of the job; the devices of a process are neighbours.

    Raises:
        ValueError: if `fsdp` does not divide the number of devices.
    """
    # TPUs number devices by their place, but the loader deals rows out by process.
    return mesh_of(sorted(jax.devices(), key=lambda d: (d.process_index, d.id)), fsdp)


def local_mesh() -> Mesh:
    """A mesh of the devices of this process, for programs that need no other process."""
    return mesh_of(jax.local_devices())


def mesh_of(devices: list[jax.Device], fsdp: int = 1) -> Mesh:
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(
            f"mesh.fsdp is {fsdp}, which does not divide the {len(devices)} devices; take a "
            "divisor, or 1 for parameters that are whole on every device."
        )
    return Mesh(np.asarray(devices).reshape(-1, fsdp), AXES)


def check_batch(batch_size: int, mesh: Mesh, name: str) -> None:
    """Raise ValueError if a batch does not divide over the devices."""
    devices = mesh.devices.size
    if batch_size % devices:
        raise ValueError(
            f"{name} is {batch_size}, which does not divide over {devices} devices; "
            f"take a multiple of {devices}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_over_batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """The sharding that splits the batch axis, at position `axis`, over all devices."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, AXES))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh, axis: int = 0) -> dict[str, jax.Array]:
    """Move a batch from the host to the devices; each process holds its share of the batch."""
    sharding = split_over_batch(mesh, axis)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    place = lambda array: jax.make_array_from_process_local_data(sharding, array)
    return jax.tree.map(place, batch)


def state_shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of each leaf of a state, of parameters, or of their shapes.

    The longest axis that `fsdp` divides is split, and the last one among equals. For a kernel this
    is the axis of output channels.
    """
    return jax.tree.map(partial(leaf_sharding, mesh=mesh), tree)


def leaf_sharding(leaf: Any, mesh: Mesh) -> NamedSharding:
    parts = mesh.shape["fsdp"]
    fits = [axis for axis, size in enumerate(leaf.shape) if size % parts == 0]
    if parts == 1 or leaf.size < SMALL or not fits:
        return replicated(mesh)
    axis = max(fits, key=lambda axis: (leaf.shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp"))


def gathered(loss: Callable, mesh: Mesh) -> Callable:
    """The loss for parameters that are split over `fsdp`. They are gathered before the loss, and
    the gradient is summed and split as the parameters are.

    Otherwise XLA could split the layers themselves. `loss(params, others, ...)`: the others are
    gathered too.
    """
    if mesh.shape["fsdp"] == 1:
        return loss
    constrain = jax.lax.with_sharding_constraint

    @jax.custom_vjp
    def gather(params):
        return constrain(params, replicated(mesh))

    gather.defvjp(
        lambda params: (gather(params), None),
        lambda _, grads: (constrain(grads, state_shardings(grads, mesh)),),
    )
    whole = lambda tree: constrain(tree, replicated(mesh))
    return lambda params, others, *args: loss(gather(params), whole(others), *args)


def abstract(make: Callable[[], Any], mesh: Mesh) -> Any:
    """Shapes, dtypes and shardings on the mesh of what `make` returns."""
    shapes = jax.eval_shape(make)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh),
    )


def localised(tree: Any, mesh: Mesh) -> Any:
    """Copies of arrays on the mesh of a job, replicated on every device of this process.

    A single process with `fsdp` 1 gets the arrays themselves.
    """
    if jax.process_count() == 1 and mesh.shape["fsdp"] == 1:
        return tree
    whole = jax.jit(lambda t: t, out_shardings=replicated(mesh))(tree)
    return jax.device_put(
        jax.tree.map(lambda leaf: leaf.addressable_data(0), whole), replicated(local_mesh())
    )


def by_device(run: Callable, shared: int, *, together: bool = False) -> Callable:
    """`run(*args)`, compiled for the devices of this process, each of which computes its own rows.

    The first `shared` arguments are the same for all examples. The first axis of the other
    arguments and of each result numbers examples. The program has no collectives, so an adaptive
    solve ends on a device when its own examples are done. Rows are padded to a multiple of the
    devices.

    Args:
        together: for a `run` in which examples depend on each other. Then there is one program over
            all rows, which are split if the number of devices divides their number.
    """
    mesh = local_mesh()
    devices = mesh.devices.size
    specs = lambda args: (PartitionSpec(),) * shared + (PartitionSpec(AXES),) * (len(args) - shared)

    @jax.jit
    def apart(*args):
        mapped = jax.shard_map(
            run, mesh=mesh, in_specs=specs(args), out_specs=PartitionSpec(AXES), check_vma=False
        )
        return mapped(*args)

    def call(*args):
        first, rows = args[:shared], args[shared:]
        n = len(jax.tree.leaves(rows)[0])
        if devices == 1 or (together and n % devices):
            return whole(*args)
        if together:
            return whole(*first, *jax.device_put(rows, split_over_batch(mesh)))
        if n % devices == 0:
            return apart(*args)
        filled = np.arange(n + -n % devices)
        filled[n:] = 0
        found = apart(*first, *jax.tree.map(lambda a: a[filled], rows))
        return jax.tree.map(lambda v: v[:n], found)

    whole = jax.jit(run)
    return call
