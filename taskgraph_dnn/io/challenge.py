"""Networks as the Graph Challenge publishes them: a text file a layer, in a folder or in a compressed archive.

A layer is `n{neurons}-l{layer}.tsv`, with an edge a line: input neuron, output neuron, weight. Bias, activation and cap
are not in the files; all layers share them, and the bias follows from the number of neurons.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from types import EllipsisType

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn import challenge
from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io.atomic import atomic_folder
from taskgraph_dnn.io.layout import LayerFile, folder_layers, require_uniform, select
from taskgraph_dnn.io.packed import read_packed_as_told
from taskgraph_dnn.io.streams import Progress, archive_files, map_ahead
from taskgraph_dnn.io.tsv import Column, Table, Triples, format_tsv, parse_tsv, to_csr
from taskgraph_dnn.network import Layer, Network

LAYER_FILE = re.compile(r"(n[1-9][0-9]*-l)([1-9][0-9]*)\.tsv(\.gz)?")


def read_challenge_network(
    path: str | os.PathLike[str],
    neurons: int | None = None,
    layers: int | None = None,
    *,
    bias: float | None = None,
    cap: float | EllipsisType | None = ...,
    check_edges: bool = True,
    progress: Progress | None = None,
) -> Network:
    """Read a network in the layout of the Graph Challenge.

    Args:
        path: a folder with `n{neurons}-l{layer}.tsv` or `.tsv.gz`; a `.tar.gz` archive with one folder of such `.tsv`,
            which is read as a stream and never unpacked; or a packed `.safetensors` file, which has its own bias and
            cap.
        neurons: neurons a layer; None takes them from the file names.
        layers: how many layers, from the first; None takes all.
        bias: the bias of all neurons; None takes the challenge's for so many neurons.
        cap: the activation's upper bound, or None; left out, the challenge's 32.
        check_edges: refuse a layer of an official size that has not 32 edges a neuron.
        progress: called after each layer with the layers read and all layers, or None where these are not known.

    Raises:
        FileError: a layer is missing, damaged or has a wrong number of edges; the message names file and line.
        NetworkError: an argument is out of range.
        MissingDependencyError: pyarrow is not installed.
    """
    start = time.perf_counter()
    path = Path(path)
    if path.suffix == ".safetensors":
        given = ({} if bias is None else {"bias": bias}) | ({} if cap is ... else {"cap": cap})
        return read_packed_as_told(path, neurons, layers, given)
    files = _select(path, neurons, layers)
    total = layers
    if path.is_dir():
        files = list(files)  # a missing file is reported before any is read
        total = len(files)
    remaining = iter(files)
    first = next(remaining)
    read = partial(
        _read_layer, bias=_shared_bias(bias, first), cap=challenge.CAP if cap is ... else cap, check_edges=check_edges
    )
    read_layers: dict[int, Layer] = {}
    for number, layer in map_ahead(read, chain([first], remaining)):
        read_layers[number] = layer
        if progress is not None:
            progress(len(read_layers), total)
    in_order = [read_layers[number] for number in sorted(read_layers)]
    return Network(in_order, read_seconds=time.perf_counter() - start)


def _select(path: Path, neurons: int | None, layers: int | None) -> Iterable[LayerFile]:
    files = folder_layers(path, LAYER_FILE) if path.is_dir() else _archive_layers(path)
    stem = None if neurons is None else f"n{neurons}-l"
    return select(files, path, "n1024-l1.tsv", stem=stem, layers=layers)


def _archive_layers(path: Path) -> Iterator[LayerFile]:
    folder: PurePosixPath | None = None
    for name, content in archive_files(path, LAYER_FILE.fullmatch):
        if folder not in (None, name.parent):
            raise FileError(f"{path} holds layers in two folders, {folder} and {name.parent}")
        folder = name.parent
        match = LAYER_FILE.fullmatch(name.name)
        assert match is not None
        yield LayerFile(match[1], int(match[2]), name.name, partial(bytes, content))


def _shared_bias(bias: float | None, file: LayerFile) -> NDArray[np.float32]:
    """Return the bias that all layers share, neurons floats, for the network that `file` belongs to."""
    neurons = int(file.stem.strip("n-l"))
    if neurons >= 2**31:
        raise FileError(f"{file.place} names {neurons} neurons, expected less than {2**31}")
    with np.errstate(over="ignore"):  # an overflow to inf is reported below
        value = np.float32(challenge.bias(neurons) if bias is None else bias)
    if not np.isfinite(value):
        raise NetworkError(f"bias is {bias}, expected a finite float32")
    return np.full(neurons, value)


def _read_layer(
    file: LayerFile, *, bias: NDArray[np.float32], cap: float | None, check_edges: bool
) -> tuple[int, Layer]:
    neurons = bias.size
    table = Table(file.place, Column("row", neurons), Column("column", neurons))
    rows, columns, values = parse_tsv(file.read(), table)
    transposed = to_csr(Triples(columns, rows, values), (neurons, neurons), table)
    _check_edges(file.place, neurons, transposed.nnz, check_edges)
    arrays = transposed.indptr, transposed.indices, transposed.data
    return file.layer, Layer.from_csc_arrays((neurons, neurons), *arrays, bias=bias, activation="relu", cap=cap)


def _check_edges(place: str, neurons: int, edges: int, check_edges: bool) -> None:
    if not edges:
        raise FileError(f"{place} has no edges")
    expected = challenge.EDGES_PER_NEURON * neurons
    if check_edges and neurons in challenge.OFFICIAL_NEURONS and edges != expected:
        raise FileError(f"{place} has {edges} edges, expected {expected}, which is 32 for each neuron")


def write_challenge_network(
    network: Network, folder: str | os.PathLike[str], *, progress: Progress | None = None
) -> None:
    """Write a folder with one text file a layer; reading it gives the same weights, bit for bit.

    Bias and cap are not written: where they are not the challenge's, the reader must be told.

    Args:
        network: layers of equal size with relu, and one bias and cap for all of them.
        folder: a new or empty folder; it appears when all is written.
        progress: called after each layer with the layers written and all layers.

    Raises:
        NetworkError: the network cannot be written in this layout.
        FileError: the folder exists and is not empty.
    """
    _require_challenge_like(network)
    with atomic_folder(folder) as draft:
        for number, layer in enumerate(network, start=1):
            with (draft / f"n{network.inputs}-l{number}.tsv").open("wb") as stream:
                stream.writelines(format_tsv(_edges(layer), short="%e", exact="%.8e"))
            if progress is not None:
                progress(number, len(network))


def _require_challenge_like(network: Network) -> None:
    layout = "the challenge's layout"
    require_uniform(network, layout)
    if network[0].activation != "relu":
        raise NetworkError(
            f"the activation is {network[0].activation}, which {layout} cannot hold: write a packed file"
        )
    for number, layer in enumerate(network, start=1):
        if (layer.inputs, layer.outputs) != (network.inputs, network.inputs):
            shape = f"{layer.inputs} x {layer.outputs}"
            raise NetworkError(
                f"layer {number} is {shape}, expected {network.inputs} neurons everywhere, as {layout} "
                "has only one size: write a packed file"
            )
        if not layer.nnz:
            raise NetworkError(f"layer {number} has no edges, which {layout} cannot hold: write a packed file")


def _edges(layer: Layer) -> Triples:
    columns = np.repeat(np.arange(layer.outputs), np.diff(layer.weights.indptr))
    return Triples(layer.weights.indices, columns, layer.weights.data)
