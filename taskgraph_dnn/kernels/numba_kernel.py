"""A row kernel compiled by numba: for each output neuron, its edges one after the other, for all samples of a tile.

Four edges are taken at a time. With one at a time the sums, which stand in memory, are read and written for every
edge, and that traffic is the limit; with four there are five loads and one store for four multiply-adds. The order of
addition is that of the edges either way. `contract` lets LLVM fuse each multiply and add.
"""

from typing import Any

import numpy as np
from numba import njit, types

from taskgraph_dnn.activations import Values
from taskgraph_dnn.kernels.registry import Kernel
from taskgraph_dnn.network import Layer


def _signature(index: Any) -> Any:
    def readonly(dtype: Any, ndim: int) -> Any:
        return types.Array(dtype, ndim, "C", readonly=True)

    return types.void(
        readonly(index, 1),
        readonly(index, 1),
        readonly(types.float32, 1),
        readonly(types.float32, 1),
        types.boolean,
        types.float32,
        readonly(types.float32, 3),
        types.Array(types.float32, 3, "C"),
    )


def _compiled(function: Any) -> Any:
    """Compile for given signatures, so that importing this module compiles, or loads, all that runs later."""
    signatures = [_signature(types.int32), _signature(types.int64)]
    options = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy", "boundscheck": False}
    try:
        return njit(signatures, cache=True, **options)(function)
    except RuntimeError:  # numba finds no folder for its cache that it may write to
        return njit(signatures, **options)(function)


@_compiled
def _rows(indptr, indices, weights, bias, relu, cap, inputs, outputs):  # type: ignore[no-untyped-def]
    lanes = inputs.shape[2]
    for tile in range(inputs.shape[0]):
        for output in range(outputs.shape[1]):
            sums = outputs[tile, output]
            sums[:] = np.float32(0)
            edge, end = indptr[output], indptr[output + 1]
            while edge + 4 <= end:
                a, b = inputs[tile, indices[edge]], inputs[tile, indices[edge + 1]]
                c, d = inputs[tile, indices[edge + 2]], inputs[tile, indices[edge + 3]]
                u, v, w, x = weights[edge], weights[edge + 1], weights[edge + 2], weights[edge + 3]
                for lane in range(lanes):
                    sums[lane] = (((sums[lane] + u * a[lane]) + v * b[lane]) + w * c[lane]) + x * d[lane]
                edge += 4
            while edge < end:
                a, u = inputs[tile, indices[edge]], weights[edge]
                for lane in range(lanes):
                    sums[lane] += u * a[lane]
                edge += 1
            for lane in range(lanes):
                value = sums[lane] + bias[output]
                # Written so that nan, which compares false, passes through.
                if relu and value < np.float32(0):
                    value = np.float32(0)
                if value > cap:
                    value = cap
                sums[lane] = value


def _pack(layer: Layer) -> tuple[Any, ...]:
    w = layer.weights
    cap = np.float32(np.inf if layer.cap is None else layer.cap)
    return w.indptr, w.indices, w.data, layer.bias, layer.activation == "relu", cap


def _run(packed: tuple[Any, ...], inputs: Values, outputs: Values) -> None:
    _rows(*packed, inputs, outputs)


KERNEL = Kernel("numba", _pack, _run, multiply_adds_per_second=1.2e10)
