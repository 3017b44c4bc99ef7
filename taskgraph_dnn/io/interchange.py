"""Files of other libraries: ONNX models, and state dicts in safetensors files or of torch itself."""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from taskgraph_dnn.errors import FileError, MissingDependencyError, NetworkError
from taskgraph_dnn.io.atomic import atomic_path, require_space
from taskgraph_dnn.io.described import FORMAT
from taskgraph_dnn.io.npz import read_npz
from taskgraph_dnn.models import from_onnx, state_dict, to_onnx
from taskgraph_dnn.network import Network

#: The names of files that `read_model` reads.
MODELS = (".onnx", ".npz", ".safetensors", ".pt", ".pth")

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
_DTYPES |= {"U8": "u1", "BOOL": "?"}
#: Where a state dict that we have written says what its layers do with their sums.
_ENDS = "taskgraph-dnn.activations"


def read_model(path: Path, neurons: int | None, layers: int | None, given: dict[str, Any]) -> Network:
    """Read a network for a reader of several formats, by the end of the file's name.

    Args:
        path: the file, whose name ends in one of `MODELS`; one in `.safetensors` is a state dict.
        neurons: what the network must have, or None.
        layers: how many layers, from the first, or None.
        given: what the caller said of all layers, by name: of a state dict the activation of all layers but the last;
            else nothing, because the file says that itself.

    Raises:
        FileError: the file cannot be read, or has other neurons.
        NetworkError: the model cannot be translated, or something is given that it has.
        MissingDependencyError: the format needs a package that is not installed.
    """
    started = time.perf_counter()
    activation = given.get("activation") if path.suffix not in (".onnx", ".npz") else None
    for name, value in given.items():
        if name != "activation" or activation is None:
            raise NetworkError(f"{path} holds its own {name}, so {name}={value} cannot be given")
    match path.suffix:
        case ".onnx":
            network = from_onnx(path)
        case ".npz":
            network = read_npz(path)
        case _:
            network = read_state_dict(path, activation=activation)
    if neurons not in (None, network.inputs):
        raise FileError(f"{path} has {network.inputs} neurons, expected {neurons}")
    network = network if layers is None else network.head(layers)
    return Network(network, network.wiring.sources, read_seconds=time.perf_counter() - started)


def is_state_dict(path: Path) -> bool:
    """Return whether a safetensors file holds something else than a packed network."""
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("format") != FORMAT
    except (SafetensorError, OSError):
        return False  # for the reader of packed files to say what is wrong with it


def read_state_dict(
    path: str | os.PathLike[str], *, activation: str | None = None, output_activation: str | None = None
) -> Network:
    """Read a network from a state dict: a `.safetensors` file, or a `.pt` or `.pth` file that holds tensors alone.

    A state dict does not say what its layers do with their sums, nor, in a safetensors file, in which order they come;
    see `from_torch`. One that `write_state_dict` has written says both. Nothing is unpickled but tensors: other files
    of torch are refused.

    Args:
        path: the file.
        activation: of all layers but the last; None is what the file says, or "relu".
        output_activation: of the last layer; None is what the file says, or "identity".

    Raises:
        FileError: the file cannot be read, or holds more than tensors.
        NetworkError: the tensors are no layers that fit.
        MissingDependencyError: the file is torch's, and torch is not installed.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        tensors, metadata = _safetensors(path)
        found = state_dict.linears(tensors, str(path), in_order=False)
        if _ENDS in metadata and activation is output_activation is None:
            ends = _ends(metadata[_ENDS], len(found), path)
            return Network([linear.layer(*end) for linear, end in zip(found, ends, strict=True)])
    else:
        own = _torch_tensors(path)
        found = state_dict.linears(own, str(path), in_order=hasattr(own, "_metadata"))
    return state_dict.network_of(found, activation, output_activation)


def _safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (SafetensorError, OSError) as error:
        raise FileError(f"cannot read {path} as a safetensors file: {error}") from error
    return {name: _array(tensor, f"{path}: tensor {name}") for name, tensor in tensors}, metadata


def _array(tensor: Mapping[str, Any], place: str) -> Any:
    kind, content = tensor["dtype"], tensor["data"]
    if kind == "BF16":  # the upper half of a float32, which numpy does not know
        numbers: Any = (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    elif kind in _DTYPES:
        numbers = np.frombuffer(content, _DTYPES[kind])
    else:
        raise FileError(f"{place} is {kind}, expected one of {', '.join([*_DTYPES, 'BF16'])}")
    return numbers.reshape(tensor["shape"])


def _ends(text: str, layers: int, path: Path) -> list[tuple[str, float | None, float | None]]:
    """Return activation, slope and cap of each layer."""
    try:
        ends = [(end["activation"], end.get("negative_slope"), end.get("cap")) for end in json.loads(text)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileError(f"{path} does not say in {_ENDS} what its layers do: {error!r}") from error
    if len(ends) != layers:
        raise FileError(f"{path} says the activations of {len(ends)} layers, but has {layers}")
    return ends


def _torch_tensors(path: Path) -> Mapping[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError.of(f"reading {path}", "torch", "torch") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zipfile's, torch's own
        named = re.search(r"[Uu]nsupported .*?(?=\. |\.?$)", str(error), re.MULTILINE)  # amid a page of advice
        reason = named[0] if named else repr(error)[:200]
        raise FileError(
            f"cannot read {path}, which holds more than tensors or is damaged ({reason}); pickled modules are not "
            "loaded: save the state dict, with safetensors.torch.save_file(model.state_dict(), ...)"
        ) from error
    if not isinstance(found, Mapping):
        raise FileError(f"{path} holds a {type(found).__name__}, expected a state dict")
    return found


def write_state_dict(network: Network, path: str | os.PathLike[str], *, names: Sequence[str] | None = None) -> None:
    """Write the dense weights and biases of a network as a state dict, `NAME.weight` and `NAME.bias`, in safetensors.

    `torch.nn.Sequential(Linear, activation, Linear, activation, ...)` can load it, with `safetensors.torch.load_file`.

    Args:
        network: a chain of layers; all of its weights, dense, are in memory at once.
        path: the file; it appears when all is written.
        names: a name for each layer; None is "0", "2", "4", ..., as of such a `Sequential`.

    Raises:
        NetworkError: a layer reads something else than the one before it, or there are not as many names as layers.
        FileError: the file cannot be written.
    """
    chosen = [str(2 * k) for k in range(len(network))] if names is None else list(names)
    if not network.wiring.is_chain:
        raise NetworkError("a state dict cannot say which layer reads which: write an ONNX or a packed file")
    if len(set(chosen)) != len(network):
        raise NetworkError(f"{len(set(chosen))} different names are given for {len(network)} layers")
    _require_room(network, path)
    tensors, ends = {}, []
    for name, layer in zip(chosen, network, strict=True):
        tensors[f"{name}.weight"] = layer.weights.T.toarray(order="C")
        tensors[f"{name}.bias"] = np.array(layer.bias)
        ends.append({"activation": layer.activation, "negative_slope": layer.negative_slope, "cap": layer.cap})
    with atomic_path(path) as draft:
        save_file(tensors, draft, metadata={"format": "pt", _ENDS: json.dumps(ends)})


def write_onnx(network: Network, path: str | os.PathLike[str]) -> None:
    """Write a network to an ONNX file; see `to_onnx`.

    Args:
        network: any network, of up to 2 GiB of dense weights, which are in memory at once.
        path: the file; it appears when all is written.

    Raises:
        FileError: the file cannot be written.
        NetworkError: there are more weights than an ONNX file can hold.
        MissingDependencyError: onnx is not installed.
    """
    _require_room(network, path)
    content = to_onnx(network).SerializeToString()
    with atomic_path(path) as draft:
        draft.write_bytes(content)


def _require_room(network: Network, path: str | os.PathLike[str]) -> None:
    dense = sum(4 * layer.inputs * layer.outputs for layer in network)
    require_space(Path(path).resolve().parent, dense, str(path))
