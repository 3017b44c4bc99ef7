"""Push: each nonzero input goes through its edges. For inputs that are mostly zero, straight from CSR rows.

Outputs that share inputs stand in a row, so that an input may add to `PUSHED` of them at a time; where too few of those
would have an edge, it goes edge by edge. Where no input has more than one edge, as where inputs are summed in classes,
there is nothing to follow but a number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.errors import InputError
from taskgraph_dnn.kernels import compiled, pushes
from taskgraph_dnn.kernels.groups import count_rows, groups_of
from taskgraph_dnn.kernels.pushes import PUSHED, RUN
from taskgraph_dnn.kernels.registry import Kernel
from taskgraph_dnn.network import Layer, index_dtype

#: Measured: multiply-adds a second in a row, and outputs a second that are put in their places. Then multiply-adds edge
#: by edge, while a sample's sums stay in the first cache, and beyond.
_ROW_RATE, _TURN_RATE = 4e9, 3e9
#: Measured: inputs a second that have one edge.
_SINGLE_RATE = 1e9
_NEAR_EDGE_RATE, _FAR_EDGE_RATE, _NEAR_OUTPUTS = 8e8, 1.5e8, 2**13


@dataclass(frozen=True, eq=False)
class _Packed:
    row: int  # outputs that are added to at a time: 1 or `PUSHED`
    indptr: NDArray[np.int64]  # inputs + 1
    places: NDArray[np.int32]  # where each row adds to
    weights: NDArray[np.float32]  # of each row its `row` weights, 0 where there is no edge; or one that they share
    order: NDArray[np.int32]  # the output of each place
    biases: NDArray[np.float32]  # of each place, and 0 of those that only fill a row
    outputs: int
    ends: compiled.Ends
    run: Callable[..., None]


@dataclass(frozen=True, eq=False)
class _Single:
    """A layer of which no input has more than one edge."""

    places: NDArray[Any]  # uint16 or uint32: the output of each input; one after the last where it has none
    weights: NDArray[np.float32]  # of each input; none if all are 1
    runs: NDArray[np.bool_]  # whether the outputs of so many inputs, from this one on, follow one another
    biases: NDArray[np.float32]
    order: NDArray[np.int32]  # the outputs
    ends: compiled.Ends
    run: Callable[..., int]


def _pack(layer: Layer, dtype: np.dtype[Any]) -> "_Packed | _Single":
    if _is_single(layer):
        return _pack_single(layer, dtype)
    order = groups_of(layer).order
    ordered = layer.weights[:, order].tocsr()
    ordered.sort_indices()
    biases = np.zeros(-(-layer.outputs // PUSHED) * PUSHED, np.float32)
    biases[: layer.outputs] = layer.bias[order]
    if _in_rows(layer):
        ordered.resize((layer.inputs, len(biases)))
        rows = ordered.tobsr(blocksize=(1, PUSHED))
        rows.sort_indices()
        row, indptr, places, weights = PUSHED, rows.indptr, PUSHED * rows.indices, rows.data.reshape(-1, PUSHED)
        weights = weights[:, 0] if (weights == weights[:, :1]).all() else weights
    else:
        row, indptr, places, weights = 1, ordered.indptr, ordered.indices, ordered.data
    return _Packed(
        row,
        indptr.astype(np.int64),
        places.astype(np.int32),
        np.ascontiguousarray(weights).ravel(),
        order.astype(np.int32),
        biases,
        layer.outputs,
        compiled.Ends.of(layer),
        pushes.function("pushes", dtype, np.dtype(np.int32)),
    )


def _pack_single(layer: Layer, dtype: np.dtype[Any]) -> _Single:
    w = layer.weights
    places, weights = np.full(layer.inputs, layer.outputs, np.int32), np.zeros(layer.inputs, np.float32)
    places[w.indices], weights[w.indices] = np.repeat(np.arange(layer.outputs), np.diff(w.indptr)), w.data
    places = places.astype(np.uint16 if layer.outputs < 2**16 else np.uint32)
    run = pushes.function("singles", dtype, places.dtype)
    weights = weights[:0] if (w.data == 1).all() else weights
    order = np.arange(layer.outputs, dtype=np.int32)
    return _Single(places, weights, _runs(places), layer.bias, order, compiled.Ends.of(layer), run)


def _runs(places: NDArray[Any]) -> NDArray[np.bool_]:
    """Return at which inputs a run begins of which each place is one after the one before."""
    broken = np.concatenate([[0], np.cumsum(np.diff(places.astype(np.int64)) != 1)])
    runs = np.zeros(len(places), np.bool_)
    ends = broken[RUN - 1 :]
    runs[: len(ends)] = ends == broken[: len(ends)]
    return runs


def _is_single(layer: Layer) -> bool:
    """Return whether no input has more than one edge."""
    return layer.fact("single", lambda: bool(np.bincount(layer.weights.indices, minlength=1).max() <= 1))


def _in_rows(layer: Layer) -> bool:
    return _rows(layer) * PUSHED / _ROW_RATE < layer.nnz / _edge_rate(layer)


def _edge_rate(layer: Layer) -> float:
    return _NEAR_EDGE_RATE if layer.outputs <= _NEAR_OUTPUTS else _FAR_EDGE_RATE


def _rows(layer: Layer) -> int:
    """Return how many rows of `PUSHED` outputs have an edge, over all inputs."""
    return layer.fact("rows pushed", lambda: count_rows(layer, PUSHED))


def _unpack(packed: "_Packed | _Single") -> scipy.sparse.csc_array:
    if isinstance(packed, _Single):
        (inputs,) = np.nonzero(packed.places < len(packed.biases))
        weights = packed.weights[inputs] if packed.weights.size else np.ones(inputs.size, np.float32)
        shape = len(packed.places), len(packed.biases)
        coordinates = inputs.astype(np.int32), packed.places[inputs].astype(np.int32)
        return scipy.sparse.coo_array((weights, coordinates), shape=shape).tocsc()
    row = packed.row
    inputs = np.repeat(np.arange(len(packed.indptr) - 1), np.diff(packed.indptr) * row)
    places = (packed.places[:, None] + np.arange(row)).ravel()
    weights = np.repeat(packed.weights, places.size // max(1, packed.weights.size))  # 1 where each edge has its own
    there = weights != 0
    shape = len(packed.indptr) - 1, packed.outputs
    dtype = index_dtype(shape, int(there.sum()))
    coordinates = inputs[there].astype(dtype), packed.order[places[there]].astype(dtype)
    return scipy.sparse.coo_array((weights[there], coordinates), shape=shape).tocsc()


def _run(packed: "_Packed | _Single", rows: scipy.sparse.csr_array, outputs: Values, alive: Alive) -> None:
    layer: tuple[Any, ...]
    if isinstance(packed, _Single):
        shape = len(packed.places), len(packed.biases)
        layer = packed.places, packed.weights, packed.runs, packed.order, packed.biases, packed.ends
    else:
        shape = len(packed.indptr) - 1, packed.outputs
        layer = packed.row, packed.indptr, packed.places, packed.weights, packed.order, packed.biases, packed.ends
    lanes = outputs.shape[2]
    as_tiles = -(-rows.shape[0] // lanes), rows.shape[1], lanes
    compiled.check_shapes(as_tiles, outputs.shape, alive.shape, shape)
    indptr, indices = (np.ascontiguousarray(array, np.int32) for array in (rows.indptr, rows.indices))
    values = np.ascontiguousarray(rows.data)
    if isinstance(packed, _Single):
        unknown = packed.run(*layer, indptr, indices.view(np.uint32), values, outputs, alive)
    else:
        unknown = int(rows.nnz and not 0 <= indices.min() <= indices.max() < shape[0])
        if not unknown:
            packed.run(*layer, indptr, indices, values, outputs, alive)
    if unknown:
        raise InputError(f"samples have column numbers outside 0 to {shape[0] - 1}: they were changed after `infer`")


def _seconds(layer: Layer, lanes: int, density: float) -> float:
    if density < 1 and _is_single(layer):
        return float(lanes * (density * layer.nnz / _SINGLE_RATE + layer.outputs / _TURN_RATE))
    each = layer.nnz / _edge_rate(layer)
    if density < 1:  # otherwise nobody will push, and looking at all edges would be for nothing
        each = min(_rows(layer) * PUSHED / _ROW_RATE, each)
    return float(lanes * (density * each + layer.outputs / _TURN_RATE))


KERNEL = Kernel("push", _pack, _unpack, _run, _seconds, reads_rows=True)
