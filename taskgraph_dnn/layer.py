"""A layer: sparse weights, frozen and validated when it is made, in memory or stored where they are loaded from.

A layer maps a batch `Y` (samples x inputs) to

    activation(Y @ weights + bias), at most `cap`

Weights are kept as a CSC matrix of inputs x outputs: the edges of one output neuron lie side by side, which is the
order in which every kernel reads them. (The transpose of that matrix, outputs x inputs, is CSR and costs nothing.)
"""

import hashlib
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from taskgraph_dnn.activation_functions import checked_activation
from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.matrices import first_not_finite, float32_matrix, real_matrix
from taskgraph_dnn.meter import METER

_Fact = TypeVar("_Fact")

#: A layer's weights, inputs x outputs, and its bias.
Arrays = tuple[scipy.sparse.csc_array, NDArray[np.float32]]


class _Stored(NamedTuple):
    """How to get at arrays that are not in memory."""

    load: Callable[[], Arrays]
    read_ahead: Callable[[], None]
    release: Callable[[], None]


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer: sparse weights, a bias for each output, an activation and its cap.

    Args:
        weights: inputs x outputs, any scipy sparse matrix or array, or a 2-D array; kept as float32 CSC with sorted row
            numbers, duplicates summed and stored zeros dropped.
        bias: one number, or one for each output; kept as float32, shape (outputs,).
        activation: "relu" (max(x, 0)), "identity", "leaky_relu", "sigmoid", "tanh", or, in the last layer of a network,
            "softmax" over the outputs of each sample.
        negative_slope: the slope of leaky_relu below 0, from 0 to 1; None takes 0.01. Other activations have none.
        cap: the activation's upper bound, or None.

    Raises:
        NetworkError: the weights are no 2-D matrix of finite numbers with inputs and outputs, the bias does not fit
            them, or the activation, its slope or its cap is not valid.
    """

    shape: tuple[int, int]
    nnz: int
    activation: str
    negative_slope: float | None
    cap: float | None
    #: What is known of the layer without looking at its weights, by name; values that JSON can hold.
    facts: dict[str, Any] = field(repr=False)
    #: What kernels made of the layer in this process, by names of their own, and the reentrant lock to hold meanwhile.
    packed: dict[str, Any] = field(init=False, repr=False)
    packing: Any = field(init=False, repr=False)
    _arrays: Arrays | None = field(init=False, repr=False)
    _stored: _Stored | None = field(init=False, repr=False)

    def __init__(
        self,
        weights: Any,
        *,
        bias: ArrayLike = 0.0,
        activation: str = "relu",
        negative_slope: float | None = None,
        cap: float | None = None,
    ) -> None:
        csc = _canonical(weights)
        arrays = csc, _bias(bias, csc.shape[1])
        self._freeze(csc.shape, csc.nnz, checked_activation(activation, negative_slope, cap), arrays=arrays)

    @classmethod
    def from_csc_arrays(
        cls,
        shape: tuple[int, int],
        indptr: NDArray[Any],
        indices: NDArray[Any],
        data: NDArray[np.float32],
        *,
        bias: NDArray[np.float32],
        activation: str,
        negative_slope: float | None = None,
        cap: float | None,
        digest: str | None = None,
    ) -> "Layer":
        """Return a layer over arrays that a reader of this package has checked, without copying them.

        Nothing is checked again: row numbers are sorted, unique, in range and, like `indptr`, of `index_dtype`; all
        numbers are finite, weights are not zero, and `digest`, where given, is the layer's.
        """
        csc = csc_of_arrays(shape, indptr, indices, data)
        layer = cls.__new__(cls)
        checked = checked_activation(activation, negative_slope, cap)
        layer._freeze(shape, csc.nnz, checked, arrays=(csc, bias), digest=digest)
        return layer

    @classmethod
    def lazily(
        cls,
        shape: tuple[int, int],
        nnz: int,
        load: Callable[[], Arrays],
        *,
        activation: str,
        negative_slope: float | None = None,
        cap: float | None,
        digest: str,
        facts: dict[str, Any] | None = None,
        read_ahead: Callable[[], None] = lambda: None,
        release: Callable[[], None] = lambda: None,
    ) -> "Layer":
        """Return a layer whose arrays are loaded when somebody uses them, and only then.

        Args:
            shape: inputs and outputs.
            nnz: number of edges.
            load: returns weights and bias, checked, or raises `FileError`; called at the first use, and at the first
                after each release.
            activation: as of any layer, like the next two.
            negative_slope: of leaky_relu, else None.
            cap: the activation's upper bound, or None.
            digest: the layer's, which is believed.
            facts: what is known of the layer.
            read_ahead: asks the system to read what `load` is about to return.
            release: lets go of what `load` has returned.

        Raises:
            NetworkError: the activation, its slope or its cap is not valid.
        """
        layer = cls.__new__(cls)
        checked = checked_activation(activation, negative_slope, cap)
        stored = _Stored(load, read_ahead, release)
        layer._freeze(shape, nnz, checked, stored=stored, digest=digest, facts=facts)
        return layer

    def _freeze(
        self,
        shape: tuple[int, int],
        nnz: int,
        checked: tuple[str, float | None, float | None],
        *,
        arrays: Arrays | None = None,
        stored: _Stored | None = None,
        digest: str | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.__dict__.update(zip(("activation", "negative_slope", "cap"), checked, strict=True))
        self.__dict__.update(shape=(int(shape[0]), int(shape[1])), nnz=int(nnz), facts={} if facts is None else facts)
        if digest is not None:
            self.__dict__["digest"] = digest  # fills the cached property
        self._settle(arrays, stored)

    def _settle(self, arrays: Arrays | None, stored: _Stored | None) -> None:
        self.__dict__.update(_arrays=arrays and _read_only(*arrays), _stored=stored)
        self.__dict__.update(packed={}, packing=threading.RLock())

    def __getstate__(self) -> dict[str, Any]:
        left_here = ("packed", "packing", "_stored")
        state = {name: value for name, value in self.__dict__.items() if name not in left_here}
        return state | {"_arrays": self._loaded()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._settle(state["_arrays"], None)  # pickled arrays may come back writeable

    def __sizeof__(self) -> int:
        return self.nbytes

    @property
    def weights(self) -> scipy.sparse.csc_array:
        """The weights, inputs x outputs; a stored layer loads them at the first use."""
        return self._loaded()[0]

    @property
    def bias(self) -> NDArray[np.float32]:
        """The bias of each output; a stored layer loads it at the first use."""
        return self._loaded()[1]

    def _loaded(self) -> Arrays:
        arrays = self._arrays
        if arrays is None:
            started = time.perf_counter()
            with self.packing:
                arrays = self._arrays
                if arrays is None:
                    assert self._stored is not None
                    arrays = self.__dict__["_arrays"] = _read_only(*self._stored.load())
                    METER.nbytes += self.nbytes
            METER.stall_seconds += time.perf_counter() - started
        return arrays

    @property
    def stored(self) -> bool:
        """Whether the arrays are loaded when they are used."""
        return self._stored is not None

    def read_ahead(self) -> None:
        """Ask the system to read a stored layer, because it is used soon; does nothing for a layer in memory."""
        if self._stored is not None:
            self._stored.read_ahead()

    def release(self) -> None:
        """Let the arrays of a stored layer go; they are loaded again when used. Does nothing for a layer in memory."""
        if self._stored is not None:
            with self.packing:
                self.__dict__["_arrays"] = None
            self._stored.release()

    def fact(self, name: str, compute: Callable[[], _Fact]) -> _Fact:
        """Return what is known of the layer under `name`; at the first call `compute` finds it, as JSON can hold it."""
        if name not in self.facts:
            with self.packing:
                if name not in self.facts:
                    self.facts[name] = compute()
        known: _Fact = self.facts[name]
        return known

    @property
    def inputs(self) -> int:
        """Number of input neurons."""
        return self.shape[0]

    @property
    def outputs(self) -> int:
        """Number of output neurons."""
        return self.shape[1]

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the layer's arrays."""
        index = np.dtype(index_dtype(self.shape, self.nnz)).itemsize
        return self.nnz * (index + 4) + (self.outputs + 1) * index + self.outputs * 4

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the layer computes with: equal layers have equal digests."""
        cap = float("nan") if self.cap is None else self.cap
        slope = "" if self.negative_slope is None else f"({self.negative_slope!r})"
        hashed = hashlib.sha256(f"{self.activation}{slope} {self.weights.indices.dtype.str}".encode())
        hashed.update(struct.pack("<qqd", self.inputs, self.outputs, cap))
        for array in (self.weights.indptr, self.weights.indices, self.weights.data, self.bias):
            hashed.update(np.ascontiguousarray(array).data)
        return hashed.hexdigest()

    def __dask_tokenize__(self) -> object:
        return type(self).__name__, self.digest

    def __repr__(self) -> str:
        slope = "" if self.negative_slope is None else f", negative_slope={self.negative_slope:g}"
        cap = "" if self.cap is None else f", cap={self.cap:g}"
        return f"Layer({self.inputs} x {self.outputs}, nnz={self.nnz:,}, {self.activation}{slope}{cap})"


def with_addition(layer: Layer, width: int) -> Layer:
    """Return the layer with `width` more inputs, behind its own, that are added one to one to its sums.

    In a network it reads what the layer read, and then what is added: `activation(Y @ weights + bias + added)`, a
    residual addition.

    Args:
        layer: any layer.
        width: of what is added.

    Raises:
        NetworkError: the layer has not so many outputs.
    """
    if width != layer.outputs:
        raise NetworkError(f"{width} values are to be added to a layer of {layer.outputs} outputs")
    weights = scipy.sparse.vstack([layer.weights, scipy.sparse.eye_array(width, dtype=np.float32)], format="csc")
    end: dict[str, Any] = {name: getattr(layer, name) for name in ("activation", "negative_slope", "cap")}
    return Layer(weights, bias=layer.bias, **end)


def index_dtype(shape: tuple[int, int], nnz: int) -> type[np.signedinteger[Any]]:
    """Return the integer type of a layer's row numbers and column pointers: 32 bits where they fit."""
    return np.int32 if max(*shape, nnz) < 2**31 else np.int64


def csc_of_arrays(
    shape: tuple[int, int], indptr: NDArray[Any], indices: NDArray[Any], data: NDArray[np.float32]
) -> scipy.sparse.csc_array:
    """Return the matrix over these arrays, which are known to be canonical, without copying or checking them."""
    csc = scipy.sparse.csc_array((data, indices, indptr), shape=shape, copy=False)
    csc.has_canonical_format = True
    return csc


def _read_only(weights: scipy.sparse.csc_array, bias: NDArray[np.float32]) -> Arrays:
    for array in (weights.data, weights.indices, weights.indptr, bias):
        array.flags.writeable = False
    return weights, bias


def _canonical(weights: Any) -> scipy.sparse.csc_array:
    try:
        weights = real_matrix(weights)
    except ValueError as error:
        raise NetworkError(f"weights {error}") from error
    if 0 in weights.shape:
        raise NetworkError(f"weights have shape {weights.shape}, expected inputs x outputs, at least 1 x 1")
    csc = float32_matrix(weights, scipy.sparse.csc_array).copy()
    wrong = first_not_finite(csc)
    if wrong is not None:
        row, column, value = wrong
        raise NetworkError(f"weight of input {row}, output {column} is {value}, expected a finite float32")
    csc.eliminate_zeros()
    dtype = index_dtype(csc.shape, csc.nnz)
    csc.indices, csc.indptr = csc.indices.astype(dtype, copy=False), csc.indptr.astype(dtype, copy=False)
    return csc


def _bias(bias: ArrayLike, outputs: int) -> NDArray[np.float32]:
    try:
        array = np.asarray(bias)
    except ValueError as error:
        raise NetworkError(f"bias is no array: {error}") from error
    if array.dtype.kind not in "fiub":
        raise NetworkError(f"bias is of type {array.dtype}, expected real numbers")
    if array.shape not in ((), (outputs,)):
        raise NetworkError(f"bias has shape {array.shape}, expected one number or one for each of {outputs} outputs")
    with np.errstate(over="ignore"):
        full = np.array(np.broadcast_to(array, (outputs,)), dtype=np.float32)
    wrong = np.flatnonzero(~np.isfinite(full))
    if wrong.size:
        raise NetworkError(f"bias of output {wrong[0]} is {full[wrong[0]]}, expected a finite float32")
    return full
