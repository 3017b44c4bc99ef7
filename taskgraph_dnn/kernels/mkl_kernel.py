"""MKL's product of a sparse and a dense matrix, by way of sparse_dot_mkl.

A sample's bits do not depend on the samples beside it wherever the tests have run; MKL itself does not promise it.
"""

import ctypes
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.kernels.finish import finish
from taskgraph_dnn.kernels.registry import Kernel, at_rate
from taskgraph_dnn.network import Layer

_AS_IT_IS = 10  # SPARSE_OPERATION_NON_TRANSPOSE
_ROW_MAJOR = 101  # SPARSE_LAYOUT_ROW_MAJOR


def _installed_mkl() -> str | None:
    """Return where pip has put MKL's library, which is where neither sparse_dot_mkl nor the system looks."""
    try:
        files = metadata.files("mkl") or ()
    except metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name.startswith(("libmkl_rt.", "mkl_rt."))), None)


def _sparse_dot_mkl() -> Any:
    """Return sparse_dot_mkl's interface to MKL: its public functions would make a new handle for each product."""
    library = _installed_mkl()
    if library is None or "MKL_RT" in os.environ:
        return import_module("sparse_dot_mkl._mkl_interface")
    os.environ["MKL_RT"] = library
    try:
        return import_module("sparse_dot_mkl._mkl_interface")
    finally:
        del os.environ["MKL_RT"]


_mkl = _sparse_dot_mkl()


class _Handle:
    """MKL's handle of a matrix, and the product with it."""

    def __init__(self, matrix: scipy.sparse.csr_array) -> None:
        self._handle, double, _ = _mkl._create_mkl_sparse(matrix)
        self._matrix = matrix  # MKL goes on reading its arrays
        self._product = _mkl.MKL._mkl_sparse_d_mm if double else _mkl.MKL._mkl_sparse_s_mm
        self._pointer = ctypes.POINTER(ctypes.c_double if double else ctypes.c_float)
        weakref.finalize(self, _mkl._destroy_mkl_handle, self._handle).atexit = False

    def multiply(self, tile: NDArray[Any], out: NDArray[Any]) -> None:
        """Put matrix x tile into `out`; both are contiguous."""
        lanes, to = tile.shape[1], out.ctypes.data_as(self._pointer)
        matrix = self._handle, _mkl.matrix_descr()
        status = self._product(_AS_IT_IS, 1.0, *matrix, _ROW_MAJOR, tile, lanes, lanes, 0.0, to, lanes)
        _mkl._check_return_value(status, self._product.__name__)


@dataclass(frozen=True, eq=False)
class _Packed:
    weights: scipy.sparse.csr_array  # outputs x inputs
    handle: _Handle
    layer: Layer


def _pack(layer: Layer, dtype: np.dtype[Any]) -> _Packed:
    weights = layer.weights.T.astype(dtype, copy=False)
    return _Packed(weights, _Handle(weights), layer)


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    return packed.weights.T.astype(np.float32, copy=False)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep MKL's work on this thread; the setting is this thread's alone."""
    before = _mkl.mkl_set_num_threads_local(1)
    try:
        yield
    finally:
        _mkl.mkl_set_num_threads_local(before)


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    sums = np.require(outputs, requirements=["C", "A", "W"])
    with _one_thread():
        for tile, out in zip(np.require(inputs, requirements=["C", "A"]), sums, strict=True):
            packed.handle.multiply(tile, out)
    if sums is not outputs:
        outputs[...] = sums
    finish(packed.layer, outputs, alive)


KERNEL = Kernel("mkl", _pack, _unpack, _run, at_rate(7e9))
