"""Networks in one binary file, opened in no time because its arrays are used where they lie.

The file is in the safetensors format. The tensors `layers.{k}.indptr`, `.indices` and `.data`, with k from 0, are the
weights of a layer in CSC, and `layers.{k}.bias` is its bias. The metadata hold what is no array: format, version, the
network's digest, and `layers`, a JSON list with the shape, number of weights, activation, cap and digest of each layer,
and the negative slope of leaky_relu.
"""

import json
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io.atomic import atomic_path
from taskgraph_dnn.io.streams import Progress
from taskgraph_dnn.network import Layer, Network, index_dtype, network_digest

FORMAT = "taskgraph-dnn"
VERSION = "1"

_DTYPES: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "F32": np.dtype("<f4")}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_DATA_ALIGNMENT = 64  # bytes, a cache line: where the first tensor starts


@dataclass(frozen=True)
class PackedFile:
    """Where a network can be read again: a packed file that every reader finds under the same path.

    Attributes:
        path: the file's absolute path.
        digest: the network's digest.
        layers: how many of the file's layers, from the first, make the network.
    """

    path: str
    digest: str
    layers: int

    def open(self) -> Network:
        """Return the network, without hashing it again; a process opens the same file only once.

        Raises:
            FileError: the file is gone, or holds another network by now.
        """
        with _opening:  # lru_cache alone would let every thread open it
            state = _state(self.path)
            return _in_use.get((self, state)) or _open(self, state)

    def head(self, layers: int, digest: str) -> "PackedFile":
        """Return the source of the first `layers` layers."""
        return PackedFile(self.path, digest, layers)


_opening = threading.Lock()
#: Networks that somebody in this process has read and still holds, by file and the state it was in.
_in_use: WeakValueDictionary[tuple[PackedFile, tuple[int, int]], Network] = WeakValueDictionary()


def _state(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return what changes with a file: the time in nanoseconds, and the size in bytes."""
    try:
        status = Path(path).stat()
    except OSError as error:
        raise FileError(f"cannot read {path} as a safetensors file: {error}") from error
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _open(file: PackedFile, state: tuple[int, int]) -> Network:  # noqa: ARG001, a changed file is opened again
    network = read_packed(file.path, file.layers, verify=False)
    if network.digest != file.digest:
        raise FileError(f"{file.path} holds the network {network.digest}, expected {file.digest}")
    return network


def write_packed(network: Network, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Write a network to a packed file, array by array, without a copy of them in memory.

    Args:
        network: any network.
        path: the file; it appears when all is written.
        progress: called after each layer with the layers written and all layers.

    Raises:
        FileError: the file cannot be there.
    """
    tensors = [(f"layers.{k}.{name}", k, array) for k, layer in enumerate(network) for name, array in _arrays(layer)]
    # The format allows no gaps, so the widest types go first: then each tensor is aligned to its own type.
    tensors.sort(key=lambda tensor: -tensor[2].itemsize)
    with atomic_path(path) as draft, draft.open("wb") as stream:
        stream.write(_header(network, [(name, array) for name, _, array in tensors]))
        for name, k, array in tensors:
            stream.write(np.ascontiguousarray(array).data)
            if progress is not None and name.endswith(".bias"):
                progress(k + 1, len(network))


def _arrays(layer: Layer) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "indptr", layer.weights.indptr
    yield "indices", layer.weights.indices
    yield "data", layer.weights.data
    yield "bias", layer.bias


def _header(network: Network, tensors: list[tuple[str, NDArray[Any]]]) -> bytes:
    header: dict[str, Any] = {"__metadata__": _metadata(network)}
    offset = 0
    for name, array in tensors:
        end = offset + array.nbytes
        header[name] = {"dtype": _DTYPE_NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _DATA_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _metadata(network: Network) -> dict[str, str]:
    layers = [
        {
            "shape": [layer.inputs, layer.outputs],
            "nnz": layer.nnz,
            "activation": layer.activation,
            "cap": layer.cap,
            "digest": layer.digest,
        }
        | ({} if layer.negative_slope is None else {"negative_slope": layer.negative_slope})
        for layer in network
    ]
    return {"format": FORMAT, "version": VERSION, "digest": network.digest, "layers": json.dumps(layers)}


def read_packed(path: str | os.PathLike[str], layers: int | None = None, *, verify: bool = True) -> Network:
    """Open a packed file; the network's arrays are read-only views of the file, loaded when they are used.

    Args:
        path: the file.
        layers: how many layers, from the first; None takes all.
        verify: hash every layer and check its numbers. Without it, the file must be one that was verified before; its
            structure is checked nonetheless, because kernels follow it without looking.

    Raises:
        FileError: the file is no packed network, of another version, damaged, or has fewer than `layers` layers.
        NetworkError: `layers` is no positive number.
    """
    start = time.perf_counter()
    path = Path(path)
    state = _state(path)
    tensors = _Tensors.open(path)
    described = _described_layers(path, tensors.header.get("__metadata__") or {})
    if layers is None:
        layers = len(described)
    if layers < 1:
        raise NetworkError(f"cannot read {layers} layers, expected at least 1")
    if layers > len(described):
        raise FileError(f"{path} has {len(described)} layers, expected at least {layers}")
    described = described[:layers]
    digest = network_digest(layer.digest for layer in described)
    try:
        read = [tensors.layer(k, layer, verify) for k, layer in enumerate(described)]
        source = PackedFile(str(path.absolute()), digest, layers)
        network = Network(read, source=source, read_seconds=time.perf_counter() - start)
    except (NetworkError, TypeError, ValueError) as error:  # what the file says of its layers is not possible
        raise FileError(f"{path}: {error}") from error
    _in_use[source, state] = network
    return network


def read_packed_as_told(path: Path, neurons: int | None, layers: int | None, given: dict[str, Any]) -> Network:
    """Open a packed file for a reader of several formats.

    Args:
        path: the file.
        neurons: what the network must have, or None.
        layers: how many layers, or None.
        given: what the caller said of all layers, by name; it must be nothing, because the file says that itself.

    Raises:
        FileError: see `read_packed`; or the file has other neurons.
        NetworkError: something is given.
    """
    if given:
        name, value = next(iter(given.items()))
        raise NetworkError(f"{path} holds its own {name}, so {name}={value} cannot be given")
    network = read_packed(path, layers)
    if neurons not in (None, network.inputs):
        raise FileError(f"{path} has {network.inputs} neurons, expected {neurons}")
    return network


@dataclass(frozen=True)
class _Described:
    """A layer as the metadata describe it."""

    shape: tuple[int, int]
    nnz: int
    activation: str
    cap: float | None
    digest: str
    negative_slope: float | None = None

    def __post_init__(self) -> None:
        sizes = (*self.shape, self.nnz + 1)
        if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"{self.shape} and {self.nnz} are no sizes of a layer")


def _described_layers(path: Path, metadata: dict[str, str]) -> list[_Described]:
    for key, expected in (("format", FORMAT), ("version", VERSION)):
        if metadata.get(key) != expected:
            raise FileError(f"{path} has {key} {metadata.get(key)}, this package reads {key} {expected}")
    try:
        layers = [_Described(**{**layer, "shape": tuple(layer["shape"])}) for layer in json.loads(metadata["layers"])]
        digest = network_digest(layer.digest for layer in layers)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileError(f"{path} does not describe its layers: {error!r}") from error
    if metadata.get("digest") != digest:
        raise FileError(f"{path} has the digest {metadata.get('digest')}, but its layers have {digest}")
    return layers


@dataclass(frozen=True)
class _Tensors:
    """The arrays of an open file: where they are, and the bytes that they are views of."""

    path: Path
    content: mmap.mmap
    header: dict[str, Any]
    start: int  # bytes before the first tensor

    @classmethod
    def open(cls, path: Path) -> "_Tensors":
        try:
            with safe_open(path, framework="numpy"):  # checks the header, and that the tensors fill the file exactly
                pass
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (SafetensorError, OSError) as error:
            raise FileError(f"cannot read {path} as a safetensors file: {error}") from error
        start = 8 + struct.unpack("<Q", content[:8])[0]
        return cls(path, content, json.loads(content[8:start]), start)

    def get(self, name: str, dtype: str, size: int) -> NDArray[Any]:
        """Return the view of a tensor that must have `size` elements of type `dtype`."""
        tensor = self.header.get(name)
        if tensor is None:
            raise FileError(f"{self.path}: tensor {name} is missing")
        if (tensor["dtype"], tensor["shape"]) != (dtype, [size]):
            found = f"{tensor['dtype']} of shape {tensor['shape']}"
            raise FileError(f"{self.path}: tensor {name} is {found}, expected {dtype} of shape {[size]}")
        # The mapping itself is the array's base: scipy copies an array that is a small part of another one.
        return np.ndarray(size, _DTYPES[dtype], self.content, self.start + tensor["data_offsets"][0])

    def layer(self, k: int, described: _Described, verify: bool) -> Layer:
        """Return layer `k`, from 0."""
        inputs, outputs = described.shape
        index = _DTYPE_NAMES[np.dtype(index_dtype(described.shape, described.nnz))]
        indptr = self.get(f"layers.{k}.indptr", index, outputs + 1)
        indices = self.get(f"layers.{k}.indices", index, described.nnz)
        data = self.get(f"layers.{k}.data", "F32", described.nnz)
        bias = self.get(f"layers.{k}.bias", "F32", outputs)
        _check_structure(f"{self.path}: layer {k + 1}", inputs, indptr, indices)
        if verify:
            _check_numbers(f"{self.path}: layer {k + 1}", data, bias)
        layer = Layer.from_csc_arrays(
            described.shape,
            indptr,
            indices,
            data,
            bias=bias,
            activation=described.activation,
            negative_slope=described.negative_slope,
            cap=described.cap,
            digest=None if verify else described.digest,
        )
        if layer.digest != described.digest:
            raise FileError(f"{self.path}: layer {k + 1} has the digest {layer.digest}, expected {described.digest}")
        return layer


def _check_structure(place: str, inputs: int, indptr: NDArray[Any], indices: NDArray[Any]) -> None:
    if indptr[0] != 0 or indptr[-1] != indices.size or (indptr[1:] < indptr[:-1]).any():
        raise FileError(f"{place}: the column pointers do not rise from 0 to {indices.size}")
    if indices.size and not 0 <= indices.min() <= indices.max() < inputs:
        raise FileError(f"{place}: row numbers {indices.min()} to {indices.max()}, expected 0 to {inputs - 1}")
    rises = indices[1:] > indices[:-1]
    starts = indptr[1:-1]
    rises[starts[(starts > 0) & (starts < indices.size)] - 1] = True  # a new column may start at any row
    if not rises.all():
        raise FileError(f"{place}: the row numbers of a column are not sorted")


def _check_numbers(place: str, data: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    if not (np.isfinite(data).all() and data.all() and np.isfinite(bias).all()):
        raise FileError(f"{place}: a weight is not finite or is 0, or a bias is not finite")
