"""What a packed file says of its layers, and the layers made of it, whose arrays are checked when they are loaded."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io.tensors import Part, Place, Tensors
from taskgraph_dnn.layer import Arrays, Layer, csc_of_arrays, index_dtype
from taskgraph_dnn.network import NETWORK_INPUT, Wiring, network_digest

FORMAT = "taskgraph-dnn"
VERSION = "2"
#: What this version can read; files of version 1 hold each tensor of each layer, no facts and no reduced network.
_READABLE = ("1", VERSION)

_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True)
class Described:
    """A layer as the metadata describe it.

    Attributes:
        shape: inputs and outputs.
        nnz: edges.
        activation: as of the layer, like the next two.
        cap: the upper bound, or None.
        digest: the layer's.
        negative_slope: of leaky_relu.
        facts: what is known of the layer without reading it.
        stored: of those tensors that are stored under another's name, that name.
        unread: of a reduced layer, how many outputs were dropped only because the next layer does not read them.
        places: of a reduced layer, the digest of its places, in hexadecimal.
        sources: what it reads, as of a network; None where that is the layer before it.
    """

    shape: tuple[int, int]
    nnz: int
    activation: str
    cap: float | None
    digest: str
    negative_slope: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)
    unread: int = 0
    places: str | None = None
    sources: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        sizes = (*self.shape, self.nnz + 1)
        if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"{self.shape} and {self.nnz} are no sizes of a layer")
        if not isinstance(self.facts, dict) or not isinstance(self.stored, dict):
            raise ValueError("facts and stored are not given by name")
        if self.sources is not None and not all(type(source) is int for source in self.sources):
            raise ValueError(f"{self.sources} are no numbers of layers")

    @property
    def values(self) -> dict[str, Any]:
        """The attributes by name, less those that say nothing, which older versions do not know either."""
        own = asdict(self)
        always = ("shape", "nnz", "activation", "cap", "digest")
        return {name: value for name, value in own.items() if name in always or value not in (None, {}, 0)}

    def name(self, prefix: str, part: str) -> str:
        """Return the name of the tensor that is this part of the layer whose tensors start with `prefix`."""
        return self.stored.get(part, f"{prefix}.{part}")


def described_layers(path: Place, metadata: dict[str, str]) -> list[Described]:
    """Return what the metadata say of the layers.

    Raises:
        FileError: they are not this format's, or do not fit one another.
    """
    if metadata.get("format") != FORMAT:
        raise FileError(f"{path} has format {metadata.get('format')}, this package reads format {FORMAT}")
    version = metadata.get("version")
    if version not in _READABLE:
        raise FileError(f"{path} has version {version}, this package reads versions {' and '.join(_READABLE)}")
    if version != "1" and metadata.get("seal") != seal(metadata):
        raise FileError(f"{path}: what it says of its layers was changed: it has the seal {metadata.get('seal')}")
    try:
        layers = [_described(layer) for layer in json.loads(metadata["layers"])]
        digest = network_digest((layer.digest for layer in layers), wiring_of(layers))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileError(f"{path} does not describe its layers: {error!r}") from error
    if metadata.get("digest") != digest:
        raise FileError(f"{path} has the digest {metadata.get('digest')}, but its layers have {digest}")
    return layers


def wiring_of(layers: Iterable[Described]) -> Wiring:
    """Return what the layers read."""
    befores = enumerate((layer.sources for layer in layers), start=NETWORK_INPUT)
    return Wiring(tuple((before,) if sources is None else sources for before, sources in befores))


def wired(layers: Iterable[Described], wiring: Wiring) -> list[Described]:
    """Return the layers with what they read."""
    befores = enumerate(zip(layers, wiring.sources, strict=True), start=NETWORK_INPUT)
    return [replace(layer, sources=None if read == (before,) else read) for before, (layer, read) in befores]


def seal(metadata: dict[str, str]) -> str:
    """Return the digest of the descriptions: the facts in them decide what a run leaves out."""
    return hashlib.sha256("\n".join(metadata.get(name, "") for name in ("layers", "reduced")).encode()).hexdigest()


def described_reduction(path: Place, metadata: dict[str, str]) -> tuple[tuple[str, ...], bool, list[Described]] | None:
    """Return the names of the reductions, whether they fold inputs, and the reduced layers; None where there are none.

    Raises:
        FileError: the metadata do not describe them.
    """
    if "reduced" not in metadata:
        return None
    try:
        reduced = json.loads(metadata["reduced"])
        layers = [_described(layer) for layer in reduced["layers"]]
        return tuple(map(str, reduced["names"])), bool(reduced["folds_inputs"]), layers
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileError(f"{path} does not describe its reduced layers: {error!r}") from error


def _described(values: dict[str, Any]) -> Described:
    tuples: dict[str, Any] = {name: tuple(values[name]) for name in ("shape", "sources") if name in values}
    return Described(**{**values, **tuples})


def stored_layers(
    tensors: Tensors, prefix: str, described: Iterable[Described], *, checked: bool = False
) -> Iterator[Layer]:
    """Yield the layers so described, whose tensors have names that start with `prefix`, a dot and the layer's number.

    Args:
        tensors: the file.
        prefix: "layers" or "reduced".
        described: the layers, from the first.
        checked: whether it is known that the arrays are right.

    Raises:
        FileError: a tensor is missing, or of another size.
        NetworkError: a description is not possible.
    """
    for k, layer in enumerate(described):
        stored = _StoredLayer(tensors, prefix, k, layer, [checked])
        stored.check_sizes()
        yield Layer.lazily(
            layer.shape,
            layer.nnz,
            stored.load,
            activation=layer.activation,
            negative_slope=layer.negative_slope,
            cap=layer.cap,
            digest=layer.digest,
            facts=layer.facts,
            read_ahead=partial(tensors.read_ahead, stored.names()),
            release=partial(tensors.release, stored.names()),
        )


@dataclass(frozen=True)
class _StoredLayer:
    """The arrays of a layer, checked when they are loaded for the first time."""

    tensors: Tensors
    prefix: str
    k: int
    described: Described
    checked: list[bool]

    def _parts(self) -> Iterator[Part]:
        """Yield name, type and size of each tensor."""
        index = np.dtype(index_dtype(self.described.shape, self.described.nnz))
        outputs, nnz = self.described.shape[1], self.described.nnz
        sizes = {"indptr": (index, outputs + 1), "indices": (index, nnz), "data": (_FLOAT32, nnz)}
        for part, (dtype, size) in (sizes | {"bias": (_FLOAT32, outputs)}).items():
            yield self.described.name(f"{self.prefix}.{self.k}", part), dtype, size

    def names(self) -> list[str]:
        return [name for name, _, _ in self._parts()]

    def check_sizes(self) -> None:
        for name, dtype, size in self._parts():
            self.tensors.check(name, dtype, size)

    def load(self) -> Arrays:
        place = f"{self.tensors.path}: {'reduced ' if self.prefix == 'reduced' else ''}layer {self.k + 1}"
        indptr, indices, data, bias = self.tensors.get(list(self._parts()), place)
        if not self.checked[0]:
            _check_structure(place, self.described.shape[0], indptr, indices)
            _, _, *numbers = self.names()
            for name, array, zeros in zip(numbers, (data, bias), (False, True), strict=True):
                if (name, zeros) not in self.tensors.sound:
                    _check_numbers(place, array, zeros)
                    self.tensors.sound.add((name, zeros))
            self.checked[0] = True
        return csc_of_arrays(self.described.shape, indptr, indices, data), bias


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


def _check_numbers(place: str, numbers: NDArray[np.float32], zeros: bool) -> None:
    if not (np.isfinite(numbers).all() and (zeros or numbers.all())):
        raise FileError(f"{place}: a weight is not finite or is 0, or a bias is not finite")
