"""ELL: every output has equally many edges, some of them padding, so there are no row pointers.

Outputs go in slices of a few, edge by edge (sliced ELL: Monakov et al., HiPEAC 2010), and an edge is one 64-bit word:
input number and weight arrive with one load, which leaves the load ports to the activations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.kernels import compiled
from taskgraph_dnn.kernels.csr import edge_seconds, sums_seconds
from taskgraph_dnn.kernels.emit import SLICE
from taskgraph_dnn.kernels.registry import Kernel
from taskgraph_dnn.network import Layer, index_dtype

#: More padding than this is a mistake, not a choice.
_MOST_PADDING = 64


@dataclass(frozen=True, eq=False)
class _Packed:
    words: NDArray[np.uint64]  # slices x edges x outputs of a slice; padding has weight 0
    edges: int  # of each output
    biases: NDArray[np.float32]
    inputs: int
    ends: compiled.Ends
    run: Callable[..., None]

    @property
    def numbers(self) -> NDArray[np.uint32]:
        return self.words.view(np.uint32)

    @property
    def weights(self) -> NDArray[np.float32]:
        return self.words.view(np.float32)


def _pack(layer: Layer, dtype: np.dtype[Any]) -> _Packed:
    w = layer.weights
    lengths = np.diff(w.indptr).astype(np.int64)
    edges = int(lengths.max())
    if layer.outputs * edges > _MOST_PADDING * max(layer.nnz, 2**20):
        raise KernelError(
            f"ell would store {layer.outputs * edges:,} edges for {layer.nnz:,}, because one output has {edges:,}"
        )
    rank = np.arange(layer.nnz) - np.repeat(w.indptr[:-1].astype(np.int64), lengths)
    by_output = np.zeros((layer.outputs, edges), np.uint64)
    halves = by_output[:, :, None].view(np.uint32)
    output = np.repeat(np.arange(layer.outputs), lengths)
    halves[output, rank, 0], halves[output, rank, 1] = w.indices, w.data.view(np.uint32)
    slices = _outputs(layer.outputs)
    interleaved = np.where(slices[:, None, :] < 0, 0, by_output[np.maximum(slices, 0)].transpose(0, 2, 1))
    words = np.ascontiguousarray(interleaved).ravel()
    run = compiled.function("slices", dtype, np.dtype(np.uint32))
    return _Packed(words, edges, layer.bias, layer.inputs, compiled.Ends.of(layer), run)


def _outputs(outputs: int) -> NDArray[np.int64]:
    """Return the outputs of each slice, slices x SLICE; below 0 where there is none."""
    firsts = np.minimum(np.arange(0, outputs, SLICE), outputs - SLICE)
    return np.asarray(firsts[:, None] + np.arange(SLICE))


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    slices = _outputs(len(packed.biases))
    shape = len(slices), packed.edges, SLICE
    place = np.unique(slices, return_index=True)[1][-len(packed.biases) :]  # an output in two slices counts once
    numbers = _by_output(packed.numbers[::2], shape)[place]
    weights = _by_output(packed.weights[1::2], shape)[place]
    there = weights != 0
    layer_shape = packed.inputs, len(packed.biases)
    dtype = index_dtype(layer_shape, int(there.sum()))
    indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(dtype)
    return scipy.sparse.csc_array((weights[there], numbers[there].astype(dtype), indptr), shape=layer_shape)


def _by_output(halves: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return a half of the words, outputs of all slices x edges."""
    slices, edges, outputs = shape
    return halves.reshape(shape).transpose(0, 2, 1).reshape(slices * outputs, edges)


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    compiled.check_shapes(inputs.shape, outputs.shape, alive.shape, (packed.inputs, len(packed.biases)))
    layer = packed.words, packed.numbers, packed.weights, packed.biases, packed.ends
    packed.run(*layer, inputs, outputs, alive)


#: Several outputs at once wait for more of what is not near (measured).
_WAITING = 1.15


def _seconds(layer: Layer, lanes: int, density: float) -> float:  # noqa: ARG001
    """As many edges as the longest row has, for every output; the outputs of a slice share what they read."""
    edges = layer.fact("longest", lambda: int(np.diff(layer.weights.indptr).max()))
    filled = max(edges / layer.inputs, 1e-9)
    near = 1 - (1 - (1 - filled) ** SLICE) / (SLICE * filled)
    edge = _WAITING * edge_seconds(layer, lanes, nbytes=8, near=near)
    return layer.outputs * edges * edge + sums_seconds(layer.outputs, lanes)


KERNEL = Kernel("ell", _pack, _unpack, _run, _seconds)
