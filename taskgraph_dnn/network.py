"""What is computed: layers that feed one another, frozen and validated to fit when they are put together.

A layer reads the outputs of one earlier layer, or of several side by side. So concatenations need nothing else, and
neither do residual additions: see `layer.with_addition`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Any, Protocol

from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.layer import Layer, index_dtype
from taskgraph_dnn.wiring import NETWORK_INPUT, Layout, Wiring, words

__all__ = ["NETWORK_INPUT", "Layer", "Network", "NetworkSource", "Wiring", "index_dtype", "network_digest"]


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
        layers: the layers, in order; the last one's outputs are the network's.
        sources: for each layer the numbers (from 0) of the earlier layers that it reads, `NETWORK_INPUT` for the
            network's input. Its inputs are their outputs side by side, in this order; a source may be named twice. All
            layers but the last are to be read. None is a chain: the first layer reads the input, each other one the
            layer before it.
        source: the file that holds the same network, where there is one.
        read_seconds: what reading or generating it took; reported with a run's result.
        reduced: what static reductions made of it, where that is known; `reduced.head(n)` is that of the first n
            layers, or None.

    Raises:
        NetworkError: there is no layer, one does not fit what it reads, reads what does not come before it or is read
            by nobody, or a layer before the last has softmax.
    """

    layers: tuple[Layer, ...]
    wiring: Wiring
    source: NetworkSource | None
    read_seconds: float
    reduced: Any

    def __init__(
        self,
        layers: Iterable[Layer],
        sources: Iterable[Iterable[int]] | None = None,
        *,
        source: NetworkSource | None = None,
        read_seconds: float = 0.0,
        reduced: Any = None,
    ) -> None:
        try:
            object.__setattr__(self, "layers", tuple(layers))
        except TypeError as error:
            raise NetworkError(f"a network is made of layers, got a {type(layers).__name__}") from error
        if not self.layers:
            raise NetworkError("a network needs at least one layer, got none")
        for number, layer in enumerate(self.layers, start=1):
            if not isinstance(layer, Layer):
                raise NetworkError(f"layer {number} is a {type(layer).__name__}, expected a Layer")
        wiring = Wiring.chain(len(self.layers)) if sources is None else _wiring(sources, len(self.layers))
        self.__dict__.update(wiring=wiring, source=source, read_seconds=read_seconds, reduced=reduced)
        self._check_fit()

    def _check_fit(self) -> None:
        for number, layer in enumerate(self.layers):
            read = self.sources(number)
            widths = [self.width(source) for source in read]
            if layer.inputs != sum(widths):
                found = f"{widths[0]} outputs" if len(read) == 1 else f"{' + '.join(map(str, widths))} outputs"
                raise NetworkError(f"layer {number + 1} has {layer.inputs} inputs, but {_have(read)} {found}")
            if layer.activation == "softmax" and number + 1 < len(self.layers):
                raise NetworkError(f"layer {number + 1} has softmax, which only the last layer can have")

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers (from 0) whose outputs layer `layer` reads; `NETWORK_INPUT` is the input itself."""
        return self.wiring.sources[layer]

    def width(self, source: int) -> int:
        """Return how many values a source gives: the outputs of a layer (from 0), or `NETWORK_INPUT`'s inputs."""
        return self.inputs if source == NETWORK_INPUT else self.layers[source].outputs

    @property
    def inputs(self) -> int:
        """Neurons of the network's input."""
        return self.layers[0].inputs // len(self.sources(0))

    @property
    def outputs(self) -> int:
        """Neurons of the last layer."""
        return self.layers[-1].outputs

    @cached_property
    def layout(self) -> Layout:
        """Where a block's activations lie on their way through."""
        return Layout.of(self.wiring, [layer.shape for layer in self.layers])

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
        """SHA-256 over the layers' digests, and what they read where they are no chain."""
        if self.source is not None:
            return self.source.digest
        return network_digest((layer.digest for layer in self.layers), self.wiring)

    def head(self, layers: int) -> "Network":
        """Return the network of the first `layers` layers.

        Raises:
            NetworkError: there are not so many, or one before the last of them is read by later layers only.
        """
        if layers == len(self.layers):
            return self
        if layers not in range(1, len(self.layers) + 1):
            raise NetworkError(f"cannot take {layers} layers of a network that has {len(self.layers)}")
        wiring = self.wiring.head(layers)
        unread = wiring.unread()
        if unread is not None:
            raise NetworkError(f"no network ends after layer {layers}: only later layers read layer {unread + 1}")
        digest = network_digest((layer.digest for layer in self.layers[:layers]), wiring)
        source = None if self.source is None else self.source.head(layers, digest)
        reduced = None if self.reduced is None else self.reduced.head(layers)
        given: dict[str, Any] = {"source": source, "read_seconds": self.read_seconds, "reduced": reduced}
        return Network(self.layers[:layers], wiring.sources, **given)

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


def network_digest(layer_digests: Iterable[str], wiring: Wiring | None = None) -> str:
    """Return the digest of the network whose layers have these digests; with no wiring they are a chain."""
    hashed = hashlib.sha256("\n".join(layer_digests).encode())
    if wiring is not None and not wiring.is_chain:
        hashed.update(f"\n{wiring.sources}".encode())
    return hashed.hexdigest()


def _wiring(sources: Iterable[Iterable[int]], layers: int) -> Wiring:
    """Return the wiring of so many layers, checked but for their widths."""
    try:
        given = list(sources)
    except TypeError as error:
        raise NetworkError(f"sources are {sources!r}, expected some for each layer") from error
    if len(given) != layers:
        raise NetworkError(f"sources are given for {len(given)} layers, but the network has {layers}")
    wiring = Wiring(tuple(_checked(read, number) for number, read in enumerate(given)))
    unread = wiring.unread()
    if unread is not None:
        raise NetworkError(f"layer {unread + 1} is read by no other, and only the last one, layer {layers}, may be so")
    return wiring


def _checked(read: Any, number: int) -> tuple[int, ...]:
    """Return the sources of a layer as plain numbers."""
    try:
        numbers = tuple(map(index, read))
    except TypeError as error:
        raise NetworkError(f"layer {number + 1} has the sources {read!r}, expected numbers of layers") from error
    if not numbers:
        raise NetworkError(f"layer {number + 1} has no sources, expected at least one")
    for source in numbers:
        if not NETWORK_INPUT <= source < number:
            raise NetworkError(
                f"layer {number + 1} has the source {source}, expected {NETWORK_INPUT} (the network's input) to "
                f"{number - 1} (the layer before it)"
            )
    return numbers


def _have(read: Sequence[int]) -> str:
    return f"{words(read)} {'has' if len(read) == 1 else 'have'}"
