"""Push: each nonzero input goes through its edges. For inputs that are mostly zero, straight from CSR rows.

Outputs that share inputs stand in a row, so that an input may add to `PUSHED` of them at a time; where too few of those
would have an edge, it goes edge by edge.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.errors import InputError
from taskgraph_dnn.kernels import compiled
from taskgraph_dnn.kernels.compiled import PUSHED
from taskgraph_dnn.kernels.groups import count_rows, groups_of
from taskgraph_dnn.kernels.registry import Kernel
from taskgraph_dnn.network import Layer, index_dtype

#: Measured: multiply-adds a second in a row, and outputs a second that are put in their places. Then multiply-adds edge
#: by edge, while a sample's sums stay in the first cache, and beyond.
_ROW_RATE, _TURN_RATE = 4e9, 3e9
_NEAR_EDGE_RATE, _FAR_EDGE_RATE, _NEAR_OUTPUTS = 8e8, 1.5e8, 2**13


@dataclass(frozen=True, eq=False)
class _Packed:
    indptr: NDArray[np.int64]  # inputs + 1
    places: NDArray[np.int32]  # where each edge, or row of `PUSHED` edges, adds to
    weights: NDArray[np.float32]  # as many, or `PUSHED` times as many, with 0 where there is no edge
    order: NDArray[np.int32]  # the output of each place
    biases: NDArray[np.float32]  # of each place, and 0 of those that only fill a row
    outputs: int
    ends: compiled.Ends
    run: Callable[..., None]


def _pack(layer: Layer, dtype: np.dtype[Any]) -> _Packed:
    order = groups_of(layer).order
    ordered = layer.weights[:, order].tocsr()
    ordered.sort_indices()
    biases = np.zeros(-(-layer.outputs // PUSHED) * PUSHED, np.float32)
    biases[: layer.outputs] = layer.bias[order]
    if _in_rows(layer):
        ordered.resize((layer.inputs, len(biases)))
        rows = ordered.tobsr(blocksize=(1, PUSHED))
        rows.sort_indices()
        indptr, places, weights = rows.indptr, PUSHED * rows.indices, rows.data.ravel()
    else:
        indptr, places, weights = ordered.indptr, ordered.indices, ordered.data
    return _Packed(
        indptr.astype(np.int64),
        places.astype(np.int32),
        weights,
        order.astype(np.int32),
        biases,
        layer.outputs,
        compiled.Ends.of(layer),
        compiled.function("pushes", dtype, np.dtype(np.int32)),
    )


def _in_rows(layer: Layer) -> bool:
    return _rows(layer) * PUSHED / _ROW_RATE < layer.nnz / _edge_rate(layer)


def _edge_rate(layer: Layer) -> float:
    return _NEAR_EDGE_RATE if layer.outputs <= _NEAR_OUTPUTS else _FAR_EDGE_RATE


def _rows(layer: Layer) -> int:
    """Return how many rows of `PUSHED` outputs have an edge, over all inputs."""
    if "rows pushed" not in layer.packed:
        layer.packed["rows pushed"] = count_rows(layer, PUSHED)
    return int(layer.packed["rows pushed"])


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    width = packed.weights.size // max(1, packed.places.size)
    inputs = np.repeat(np.arange(len(packed.indptr) - 1), np.diff(packed.indptr) * width)
    places = (packed.places[:, None] + np.arange(width)).ravel()
    there = packed.weights != 0
    shape = len(packed.indptr) - 1, packed.outputs
    dtype = index_dtype(shape, int(there.sum()))
    coordinates = inputs[there].astype(dtype), packed.order[places[there]].astype(dtype)
    return scipy.sparse.coo_array((packed.weights[there], coordinates), shape=shape).tocsc()


def _run(packed: _Packed, rows: scipy.sparse.csr_array, outputs: Values, alive: Alive) -> None:
    shape = len(packed.indptr) - 1, packed.outputs
    lanes = outputs.shape[2]
    as_tiles = -(-rows.shape[0] // lanes), rows.shape[1], lanes
    compiled.check_shapes(as_tiles, outputs.shape, alive.shape, shape)
    if rows.nnz and not 0 <= rows.indices.min() <= rows.indices.max() < shape[0]:
        raise InputError(f"samples have column numbers outside 0 to {shape[0] - 1}: they were changed after `infer`")
    layer = packed.indptr, packed.places, packed.weights, packed.order, packed.biases, packed.ends
    indptr, indices = (np.ascontiguousarray(array, np.int32) for array in (rows.indptr, rows.indices))
    packed.run(*layer, indptr, indices, np.ascontiguousarray(rows.data), outputs, alive)


def _seconds(layer: Layer, lanes: int, density: float) -> float:
    each = layer.nnz / _edge_rate(layer)
    if density < 1:  # otherwise nobody will push, and looking at all edges would be for nothing
        each = min(_rows(layer) * PUSHED / _ROW_RATE, each)
    return float(lanes * (density * each + layer.outputs / _TURN_RATE))


KERNEL = Kernel("push", _pack, _unpack, _run, _seconds, reads_rows=True)
