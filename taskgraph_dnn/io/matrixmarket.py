"""Networks and inputs in Matrix Market files, `.mtx` or `.mtx.gz`: a file holds one matrix."""

import io
import os
import re
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io.atomic import atomic_folder
from taskgraph_dnn.io.layout import LayerFile, LayerStream, folder_layers, require_no_bias, select, uniform
from taskgraph_dnn.io.streams import Progress, map_ahead, read_bytes
from taskgraph_dnn.matrices import first_not_finite, float32_matrix
from taskgraph_dnn.network import Layer, Network

LAYER_FILE = re.compile(r"(.*-l|layer-)([1-9][0-9]*)\.mtx(\.gz)?")

# scipy takes 1,5 for 1 and 0x10 for 0: it reads a number as far as it goes and skips the rest of the line.
_NUMBER_BYTES = b"0123456789+-.eE \t\r\n"


def read_matrix_market(
    path: str | os.PathLike[str],
    layers: int | None = None,
    *,
    bias: float | None = None,
    activation: str = "relu",
    cap: float | None = None,
    progress: Progress | None = None,
) -> Network:
    """Read a network whose layers are Matrix Market files of inputs x outputs.

    Args:
        path: one file, for one layer, or a folder with `layer-{k}.mtx` or `{name}-l{k}.mtx`, k from 1 without gaps;
            each may be compressed, `.mtx.gz`. Beside a layer may be its bias, `layer-{k}-bias.mtx`, a matrix of one row
            or one column with a number for each output.
        layers: how many layers, from the first; None takes all.
        bias: the bias of all neurons; None takes that of the files, or 0 where there is none.
        activation: the activation of all layers.
        cap: the activation's upper bound, or None.
        progress: called after each layer with the layers read and all layers.

    Raises:
        FileError: a layer is missing, or a file is damaged or holds something else than finite real numbers.
        NetworkError: the layers do not fit, an argument is out of range, or a bias is given that a file has.
    """
    stream = matrix_market_layers(Path(path), layers, bias=bias, activation=activation, cap=cap)
    return stream.network(progress)


def matrix_market_layers(
    path: Path,
    layers: int | None = None,
    *,
    bias: float | None = None,
    activation: str = "relu",
    cap: float | None = None,
) -> LayerStream:
    """Return the layers of a file or a folder, to be read one after the other; see `read_matrix_market`.

    Raises:
        FileError: a layer is missing; reading may raise it later.
        NetworkError: `layers` is no positive number, or more than 1 for a file.
    """
    started = time.perf_counter()
    files = list(_layer_files(path, layers))
    read = map_ahead(partial(_read_layer, bias=bias, activation=activation, cap=cap), files)
    return LayerStream(read, len(files), started)


def _layer_files(path: Path, layers: int | None) -> Iterable[LayerFile]:
    if not path.is_dir():
        if layers not in (None, 1):
            raise NetworkError(f"cannot take {layers} layers of a network that has 1")
        return [LayerFile("", 1, path.name, partial(read_bytes, path))]
    return select(folder_layers(path, LAYER_FILE), path, "layer-1.mtx", stem=None, layers=layers)


def _read_layer(file: LayerFile, *, bias: float | None, activation: str, cap: float | None) -> tuple[int, Layer]:
    require_no_bias(file, bias)
    weights = _parse(file.read(), file.place)
    own = _read_bias(file.bias, weights.shape[1]) if file.bias is not None else bias or 0.0
    return file.layer - 1, Layer(weights, bias=own, activation=activation, cap=cap)


def _read_bias(path: Path, outputs: int) -> NDArray[np.float32]:
    matrix = _parse(read_bytes(path), path.name)
    if matrix.shape not in ((1, outputs), (outputs, 1)):
        raise FileError(f"{path.name} has shape {matrix.shape}, expected {(1, outputs)} or {(outputs, 1)}")
    bias: NDArray[np.float32] = matrix.toarray().ravel()
    return bias


def read_matrix_market_images(path: str | os.PathLike[str]) -> scipy.sparse.csr_array:
    """Read inputs from a Matrix Market file of samples x neurons.

    Returns:
        float32, with sorted columns and no stored zeros; its attribute `read_seconds` says what reading took.

    Raises:
        FileError: the file is damaged or holds something else than finite real numbers.
    """
    start = time.perf_counter()
    path = Path(path)
    images = _parse(read_bytes(path), path.name).tocsr()
    images.eliminate_zeros()
    images.read_seconds = time.perf_counter() - start
    return images


def _parse(content: bytes, place: str) -> scipy.sparse.csc_array:
    from scipy.io import mmread  # takes as long to import as the rest of the package

    if not content.endswith(b"\n"):
        raise FileError(f"{place} is cut off after {content[-40:]!r}, expected a newline at its end")
    _check_text(content, place)
    try:
        matrix = mmread(io.BytesIO(content), spmatrix=False)
    except (ValueError, OverflowError, MemoryError) as error:
        raise FileError(f"{place}: {error}") from error
    if matrix.dtype.kind == "c" or 0 in matrix.shape:
        raise FileError(f"{place} is {matrix.dtype} of shape {matrix.shape}, expected a matrix of real numbers")
    if not scipy.sparse.issparse(matrix):
        matrix = scipy.sparse.coo_array(matrix)
    csc = float32_matrix(matrix, scipy.sparse.csc_array)
    if csc.nnz < matrix.nnz:
        raise FileError(f"{place} has {matrix.nnz} entries, of which only {csc.nnz} are at different places")
    wrong = first_not_finite(csc)
    if wrong is not None:
        row, column, value = wrong
        raise FileError(f"{place}: row {row + 1}, column {column + 1} is {value}, expected a finite float32")
    return csc


def _check_text(content: bytes, place: str) -> None:
    start = 0
    while content.startswith(b"%", start):
        start = content.index(b"\n", start) + 1
    if not content[start:].translate(None, _NUMBER_BYTES):
        return  # to look at lines one by one takes ten times as long as to read them
    for number, line in enumerate(content.splitlines(), start=1):
        strange = b"" if line.startswith(b"%") else line.translate(None, _NUMBER_BYTES)
        if strange:
            raise FileError(f"{place} line {number}: {line[:40]!r}, expected numbers")


def write_matrix_market(network: Network, folder: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Write a folder with `layer-{k}.mtx`, k from 1; reading it gives the same weights, bit for bit.

    Bias, activation and cap are not written: the reader must be told.

    Args:
        network: layers with one bias, activation and cap for all of them.
        folder: a new or empty folder; it appears when all is written.
        progress: called after each layer with the layers written and all layers.

    Raises:
        NetworkError: the network cannot be written in this layout.
        FileError: the folder exists and is not empty.
    """
    from scipy.io import mmwrite

    with atomic_folder(folder) as draft:
        for number, layer in enumerate(uniform(network, "a folder of Matrix Market files"), start=1):
            with (draft / f"layer-{number}.mtx").open("wb") as stream:
                mmwrite(stream, layer.weights, symmetry="general")
            if progress is not None:
                progress(number, len(network))
