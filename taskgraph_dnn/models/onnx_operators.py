"""Operators of ONNX, of opset 7 and newer, by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import inf
from typing import Any

import numpy as np

from taskgraph_dnn.models import operators
from taskgraph_dnn.models.affine import Affine
from taskgraph_dnn.models.drafts import Drafts, UnsupportedError
from taskgraph_dnn.models.maps import Pads

#: float, float16, double and bfloat16: what a cast may be to.
_FLOATS = (1, 10, 11, 16)

#: The number of samples in the shapes that a graph asks for: a number that nothing else has.
SAMPLES = -(2**31) + 1


@dataclass(frozen=True)
class Node:
    """An operator of a graph, and what it reads.

    Attributes:
        drafts: where layers are made.
        opset: the version of its meaning.
        batch: the number of samples that the graph is for, or None.
        inputs: values and constants, None for what is left out.
        attributes: by name.
    """

    drafts: Drafts
    opset: int
    batch: int | None
    inputs: Sequence[Any]
    attributes: dict[str, Any]

    @property
    def x(self) -> Affine:
        """The first input, which depends on the sample."""
        if not isinstance(self.inputs[0], Affine):
            raise UnsupportedError("of a constant")
        return self.inputs[0]

    def constant(self, name: str, place: int, default: Any = None) -> Any:
        """Return the constant that is the attribute of this name, or the input at this place, or the default."""
        if name in self.attributes:
            return self.attributes[name]
        given = self.inputs[place] if place < len(self.inputs) else None
        if isinstance(given, Affine):
            raise UnsupportedError(f"with {name} that depends on the sample")
        return default if given is None else given

    def numbers(self, name: str, place: int, default: Any = None) -> list[int] | None:
        """Return a constant that is a list of whole numbers, or None."""
        given = self.constant(name, place, default)
        return None if given is None else [int(number) for number in np.ravel(given)]


def _gemm(node: Node) -> Affine:
    if node.attributes.get("transA", 0):
        raise UnsupportedError("with transA, where samples would not be first")
    weights = np.asarray(node.constant("weights", 1), np.float64) * node.attributes.get("alpha", 1.0)
    product = operators.dense(node.drafts, node.x, weights.T if node.attributes.get("transB", 0) else weights)
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return product
    beta, addend = node.attributes.get("beta", 1.0), node.inputs[2]
    scaled = operators.multiplied(addend, beta) if isinstance(addend, Affine) else beta * addend.astype(np.float64)
    return operators.added(product, scaled)


def _matmul(node: Node) -> Affine:
    return operators.dense(node.drafts, node.x, node.constant("weights", 1))


def _sum(node: Node) -> Affine:
    values = [given for given in node.inputs if isinstance(given, Affine)]
    constants = [given for given in node.inputs if not isinstance(given, Affine)]
    sum_: Affine = reduce(operators.added, [*values, *constants])
    return sum_


def _clip(node: Node) -> Affine:
    low, high = (float(np.reshape(node.constant(*bound), ())) for bound in (("min", 1, -inf), ("max", 2, inf)))
    # The largest number of a float type is how older graphs say that there is no bound.
    limit = float(np.finfo(np.float32).max)
    return node.drafts.clipped(node.x, -inf if low <= -limit else low, inf if high >= limit else high)


def _hard_sigmoid(node: Node) -> Affine:
    slope, middle = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    return node.drafts.clipped(node.x.scaled(np.full(node.x.size, slope)).plus(middle), 0, 1)


def _prelu(node: Node) -> Affine:
    slopes = np.unique(node.constant("slope", 1))
    if slopes.size != 1:
        raise UnsupportedError(f"with {slopes.size} different slopes, expected one")
    return operators.leaky_relu(node.drafts, node.x, float(slopes[0]))


def _softmax(node: Node) -> Affine:
    if node.opset >= 13:
        return operators.softmax(node.drafts, node.x, node.attributes.get("axis", -1))
    flat = operators.flattened(node.x)  # older ones take all axes from the first named one together
    axis = node.attributes.get("axis", 1)
    if operators.sample_axis(axis, node.x) != 0:
        return operators.softmax(node.drafts, node.x, axis)
    return operators.softmax(node.drafts, flat, 1).reshaped(node.x.shape)


def _dropout(node: Node) -> Affine:
    if np.any(node.constant("training_mode", 2, False)):
        raise UnsupportedError("in training mode")
    return node.x


def _batch_normalization(node: Node) -> Affine:
    if node.attributes.get("training_mode", 0):
        raise UnsupportedError("in training mode")
    weight, bias, mean, variance = node.inputs[1:]
    return operators.normalised(node.drafts, node.x, mean, variance, weight, bias, node.attributes.get("epsilon", 1e-5))


def _conv(node: Node) -> Affine:
    weights, bias = node.constant("weights", 1), node.constant("bias", 2)
    kernel = weights.shape[2:]
    strides, dilations, pads = _places(node, kernel)
    groups = node.attributes.get("group", 1)
    return operators.convolved(node.drafts, node.x, weights, bias, strides, pads, dilations, groups)


def _average_pool(node: Node) -> Affine:
    kernel = node.attributes["kernel_shape"]
    strides, dilations, pads = _places(node, kernel)
    return operators.averaged(
        node.drafts,
        node.x,
        kernel,
        strides,
        pads,
        dilations=dilations,
        counts_pads=bool(node.attributes.get("count_include_pad", 0)),
        rounds_up=bool(node.attributes.get("ceil_mode", 0)),
    )


def _places(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int], Pads]:
    """Return strides, dilations and pads of a kernel's axes."""
    axes = len(kernel)
    strides, dilations = (list(node.attributes.get(name, [1] * axes)) for name in ("strides", "dilations"))
    automatic = node.attributes.get("auto_pad", b"NOTSET")
    if automatic in (b"NOTSET", b"VALID"):
        numbers = node.attributes.get("pads", [0] * 2 * axes)
        return strides, dilations, list(zip(numbers[:axes], numbers[axes:], strict=True))
    pads = []
    for size, width, stride, dilation in zip(node.x.shape[1:], kernel, strides, dilations, strict=True):
        room = max(((size - 1) // stride) * stride + (width - 1) * dilation + 1 - size, 0)
        smaller, larger = room // 2, room - room // 2
        pads.append((smaller, larger) if automatic == b"SAME_UPPER" else (larger, smaller))
    return strides, dilations, pads


def _global_average_pool(node: Node) -> Affine:
    return operators.averaged_to(node.drafts, node.x, [1] * (len(node.x.shape) - 1))


def _reduce_mean(node: Node) -> Affine:
    axes = node.numbers("axes", 1)
    if not axes:
        raise UnsupportedError("over all axes, that of the samples too")
    return operators.averaged_over(node.drafts, node.x, axes, bool(node.attributes.get("keepdims", 1)))


def _flatten(node: Node) -> Affine:
    axis = node.attributes.get("axis", 1)
    if axis % (len(node.x.shape) + 1) != 1:
        raise UnsupportedError(f"at axis {axis}, expected 1")
    return operators.flattened(node.x)


def _reshape(node: Node) -> Affine:
    target = node.numbers("shape", 1) or []
    if not node.attributes.get("allowzero", 0):
        here = [-1, *node.x.shape]
        target = [here[axis] if size == 0 and axis < len(here) else size for axis, size in enumerate(target)]
    samples_first = [-1, *target[1:]] if target[:1] == [SAMPLES] else target
    return operators.reshaped(node.x, samples_first, node.batch)


def _squeeze(node: Node) -> Affine:
    axes = node.numbers("axes", 1)
    if not axes:
        raise UnsupportedError("without axes, which depends on the number of samples")
    gone = [operators.sample_axis(axis, node.x) for axis in axes]
    return node.x.reshaped(np.squeeze(node.x.positions, tuple(gone)).shape)


def _unsqueeze(node: Node) -> Affine:
    axes = node.numbers("axes", 1) or []
    rank = len(node.x.shape) + 1 + len(axes)
    if any(axis % rank == 0 for axis in axes):
        raise UnsupportedError("before the axis of the samples")
    return node.x.reshaped(np.expand_dims(node.x.positions[None], tuple(axes)).shape[1:])


def _pad(node: Node) -> Affine:
    if node.attributes.get("mode", b"constant") != b"constant" or np.any(node.constant("value", 2, 0.0)):
        raise UnsupportedError("with anything else than zeros")
    numbers = node.numbers("pads", 1) or []
    axes = node.numbers("axes", 3, range(len(node.x.shape) + 1)) or []
    of_axis = {axis % (len(node.x.shape) + 1): (numbers[k], numbers[k + len(axes)]) for k, axis in enumerate(axes)}
    if any(of_axis.get(0, (0, 0))):
        raise UnsupportedError("of the axis of the samples")
    return operators.padded(node.x, [of_axis.get(axis + 1, (0, 0)) for axis in range(len(node.x.shape))])


def _cast(node: Node) -> Affine:
    if node.attributes["to"] not in _FLOATS:
        raise UnsupportedError(f"to type {node.attributes['to']}, expected a floating-point one")
    return node.x


def _scaler(node: Node) -> Affine:
    offset, scale = (np.asarray(node.attributes[name], np.float64) for name in ("offset", "scale"))
    return operators.multiplied(operators.subtracted(node.x, offset), scale)


def _shape(node: Node) -> Any:
    shape = np.array([SAMPLES, *node.x.shape], np.int64)
    return shape[node.attributes.get("start", 0) : node.attributes.get("end")]


#: What each operator makes.
OPERATORS: dict[str, Callable[[Node], Any]] = {
    "Add": lambda node: operators.added(*node.inputs),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda node: operators.concatenated(node.inputs, node.attributes["axis"]),
    "Conv": _conv,
    "Div": lambda node: operators.divided(*node.inputs),
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "Identity": lambda node: node.x,
    "LeakyRelu": lambda node: operators.leaky_relu(node.drafts, node.x, node.attributes.get("alpha", 0.01)),
    "MatMul": _matmul,
    "Mul": lambda node: operators.multiplied(*node.inputs),
    "Neg": lambda node: operators.multiplied(node.x, -1.0),
    "PRelu": _prelu,
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": lambda node: node.drafts.activated(node.x, "relu"),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": lambda node: node.drafts.activated(node.x, "sigmoid"),
    "Softmax": _softmax,
    "Squeeze": _squeeze,
    "Sub": lambda node: operators.subtracted(*node.inputs),
    "Sum": _sum,
    "Tanh": lambda node: node.drafts.activated(node.x, "tanh"),
    "Transpose": lambda node: operators.transposed(node.x, node.attributes.get("perm", (1,))),
    "Unsqueeze": _unsqueeze,
    "ai.onnx.ml.Scaler": _scaler,
}
