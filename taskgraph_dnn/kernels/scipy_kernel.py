"""The reference kernel: scipy's CSR product. Needs nothing more than the package itself."""

from dataclasses import dataclass
from typing import Any

import scipy.sparse

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.kernels.finish import finish
from taskgraph_dnn.kernels.registry import Kernel, at_rate
from taskgraph_dnn.network import Layer


@dataclass(frozen=True, eq=False)
class _Packed:
    weights: scipy.sparse.csr_array  # outputs x inputs
    layer: Layer


def _pack(layer: Layer, dtype: Any) -> _Packed:  # noqa: ARG001, scipy casts the weights
    return _Packed(layer.weights.T, layer)


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    return packed.weights.T


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    for tile, out in zip(inputs, outputs, strict=True):
        out[...] = packed.weights @ tile
    finish(packed.layer, outputs, alive)


KERNEL = Kernel("scipy", _pack, _unpack, _run, at_rate(2.5e9))
