"""SuiteSparse:GraphBLAS's product over plus and times, by way of python-graphblas.

The weights are sparse and by rows, the tiles full and by rows, and the product is added to a full matrix of zeros: for
that GraphBLAS has code that goes through each output's edges in order and adds whole rows of a tile. Without the zeros
outputs without edges would be missing from the product, and it would take several times as long. GraphBLAS owns its
memory, so tiles are copied, in and out.

A sample's bits do not depend on the samples beside it wherever the tests have run; GraphBLAS does not promise it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from graphblas import Matrix, binary, semiring
from graphblas.ss import Context

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.kernels.finish import finish
from taskgraph_dnn.kernels.registry import Kernel, at_rate
from taskgraph_dnn.network import Layer


@dataclass(frozen=True, eq=False)
class _Packed:
    weights: Any  # outputs x inputs
    layer: Layer


def _one_thread() -> Any:
    """Return a context that keeps GraphBLAS's work on this thread; it is this thread's alone."""
    return Context(engage=False, nthreads=1)


def _pack(layer: Layer, dtype: np.dtype[Any]) -> _Packed:
    with _one_thread():
        weights = Matrix.ss.import_csr(
            nrows=layer.outputs,
            ncols=layer.inputs,
            indptr=layer.weights.indptr,
            col_indices=layer.weights.indices,
            values=layer.weights.data.astype(dtype, copy=False),
            sorted_cols=True,
        )
    return _Packed(weights, layer)


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    weights = packed.weights.ss.export("csr", sort=True)
    dtype = packed.layer.weights.indices.dtype
    arrays = weights["values"].astype(np.float32), weights["col_indices"].astype(dtype), weights["indptr"].astype(dtype)
    return scipy.sparse.csr_array(arrays, shape=packed.weights.shape).T


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    weights = packed.weights
    plus, plus_times = binary.plus[weights.dtype], semiring.plus_times[weights.dtype]
    zero, shape = np.zeros(1, inputs.dtype), {"nrows": outputs.shape[1], "ncols": outputs.shape[2]}
    with _one_thread():
        for tile, out in zip(inputs, outputs, strict=True):
            sums = Matrix.ss.import_fullr(values=zero, is_iso=True, **shape)
            sums(plus) << plus_times(weights @ Matrix.ss.import_fullr(values=tile))
            out[...] = sums.ss.export("fullr", give_ownership=True)["values"]
    finish(packed.layer, outputs, alive)


KERNEL = Kernel("graphblas", _pack, _unpack, _run, at_rate(7e9))
