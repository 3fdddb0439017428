"""A mesh of devices, and how batches and the state are spread over it.

The mesh has two axes, `data` and `fsdp`. A batch is split over both. The state is replicated on
every device if `fsdp` is 1. Otherwise its large arrays are split over the axis `fsdp`: parameters,
their average and the optimizer's moments then take 1/fsdp of the memory, and the parameters are
gathered for each step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
# An array with fewer elements is not split: gathering it would cost more than splitting saves.
SMALL = 2**12


def make_mesh(fsdp: int = 1) -> Mesh:
    """The mesh of all devices of the job; the devices of a process are neighbours.

    Raises:
        ValueError: `fsdp` does not divide the number of devices.
    """
    # TPUs number devices by location and not by process; the loader divides rows by process.
    return mesh_of(sorted(jax.devices(), key=lambda d: (d.process_index, d.id)), fsdp)


def local_mesh() -> Mesh:
    """The mesh of the devices of this process; programs over it do not need other processes."""
    return mesh_of(jax.local_devices())


def mesh_of(devices: list[jax.Device], fsdp: int = 1) -> Mesh:
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(
            f"mesh.fsdp is {fsdp}, which does not divide the {len(devices)} devices; take a "
            "divisor, or 1 for parameters that are whole on every device."
        )
    return Mesh(np.asarray(devices).reshape(-1, fsdp), AXES)


def check_batch(batch_size: int, mesh: Mesh, name: str) -> None:
    """Raise ValueError if the devices do not divide `batch_size`; `name` is its name in the
    sentence."""
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
    """Put a batch, of which each process has its own rows in host memory, onto the devices."""
    sharding = split_over_batch(mesh, axis)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    place = lambda array: jax.make_array_from_process_local_data(sharding, array)
    return jax.tree.map(place, batch)


def state_shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of each leaf of a state, of parameters, or of their shapes.

    The longest axis that `fsdp` divides is split, and among equally long axes the last one, which
    in a kernel is the output channels.
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
    """`loss(params, others, ...)` for parameters that are split over `fsdp`.

    Parameters and `others` are gathered onto each device before the loss. The gradient is summed
    over the devices and split like the parameters. Without these constraints XLA could split the
    layers themselves.
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
    """Shapes, dtypes and shardings on the mesh of what `make` returns, without computing it."""
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

    The program has no collectives, so an adaptive solve ends on a device when the examples on this
    device are done. Rows are padded to a multiple of the number of devices.

    Args:
        run: a function of arrays. In its results the first axis numbers examples.
        shared: number of leading arguments that are the same for all examples. In the other
            arguments the first axis numbers examples.
        together: examples depend on each other in `run`. One program then computes all rows, which
            are split over the devices if their number is a multiple of the devices.
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
