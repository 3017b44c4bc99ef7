"""Networks as ONNX models: a MatMul or Gemm a layer, with dense weights, because ONNX Runtime multiplies no others."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.network import NETWORK_INPUT, Layer, Network

#: Read by every runtime of the last years.
_OPSET, _IR_VERSION = 13, 8
#: Of a protobuf file, less room for everything but weights.
_MOST_NBYTES = 2**31 - 2**20

_ACTIVATIONS = {"relu": "Relu", "leaky_relu": "LeakyRelu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softmax": "Softmax"}

#: An operator's kind, what it reads besides what the one before it makes, and its attributes.
_Operator = tuple[str, list[str], dict[str, Any]]


def model_of(network: Network) -> Any:
    """Return the ModelProto of a network; see `to_onnx`."""
    nbytes = sum(4 * layer.inputs * layer.outputs for layer in network)
    if nbytes > _MOST_NBYTES:
        raise NetworkError(
            f"the network has {nbytes:,} bytes of dense weights, but an ONNX file holds {_MOST_NBYTES:,}"
        )
    nodes = [node for number in range(len(network)) for node in _nodes(network, number)]
    graph = helper.make_graph(
        nodes,
        "taskgraph-dnn",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["samples", network.inputs])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["samples", network.outputs])],
        [tensor for number, layer in enumerate(network) for tensor in _tensors(number, layer)],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="taskgraph-dnn")


def _tensors(number: int, layer: Layer) -> Iterator[Any]:
    yield numpy_helper.from_array(layer.weights.toarray(order="C"), f"layers.{number}.weight")
    yield numpy_helper.from_array(np.array(layer.bias), f"layers.{number}.bias")
    if layer.cap is not None:
        yield numpy_helper.from_array(np.float32(layer.cap), f"layers.{number}.cap")
        if layer.activation == "relu":
            yield numpy_helper.from_array(np.float32(0), f"layers.{number}.least")


def _nodes(network: Network, number: int) -> Iterator[Any]:
    """Yield the operators of a layer, each of which reads what the one before it makes."""
    place = f"layers.{number}"
    value, *others = (_made_by(network, source) for source in network.sources(number))
    operators: list[_Operator] = [("Gemm", [f"{place}.weight", f"{place}.bias"], {}), *_end(network[number], place)]
    if others:
        operators.insert(0, ("Concat", others, {"axis": 1}))
    for k, (kind, more, attributes) in enumerate(operators, start=1):
        made = _made_by(network, number) if k == len(operators) else f"{place}.{kind}"
        yield helper.make_node(kind, [value, *more], [made], f"{place}.{kind}", **attributes)
        value = made


def _end(layer: Layer, place: str) -> Iterator[_Operator]:
    """Yield what a layer does with its sums."""
    if layer.activation == "relu" and layer.cap is not None:
        yield "Clip", [f"{place}.least", f"{place}.cap"], {}
        return
    if layer.activation != "identity":
        slope = {} if layer.negative_slope is None else {"alpha": layer.negative_slope}
        yield _ACTIVATIONS[layer.activation], [], slope
    if layer.cap is not None:
        yield "Clip", ["", f"{place}.cap"], {}


def _made_by(network: Network, number: int) -> str:
    if number == NETWORK_INPUT:
        return "input"
    return "output" if number + 1 == len(network) else f"layers.{number}"
