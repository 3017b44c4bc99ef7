"""What is computed: layers of sparse weights, frozen and validated when they are made.

A layer maps a batch `Y` (samples x inputs) to

    activation(Y @ weights + bias), at most `cap`

Weights are kept as a CSC matrix of inputs x outputs: the edges of one output neuron lie side by side, which is the
order in which every kernel reads them. (The transpose of that matrix, outputs x inputs, is CSR and costs nothing.)
"""

import hashlib
import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from taskgraph_dnn.activation_functions import checked_activation
from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.matrices import first_not_finite, float32_matrix, real_matrix, sparse_nbytes

#: The number that stands for the network's input where a layer's sources are named.
NETWORK_INPUT = -1


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

    weights: scipy.sparse.csc_array
    bias: NDArray[np.float32]
    activation: str
    negative_slope: float | None
    cap: float | None
    #: What kernels made of the layer in this process, by names of their own, and the reentrant lock to hold meanwhile.
    packed: dict[str, Any] = field(init=False, repr=False)
    packing: Any = field(init=False, repr=False)

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
        self._freeze(csc, _bias(bias, csc.shape[1]), activation, negative_slope, cap)

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
        csc = scipy.sparse.csc_array((data, indices, indptr), shape=shape, copy=False)
        csc.has_canonical_format = True
        layer = cls.__new__(cls)
        layer._freeze(csc, bias, activation, negative_slope, cap)
        if digest is not None:
            layer.__dict__["digest"] = digest  # fills the cached property
        return layer

    def _freeze(
        self,
        weights: scipy.sparse.csc_array,
        bias: NDArray[np.float32],
        activation: str,
        negative_slope: float | None,
        cap: float | None,
    ) -> None:
        activation, negative_slope, cap = checked_activation(activation, negative_slope, cap)
        self.__dict__.update(weights=weights, bias=bias, activation=activation, negative_slope=negative_slope, cap=cap)
        self._settle()

    def _settle(self) -> None:
        for array in (self.weights.data, self.weights.indices, self.weights.indptr, self.bias):
            array.flags.writeable = False
        self.__dict__.update(packed={}, packing=threading.RLock())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("packed", "packing")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._settle()  # pickled arrays may come back writeable

    def __sizeof__(self) -> int:
        return self.nbytes

    @property
    def inputs(self) -> int:
        """Number of input neurons."""
        return int(self.weights.shape[0])

    @property
    def outputs(self) -> int:
        """Number of output neurons."""
        return int(self.weights.shape[1])

    @property
    def nnz(self) -> int:
        """Number of edges (nonzero weights)."""
        return int(self.weights.nnz)

    @property
    def nbytes(self) -> int:
        """Bytes of the layer's arrays."""
        return sparse_nbytes(self.weights) + self.bias.nbytes

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


class NetworkSource(Protocol):
    """Where a network can be read again: small, and sent to workers in place of the weights."""

    @property
    def digest(self) -> str:
        """The network's digest."""

    def open(self) -> "Network":
        """Return the network; cheap after the first time in a process."""

    def head(self, layers: int, digest: str) -> "NetworkSource":
        """Return the source of the network of the first `layers` layers, whose digest is `digest`."""


@dataclass(frozen=True, eq=False)
class Network:
    """Layers that feed one another, validated to fit.

    Args:
        layers: the layers, in order; the first reads the network's input.
        source: the file that holds the same network, where there is one.
        read_seconds: what reading or generating it took; reported with a run's result.

    Raises:
        NetworkError: there is no layer, two neighbours do not fit, or a layer before the last has softmax.
    """

    layers: tuple[Layer, ...]
    source: NetworkSource | None
    read_seconds: float

    def __init__(
        self, layers: Iterable[Layer], *, source: NetworkSource | None = None, read_seconds: float = 0.0
    ) -> None:
        try:
            object.__setattr__(self, "layers", tuple(layers))
        except TypeError as error:
            raise NetworkError(f"a network is made of layers, got a {type(layers).__name__}") from error
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "read_seconds", read_seconds)
        if not self.layers:
            raise NetworkError("a network needs at least one layer, got none")
        for number, layer in enumerate(self.layers, start=1):
            if not isinstance(layer, Layer):
                raise NetworkError(f"layer {number} is a {type(layer).__name__}, expected a Layer")
        for number, (before, layer) in enumerate(zip(self.layers, self.layers[1:], strict=False), start=2):
            if layer.inputs != before.outputs:
                raise NetworkError(
                    f"layer {number} has {layer.inputs} inputs, but layer {number - 1} has {before.outputs} outputs"
                )
            if before.activation == "softmax":
                raise NetworkError(f"layer {number - 1} has softmax, which only the last layer can have")

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers (from 0) whose outputs layer `layer` reads; `NETWORK_INPUT` is the input itself."""
        return (layer - 1,)  # a chain; layer 0 reads NETWORK_INPUT, which is -1

    @property
    def inputs(self) -> int:
        """Neurons of the network's input."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Neurons of the last layer."""
        return self.layers[-1].outputs

    @cached_property
    def nnz(self) -> int:
        """Edges of all layers."""
        return sum(layer.nnz for layer in self.layers)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all layers' arrays."""
        return sum(layer.nbytes for layer in self.layers)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the layers' digests."""
        if self.source is not None:
            return self.source.digest
        return network_digest(layer.digest for layer in self.layers)

    def head(self, layers: int) -> "Network":
        """Return the network of the first `layers` layers."""
        if layers == len(self.layers):
            return self
        if layers not in range(1, len(self.layers) + 1):
            raise NetworkError(f"cannot take {layers} layers of a network that has {len(self.layers)}")
        digest = network_digest(layer.digest for layer in self.layers[:layers])
        source = None if self.source is None else self.source.head(layers, digest)
        return Network(self.layers[:layers], source=source, read_seconds=self.read_seconds)

    def __sizeof__(self) -> int:
        return self.nbytes

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, index: int) -> Layer:
        return self.layers[index]

    def __dask_tokenize__(self) -> object:
        return type(self).__name__, self.digest

    def __repr__(self) -> str:
        return f"Network({len(self)} layers, {self.inputs} inputs, {self.outputs} outputs, nnz={self.nnz:,})"


def network_digest(layer_digests: Iterable[str]) -> str:
    """Return the digest of the network whose layers have these digests."""
    return hashlib.sha256("\n".join(layer_digests).encode()).hexdigest()


def index_dtype(shape: tuple[int, int], nnz: int) -> type[np.signedinteger[Any]]:
    """Return the integer type of a layer's row numbers and column pointers: 32 bits where they fit."""
    return np.int32 if max(*shape, nnz) < 2**31 else np.int64


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
