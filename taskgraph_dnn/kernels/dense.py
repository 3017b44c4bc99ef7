"""Dense: BLAS, for layers with too many edges to be worth indexing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.kernels.finish import finish
from taskgraph_dnn.kernels.registry import Kernel
from taskgraph_dnn.network import Layer

#: Multiply-adds a second of BLAS on one thread, for a few tiles side by side (measured).
_RATE = 6e10

#: What moving an input to the others' side and an output back takes, with bias and activation (measured).
_MOVING_SECONDS = 1.4e-9

#: Layers with fewer inputs are done before the tiles have moved side by side (measured).
_WORTH_MOVING = 128

#: What calling numpy takes for a tile, however small (measured).
_CALLS_SECONDS = 4e-6


@dataclass(frozen=True, eq=False)
class _Packed:
    weights: NDArray[Any]  # outputs x inputs
    layer: Layer


def _pack(layer: Layer, dtype: np.dtype[Any]) -> _Packed:
    return _Packed(np.ascontiguousarray(layer.weights.T.toarray(), dtype), layer)


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    return scipy.sparse.csr_array(packed.weights.astype(np.float32)).T


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    with np.errstate(invalid="ignore", over="ignore"):  # infinities may meet
        if packed.layer.inputs < _WORTH_MOVING:
            np.matmul(packed.weights, inputs, out=outputs)
        else:
            _multiply_side_by_side(packed.weights, inputs, outputs)
        if packed.layer.nnz < packed.weights.size:
            for tile, out in zip(inputs, outputs, strict=True):
                _without_absent_edges(packed.layer, tile, out)
    finish(packed.layer, outputs, alive)


def _multiply_side_by_side(weights: NDArray[Any], inputs: Values, outputs: Values) -> None:
    """Multiply all tiles at once: BLAS takes up to twice as long for matrices as narrow as one of them."""
    tiles, neurons, lanes = inputs.shape
    columns = np.ascontiguousarray(inputs.transpose(1, 0, 2)).reshape(neurons, tiles * lanes)
    outputs[...] = (weights @ columns).reshape(-1, tiles, lanes).transpose(1, 0, 2)


def _without_absent_edges(layer: Layer, tile: NDArray[Any], out: NDArray[Any]) -> None:
    """Compute those samples again that hold an infinity, which an absent edge's weight of 0 would turn into nan."""
    odd = ~np.isfinite(tile.sum(axis=0))
    if odd.any():
        out[:, odd] = layer.weights.T @ tile[:, odd]


def _seconds(layer: Layer, lanes: int, density: float) -> float:  # noqa: ARG001
    moving = (layer.inputs + layer.outputs) * lanes * _MOVING_SECONDS
    return _CALLS_SECONDS + layer.inputs * layer.outputs * lanes / _RATE + moving


KERNEL = Kernel("dense", _pack, _unpack, _run, _seconds, uses_blas=True)
