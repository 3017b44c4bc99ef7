"""PyTorch's product of a sparse CSR and a dense matrix, on the processor.

A sample's bits do not depend on the samples beside it wherever the tests have run; torch itself does not promise it.
"""

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.kernels.finish import finish
from taskgraph_dnn.kernels.registry import Kernel, at_rate
from taskgraph_dnn.network import Layer

#: torch's library. A name that is asked of it is found in the libraries that it needs, too, but on Windows.
_library = ctypes.CDLL(torch._C.__file__)


def _function(name: str) -> Any:
    """Return a function of torch's libraries, or one that does nothing where they have none of that name."""
    return getattr(_library, name, lambda *_: 1)


_openmp_threads, _set_openmp_threads = _function("omp_get_max_threads"), _function("omp_set_num_threads")
_set_mkl_threads = _function("MKL_Set_Num_Threads_Local")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch's work on this thread.

    `torch.set_num_threads` also sets what threads begin with that have not used torch before. So this sets what that
    function would set of this thread: what OpenMP uses, and MKL, where torch is built with them.
    """
    torch.get_num_threads()  # at its first call, whichever that is, torch sets both to what the user has set
    openmp, mkl = _openmp_threads(), _set_mkl_threads(1)
    _set_openmp_threads(1)
    try:
        yield
    finally:
        _set_openmp_threads(openmp)
        _set_mkl_threads(mkl)


class _Unlocked:
    """The memory of an array, read-only or not, as one that can be written to.

    torch has no read-only tensors, and warns when it makes one of a read-only array. Nothing here writes to it.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array  # as long as this lives, its memory does
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _tensor(array: NDArray[Any]) -> Any:
    """Return a tensor that shares the array's memory."""
    return torch.from_numpy(np.asarray(_Unlocked(array)))


def _sparse(weights: scipy.sparse.csr_array) -> Any:
    """Return a CSR tensor that shares the matrix's memory, on the processor whatever the user's default device is."""
    arrays = [_tensor(array) for array in (weights.indptr, weights.indices, weights.data)]
    return torch.sparse_csr_tensor(*arrays, weights.shape, device="cpu", check_invariants=False)


with warnings.catch_warnings():  # torch warns once that CSR tensors are in beta state
    warnings.simplefilter("ignore")
    _sparse(scipy.sparse.csr_array((1, 1)))


@dataclass(frozen=True, eq=False)
class _Packed:
    weights: Any  # outputs x inputs
    layer: Layer


def _pack(layer: Layer, dtype: np.dtype[Any]) -> _Packed:
    return _Packed(_sparse(layer.weights.T.astype(dtype, copy=False)), layer)


def _unpack(packed: _Packed) -> scipy.sparse.csc_array:
    weights = packed.weights
    arrays = weights.values().numpy(), weights.col_indices().numpy(), weights.crow_indices().numpy()
    return scipy.sparse.csr_array(arrays, shape=tuple(weights.shape)).T.astype(np.float32, copy=False)


def _run(packed: _Packed, inputs: Values, outputs: Values, alive: Alive) -> None:
    sums = np.require(outputs, requirements=["C", "A", "W"])
    tiles = _tensor(np.require(inputs, requirements=["C", "A"]))
    with _one_thread():
        for tile, out in zip(tiles, torch.from_numpy(sums), strict=True):
            torch.addmm(out, packed.weights, tile, beta=0, out=out)
    if sums is not outputs:
        outputs[...] = sums
    finish(packed.layer, outputs, alive)


KERNEL = Kernel("torch", _pack, _unpack, _run, at_rate(7e9))
