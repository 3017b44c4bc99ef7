"""CSR: one output after the other, any pattern and any number of edges, for one block of the inputs after the other.

The blocks are as large as a cache, where outputs have edges enough in each; else there is one, whose weights are the
layer's own. Input numbers are kept in 16 bits where they fit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
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
    indptr: NDArray[np.int64]  # blocks x outputs + 1
    indices: NDArray[Any]  # uint16 or int32: the inputs of each output's edges, ascending, block by block
    weights: NDArray[np.float32]
    biases: NDArray[np.float32]
    inputs: int
    ends: compiled.Ends
    run: Callable[..., None]


def short_indices(indices: NDArray[Any], inputs: int) -> NDArray[Any]:
    """Return input numbers in 16 bits, or in 32 where there are too many inputs."""
    return indices.astype(short_index(inputs))


def short_index(inputs: int) -> Any:
    """Return the type of the numbers of so many inputs."""
    return np.uint16 if inputs <= 2**16 else np.int32


def _pack(layer: Layer, dtype: np.dtype[Any]) -> _Packed:
    w, blocks = layer.weights, _blocks(layer, dtype.itemsize)
    indptr, indices, weights = w.indptr.astype(np.int64), short_indices(w.indices, layer.inputs), w.data
    if blocks > 1:
        block = (w.indices // -(-layer.inputs // blocks)).astype(np.uint16)
        order = np.argsort(block, kind="stable")
        outputs = np.repeat(np.arange(layer.outputs), np.diff(w.indptr))
        counts = np.bincount(block * np.int64(layer.outputs) + outputs, minlength=blocks * layer.outputs)
        indptr, indices, weights = np.append(0, counts.cumsum()), indices[order], weights[order]
    run = compiled.function("rows", dtype, indices.dtype)
    return _Packed(indptr, indices, weights, layer.bias, layer.inputs, compiled.Ends.of(layer), run)


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    outputs = len(packed.biases)
    shape = packed.inputs, outputs
    dtype = index_dtype(shape, packed.weights.size)
    by_block = np.tile(np.arange(outputs, dtype=dtype), (packed.indptr.size - 1) // max(1, outputs))
    coordinates = packed.indices.astype(dtype), np.repeat(by_block, np.diff(packed.indptr))
    return scipy.sparse.coo_array((packed.weights, coordinates), shape=shape).tocsc()


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    compiled.check_shapes(inputs.shape, outputs.shape, alive.shape, (packed.inputs, len(packed.biases)))
    layer = packed.indptr, packed.indices, packed.weights, packed.biases, packed.ends
    packed.run(*layer, inputs, outputs, alive)


def _blocks(layer: Layer, itemsize: int) -> int:
    """Return into how many blocks to cut the inputs: small ones are in a near cache, but each moves the sums once."""
    return _fastest(layer.inputs, layer.outputs, layer.nnz, itemsize)


@lru_cache(2**12)
def _fastest(inputs: int, outputs: int, nnz: int, itemsize: int) -> int:
    most = max(1, inputs // _LEAST_INPUTS)
    counts = [1 << n for n in range(most.bit_length())]
    seconds = [_pass_seconds(inputs, outputs, nnz, 32, itemsize, blocks) for blocks in counts]
    return counts[seconds.index(min(seconds))]


def _seconds(layer: Layer, lanes: int, density: float) -> float:  # noqa: ARG001
    return _pass_seconds(layer.inputs, layer.outputs, layer.nnz, lanes, 4, _blocks(layer, 4))


def _pass_seconds(inputs: int, outputs: int, nnz: int, lanes: int, itemsize: int, blocks: int) -> float:
    """Estimate a tile."""
    block = itemsize * lanes * inputs / blocks
    tiles = 2 if 2 * block <= compiled.PAIR_NBYTES else 1
    edges = nnz * (lanes * _read_seconds(tiles * block) + _decode_seconds(nnz, 6) / tiles)
    return edges + blocks * sums_seconds(outputs, lanes, itemsize)


def sums_seconds(outputs: int, lanes: int, itemsize: int = 4) -> float:
    """Return what beginning and ending all sums of a tile takes, or setting them aside and taking them up again."""
    near = itemsize * lanes * outputs <= compiled.PAIR_NBYTES
    return outputs * lanes * (_NEAR_SUM_SECONDS if near else _FAR_SUM_SECONDS)


def edge_seconds(layer: Layer, lanes: int, nbytes: int = 6, near: float = 0.0) -> float:
    """Return what an edge takes, for all lanes of one tile, where each reads a vector from somewhere in the tile.

    Args:
        layer: the layer.
        lanes: samples in a tile.
        nbytes: of an edge in memory.
        near: which part of the vectors is still in the first cache, because another output has just read it.
    """
    reading = (1 - near) * _read_seconds(4 * lanes * layer.inputs) + near * _read_seconds(1)
    return lanes * reading + _decode_seconds(layer.nnz, nbytes)


@lru_cache(2**10)
def _read_seconds(nbytes: float) -> float:
    """Return what an element takes to be read from somewhere in so many bytes, multiplied, and added."""
    return float(np.interp(math.log2(nbytes), _SIZES, _READ_SECONDS))


def _decode_seconds(nnz: int, nbytes: int) -> float:
    """Return what an edge takes to be read and decoded, once for all lanes."""
    return _DECODE_SECONDS + streaming_seconds(nbytes * nnz) / max(1, nnz)


def streaming_seconds(nbytes: int) -> float:
    """Return what edges of so many bytes wait for those of them that no cache holds, once for all lanes."""
    return max(0, nbytes - _CACHED_NBYTES) / _STREAM_RATE


#: Measured, by the bytes that are read from (their log2): in the first cache, in the second, and beyond.
_SIZES = (14, 15, 16, 17, 18, 19, 20, 21, 23)
_READ_SECONDS = (1.1e-11, 1.2e-11, 1.4e-11, 1.6e-11, 1.8e-11, 2.2e-11, 3.0e-11, 6.0e-11, 1.8e-10)

#: To decode an edge; and to begin and end one lane's sum, among few or many of them (measured).
_DECODE_SECONDS, _NEAR_SUM_SECONDS, _FAR_SUM_SECONDS = 5.0e-10, 1.0e-10, 4.0e-10

#: Bytes a second of edges that no cache holds, and how many bytes of them one does.
_STREAM_RATE, _CACHED_NBYTES = 2.5e10, 2**24

#: Smaller blocks are not considered.
_LEAST_INPUTS = 64

KERNEL = Kernel("csr", _pack, _unpack, _run, _seconds)
