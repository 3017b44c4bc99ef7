"""The reference kernel: scipy's CSR product. Needs nothing more than the package itself."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from taskgraph_dnn.activations import Values
from taskgraph_dnn.kernels.registry import Kernel
from taskgraph_dnn.network import Layer


@dataclass(frozen=True, eq=False)
class _Packed:
    weights: scipy.sparse.csr_array  # outputs x inputs
    bias: Values  # outputs x 1
    relu: bool
    cap: float | None


def _pack(layer: Layer) -> _Packed:
    return _Packed(layer.weights.T, layer.bias[:, None], layer.activation == "relu", layer.cap)


def _run(packed: _Packed, inputs: Values, outputs: Values) -> None:
    for tile, out in zip(inputs, outputs, strict=True):
        np.add(packed.weights @ tile, packed.bias, out=out)
        if packed.relu:
            np.maximum(out, 0, out=out)
        if packed.cap is not None:
            np.minimum(out, np.float32(packed.cap), out=out)


KERNEL = Kernel("scipy", _pack, _run, multiply_adds_per_second=2.0e9)
