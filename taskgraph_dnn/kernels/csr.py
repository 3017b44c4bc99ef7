"""CSR: one output after the other, any pattern and any number of edges.

Input numbers are kept in 16 bits where they fit; the weights are the layer's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.kernels import compiled
from taskgraph_dnn.kernels.registry import Kernel
from taskgraph_dnn.network import Layer, index_dtype


@dataclass(frozen=True, eq=False)
class _Packed:
    indptr: NDArray[np.int64]  # outputs + 1
    indices: NDArray[Any]  # uint16 or int32: the inputs of each output's edges, ascending, and `AHEAD` zeros
    weights: NDArray[np.float32]
    biases: NDArray[np.float32]
    inputs: int
    ends: compiled.Ends
    run: Callable[..., None]


def short_indices(indices: NDArray[Any], inputs: int) -> NDArray[Any]:
    """Return input numbers in 16 bits, or in 32 where there are too many inputs."""
    return indices.astype(np.uint16 if inputs <= 2**16 else np.int32)


def _pack(layer: Layer, dtype: np.dtype[Any]) -> _Packed:
    w = layer.weights
    indices = short_indices(np.append(w.indices, np.zeros(compiled.AHEAD, w.indices.dtype)), layer.inputs)
    run = compiled.function("rows", dtype, indices.dtype)
    return _Packed(w.indptr.astype(np.int64), indices, w.data, layer.bias, layer.inputs, compiled.Ends.of(layer), run)


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    shape = packed.inputs, len(packed.biases)
    dtype = index_dtype(shape, packed.weights.size)
    arrays = packed.weights, packed.indices[: packed.weights.size].astype(dtype), packed.indptr.astype(dtype)
    return scipy.sparse.csc_array(arrays, shape=shape)


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    compiled.check_shapes(inputs.shape, outputs.shape, alive.shape, (packed.inputs, len(packed.biases)))
    layer = packed.indptr, packed.indices, packed.weights, packed.biases, packed.ends
    packed.run(*layer, inputs, outputs, alive)


def _seconds(layer: Layer, lanes: int, density: float) -> float:  # noqa: ARG001
    return layer.nnz * edge_seconds(layer, lanes)


def edge_seconds(layer: Layer, lanes: int, nbytes: int = 6, near: float = 0.0) -> float:
    """Return what an edge takes, for all lanes of a tile, where each reads a vector from somewhere in the tile.

    Args:
        layer: the layer.
        lanes: samples in a tile.
        nbytes: of an edge in memory.
        near: which part of the vectors is still in the first cache, because another output has just read it.
    """
    missed = max(0.0, 1 - _CACHED_NBYTES / max(1, nbytes * layer.nnz))
    return lanes * max(1 / _NEAREST_RATE, (1 - near) / _rate(lanes, layer.inputs)) + nbytes * missed / _STREAM_RATE


@cache
def _rate(lanes: int, inputs: int) -> float:
    sizes, rates = _RATES[min(_RATES, key=lambda known: abs(known - lanes))]
    return float(np.interp(np.log2(4 * lanes * inputs), sizes, rates))


#: Measured, multiply-adds a second by the size of the tile of inputs (log2 of its bytes), for 32 and for 16 lanes, with
#: the tile in the first cache, in the second, in the third, and beyond (docs/kernels.md).
_RATES = {
    32: ([15, 17, 19, 21, 23, 25], [3.7e10, 3.0e10, 2.5e10, 2.0e10, 1.5e10, 1.0e10]),
    16: ([14, 16, 18, 20, 22, 24], [2.8e10, 2.6e10, 2.5e10, 1.8e10, 1.3e10, 1.0e10]),
}
#: With nothing to wait for but the load ports.
_NEAREST_RATE = 4.4e10
#: Bytes a second of edges that no cache holds, and how many bytes of them one does.
_STREAM_RATE, _CACHED_NBYTES = 6e9, 2**24

KERNEL = Kernel("csr", _pack, _unpack, _run, _seconds)
