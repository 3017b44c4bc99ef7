"""Networks in numpy's `.npz` files, for those who have their weights as arrays.

Layer k, from 0, has its weights, inputs x outputs, either dense, `layers.k.weights`, or sparse, in the arrays that
`scipy.sparse.save_npz` writes of a matrix: `layers.k.format` (csr, csc or coo), `.shape`, `.data`, and `.indices` and
`.indptr`, or `.row` and `.col`. Beside them may be `layers.k.bias` (one number, or one for each output; else 0),
`.activation` (else relu), `.negative_slope`, `.cap`, and `.sources`, the numbers of the layers that it reads, -1 for
the network's input (else the layer before it).
"""

import os
import re
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io.atomic import atomic_path
from taskgraph_dnn.network import Layer, Network

_LAYOUT = "layers.0.weights or layers.0.format, .shape, .data, ..., and layers.0.bias, .activation, ..."
_ARRAY = re.compile(r"layers\.(0|[1-9][0-9]{0,8})\.(\w+)")
_INDICES = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}
_OPTIONAL = {"bias", "activation", "negative_slope", "cap", "sources"}
#: What zipfile, zlib and numpy raise of damaged files; RuntimeError also of features of zip that Python has not.
_DAMAGE = (OSError, EOFError, ValueError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
#: So many arrays of a file are named, of more their number is said.
_NAMED = 8

#: The arrays of a layer, by what they are.
_Arrays = dict[str, NDArray[Any]]


def read_npz(path: str | os.PathLike[str]) -> Network:
    """Read a network from an `.npz` file.

    Raises:
        FileError: the file is damaged, or has other arrays than this module describes.
        NetworkError: the layers do not fit one another.
    """
    started = time.perf_counter()
    path = Path(path)
    layers = _grouped(_arrays(path), path)
    made = [_layer(arrays, f"{path}: layers.{k}") for k, arrays in enumerate(layers)]
    sources = [_sources(arrays, k) for k, arrays in enumerate(layers)]
    try:
        return Network(made, sources, read_seconds=time.perf_counter() - started)
    except NetworkError as error:
        raise NetworkError(f"{path}: {error}") from error


def _arrays(path: Path) -> _Arrays:
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array")
            return dict(file)
    except _DAMAGE as error:
        raise FileError(f"cannot read {path} as an .npz file: {error}") from error


def _grouped(arrays: _Arrays, path: Path) -> list[_Arrays]:
    """Return the arrays of each layer.

    Raises:
        FileError: an array is of no layer, or a layer is missing.
    """
    layers: dict[int, _Arrays] = {}
    strange = []
    for name, array in arrays.items():
        match = _ARRAY.fullmatch(name)
        if match is None:
            strange.append(name)
        else:
            layers.setdefault(int(match[1]), {})[match[2]] = array
    if strange or not layers:
        more = f" and {len(strange) - _NAMED} more" if len(strange) > _NAMED else ""
        raise FileError(f"{path} holds {', '.join(strange[:_NAMED]) or 'no arrays'}{more}, expected {_LAYOUT}")
    missing = set(range(len(layers))) - layers.keys()
    if missing:
        raise FileError(f"{path}: layers.{min(missing)} is missing, but there is layers.{max(layers)}")
    return [layers[k] for k in range(len(layers))]


def _layer(arrays: _Arrays, place: str) -> Layer:
    try:
        weights, used = _weights(arrays)
        unknown = arrays.keys() - used - _OPTIONAL
        if unknown:
            raise ValueError(f"found {', '.join(sorted(unknown))}, expected {_LAYOUT}")
        options = {name: arrays[name].item() for name in ("activation", "negative_slope", "cap") if name in arrays}
        return Layer(weights, bias=arrays.get("bias", 0.0), **options)
    except (NetworkError, ValueError, TypeError, IndexError) as error:
        raise FileError(f"{place}: {error}") from error


def _weights(arrays: _Arrays) -> tuple[Any, set[str]]:
    """Return a layer's weights, and which arrays they are."""
    if "weights" in arrays:
        return arrays["weights"], {"weights"}
    kind = "none" if "format" not in arrays else str(np.char.decode(arrays["format"].astype("S"), "latin1"))
    names = _INDICES.get(kind)
    if names is None:
        raise ValueError(f"there are no weights, and the format is {kind}, expected one of {', '.join(_INDICES)}")
    missing = {"shape", "data", *names} - arrays.keys()
    if missing:
        raise ValueError(f"{min(missing)} is missing, which belongs to {kind}")
    first, second = (arrays[name] for name in names)
    shape = tuple(arrays["shape"].tolist())
    form = getattr(scipy.sparse, f"{kind}_array")
    parts = (arrays["data"], (first, second)) if kind == "coo" else (arrays["data"], first, second)
    return form(parts, shape=shape), {"format", "shape", "data", *names}


def _sources(arrays: _Arrays, k: int) -> tuple[int, ...]:
    return tuple(arrays["sources"].ravel().tolist()) if "sources" in arrays else (k - 1,)


def write_npz(network: Network, path: str | os.PathLike[str]) -> None:
    """Write a network to an `.npz` file, as this module describes it; reading it gives the same network.

    Args:
        network: any network; all of its weights are in memory at once.
        path: the file; it appears when all is written.

    Raises:
        FileError: the file cannot be written.
    """
    arrays: dict[str, Any] = {}
    for k, layer in enumerate(network):
        w = layer.weights
        of_layer = {"format": "csc", "shape": w.shape, "data": w.data, "indices": w.indices, "indptr": w.indptr}
        of_layer |= {"bias": layer.bias, "activation": layer.activation, "sources": network.sources(k)}
        of_layer |= {"negative_slope": layer.negative_slope, "cap": layer.cap}
        arrays |= {f"layers.{k}.{name}": array for name, array in of_layer.items() if array is not None}
    with atomic_path(path) as draft, draft.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
