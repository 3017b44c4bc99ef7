"""ONNX graphs, operator by operator. What does not depend on the sample is computed by onnx itself."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.reference
from numpy.typing import NDArray

from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.models.affine import Affine, Shape
from taskgraph_dnn.models.drafts import Drafts, UnsupportedError
from taskgraph_dnn.models.onnx_operators import OPERATORS, SAMPLES, Node
from taskgraph_dnn.models.steps import Step, translate
from taskgraph_dnn.network import Network

#: Older ones say otherwise what is added to what.
_OLDEST_OPSET = 7

#: Operators that give numbers as they are, in other places.
_MOVES = ("Concat", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Unsqueeze")
_TO_WHOLE = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)


def loaded(path: Path) -> Any:
    """Return the model in a file, with the data that it keeps in others.

    Raises:
        FileError: it cannot be read.
    """
    try:
        model = onnx.load(path)
        if not model.HasField("graph"):
            raise ValueError("it holds no graph")
    except Exception as error:  # a damaged file leads onnx anywhere
        raise FileError(f"cannot read {path} as an ONNX file: {error}") from error
    return model


def network_of(model: Any, place: str, input_shape: Shape | None, output: str | None) -> Network:
    """Return the network that an ONNX model is; see `from_onnx`."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset < _OLDEST_OPSET:
        raise NetworkError(f"{place} has opset {opset}, expected at least {_OLDEST_OPSET}")
    values: dict[str, Any] = dict(_constants(model.graph, place))
    given = _only_input(model.graph, values, place)
    batch, shape = _shape(given, place, input_shape)
    drafts = Drafts(place)
    values[given.name] = drafts.input(shape)
    last = _output(model.graph, place, output)
    steps = [_step(node, drafts, opset, batch, model.opset_import) for node in _leading_to(model.graph, last)]
    return drafts.network(translate(steps, values, drafts, last))


def _constants(graph: Any, place: str) -> Iterator[tuple[str, NDArray[Any]]]:
    named = [(tensor.name, tensor, onnx.numpy_helper.to_array) for tensor in graph.initializer]
    named += [(sparse.values.name, sparse, _full) for sparse in graph.sparse_initializer]
    for name, tensor, numbers in named:
        try:
            yield name, numbers(tensor)
        except Exception as error:  # onnx's own, numpy's: a tensor may say anything of itself
            raise NetworkError(f"{place}: cannot read the tensor {name!r}: {error}") from error


def _full(sparse: Any) -> NDArray[Any]:
    """Return the numbers of a sparse tensor, zeros included."""
    values, indices = (onnx.numpy_helper.to_array(part) for part in (sparse.values, sparse.indices))
    full = np.zeros(tuple(sparse.dims), values.dtype)
    full[tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, full.shape)] = values
    return full


def _only_input(graph: Any, constants: dict[str, Any], place: str) -> Any:
    given = [value for value in graph.input if value.name not in constants]
    if len(given) != 1:
        names = ", ".join(value.name for value in given)
        raise NetworkError(f"{place} has {len(given)} inputs ({names}), expected 1")
    return given[0]


def _shape(given: Any, place: str, input_shape: Shape | None) -> tuple[int | None, Shape]:
    """Return for how many samples a graph is, or None, and the shape of a sample."""
    batch, *dims = given.type.tensor_type.shape.dim or [None]
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]
    samples = batch.dim_value if batch is not None and batch.HasField("dim_value") else None
    if input_shape is None:
        if batch is None or None in sizes:
            found = ", ".join(dim.dim_param or str(dim.dim_value or "?") for dim in dims)
            raise NetworkError(f"{place}: a sample of input {given.name!r} has the shape ({found}): give input_shape")
        return samples, tuple(size for size in sizes if size is not None)
    fits = batch is None or len(input_shape) == len(sizes)
    if not fits or any(size not in (None, want) for size, want in zip(sizes, input_shape, strict=False)):
        found = f"a sample of input {given.name!r} has the shape {tuple(sizes)}"
        raise NetworkError(f"{place}: {found}, but {input_shape} is given")
    return samples, input_shape


def _output(graph: Any, place: str, output: str | None) -> str:
    names: list[str] = [value.name for value in graph.output]
    if output is None:
        if len(names) != 1:
            raise NetworkError(f"{place} has {len(names)} outputs ({', '.join(names)}): say which by output=")
        return names[0]
    if not any(output in node.output for node in graph.node):
        raise NetworkError(f"{place} has no value {output!r}; its outputs are {', '.join(names)}")
    return output


def _leading_to(graph: Any, output: str) -> list[Any]:
    """Return the nodes that `output` is made by, in order."""
    needed, nodes = {output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    return nodes[::-1]


def _step(node: Any, drafts: Drafts, opset: int, batch: int | None, opsets: Any) -> Step:
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    name = str(node.name or ", ".join(map(str, node.output)))  # of a damaged file they are bytes
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}

    def run(read: list[Any]) -> Sequence[Any]:
        if not any(isinstance(value, Affine) for value in read):
            return _computed(node, read, opsets)
        remaining = iter(read)
        inputs = [next(remaining) if given else None for given in node.input]
        return [OPERATORS[kind](Node(drafts, opset, batch, inputs, attributes))]

    reads = [given for given in node.input if given]
    return Step(kind, name, reads, list(node.output), kind in OPERATORS, run, looks=kind == "Shape")


def _computed(node: Any, read: list[Any], opsets: Any) -> Sequence[Any]:
    """Return what a node makes of constants."""
    if "Random" in node.op_type:
        raise UnsupportedError("of random numbers")
    if any(_has_samples(value) for value in read) and not _moves(node):
        raise UnsupportedError("of the number of samples")
    constants = dict(zip((name for name in node.input if name), read, strict=True))
    unknown = onnx.TypeProto()
    inputs, outputs = (
        [onnx.helper.make_value_info(name, unknown) for name in names if name] for names in (constants, node.output)
    )
    graph = onnx.helper.make_graph([node], "constants", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    try:
        found: list[Any] = onnx.reference.ReferenceEvaluator(model).run(None, constants)
    except Exception as error:  # whatever the operator's own code raises
        raise UnsupportedError(f"of constants: {error}") from error
    return found


def _has_samples(value: Any) -> bool:
    numbers = np.asarray(value)
    return numbers.dtype.kind == "i" and bool(np.any(numbers == SAMPLES))


def _moves(node: Any) -> bool:
    """Return whether an operator gives whole numbers as they are."""
    to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
    return node.op_type in _MOVES or (node.op_type == "Cast" and to in _TO_WHOLE)
