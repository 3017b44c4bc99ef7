"""Packed files written: layer by layer as they come, each array once, then what is known of them, then what is left.

Memory holds a few layers at any time. Whatever comes after the first pass reads the draft through its own mapping.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.io.atomic import atomic_path, require_space
from taskgraph_dnn.io.described import FORMAT, VERSION, Described, seal, stored_layers, wired, wiring_of
from taskgraph_dnn.io.packed import PackedFile, SharedFile
from taskgraph_dnn.io.streams import Progress, map_ahead
from taskgraph_dnn.io.tensors import Tensors, TensorWriter, content_digest
from taskgraph_dnn.kernels import automatic_kernels
from taskgraph_dnn.network import Layer, Network, Wiring, network_digest
from taskgraph_dnn.reductions.certificates import keeps_zero, threshold
from taskgraph_dnn.reductions.static import STATIC, WORTHWHILE, ReducedLayer, reduced_layers

#: Of the header, for a layer and its reduced one; how many layers are expected of a stream that does not say; and for
#: how many layers there is room at most.
_HEADER_NBYTES, _EXPECTED_LAYERS, _MOST_LAYERS = 3072, 1024, 2**14

#: Of inputs: in part zero, as a network's, and not known to be, as all others.
_DENSITIES = (0.5, 1.0)


def write_packed(network: Network, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Write a network to a packed file, with all that planning and running it need to know.

    Args:
        network: any network.
        path: the file; it appears when all is written.
        progress: called with the steps done and all steps, three for each layer.

    Raises:
        FileError: the file cannot be there, or the disk has no room for it.
    """
    write_packed_layers(enumerate(network), path, len(network), wiring=network.wiring, progress=progress)


def write_packed_layers(
    layers: Iterable[tuple[int, Layer]],
    path: str | os.PathLike[str],
    count: int | None = None,
    *,
    wiring: Wiring | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the layers of a network to a packed file as they come, holding only a few at a time.

    Args:
        layers: each layer with its number, from 0, in any order.
        path: the file; it appears when all is written.
        count: how many layers there are, or None if nobody knows.
        wiring: what they read, where they are no chain.
        progress: called with the steps done and all steps, three for each layer, or None where nobody knows.

    Raises:
        FileError: the file cannot be there, or the disk has no room for it.
        NetworkError: a layer is missing or comes twice, or one does not fit what it reads.
    """
    room = _HEADER_NBYTES * (1 + min(count or _EXPECTED_LAYERS, _MOST_LAYERS))
    with atomic_path(path) as draft, TensorWriter.open(draft, room) as writer:
        step = _Steps(progress, None if count is None else 3 * count)
        described = _write_layers(writer, path, layers, count, step)
        described = described if wiring is None else wired(described, wiring)
        step.total = 3 * len(described)
        tensors = writer.tensors()
        described = _with_facts(_network(tensors, described), described, step)
        _finish(writer, described, _write_reduced(writer, _network(tensors, described), step))


def write_shared(network: Network, path: Path) -> SharedFile:
    """Write a network to a packed file for one run, at once: with what is known of its layers so far, and no more.

    Raises:
        OSError: the file cannot be written.
        FileError: there are too many layers for one file.
    """
    with TensorWriter.open(path, _HEADER_NBYTES * (1 + len(network))) as writer:
        layers = enumerate(map_ahead(lambda layer: _prepared(layer, layer.facts), network))
        described = [_put(writer, f"layers.{number}", prepared) for number, prepared in layers]
        _finish(writer, wired(described, network.wiring), {})
    return SharedFile(PackedFile(str(path.absolute()), network.digest, len(network)))


def _finish(writer: TensorWriter, described: list[Described], reduced: dict[str, str]) -> None:
    texts = {"layers": json.dumps([layer.values for layer in described])} | reduced
    digest = network_digest((layer.digest for layer in described), wiring_of(described))
    writer.finish({"format": FORMAT, "version": VERSION, "digest": digest, "seal": seal(texts)} | texts)


def _network(tensors: Tensors, described: list[Described]) -> Network:
    """Return what is written so far; this checks that the layers fit."""
    return Network(stored_layers(tensors, "layers", described, checked=True), wiring_of(described).sources)


@dataclass
class _Steps:
    """Counts what is done, and tells it."""

    progress: Progress | None
    total: int | None
    done: int = 0

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)

    def finish(self) -> None:
        """Tell that the rest need not be done."""
        if self.progress is not None:
            self.progress(self.total or self.done, self.total)


@dataclass(frozen=True)
class _Prepared:
    """A layer ready to be written: its arrays by the names of its tensors, each with its digest, and the rest."""

    arrays: Mapping[str, tuple[NDArray[Any], bytes]]
    described: Described


def _prepared(layer: Layer, facts: dict[str, Any] | None = None) -> _Prepared:
    w = layer.weights
    parts = {"indptr": w.indptr, "indices": w.indices, "data": w.data, "bias": layer.bias}
    described = Described(
        layer.shape, layer.nnz, layer.activation, layer.cap, layer.digest, layer.negative_slope, facts=facts or {}
    )
    return _Prepared({part: _hashed(array) for part, array in parts.items()}, described)


def _hashed(array: NDArray[Any]) -> tuple[NDArray[Any], bytes]:
    array = np.ascontiguousarray(array)
    return array, content_digest(array)


def _put(writer: TensorWriter, prefix: str, prepared: _Prepared) -> Described:
    names = {part: writer.put(f"{prefix}.{part}", *array) for part, array in prepared.arrays.items()}
    stored = {part: name for part, name in names.items() if name != f"{prefix}.{part}"}
    return replace(prepared.described, stored=stored)


def _write_layers(
    writer: TensorWriter,
    path: str | os.PathLike[str],
    layers: Iterable[tuple[int, Layer]],
    count: int | None,
    step: _Steps,
) -> list[Described]:
    written: dict[int, Described] = {}
    second = 0  # bytes before the second layer: those after it share what the first had to bring
    for number, layer, prepared in map_ahead(lambda item: (*item, _prepared(item[1])), layers):
        if number in written:
            raise NetworkError(f"layer {number + 1} comes twice")
        if count is not None and number >= count:
            raise NetworkError(f"layer {number + 1} is one too many, expected {count}")
        written[number] = _put(writer, f"layers.{number}", prepared)
        layer.release()  # it may come from another packed file
        nbytes = writer.mark[1]
        if len(written) == 1:
            second = nbytes
        elif count is not None:
            rest = (nbytes - second) * (count - len(written)) // (len(written) - 1)
            require_space(Path(path).resolve().parent, rest, str(path))
        step()
    missing = set(range(count or max(written, default=0) + 1)) - written.keys()
    if missing:
        raise NetworkError(f"layer {min(missing) + 1} is missing")
    return [written[number] for number in sorted(written)]


def _with_facts(network: Network, described: list[Described], step: _Steps) -> list[Described]:
    known = []
    for layer, facts in zip(described, map_ahead(_learned, _with_caps(network)), strict=True):
        known.append(replace(layer, facts=facts))
        step()
    return known


def _with_caps(layers: Iterable[Layer]) -> Iterator[tuple[Layer, float | None]]:
    """Yield each layer with what its inputs do not exceed, or None."""
    cap = None
    for layer in layers:
        yield layer, cap
        cap = layer.cap


def _learned(item: tuple[Layer, float | None]) -> dict[str, Any]:
    """Return the facts that plans and reductions ask for."""
    layer, largest = item
    for kernel in automatic_kernels():
        for density in _DENSITIES:
            kernel.seconds(layer, 32, density)
    keeps_zero(layer)
    if layer.cap is not None:
        threshold(layer, largest)
    layer.release()
    layer.packed.clear()
    return layer.facts


def _write_reduced(writer: TensorWriter, network: Network, step: _Steps) -> dict[str, str]:
    """Write what static reductions make of the network, if it is worthwhile, and return what the metadata say of it."""
    mark, edges = writer.mark, 0
    described: list[Described] = []
    for prepared in map_ahead(_prepared_reduced, _reduced_with_caps(network)):
        edges += prepared.described.nnz
        if edges > WORTHWHILE * network.nnz:
            writer.drop(mark)
            step.finish()
            return {}
        described.append(_put(writer, f"reduced.{len(described)}", prepared))
        if len(described) <= len(network):
            step()
    folds_inputs = len(described) > len(network)
    wiring = network.wiring.folded() if folds_inputs else network.wiring
    layers = [layer.values for layer in wired(described, wiring)]
    return {"reduced": json.dumps({"names": STATIC, "folds_inputs": folds_inputs, "layers": layers})}


def _reduced_with_caps(network: Network) -> Iterator[tuple[ReducedLayer, float | None]]:
    cap = None
    for reduced in reduced_layers(network, STATIC):
        yield reduced, cap
        cap = reduced.layer.cap


def _prepared_reduced(item: tuple[ReducedLayer, float | None]) -> _Prepared:
    reduced, largest = item
    prepared = _prepared(reduced.layer, _learned((reduced.layer, largest)))
    if reduced.unread:  # then this can be no network's last layer
        return replace(prepared, described=replace(prepared.described, unread=reduced.unread))
    places = _hashed(reduced.places)
    described = replace(prepared.described, places=places[1].hex())
    return replace(prepared, arrays={**prepared.arrays, "places": places}, described=described)
