"""Networks as the Graph Challenge publishes them: a text file a layer, in a folder or in a compressed archive.

A layer is `n{neurons}-l{layer}.tsv`, with an edge a line: input neuron, output neuron, weight. Bias, activation and cap
are not in these files; all layers share them, and the bias follows from the number of neurons.

What the challenge has not: in a folder, a layer may have a bias for each neuron in `n{neurons}-l{layer}-bias.tsv`, a
matrix of one row in the same form: 1, output neuron, bias; neurons that are not in it have 0.
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
from taskgraph_dnn.io.atomic import atomic_folder, require_space
from taskgraph_dnn.io.layout import LayerFile, LayerStream, folder_layers, require_no_bias, select, uniform
from taskgraph_dnn.io.packed import read_packed_as_told
from taskgraph_dnn.io.streams import Progress, archive_files, map_ahead, read_bytes
from taskgraph_dnn.io.tsv import Column, Table, Triples, format_tsv, parse_tsv, to_csr
from taskgraph_dnn.network import Layer, Network

_BIAS_FILE = re.compile(r"n[1-9][0-9]*-l[1-9][0-9]*-bias\.tsv(\.gz)?")
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
        bias: the bias of all neurons; None takes that of a layer's own file, or the challenge's for so many neurons.
        cap: the activation's upper bound, or None; left out, the challenge's 32.
        check_edges: refuse a layer of an official size that has not 32 edges a neuron.
        progress: called after each layer with the layers read and all layers, or None where these are not known.

    Raises:
        FileError: a layer is missing, damaged or has a wrong number of edges; the message names file and line.
        NetworkError: an argument is out of range, or a bias is given that a file has.
        MissingDependencyError: pyarrow is not installed.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        given = ({} if bias is None else {"bias": bias}) | ({} if cap is ... else {"cap": cap})
        return read_packed_as_told(path, neurons, layers, given)
    stream = challenge_layers(path, neurons, layers, bias=bias, cap=cap, check_edges=check_edges)
    return stream.network(progress)


def challenge_layers(
    path: Path,
    neurons: int | None = None,
    layers: int | None = None,
    *,
    bias: float | None = None,
    cap: float | EllipsisType | None = ...,
    check_edges: bool = True,
) -> LayerStream:
    """Return the layers of a folder or an archive, to be read one after the other; see `read_challenge_network`.

    Raises:
        FileError: the first layer is missing or, in a folder, any; reading may raise it later.
        NetworkError: an argument is out of range.
    """
    started = time.perf_counter()
    files = _select(path, neurons, layers)
    count = layers
    if path.is_dir():
        files = list(files)  # a missing file is reported before any is read
        count = len(files)
    remaining = iter(files)
    first = next(remaining)
    read = partial(
        _read_layer,
        given=bias,
        shared=_shared_bias(bias, first),
        cap=challenge.CAP if cap is ... else cap,
        check_edges=check_edges,
    )
    return LayerStream(map_ahead(read, chain([first], remaining)), count, started)


def _select(path: Path, neurons: int | None, layers: int | None) -> Iterable[LayerFile]:
    files = folder_layers(path, LAYER_FILE) if path.is_dir() else _archive_layers(path)
    stem = None if neurons is None else f"n{neurons}-l"
    return select(files, path, "n1024-l1.tsv", stem=stem, layers=layers)


def _archive_layers(path: Path) -> Iterator[LayerFile]:
    folder: PurePosixPath | None = None
    for name, content in archive_files(path, lambda name: LAYER_FILE.fullmatch(name) or _BIAS_FILE.fullmatch(name)):
        if _BIAS_FILE.fullmatch(name.name):
            raise FileError(f"{path} holds {name.name}, but a layer has a bias of its own only in a folder: unpack it")
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
    file: LayerFile, *, given: float | None, shared: NDArray[np.float32], cap: float | None, check_edges: bool
) -> tuple[int, Layer]:
    require_no_bias(file, given)
    neurons = shared.size
    bias = shared if file.bias is None else _read_bias(file.bias, neurons)
    table = Table(file.place, Column("row", neurons), Column("column", neurons))
    rows, columns, values = parse_tsv(file.read(), table)
    transposed = to_csr(Triples(columns, rows, values), (neurons, neurons), table)
    _check_edges(file.place, neurons, transposed.nnz, check_edges)
    arrays = transposed.indptr, transposed.indices, transposed.data
    return file.layer - 1, Layer.from_csc_arrays((neurons, neurons), *arrays, bias=bias, activation="relu", cap=cap)


def _read_bias(path: Path, neurons: int) -> NDArray[np.float32]:
    table = Table(path.name, Column("row", 1, "a bias has one"), Column("column", neurons))
    bias: NDArray[np.float32] = to_csr(parse_tsv(read_bytes(path), table), (1, neurons), table).toarray()[0]
    return bias


def _check_edges(place: str, neurons: int, edges: int, check_edges: bool) -> None:
    if not edges:
        raise FileError(f"{place} has no edges")
    expected = challenge.EDGES_PER_NEURON * neurons
    if check_edges and neurons in challenge.OFFICIAL_NEURONS and edges != expected:
        raise FileError(f"{place} has {edges} edges, expected {expected}, which is 32 for each neuron")


def write_challenge_network(
    network: Network, folder: str | os.PathLike[str], *, progress: Progress | None = None
) -> None:
    """Write a folder with one text file a layer; see `write_challenge_layers`."""
    write_challenge_layers(network, folder, len(network), progress=progress)


def write_challenge_layers(
    layers: Iterable[Layer],
    folder: str | os.PathLike[str],
    count: int | None = None,
    *,
    progress: Progress | None = None,
) -> None:
    """Write a folder with one text file a layer; reading it gives the same weights, bit for bit.

    Bias and cap are not written: where they are not the challenge's, the reader must be told.

    Args:
        layers: layers of equal size with relu, and one bias and cap for all of them; held one at a time.
        folder: a new or empty folder; it appears when all is written.
        count: how many layers there are, or None if nobody knows.
        progress: called after each layer with the layers written and all layers, or None.

    Raises:
        NetworkError: the network cannot be written in this layout.
        FileError: the folder exists and is not empty, or the disk has no room for it.
    """
    with atomic_folder(folder) as draft:
        for number, layer in enumerate(_challenge_like(layers), start=1):
            with (draft / f"n{layer.inputs}-l{number}.tsv").open("wb") as stream:
                stream.writelines(format_tsv(_edges(layer), short="%e", exact="%.8e"))
                if count is not None:
                    require_space(draft, stream.tell() * (count - number), str(folder))
            if progress is not None:
                progress(number, count)


def _challenge_like(layers: Iterable[Layer]) -> Iterator[Layer]:
    """Yield the layers, checked to fit the challenge's layout."""
    layout, neurons = "the challenge's layout", None
    for number, layer in enumerate(uniform(layers, layout), start=1):
        neurons = neurons or layer.inputs
        if layer.activation != "relu":
            fault = f"the activation is {layer.activation}, which {layout} cannot hold"
        elif layer.shape != (neurons, neurons):
            shape = f"{layer.inputs} x {layer.outputs}"
            fault = f"layer {number} is {shape}, expected {neurons} neurons everywhere, as {layout} has only one size"
        elif not layer.nnz:
            fault = f"layer {number} has no edges, which {layout} cannot hold"
        else:
            yield layer
            continue
        raise NetworkError(f"{fault}: write a packed file")


def _edges(layer: Layer) -> Triples:
    columns = np.repeat(np.arange(layer.outputs), np.diff(layer.weights.indptr))
    return Triples(layer.weights.indices, columns, layer.weights.data)
