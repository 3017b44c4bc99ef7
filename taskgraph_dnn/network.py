"""What is computed: layers that feed one another, frozen and validated to fit when they are put together."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.layer import Layer, index_dtype

__all__ = ["NETWORK_INPUT", "Layer", "Network", "NetworkSource", "index_dtype", "network_digest"]

#: The number that stands for the network's input where a layer's sources are named.
NETWORK_INPUT = -1


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
        reduced: what static reductions made of it, where that is known; `reduced.head(n)` is that of the first n
            layers, or None.

    Raises:
        NetworkError: there is no layer, two neighbours do not fit, or a layer before the last has softmax.
    """

    layers: tuple[Layer, ...]
    source: NetworkSource | None
    read_seconds: float
    reduced: Any

    def __init__(
        self,
        layers: Iterable[Layer],
        *,
        source: NetworkSource | None = None,
        read_seconds: float = 0.0,
        reduced: Any = None,
    ) -> None:
        try:
            object.__setattr__(self, "layers", tuple(layers))
        except TypeError as error:
            raise NetworkError(f"a network is made of layers, got a {type(layers).__name__}") from error
        self.__dict__.update(source=source, read_seconds=read_seconds, reduced=reduced)
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
        reduced = None if self.reduced is None else self.reduced.head(layers)
        return Network(self.layers[:layers], source=source, read_seconds=self.read_seconds, reduced=reduced)

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
