"""CSR: one output after the other, any pattern and any number of edges.

Input numbers are kept in 16 bits where they fit; the weights are the layer's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
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
    indices: NDArray[Any]  # uint16 or int32: the inputs of each output's edges, ascending
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
    indices = short_indices(w.indices, layer.inputs)
    run = compiled.function("rows", dtype, indices.dtype)
    return _Packed(w.indptr.astype(np.int64), indices, w.data, layer.bias, layer.inputs, compiled.Ends.of(layer), run)


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    shape = packed.inputs, len(packed.biases)
    dtype = index_dtype(shape, packed.weights.size)
    arrays = packed.weights, packed.indices.astype(dtype), packed.indptr.astype(dtype)
    return scipy.sparse.csc_array(arrays, shape=shape)


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    layer = packed.indptr, packed.indices, packed.weights, packed.biases, packed.ends
    packed.run(*layer, inputs, outputs, alive)


def _seconds(layer: Layer, lanes: int, density: float) -> float:  # noqa: ARG001
    return gather_seconds(layer, lanes) * layer.nnz


def gather_seconds(layer: Layer, lanes: int) -> float:
    """Return what an edge takes, for all lanes of a tile, where each needs a vector from somewhere in the tile."""
    nbytes = 4 * lanes * layer.inputs
    rate = np.interp(np.log2(nbytes), _TILE_LOG2_NBYTES, _MULTIPLY_ADDS_PER_SECOND)
    return float(lanes / rate)


#: Measured: with the tile in the first, second and third cache, and beyond (see docs/kernels.md).
_TILE_LOG2_NBYTES = [15, 17, 19, 21, 22, 24]
_MULTIPLY_ADDS_PER_SECOND = [3.7e10, 3.2e10, 2.7e10, 2.1e10, 1.4e10, 1.0e10]

KERNEL = Kernel("csr", _pack, _unpack, _run, _seconds)
