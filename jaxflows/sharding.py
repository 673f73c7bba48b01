"""Rows shared out over devices: every device works on its own rows, by itself, and holds all parameters.

A batch is laid out along one mesh axis and parameters are copied to every device (`jax.sharding.NamedSharding`). What is done
row by row runs under `jax.shard_map`, and not under the compiler's own partitioning: there a ``while_loop`` over a batch, which
goes on while any row does, would ask all devices after every iteration. Here each device's solves end when its own rows are
solved, and devices meet outside the loops: once for the sums of a loss and once for its gradient.

Keys and noise are drawn for the whole batch before it is shared out, so that results do not depend on the number of devices,
up to the order in which floating-point sums are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxflows.recomputation import recomputed

_AXIS = "rows"

Devices = Sequence[jax.Device] | None


def row_mesh(devices: Devices, among: Sequence[jax.Device]) -> Mesh | None:
    """A mesh of one axis, over which rows are shared out; None where there is one device, and nothing to share.

    Args:
        devices: as the user gave them; None for all of ``among``, or for the one that ``jax.default_device`` set.
        among: all there are: ``jax.devices()``, those of other hosts too, or ``jax.local_devices()``.

    Raises:
        ValueError: no devices, or one twice.
    """
    chosen = list(among if devices is None else devices)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"expected devices, each once; got {devices}")
    config: Any = jax.config
    if devices is None and (len(chosen) == 1 or config.jax_default_device is not None):
        return None
    # of one device too where it is named: the caller's arrays may be elsewhere, and a mesh brings them there
    return Mesh(np.array(chosen), (_AXIS,))


def by_rows(function: Callable[[Any, Any], Any], mesh: Mesh | None, parts: int = 1) -> Callable[[Any, Any], Any]:
    """``(shared, rows) -> function(shared, rows)``, each device with its share of the rows and no word to the others.

    A batch that does not divide is filled up with copies of its first rows, whose results are dropped: that costs the time of
    one row a device and part at most.

    Args:
        function: what it gives has a leading axis of rows in every leaf, as ``rows`` has, and each row's result depends on
            ``shared`` and on that row alone. It may close over static values, not over traced ones.
        mesh: from `row_mesh`; None runs the function on one device.
        parts: micro-batches that a device takes one after another. A gradient then computes each again when it comes to it,
            except for what is `jaxflows.recomputation.kept`, and adds their gradients up: memory is that of one of them.
    """
    if parts > 1:
        function = _in_parts(function, parts)
    if mesh is not None:
        spread, whole = PartitionSpec(_AXIS), PartitionSpec()
        # without tracking of what varies between devices, which wants every loop's carry annotated
        function = jax.shard_map(function, mesh=mesh, in_specs=(whole, spread), out_specs=spread, check_vma=False)
    divisor = parts * (1 if mesh is None else mesh.size)

    def run(shared: Any, rows: Any) -> Any:
        count = jax.tree.leaves(rows)[0].shape[0]
        short = -count % divisor
        if short == 0:
            return function(shared, rows)
        filling = np.arange(count + short) % count
        return jax.tree.map(lambda leaf: leaf[:count], function(shared, jax.tree.map(lambda leaf: leaf[filling], rows)))

    return run


def _in_parts(function: Callable[[Any, Any], Any], parts: int) -> Callable[[Any, Any], Any]:
    again = recomputed(function)

    def run(shared: Any, rows: Any) -> Any:
        cut = jax.tree.map(lambda leaf: leaf.reshape(parts, -1, *leaf.shape[1:]), rows)
        done = jax.lax.map(lambda some: again(shared, some), cut)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), done)

    return run


def replicated(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays copied to every device of the mesh; what is there already may be shared with the result."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: _placed(leaf, NamedSharding(mesh, PartitionSpec())), tree)


def replicated_inside(tree: Any, mesh: Mesh | None) -> Any:
    """`replicated` of what a compiled program has shared out: one exchange between the devices."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def shared_out(batch: Any, mesh: Mesh | None) -> Any:
    """A batch with its rows on their devices; on all of them where it does not divide, until `by_rows` fills it up."""
    if mesh is None:
        return batch

    def place(leaf: jax.Array) -> jax.Array:
        return _placed(leaf, NamedSharding(mesh, PartitionSpec(_AXIS) if len(leaf) % mesh.size == 0 else PartitionSpec()))

    return jax.tree.map(place, batch)


def _placed(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if jax.process_count() == 1:
        return jax.device_put(leaf, sharding)
    # of other hosts' devices every process fills its own part, and all processes hold the same numbers
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def gathered(tree: Any, mesh: Mesh | None) -> Any:
    """`replicated` taken back: the same numbers on the default device, bound to none."""
    return tree if mesh is None else jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), tree)
