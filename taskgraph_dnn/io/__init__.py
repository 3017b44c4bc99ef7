"""Networks and inputs in and out of files, one module a format.

`read_network` and `read_images` choose the format by what a path is; the other functions are for one format.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from types import EllipsisType
from typing import Any

import scipy.sparse

from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io import challenge as _challenge
from taskgraph_dnn.io import matrixmarket as _matrixmarket
from taskgraph_dnn.io.challenge import read_challenge_network, write_challenge_layers, write_challenge_network
from taskgraph_dnn.io.interchange import (
    MODELS,
    is_state_dict,
    read_model,
    read_state_dict,
    write_onnx,
    write_state_dict,
)
from taskgraph_dnn.io.layout import LayerStream
from taskgraph_dnn.io.matrixmarket import read_matrix_market, read_matrix_market_images, write_matrix_market
from taskgraph_dnn.io.npz import read_npz, write_npz
from taskgraph_dnn.io.pack import write_packed, write_packed_layers
from taskgraph_dnn.io.packed import PackedFile, is_url, read_packed, read_packed_as_told
from taskgraph_dnn.io.samples import read_categories, read_challenge_images, write_categories, write_challenge_images
from taskgraph_dnn.io.streams import Progress
from taskgraph_dnn.network import Network

__all__ = [
    "TARGETS",
    "PackedFile",
    "Progress",
    "convert_network",
    "read_categories",
    "read_challenge_images",
    "read_challenge_network",
    "read_images",
    "read_matrix_market",
    "read_matrix_market_images",
    "read_network",
    "read_npz",
    "read_packed",
    "read_state_dict",
    "write_categories",
    "write_challenge_images",
    "write_challenge_layers",
    "write_challenge_network",
    "write_matrix_market",
    "write_npz",
    "write_onnx",
    "write_packed",
    "write_packed_layers",
    "write_state_dict",
]

_NETWORKS = (
    "a packed file or a state dict (.safetensors, .pt), a model (.onnx, .npz), "
    "a Graph Challenge archive (.tar.gz, .tgz) or folder (n1024-l1.tsv, ...), "
    "or a Matrix Market file (.mtx, .mtx.gz) or folder (layer-1.mtx, ...)"
)
_IMAGES = "a Graph Challenge file (.tsv, .tsv.gz) or a Matrix Market file (.mtx, .mtx.gz)"


def read_network(
    path: str | os.PathLike[str],
    *,
    neurons: int | None = None,
    layers: int | None = None,
    bias: float | None = None,
    activation: str | None = None,
    cap: float | EllipsisType | None = ...,
    check_edges: bool = True,
    progress: Progress | None = None,
) -> Network:
    """Read a network in any format that this package knows.

    Args:
        path: a packed file or its URL; a model of others, `.onnx` (see `from_onnx`), `.npz` (see `read_npz`), or a
            state dict, `.safetensors` or `.pt` (see `read_state_dict`); or an archive or folder of text files.
        neurons: neurons of the network's input; None takes what the file says.
        layers: how many layers, from the first; None takes all.
        bias: the bias of all neurons; None takes the format's: the challenge's, or 0 for Matrix Market.
        activation: the activation of all layers, of a state dict all but the last; None takes "relu".
        cap: the activation's upper bound, or None; left out, the format's: the challenge's 32, or none.
        check_edges: refuse a Graph Challenge layer of an official size that has not 32 edges a neuron.
        progress: called after each layer with the layers read and all layers, or None where these are not known.

    Raises:
        FileError: the path is nothing that can be read, or a file is damaged.
        NetworkError: an argument is out of range, or given for a file that says it itself; or a model has operators
            that cannot be translated.
        MissingDependencyError: the format needs a package that is not installed.
    """
    given = _given(bias, activation, cap)
    if _is_packed(path):
        return read_packed_as_told(path, neurons, layers, given)
    if _is_model(path):
        return read_model(Path(path), neurons, layers, given)
    return _text_layers(Path(path), neurons, layers, given, check_edges).network(progress)


def convert_network(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    neurons: int | None = None,
    layers: int | None = None,
    bias: float | None = None,
    activation: str | None = None,
    cap: float | EllipsisType | None = ...,
    check_edges: bool = True,
    progress: Progress | None = None,
) -> Network:
    """Write a network in any format as a packed file, or as an ONNX or npz file; return the network.

    From a packed file or text files to a packed file, only a few layers are held at a time.

    Args:
        source: see `read_network`, as for all other arguments; a packed file is verified.
        target: the file, `.safetensors` (packed), `.onnx` or `.npz`; it appears when all is written.
        neurons: neurons of the network's input.
        layers: how many layers, from the first.
        bias: the bias of all neurons.
        activation: the activation of all layers.
        cap: the activation's upper bound, or None.
        check_edges: refuse a Graph Challenge layer of an official size that has not 32 edges a neuron.
        progress: called with the steps done and all steps, or None where these are not known.

    Raises:
        FileError: see `read_network` and `write_packed`.
        NetworkError: see `read_network` and `write_packed`.
        MissingDependencyError: the format needs a package that is not installed.
    """
    write = TARGETS.get(Path(target).suffix)
    if write is None:
        raise FileError(f"{target} is of no format that can be written, expected one of {', '.join(TARGETS)}")
    given = _given(bias, activation, cap)
    if _is_packed(source):
        network = read_packed_as_told(source, neurons, layers, given, verify=True)
    elif _is_model(source):
        network = read_model(Path(source), neurons, layers, given)
    else:
        stream = _text_layers(Path(source), neurons, layers, given, check_edges)
        if write is write_packed:
            write_packed_layers(stream.layers, target, stream.count, progress=progress)
            return read_packed(target)
        network = stream.network(progress)
    if write is write_packed:
        write_packed(network, target, progress=progress)
        return read_packed(target)
    write(network, target)
    return network


#: How a network is written, by the end of the file's name.
TARGETS: dict[str, Callable[..., None]] = {".safetensors": write_packed, ".onnx": write_onnx, ".npz": write_npz}


def _is_packed(path: str | os.PathLike[str]) -> bool:
    suffix = Path(path).suffix
    if is_url(path) and suffix in MODELS and suffix != ".safetensors":
        raise FileError(f"{path} is behind a URL, where only packed files (.safetensors) are read: download it")
    return is_url(path) or (suffix == ".safetensors" and Path(path).exists() and not is_state_dict(Path(path)))


def _is_model(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix in MODELS and Path(path).is_file()


def _given(bias: float | None, activation: str | None, cap: float | EllipsisType | None) -> dict[str, Any]:
    """Return by name what is said of all layers."""
    given = {name: value for name, value in (("bias", bias), ("activation", activation)) if value is not None}
    return given if cap is ... else given | {"cap": cap}


def _text_layers(
    path: Path, neurons: int | None, layers: int | None, given: dict[str, Any], check_edges: bool
) -> LayerStream:
    """Return the layers of an archive or a folder of text files."""
    _require(path, _NETWORKS)
    if path.name.endswith((".tar.gz", ".tgz")) or _holds(path, _challenge.LAYER_FILE):
        activation = given.pop("activation", "relu")
        if activation != "relu":
            raise NetworkError(f"activation is {activation!r}, but a Graph Challenge network has relu")
        stream = _challenge.challenge_layers(path, neurons, layers, check_edges=check_edges, **given)
    elif path.name.endswith((".mtx", ".mtx.gz")) or _holds(path, _matrixmarket.LAYER_FILE):
        stream = _matrixmarket.matrix_market_layers(path, layers, **given)
    else:
        raise FileError(f"{path} is of no known format, expected {_NETWORKS}")
    return stream.of_neurons(path, neurons)


def _holds(path: Path, layer_file: re.Pattern[str]) -> bool:
    return path.is_dir() and any(layer_file.fullmatch(file.name) for file in path.iterdir())


def _require(path: Path, expected: str) -> None:
    if not path.exists():
        raise FileError(f"{path} does not exist, expected {expected}")


def read_images(path: str | os.PathLike[str], neurons: int, samples: int | None = None) -> scipy.sparse.csr_array:
    """Read input samples in any format that this package knows.

    Args:
        path: the file.
        neurons: inputs of the network.
        samples: how many samples; None takes what the file says.

    Returns:
        float32, samples x neurons; its attribute `read_seconds` says what reading took.

    Raises:
        FileError: the path is nothing that can be read, or the file is damaged or does not fit `neurons`.
        InputError: see `read_challenge_images`.
        MissingDependencyError: the format needs a package that is not installed.
    """
    path = Path(path)
    _require(path, _IMAGES)
    if path.name.endswith((".tsv", ".tsv.gz")):
        return read_challenge_images(path, neurons, samples)
    if not path.name.endswith((".mtx", ".mtx.gz")):
        raise FileError(f"{path} is of no known format, expected {_IMAGES}")
    images = read_matrix_market_images(path)
    expected = images.shape[0] if samples is None else samples, neurons
    if images.shape != expected:
        raise FileError(f"{path} has {images.shape} samples and neurons, expected {expected}")
    return images
