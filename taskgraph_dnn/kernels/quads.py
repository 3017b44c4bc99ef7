"""Quads: four outputs at a time, whose inputs are sorted by which of the four read them.

For patterns that are dense, but not dense enough for zeros to be worth multiplying with: an input vector is loaded once
for all of the four that read it, and nothing is computed for the others, without a branch for each input. Inputs are
taken in blocks that are near, as in CSR.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numba import from_dtype, types
from numpy.typing import NDArray

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.kernels import compiled
from taskgraph_dnn.kernels.csr import short_index, streaming_seconds, sums_seconds
from taskgraph_dnn.kernels.emit import PATTERNS, QUAD
from taskgraph_dnn.kernels.jit import compile_for, readonly
from taskgraph_dnn.kernels.registry import Kernel
from taskgraph_dnn.network import Layer, index_dtype

#: Inputs of a block: few enough for a near cache, and enough for the inputs of a pattern to be several (measured).
_BLOCK_INPUTS = 256


@dataclass(frozen=True, eq=False)
class _Packed:
    #: A row for each quad, and for each output that is left, block by block: the first weight, and where in `indices`
    #: the inputs of each pattern begin, and those of the last one end.
    table: NDArray[np.int64]
    indices: NDArray[Any]  # uint16 or int32: the inputs, pattern by pattern, ascending
    weights: NDArray[np.float32]  # of each input, for all outputs that read it
    biases: NDArray[np.float32]
    inputs: int
    ends: compiled.Ends
    run: Callable[..., None]


def _pack(layer: Layer, dtype: np.dtype[Any]) -> _Packed:
    w, blocks = layer.weights, _blocks(layer.inputs)
    table = np.empty((blocks * _pieces(layer.outputs), len(PATTERNS) + 2), np.int64)
    indices, weights = np.empty(layer.nnz, short_index(layer.inputs)), np.empty_like(w.data)
    lists, written = (readonly(from_dtype(a.dtype)) for a in (w.indptr, w.indices, w.data)), (table, indices, weights)
    kinds = [types.Array(from_dtype(array.dtype), array.ndim, "C") for array in written]
    sort = compile_for(_sort, *lists, types.int64, types.int64, *kinds, returns=types.int64)
    count = sort(w.indptr, w.indices, w.data, layer.inputs, blocks, *written)
    run = compiled.function("quads", dtype, indices.dtype)
    return _Packed(table, indices[:count].copy(), weights, layer.bias, layer.inputs, compiled.Ends.of(layer), run)


def _blocks(inputs: int) -> int:
    return max(1, round(inputs / _BLOCK_INPUTS))


def _pieces(outputs: int) -> int:
    """Return how many quads there are, and outputs that are left."""
    return outputs // QUAD + outputs % QUAD


def _sort(indptr, indices, data, inputs, blocks, table, sorted_indices, weights):
    """Write the table, the inputs and the weights of all blocks, and return how many inputs there are."""
    outputs = indptr.size - 1
    fours, size = outputs // QUAD, -(-inputs // blocks)
    pieces = fours + outputs % QUAD
    following = indptr[:-1].copy()  # the next edge of each output
    readers, values = np.zeros(inputs, np.uint8), np.empty((inputs, QUAD), weights.dtype)
    places, weight_places = np.empty((2, 2**QUAD), np.int64)  # of the next input of a pattern, and of its weights
    end, weight_end = 0, 0
    for row in range(table.shape[0]):
        block, piece = row // pieces, row % pieces
        first = piece * QUAD if piece < fours else piece + fours * (QUAD - 1)
        start, stop = block * size, min(inputs, (block + 1) * size)
        counts = np.zeros(2**QUAD, np.int64)
        for r in range(QUAD if piece < fours else 1):
            k = following[first + r]
            while k < indptr[first + r + 1] and indices[k] < stop:
                readers[indices[k]] |= 1 << r
                values[indices[k], r] = data[k]
                k += 1
            following[first + r] = k
        for i in range(start, stop):
            counts[readers[i]] += 1
        table[row, 0] = weight_end
        for pattern in range(1, 2**QUAD):
            places[pattern], weight_places[pattern], table[row, pattern] = end, weight_end, end
            end += counts[pattern]
            for r in range(QUAD):
                weight_end += counts[pattern] * (pattern >> r & 1)
        table[row, 2**QUAD] = end
        for i in range(start, stop):
            pattern = readers[i]
            if pattern:
                sorted_indices[places[pattern]] = i
                places[pattern] += 1
                for r in range(QUAD):
                    if pattern >> r & 1:
                        weights[weight_places[pattern]] = values[i, r]
                        weight_places[pattern] += 1
                readers[i] = 0
    return end


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    outputs = len(packed.biases)
    shape = packed.inputs, outputs
    counts = np.diff(packed.table[:, 1:], axis=1)  # pieces of all blocks x patterns
    whole = outputs - outputs % QUAD
    firsts = np.tile(np.r_[0:whole:QUAD, whole:outputs], _blocks(packed.inputs))
    patterns = np.repeat(np.tile(PATTERNS, len(counts)), counts.ravel())
    place, reader = np.nonzero(patterns[:, None] >> np.arange(QUAD) & 1)  # in the order of the weights
    columns = np.repeat(firsts, counts.sum(axis=1))[place] + reader
    dtype = index_dtype(shape, packed.weights.size)
    coordinates = packed.indices[place].astype(dtype), columns.astype(dtype)
    return scipy.sparse.coo_array((packed.weights, coordinates), shape=shape).tocsc()


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    compiled.check_shapes(inputs.shape, outputs.shape, alive.shape, (packed.inputs, len(packed.biases)))
    packed.run(packed.table, packed.indices, packed.weights, packed.biases, packed.ends, inputs, outputs, alive)


#: Measured, as those of CSR are: for a lane, a multiply-add, and loading an input for those of a quad that read it; and
#: decoding such an input, once for all lanes.
_EDGE_SECONDS, _LOAD_SECONDS, _DECODE_SECONDS = 8.8e-12, 1.09e-11, 5.0e-10


def _seconds(layer: Layer, lanes: int, density: float) -> float:  # noqa: ARG001
    """Estimate a tile of a layer whose pattern is random; where outputs share more inputs, it takes less."""
    tiles = 2 if lanes == max(compiled.LANES) else 1
    filled = layer.nnz / (layer.inputs * layer.outputs)
    loaded = layer.inputs * layer.outputs / QUAD * (1 - (1 - filled) ** QUAD)
    decoding = loaded * _DECODE_SECONDS + streaming_seconds(4 * layer.nnz + 2 * int(loaded))
    sums = _blocks(layer.inputs) * sums_seconds(layer.outputs, lanes)
    return lanes * (layer.nnz * _EDGE_SECONDS + loaded * _LOAD_SECONDS) + decoding / tiles + sums


KERNEL = Kernel("quads", _pack, _unpack, _run, _seconds)
