"""Networks in one binary file, opened in no time because its arrays are used where they lie, when they are used.

The file is in the safetensors format. The tensors `layers.{k}.indptr`, `.indices` and `.data`, with k from 0, are the
weights of a layer in CSC, and `layers.{k}.bias` is its bias. `reduced.{k}` are those of the network that the static
reductions made of it, where that is much smaller; `reduced.{k}.places` says for each output of the layer that was
reduced which of the reduced layer's it is, or -1 where it is always 0 or read by nobody. Equal tensors are stored once,
under the name of the first. The metadata hold what is no array, as JSON: format, version, the network's digest,
`layers` and `reduced` (see `Described`), and `seal`, a digest of these two.
"""

import os
import threading
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io.described import Described, described_layers, described_reduction, stored_layers, wiring_of
from taskgraph_dnn.io.remote import seen_version
from taskgraph_dnn.io.streams import map_ahead
from taskgraph_dnn.io.tensors import Place, Tensors, content_digest
from taskgraph_dnn.network import Layer, Network, network_digest
from taskgraph_dnn.reductions.static import Reduced

_INT32 = np.dtype(np.int32)


@dataclass(frozen=True)
class PackedFile:
    """Where a network can be read again: a packed file that every reader finds under the same path or URL.

    Attributes:
        path: the file's absolute path, or its URL.
        digest: the network's digest.
        layers: how many of the network's layers, from the first.
        reduced: whether it is what static reductions made of the file's network.
    """

    path: str
    digest: str
    layers: int
    reduced: bool = False

    def open(self) -> Network:
        """Return the network; a process opens the same file only once.

        Raises:
            FileError: the file is gone, or holds another network by now.
        """
        with _opening:  # lru_cache alone would let every thread open it
            state = _state(_place(self.path))
            return _in_use.get((self, state)) or _open(self, state)

    def head(self, layers: int, digest: str) -> "PackedFile":
        """Return the source of the first `layers` layers."""
        return PackedFile(self.path, digest, layers, self.reduced)


class SharedFile:
    """A packed file that holds a network for one run: each process opens it once and keeps it as long as this value.

    Its readers may go on when the file is gone from its folder.

    Args:
        file: all of it.
    """

    def __init__(self, file: PackedFile) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._network: Network | None = None

    def open(self) -> Network:
        """Return the network.

        Raises:
            FileError: the file is gone, or holds another network by now.
        """
        with self._lock:
            if self._network is None:
                self._network = _read(self.file)
            return self._network

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedFile, (self.file,)


_opening = threading.Lock()
#: Networks that somebody in this process has read and still holds, by file and the state it was in.
_in_use: WeakValueDictionary[tuple[PackedFile, Hashable], Network] = WeakValueDictionary()


def is_url(path: str | os.PathLike[str]) -> bool:
    """Return whether this is a URL, and no path."""
    return "://" in os.fspath(path)


def _place(path: str | os.PathLike[str]) -> Place:
    if not is_url(path):
        return Path(path)
    protocol, _, local = os.fspath(path).partition("://")
    if protocol != "file":
        return os.fspath(path)
    from urllib.request import url2pathname  # ssl and http come with it

    return Path(url2pathname(local))


def _state(place: Place) -> Hashable:
    """Return what changes with a file: time and size, or, behind a URL, what this process has seen of it last."""
    try:
        if isinstance(place, str):
            return seen_version(place)
        status = place.stat()
    except OSError as error:
        raise FileError(f"cannot read {place} as a safetensors file: {error}") from error
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _open(file: PackedFile, state: Hashable) -> Network:  # noqa: ARG001, a changed file is opened again
    return _read(file)


def _read(file: PackedFile) -> Network:
    network = read_packed(file.path) if file.reduced else read_packed(file.path, file.layers)
    if file.reduced:
        if network.reduced is None or len(network.reduced.network) < file.layers:
            raise FileError(f"{file.path} holds no reduced network of {file.layers} layers any more")
        network = network.reduced.network.head(file.layers)
    if network.digest != file.digest:
        raise FileError(f"{file.path} holds the network {network.digest}, expected {file.digest}")
    return network


def read_packed(path: str | os.PathLike[str], layers: int | None = None, *, verify: bool = False) -> Network:
    """Open a packed file, however large, without reading the weights.

    A layer's arrays are read-only views of the file. When they are used for the first time, the layer's structure and
    numbers are checked, so that no damage can make a kernel read what is not its own; `FileError` is raised then.
    Other damage, a changed weight for example, only `verify` can see.

    A URL may be any that fsspec knows (https://, s3://, ...); passwords are left to fsspec's own configuration, because
    every worker needs them. Its file is read by ranges; `taskgraph-dnn.read-bytes` says how much of it is kept and read
    ahead. If it changes, what was opened before cannot be used any more: `FileError` says so.

    Args:
        path: the file, or its URL.
        layers: how many layers, from the first; None takes all.
        verify: read and hash all of these layers now, and the reduced ones, and compare them with their digests.

    Raises:
        FileError: the file is no packed network, of another version, damaged, or has fewer than `layers` layers; or a
            URL cannot be read.
        NetworkError: `layers` is no positive number.
        MissingDependencyError: the URL needs a package that is not installed.
    """
    start = time.perf_counter()
    path = _place(path)
    if isinstance(path, str):
        tensors = Tensors.open_url(path)
        state = _state(path)
    else:
        state = _state(path)  # first: a file that changes meanwhile must not be taken for the newer one
        tensors = Tensors.open(path)
    described = described_layers(path, tensors.metadata)
    if layers is not None and layers < 1:
        raise NetworkError(f"cannot read {layers} layers, expected at least 1")
    if layers is not None and layers > len(described):
        raise FileError(f"{path} has {len(described)} layers, expected at least {layers}")
    try:
        network = _network(tensors, described, start).head(layers or len(described))
    except (NetworkError, TypeError, ValueError) as error:  # what the file says of its layers is not possible
        raise FileError(f"{path}: {error}") from error
    for known in (network, *([] if network.reduced is None else [network.reduced.network])):
        _in_use[known.source, state] = known
    if verify:
        _verify(path, network)
    return network


def _network(tensors: Tensors, described: list[Described], start: float) -> Network:
    wiring, path = wiring_of(described), tensors.path
    digest = network_digest((layer.digest for layer in described), wiring)
    file = path if isinstance(path, str) else str(path.absolute())
    return Network(
        stored_layers(tensors, "layers", described),
        wiring.sources,
        source=PackedFile(file, digest, len(described)),
        reduced=_reduced(tensors, file, described),
        read_seconds=time.perf_counter() - start,
    )


def _reduced(tensors: Tensors, file: str, described: list[Described]) -> Reduced | None:
    found = described_reduction(tensors.path, tensors.metadata)
    if found is None:
        return None
    names, folds_inputs, layers = found
    if len(layers) != len(described) + folds_inputs:
        raise FileError(f"{file} has {len(layers)} reduced layers for {len(described)} layers")
    wiring = wiring_of(layers)
    digest = network_digest((layer.digest for layer in layers), wiring)
    source = PackedFile(file, digest, len(layers), reduced=True)
    network = Network(stored_layers(tensors, "reduced", layers), wiring.sources, source=source)
    outputs = [layer.shape[1] for layer in described]
    places = _Places(tensors, layers, outputs, folds_inputs)
    last = places[-1]
    if last is None:
        raise FileError(f"{file} says that outputs of its last reduced layer are missing")
    return Reduced(network, last, names, folds_inputs, places)


@dataclass(frozen=True, repr=False)
class _Places(Sequence[NDArray[np.int32] | None]):
    """For each layer where its outputs are among those of the reduced one, or None; checked when asked for."""

    tensors: Tensors
    layers: list[Described]  # the reduced ones
    outputs: list[int]  # of each layer that was reduced
    folds_inputs: bool

    def __len__(self) -> int:
        return len(self.outputs)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            chosen = range(*index.indices(len(self)))
            is_head = chosen == range(len(chosen))
            return replace(self, outputs=self.outputs[index]) if is_head else tuple(self[k] for k in chosen)
        return self._places(range(len(self))[index])

    def _places(self, k: int) -> NDArray[np.int32] | None:
        number = k + self.folds_inputs
        described = self.layers[number]
        if described.unread:
            return None
        part = described.name(f"reduced.{number}", "places"), _INT32, self.outputs[k]
        (places,) = self.tensors.get([part], f"{self.tensors.path}: reduced layer {number + 1}")
        if not -1 <= places.min() <= places.max() < described.shape[1]:
            found = f"places {places.min()} to {places.max()}, expected -1 to {described.shape[1] - 1}"
            raise FileError(f"{self.tensors.path}: reduced layer {number + 1} has {found}")
        return places

    def verify(self) -> None:
        """Compare all of them with their digests."""
        for k, places in enumerate(self):
            described = self.layers[k + self.folds_inputs]
            if places is not None and content_digest(places).hex() != described.places:
                raise FileError(f"{self.tensors.path}: the places of the outputs of layer {k + 1} were changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (list(self),)


def _verify(path: Place, network: Network) -> None:
    layers = [(f"{path}: layer {number}", layer) for number, layer in enumerate(network, start=1)]
    if network.reduced is not None:
        smaller: Network = network.reduced.network
        layers += [(f"{path}: reduced layer {number}", layer) for number, layer in enumerate(smaller, start=1)]
        if isinstance(network.reduced.earlier, _Places):
            network.reduced.earlier.verify()
    for _ in map_ahead(_verify_layer, layers):
        pass


def _verify_layer(known: tuple[str, Layer]) -> None:
    place, layer = known
    w = layer.weights
    found = Layer.from_csc_arrays(
        w.shape,
        w.indptr,
        w.indices,
        w.data,
        bias=layer.bias,
        activation=layer.activation,
        negative_slope=layer.negative_slope,
        cap=layer.cap,
    )
    if found.digest != layer.digest:
        raise FileError(f"{place} has the digest {found.digest}, expected {layer.digest}")
    layer.release()


def read_packed_as_told(
    path: str | os.PathLike[str],
    neurons: int | None,
    layers: int | None,
    given: dict[str, Any],
    *,
    verify: bool = False,
) -> Network:
    """Open a packed file for a reader of several formats.

    Args:
        path: the file.
        neurons: what the network must have, or None.
        layers: how many layers, or None.
        given: what the caller said of all layers, by name; it must be nothing, because the file says that itself.
        verify: see `read_packed`.

    Raises:
        FileError: see `read_packed`; or the file has other neurons.
        NetworkError: something is given.
    """
    if given:
        name, value = next(iter(given.items()))
        raise NetworkError(f"{path} holds its own {name}, so {name}={value} cannot be given")
    network = read_packed(path, layers, verify=verify)
    if neurons not in (None, network.inputs):
        raise FileError(f"{path} has {network.inputs} neurons, expected {neurons}")
    return network
