"""What the layouts of one file a layer share: numbered files without gaps, and one bias and activation for all."""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io.streams import Progress, read_bytes
from taskgraph_dnn.network import Layer, Network
from taskgraph_dnn.wiring import words


@dataclass(frozen=True)
class LayerFile:
    """The file of one layer.

    Attributes:
        stem: what the names of all layers of one network start with.
        layer: the layer's number, from 1.
        place: the file's name, for messages.
        read: returns the file's bytes, decompressed.
        bias: the file of the layer's bias, where there is one.
    """

    stem: str
    layer: int
    place: str
    read: Callable[[], bytes]
    bias: Path | None = None


def folder_layers(folder: Path, name: re.Pattern[str]) -> list[LayerFile]:
    """Return the layer files of a folder, in order; `name` has groups for the stem and the layer's number.

    A bias has the name of its layer with `-bias` before the suffix.
    """
    matches = [(match, file) for file in folder.iterdir() if (match := name.fullmatch(file.name))]
    files = [
        LayerFile(match[1], int(match[2]), file.name, partial(read_bytes, file), _bias_file(match, file))
        for match, file in matches
    ]
    return sorted(files, key=lambda file: (file.layer, file.place))


def _bias_file(match: re.Match[str], file: Path) -> Path | None:
    suffix = file.name.removeprefix(f"{match[1]}{match[2]}").removesuffix(".gz")
    named = [file.with_name(f"{match[1]}{match[2]}-bias{suffix}{end}") for end in ("", ".gz")]
    found = [path for path in named if path.exists()]
    if len(found) > 1:
        raise FileError(f"{file.parent} holds a bias twice: {found[0].name} and {found[1].name}")
    return found[0] if found else None


def require_no_bias(file: LayerFile, bias: float | None) -> None:
    """Check that not both a bias for all layers, and a file with this layer's, are given.

    Raises:
        NetworkError: they are.
    """
    if bias is not None and file.bias is not None:
        raise NetworkError(f"bias is {bias}, but {file.place} has its own in {file.bias.name}")


def select(
    files: Iterable[LayerFile], path: Path, example: str, *, stem: str | None, layers: int | None
) -> Iterator[LayerFile]:
    """Yield the files of layers 1 to `layers` (all, if None) of the network `stem` (the only one, if None).

    Args:
        files: the files that `path` holds, in any order.
        path: a folder or an archive.
        example: the name of a first layer, for messages.
        stem: what the names of the wanted network start with.
        layers: how many layers.

    Raises:
        FileError: a layer is missing or comes twice, or there are files of another network and `stem` is None.
        NetworkError: `layers` is no positive number.
    """
    if layers is not None and layers < 1:
        raise NetworkError(f"cannot read {layers} layers, expected at least 1")
    found: dict[int, str] = {}  # names only: a file of an archive carries its content
    expected = stem
    for file in files:
        expected = expected or file.stem
        if file.stem != expected:
            if stem is None:
                raise FileError(f"{path} holds more than one network: {expected}... and {file.stem}...")
            continue
        if layers is not None and file.layer > layers:
            continue
        if file.layer in found:
            raise FileError(f"{path} holds layer {file.layer} twice: {found[file.layer]} and {file.place}")
        found[file.layer] = file.place
        yield file
    if expected is None:
        raise FileError(f"{path} holds no file like {example}")
    missing = set(range(1, (layers or max(found, default=1)) + 1)) - found.keys()
    if missing:
        raise FileError(f"{path}: {expected}{min(missing)}{Path(example).suffix} is missing")


@dataclass(frozen=True)
class LayerStream:
    """The layers of a network, read as they are asked for, a few ahead; once.

    Attributes:
        layers: each layer with its number, from 0, in the order in which the files hold them.
        count: how many there are, or None where only the end will tell.
        started: when reading began, by `time.perf_counter`.
    """

    layers: Iterator[tuple[int, Layer]]
    count: int | None
    started: float

    def network(self, progress: Progress | None) -> Network:
        """Read all layers; `progress` is called after each with the layers read and all layers, or None."""
        read: dict[int, Layer] = {}
        for number, layer in self.layers:
            read[number] = layer
            if progress is not None:
                progress(len(read), self.count)
        return Network([read[number] for number in sorted(read)], read_seconds=time.perf_counter() - self.started)

    def of_neurons(self, path: Path, neurons: int | None) -> "LayerStream":
        """Return the same, but reading raises `FileError` if the network has not so many input neurons."""
        return self if neurons is None else replace(self, layers=_of_neurons(self.layers, path, neurons))


def _of_neurons(layers: Iterable[tuple[int, Layer]], path: Path, neurons: int) -> Iterator[tuple[int, Layer]]:
    for number, layer in layers:
        if number == 0 and layer.inputs != neurons:
            raise FileError(f"{path} has {layer.inputs} neurons, expected {neurons}")
        yield number, layer


def uniform(layers: Iterable[Layer], layout: str) -> Iterator[Layer]:
    """Yield the layers, checked to have one bias, activation and cap, as a layout needs that stores weights alone.

    Raises:
        NetworkError: a layer differs, or, in a network, reads something else than the layer before it.
    """
    if isinstance(layers, Network):
        _require_chain(layers, layout)
    first = None
    for number, layer in enumerate(layers, start=1):
        first = first or _Shared.of(layer)
        other = layer.bias[layer.bias != first.bias]
        if other.size:
            fault = f"layer {number} has bias {other[0]}, but the first neuron of layer 1 has {first.bias}"
        elif _Shared.of(layer).ends != first.ends:
            fault = f"layer {number} is {layer}, but layer 1 is {first.text}"
        else:
            yield layer
            continue
        raise NetworkError(f"{fault}, which {layout} cannot hold: write a packed file")


def _require_chain(network: Network, layout: str) -> None:
    for number, read in enumerate(network.wiring.sources):
        if read != (number - 1,):
            fault = f"layer {number + 1} reads {words(read)}, not just {words([number - 1])}"
            raise NetworkError(f"{fault}, which {layout} cannot hold: write a packed file")


class _Shared(NamedTuple):
    """What all layers must share with the first."""

    bias: np.float32
    ends: tuple[str, float | None, float | None]
    text: str

    @classmethod
    def of(cls, layer: Layer) -> "_Shared":
        return cls(layer.bias[0], (layer.activation, layer.negative_slope, layer.cap), str(layer))
