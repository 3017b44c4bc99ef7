"""Whole networks in other libraries: a `Chain` for each way to write one, with all prepared that a library can prepare.

A chain takes rows of input and returns rows of output. Activations lie as the library likes them best: as columns
(neurons x samples), as rows, or sparse, which is right only where an output without a sum is zero.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activation_functions import activate
from taskgraph_dnn.activations import aligned_empty
from taskgraph_dnn.models import to_onnx
from taskgraph_dnn.network import Layer, Network

#: Takes rows, CSR or dense, through a network; returns outputs, samples x neurons, CSR or dense.
Chain = Callable[[Any], Any]


def dense_rows(rows: Any) -> NDArray[np.float32]:
    """Return rows as an array."""
    return np.asarray(rows.toarray() if scipy.sparse.issparse(rows) else rows)


def _columns(rows: Any) -> NDArray[np.float32]:
    """Return rows as an array of inputs x samples."""
    return np.asarray(rows.T.toarray(order="C") if scipy.sparse.issparse(rows) else np.ascontiguousarray(rows.T))


def _aligned_columns(rows: Any) -> NDArray[np.float32]:
    """Return them from the beginning of a cache line on: from anywhere else MKL takes up to 1.8 times as long."""
    columns = aligned_empty((rows.shape[1], rows.shape[0]), np.float32)
    if scipy.sparse.issparse(rows):
        rows.T.toarray(out=columns)
    else:
        columns[...] = rows.T
    return columns


def _activated(sums: NDArray[Any], layer: Layer, axis: int) -> NDArray[Any]:
    return activate(sums, layer.activation, layer.negative_slope, layer.cap, axis)


def scipy_columns(network: Network, _threads: int) -> Chain:
    """Return sparse weights x dense columns in scipy."""
    layers = [(layer, layer.weights.T, layer.bias[:, None]) for layer in network]

    def chain(rows: Any) -> Any:
        Y = _columns(rows)
        for layer, weights, bias in layers:
            Y = weights @ Y
            Y += bias
            _activated(Y, layer, 0)
        return Y.T

    return chain


def scipy_rows(network: Network, _threads: int) -> Chain:
    """Return dense rows x sparse weights in scipy, as it is mostly written."""
    layers = [(layer, layer.weights.tocsr()) for layer in network]

    def chain(rows: Any) -> Any:
        Y = dense_rows(rows)
        for layer, weights in layers:
            Y = Y @ weights
            Y += layer.bias
            _activated(Y, layer, 1)
        return Y

    return chain


def scipy_sparse(network: Network, _threads: int) -> Chain:
    """Return sparse rows x sparse weights in scipy, with the bias where there is a sum."""
    layers = [(layer, layer.weights.tocsr()) for layer in network]

    def chain(rows: Any) -> Any:
        Y = scipy.sparse.csr_array(rows)
        for layer, weights in layers:
            Y = Y @ weights
            Y.data += layer.bias[0]
            np.clip(Y.data, 0, layer.cap, out=Y.data)
            Y.eliminate_zeros()
        return Y

    return chain


def mkl_columns(network: Network, _threads: int) -> Chain:
    """Return sparse weights x dense columns in MKL, with handles that are kept."""
    handle = import_module("taskgraph_dnn.kernels.mkl_kernel")._Handle
    layers = [(layer, handle(layer.weights.T), layer.bias[:, None]) for layer in network]

    def chain(rows: Any) -> Any:
        Y = _aligned_columns(rows)
        for layer, weights, bias in layers:
            sums = aligned_empty((layer.outputs, Y.shape[1]), np.float32)
            weights.multiply(Y, sums)
            sums += bias
            Y = _activated(sums, layer, 0)
        return Y.T

    return chain


def torch_columns(network: Network, _threads: int) -> Chain:
    """Return sparse weights x dense columns in torch, added to the bias."""
    torch = import_module("torch")
    sparse = import_module("taskgraph_dnn.kernels.torch_kernel")._sparse
    layers = [(layer, sparse(layer.weights.T), torch.from_numpy(layer.bias.copy())[:, None]) for layer in network]

    def chain(rows: Any) -> Any:
        with torch.inference_mode():
            Y = torch.from_numpy(_aligned_columns(rows))
            for layer, weights, bias in layers:
                sums = bias.expand(layer.outputs, Y.shape[1]).contiguous()
                torch.addmm(sums, weights, Y, out=sums)
                Y = _torch_activated(sums, layer, 0)
            return Y.numpy().T

    return chain


def torch_rows(network: Network, _threads: int) -> Chain:
    """Return dense rows x dense weights in torch."""
    torch = import_module("torch")
    layers = _torch_layers(network)

    def chain(rows: Any) -> Any:
        with torch.inference_mode():
            Y = torch.from_numpy(dense_rows(rows))
            for layer, weights, bias in layers:
                Y = _torch_activated(torch.nn.functional.linear(Y, weights, bias), layer, 1)
            return Y.numpy()

    return chain


def torch_compiled(network: Network, _threads: int) -> Chain:
    """Return dense rows x dense weights in torch, each layer compiled: layers that are alike share the code."""
    torch = import_module("torch")
    layers = _torch_layers(network)
    torch.compiler.reset()  # it compiles a function for so many shapes, and then no more

    def through(Y: Any, weights: Any, bias: Any, activation: str, cap: float | None) -> Any:
        sums = torch.nn.functional.linear(Y, weights, bias)
        if activation == "softmax":
            return torch.softmax(sums, 1)
        return sums.clamp(0, cap) if activation == "relu" else sums

    compiled = torch.compile(through)

    def chain(rows: Any) -> Any:
        with torch.inference_mode():
            Y = torch.from_numpy(dense_rows(rows))
            for layer, weights, bias in layers:
                Y = compiled(Y, weights, bias, layer.activation, layer.cap)
            return Y.numpy()

    return chain


def _torch_layers(network: Network) -> list[tuple[Layer, Any, Any]]:
    """Return each layer with its dense weights, outputs x inputs, and its bias, where torch itself puts them."""
    tensor = import_module("torch").tensor
    return [(layer, tensor(layer.weights.T.toarray()), tensor(layer.bias)) for layer in network]


def _torch_activated(sums: Any, layer: Layer, axis: int) -> Any:
    if layer.activation == "softmax":
        return sums.softmax(axis)
    return sums.clamp_(0, layer.cap) if layer.activation == "relu" else sums


def graphblas_sparse(network: Network, _threads: int) -> Chain:
    """Return sparse rows x sparse weights in GraphBLAS, as LAGraph has it (Davis et al., IEEE HPEC 2019)."""
    gb = import_module("graphblas")
    layers = [(layer, _graphblas_csr(layer.weights.tocsr())) for layer in network]
    plus_times = gb.semiring.plus_times["FP32"]
    plus, least = gb.binary.plus["FP32"], gb.binary.min["FP32"]

    def chain(rows: Any) -> Any:
        Y = _graphblas_csr(scipy.sparse.csr_array(rows))
        for layer, weights in layers:
            Y = plus_times(Y @ weights).new(dtype="FP32")
            Y << plus(Y, float(layer.bias[0]))
            Y << gb.select.valuegt(Y, 0.0)
            if layer.cap is not None:
                Y << least(Y, layer.cap)
        found = Y.ss.export("csr", sort=True)
        values = np.broadcast_to(found["values"], found["col_indices"].shape)  # one, where all are equal
        arrays = values, found["col_indices"].astype(np.int64), found["indptr"].astype(np.int64)
        return scipy.sparse.csr_array(arrays, shape=Y.shape)

    return chain


def graphblas_columns(network: Network, _threads: int) -> Chain:
    """Return sparse weights x full columns in GraphBLAS, added to the bias; see `kernels.graphblas_kernel`."""
    gb = import_module("graphblas")
    full = gb.Matrix.ss.import_fullr
    layers = [(layer, _graphblas_csr(layer.weights.T), layer.bias[:, None]) for layer in network]
    plus, plus_times = gb.binary.plus["FP32"], gb.semiring.plus_times["FP32"]

    def chain(rows: Any) -> Any:
        Y = _columns(rows)
        for layer, weights, bias in layers:
            sums = full(values=np.repeat(bias, Y.shape[1], axis=1), take_ownership=True)
            sums(plus) << plus_times(weights @ full(values=Y, take_ownership=True))
            Y = _activated(sums.ss.export("fullr", give_ownership=True)["values"], layer, 0)
        return Y.T

    return chain


def _graphblas_csr(matrix: scipy.sparse.csr_array) -> Any:
    indptr, indices = (array.astype(np.uint64) for array in (matrix.indptr, matrix.indices))
    shape = {"nrows": matrix.shape[0], "ncols": matrix.shape[1]}
    new = import_module("graphblas").Matrix.ss.import_csr
    return new(**shape, indptr=indptr, col_indices=indices, values=matrix.data, sorted_cols=True)


def onnx_rows(network: Network, threads: int) -> Chain:
    """Return dense rows x dense weights in ONNX Runtime, with so many threads of its own."""
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    model = to_onnx(network).SerializeToString()
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"input": dense_rows(rows)})[0]
