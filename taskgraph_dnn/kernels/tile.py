"""Tile: outputs that read the same inputs, or nearly so, are computed together, up to 16 at a time.

RadiX-Net layers are of this kind, and layers that were pruned in tiles (Guo et al., SC 2020). Each input vector is
loaded once for a whole group, and the group's product is as dense as that of two matrices; outputs without company are
computed as in CSR.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.kernels import compiled
from taskgraph_dnn.kernels.csr import edge_seconds, short_indices, sums_seconds
from taskgraph_dnn.kernels.groups import BLOCK_RATE, PIECES, SINGLE, TOGETHER, Groups, groups_of, inputs_by_size
from taskgraph_dnn.kernels.registry import Kernel
from taskgraph_dnn.network import Layer, index_dtype


@dataclass(frozen=True, eq=False)
class _Packed:
    #: A row for each piece of a group: outputs, first place in `order`, first input in `indices` and the end of them,
    #: first weight, how far ahead the inputs to prefetch are, whether any weight is padding, and how far an input's
    #: weights are from those of the one before: `outputs`, or 0 where all inputs have the same ones.
    pieces: NDArray[np.int64]
    order: NDArray[np.int32]  # the outputs, piece by piece
    indices: NDArray[Any]  # uint16 or int32: the inputs of each group, ascending
    weights: NDArray[np.float32]  # of each piece, inputs x outputs, or of one input for all; padding is 0
    biases: NDArray[np.float32]
    inputs: int
    ends: compiled.Ends
    run: Callable[..., None]


def _pack(layer: Layer, dtype: np.dtype[Any]) -> _Packed:
    groups, w = groups_of(layer), layer.weights
    table = _pieces(groups)
    weights = np.empty(table[:, 0] @ (table[:, 3] - table[:, 2]), np.float32)
    indices = short_indices(groups.indices, layer.inputs)
    order = groups.order.astype(np.int32)
    packed = compiled.pack_groups(w.indptr, w.indices, w.data, order, indices, table, weights)
    run = compiled.function("groups", dtype, indices.dtype)
    weights = weights[:packed].copy()
    return _Packed(table, order, indices, weights, layer.bias, layer.inputs, compiled.Ends.of(layer), run)


def _pieces(groups: Groups) -> NDArray[np.int64]:
    """Return the table of pieces, but for what the weights say."""
    sizes = np.diff(groups.starts)
    outputs = np.array([size for n in sizes for size in PIECES[n]], np.int64)
    group = np.repeat(np.arange(len(sizes)), [len(PIECES[n]) for n in sizes])
    table = np.zeros((len(outputs), 8), np.int64)
    table[:, 0] = outputs
    table[1:, 1] = np.cumsum(outputs)[:-1]
    table[:, 2], table[:, 3] = groups.indptr[group], groups.indptr[group + 1]
    inputs = table[:, 3] - table[:, 2]
    # The next piece's inputs, as many as this piece has, and none beyond the end.
    table[:-1, 5] = np.minimum(table[1:, 2], len(groups.indices) - inputs[:-1]) - table[:-1, 2]
    return table


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    rows, columns, values = [], [], []
    for size, first, edge, stop, weight, _, _, stride in packed.pieces:
        count = stop - edge if stride else 1
        block = packed.weights[weight : weight + size * count].reshape(count, size)
        block = np.broadcast_to(block, (stop - edge, size))
        there = np.nonzero(block)
        rows.append(packed.indices[edge:stop][there[0]])
        columns.append(packed.order[first : first + size][there[1]])
        values.append(block[there])
    shape = packed.inputs, len(packed.biases)
    dtype = index_dtype(shape, sum(map(len, values)))
    coordinates = tuple(np.concatenate(part).astype(dtype) for part in (rows, columns))
    return scipy.sparse.coo_array((np.concatenate(values), coordinates), shape=shape).tocsc()


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    compiled.check_shapes(inputs.shape, outputs.shape, alive.shape, (packed.inputs, len(packed.biases)))
    layer = packed.pieces, packed.order, packed.indices, packed.weights, packed.biases, packed.ends
    packed.run(*layer, inputs, outputs, alive)


#: One output after the other takes longer where each is a piece of its own (measured).
_PIECES = 1.15


def _seconds(layer: Layer, lanes: int, density: float) -> float:  # noqa: ARG001
    grouped = np.array(layer.fact("grouped", lambda: inputs_by_size(groups_of(layer))))
    alone = _PIECES * edge_seconds(layer, lanes)
    edges = TOGETHER @ grouped * lanes / BLOCK_RATE + SINGLE @ grouped * alone
    return float(edges) + sums_seconds(layer.outputs, lanes)


KERNEL = Kernel("tile", _pack, _unpack, _run, _seconds)
