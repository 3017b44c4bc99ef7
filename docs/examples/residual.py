"""A residual network from ONNX: built here, read, drawn, and compared with ONNX Runtime where that is installed.

    python residual.py

Needs onnx.
"""

from importlib.util import find_spec

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import taskgraph_dnn as tg

WIDTH, BLOCKS, CLASSES, SPARSITY = 256, 4, 10, 0.9


def weights(rng, name, inputs, outputs):
    """Return an initializer of normal weights, most of them 0."""
    values = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / (inputs * (1 - SPARSITY)))
    values[rng.random(values.shape) < SPARSITY] = 0
    return numpy_helper.from_array(values.astype(np.float32), name)


def model(rng):
    """Return blocks of y = relu(x + W2 relu(W1 x)), and a last layer."""
    nodes, initializers, value = [], [], "x"
    for number in range(BLOCKS):
        first, second = f"w{number}a", f"w{number}b"
        initializers += [weights(rng, first, WIDTH, WIDTH), weights(rng, second, WIDTH, WIDTH)]
        nodes += [
            helper.make_node("MatMul", [value, first], [f"h{number}"]),
            helper.make_node("Relu", [f"h{number}"], [f"r{number}"]),
            helper.make_node("MatMul", [f"r{number}", second], [f"s{number}"]),
            helper.make_node("Add", [f"s{number}", value], [f"a{number}"]),
            helper.make_node("Relu", [f"a{number}"], [f"y{number}"]),
        ]
        value = f"y{number}"
    initializers.append(weights(rng, "last", WIDTH, CLASSES))
    nodes.append(helper.make_node("MatMul", [value, "last"], ["scores"]))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["samples", WIDTH])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["samples", CLASSES])
    graph = helper.make_graph(nodes, "residual", [given], [scores], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main():
    """Build the model, read it, and run it."""
    rng = np.random.default_rng(0)
    onnx.save(model(rng), "residual.onnx")

    network = tg.from_onnx("residual.onnx")
    print(network)
    for number in range(len(network)):
        read = ["the input" if source < 0 else f"layer {source + 1}" for source in network.sources(number)]
        print(f"layer {number + 1} reads {' and '.join(read)}")

    samples = rng.random((5_000, WIDTH), np.float32)
    inference = tg.infer(network, samples)
    inference.visualize("residual.svg")
    outputs = inference.compute().outputs.toarray()

    if find_spec("onnxruntime"):
        import onnxruntime

        (expected,) = onnxruntime.InferenceSession("residual.onnx").run(None, {"x": samples})
        off = np.abs(outputs - expected).max()
        print(f"largest difference from ONNX Runtime: {off:.1e}, of {np.abs(expected).max():.1f}")


if __name__ == "__main__":
    main()
