"""Modules and functions of PyTorch, by class, function or the name of a method."""

import operator
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from taskgraph_dnn.models import operators
from taskgraph_dnn.models.affine import Affine
from taskgraph_dnn.models.drafts import Drafts, UnsupportedError
from taskgraph_dnn.models.maps import Pads
from taskgraph_dnn.models.state_dict import array, pruned


def constant(value: Any) -> Any:
    """Return a tensor as an array; anything else as it is."""
    return array(value) if isinstance(value, torch.Tensor) else value


def _parameter(module: Any, part: str) -> Any:
    """Return the weight or the bias that a module computes with, or None."""
    tensors = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    found = pruned(tensors, part)
    return found if found is not None else constant(getattr(module, part, None))


# Modules: of drafts, module and values.


def _linear(drafts: Drafts, module: Any, x: Affine) -> Affine:
    bias = _parameter(module, "bias")
    return operators.dense(drafts, x, _parameter(module, "weight").T, 0.0 if bias is None else bias)


def _conv(drafts: Drafts, module: Any, x: Affine) -> Affine:
    if module.padding_mode != "zeros":
        raise UnsupportedError(f"with padding mode {module.padding_mode!r}, expected 'zeros'")
    weights, bias = _parameter(module, "weight"), _parameter(module, "bias")
    return _convolved(drafts, x, weights, bias, module.stride, module.padding, module.dilation, module.groups)


def _batch_norm(drafts: Drafts, module: Any, x: Affine) -> Affine:
    if module.running_mean is None:
        raise UnsupportedError("without running statistics")
    statistics = array(module.running_mean), array(module.running_var)
    return operators.normalised(
        drafts, x, *statistics, _parameter(module, "weight"), _parameter(module, "bias"), module.eps
    )


def _average_pool(drafts: Drafts, module: Any, x: Affine) -> Affine:
    divisor = getattr(module, "divisor_override", None)
    options = module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad
    return _avg_pool(drafts, x, *options, divisor)


def _module_flatten(_: Drafts, module: Any, x: Affine) -> Affine:
    return operators.flattened(x, module.start_dim, module.end_dim)


def _unchanged(_: Drafts, __: Any, x: Affine) -> Affine:
    return x


# Functions: of drafts and what they are called with.


def _function_linear(drafts: Drafts, x: Affine, weight: Any, bias: Any = None) -> Affine:
    return operators.dense(drafts, x, array(weight).T, 0.0 if bias is None else array(bias))


def _matmul(drafts: Drafts, x: Affine, other: Any) -> Affine:
    return operators.dense(drafts, x, constant(other))


def _function_conv(
    drafts: Drafts,
    x: Affine,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Affine:
    return _convolved(drafts, x, array(weight), constant(bias), stride, padding, dilation, groups)


def _convolved(
    drafts: Drafts, x: Affine, weights: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Affine:
    kernel = weights.shape[2:]
    dilations = _each(dilation, kernel)
    pads: Pads
    if padding == "same":
        rooms = [distance * (width - 1) for distance, width in zip(dilations, kernel, strict=True)]
        pads = [(room // 2, room - room // 2) for room in rooms]
    else:
        pads = [(pad, pad) for pad in _each(0 if padding == "valid" else padding, kernel)]
    return operators.convolved(drafts, x, weights, bias, _each(stride, kernel), pads, dilations, groups)


def _avg_pool(
    drafts: Drafts,
    x: Affine,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Affine:
    if divisor_override is not None:
        raise UnsupportedError("with a divisor of its own")
    axes = x.shape[1:]
    kernel = _each(kernel_size, axes)
    pads = [(pad, pad) for pad in _each(padding, axes)]
    options = {"counts_pads": count_include_pad, "rounds_up": ceil_mode}
    return operators.averaged(drafts, x, kernel, _each(stride or kernel, axes), pads, **options)


def _adaptive_avg_pool(drafts: Drafts, x: Affine, output_size: Any) -> Affine:
    return operators.averaged_to(drafts, x, _each(output_size, x.shape[1:]))


def _mean(drafts: Drafts, x: Affine, dim: Any = None, keepdim: bool = False) -> Affine:
    if dim is None:
        raise UnsupportedError("over all axes, that of the samples too")
    return operators.averaged_over(drafts, x, _several(dim), keepdim)


def _softmax(drafts: Drafts, x: Affine, dim: int | None = None, **_: Any) -> Affine:
    implied = 0 if len(x.shape) == 2 else 1  # what torch takes where nothing is said
    return operators.softmax(drafts, x, implied if dim is None else dim)


def _dropout(_: Drafts, x: Affine, p: float = 0.5, training: bool = True, inplace: bool = False) -> Affine:  # noqa: ARG001
    if training and p:
        raise UnsupportedError("in evaluation too: call it with training=self.training")
    return x


def _relu(drafts: Drafts, x: Affine, inplace: bool = False) -> Affine:  # noqa: ARG001
    return drafts.activated(x, "relu")


def _relu6(drafts: Drafts, x: Affine, inplace: bool = False) -> Affine:  # noqa: ARG001
    return drafts.clipped(x, 0, 6)


def _leaky_relu(drafts: Drafts, x: Affine, negative_slope: float = 0.01, inplace: bool = False) -> Affine:  # noqa: ARG001
    return operators.leaky_relu(drafts, x, negative_slope)


def _hardtanh(drafts: Drafts, x: Affine, min_val: float = -1, max_val: float = 1, inplace: bool = False) -> Affine:  # noqa: ARG001
    return drafts.clipped(x, min_val, max_val)


def _clamp(drafts: Drafts, x: Affine, min: Any = None, max: Any = None) -> Affine:  # noqa: A002, as torch calls them
    low, high = (default if bound is None else float(bound) for bound, default in ((min, -inf), (max, inf)))
    return drafts.clipped(x, low, high)


def _activation(name: str) -> Callable[..., Affine]:
    return lambda drafts, x: drafts.activated(x, name)


def _add(_: Drafts, x: Any, y: Any, *, alpha: float = 1) -> Affine:
    return operators.added(constant(x), _times(constant(y), alpha))


def _subtract(_: Drafts, x: Any, y: Any, *, alpha: float = 1) -> Affine:
    return operators.subtracted(constant(x), _times(constant(y), alpha))


def _times(value: Any, factor: float) -> Any:
    if factor == 1:
        return value
    return operators.multiplied(value, factor) if isinstance(value, Affine) else value * factor


def _multiply(_: Drafts, x: Any, y: Any) -> Affine:
    return operators.multiplied(constant(x), constant(y))


def _divide(_: Drafts, x: Any, y: Any) -> Affine:
    return operators.divided(constant(x), constant(y))


def _negate(_: Drafts, x: Affine) -> Affine:
    return operators.multiplied(x, -1.0)


def _concatenate(_: Drafts, tensors: Sequence[Any], dim: int = 0) -> Affine:
    return operators.concatenated(tensors, dim)


def _flatten(_: Drafts, x: Affine, start_dim: int = 0, end_dim: int = -1) -> Affine:
    return operators.flattened(x, start_dim, end_dim)


def _reshape(_: Drafts, x: Affine, *shape: Any) -> Affine:
    return operators.reshaped(x, _several(shape[0]) if len(shape) == 1 else shape)


def _permute(_: Drafts, x: Affine, *dims: Any) -> Affine:
    axes = _several(dims[0]) if len(dims) == 1 else dims
    return operators.transposed(x, [axis % (len(x.shape) + 1) for axis in axes])


def _squeeze(_: Drafts, x: Affine, dim: int | None = None) -> Affine:
    if dim is None:
        raise UnsupportedError("without an axis, which depends on the number of samples")
    axis = operators.sample_axis(dim, x)
    return x.reshaped((*x.shape[:axis], *x.shape[axis + 1 :])) if x.shape[axis] == 1 else x


def _unsqueeze(_: Drafts, x: Affine, dim: int) -> Affine:
    axis = dim % (len(x.shape) + 2)
    if axis == 0:
        raise UnsupportedError("before the axis of the samples")
    return x.reshaped((*x.shape[: axis - 1], 1, *x.shape[axis - 1 :]))


def _size(_: Drafts, x: Affine, dim: int | None = None) -> Any:
    shape = (operators.SAMPLES, *x.shape)
    return shape if dim is None else shape[dim]


def _attribute(drafts: Drafts, x: Affine, name: str) -> Any:
    if name != "shape":
        raise UnsupportedError(f"of {name}")
    return _size(drafts, x)


def _same(_: Drafts, x: Affine, *__: Any, **___: Any) -> Affine:
    return x


def _copy(_: Drafts, x: Affine) -> Affine:
    return x


def _each(value: Any, axes: Sequence[Any]) -> list[Any]:
    """Return a value for each axis: one for all of them, or one of each."""
    return list(value) if isinstance(value, Sequence) and len(value) > 1 else _several(value) * len(axes)


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value]


#: What each module makes of values.
MODULES: dict[type[Any], Callable[[Drafts, Any, Affine], Affine]] = {
    nn.AdaptiveAvgPool1d: lambda drafts, module, x: _adaptive_avg_pool(drafts, x, module.output_size),
    nn.AdaptiveAvgPool2d: lambda drafts, module, x: _adaptive_avg_pool(drafts, x, module.output_size),
    nn.AdaptiveAvgPool3d: lambda drafts, module, x: _adaptive_avg_pool(drafts, x, module.output_size),
    nn.AvgPool1d: _average_pool,
    nn.AvgPool2d: _average_pool,
    nn.AvgPool3d: _average_pool,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Conv3d: _conv,
    nn.Dropout: _unchanged,
    nn.Dropout1d: _unchanged,
    nn.Dropout2d: _unchanged,
    nn.Dropout3d: _unchanged,
    nn.Flatten: _module_flatten,
    nn.Hardtanh: lambda drafts, module, x: drafts.clipped(x, module.min_val, module.max_val),
    nn.Identity: _unchanged,
    nn.LeakyReLU: lambda drafts, module, x: operators.leaky_relu(drafts, x, module.negative_slope),
    nn.Linear: _linear,
    nn.ReLU: lambda drafts, _, x: drafts.activated(x, "relu"),
    nn.ReLU6: lambda drafts, _, x: drafts.clipped(x, 0, 6),
    nn.Sigmoid: lambda drafts, _, x: drafts.activated(x, "sigmoid"),
    nn.Softmax: lambda drafts, module, x: _softmax(drafts, x, module.dim),
    nn.Tanh: lambda drafts, _, x: drafts.activated(x, "tanh"),
}

#: What each function makes of its arguments; methods are named.
_MAKERS: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (
        _adaptive_avg_pool,
        (
            functional.adaptive_avg_pool1d,
            functional.adaptive_avg_pool2d,
            functional.adaptive_avg_pool3d,
        ),
    ),
    (_add, (operator.add, operator.iadd, torch.add, "add", "add_")),
    (_attribute, (getattr,)),
    (_avg_pool, (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)),
    (_clamp, (torch.clamp, torch.clip, "clamp", "clamp_", "clip")),
    (_concatenate, (torch.cat, torch.concat, torch.concatenate)),
    (_divide, (operator.truediv, operator.itruediv, torch.div, "div", "div_")),
    (_dropout, (functional.dropout, functional.dropout1d, functional.dropout2d, functional.dropout3d)),
    (_flatten, (torch.flatten, "flatten")),
    (_function_conv, (functional.conv1d, functional.conv2d, functional.conv3d)),
    (_function_linear, (functional.linear,)),
    (_hardtanh, (functional.hardtanh,)),
    (_leaky_relu, (functional.leaky_relu,)),
    (_matmul, (operator.matmul, torch.matmul, torch.mm, "matmul", "mm")),
    (_mean, (torch.mean, "mean")),
    (_multiply, (operator.mul, operator.imul, torch.mul, "mul", "mul_")),
    (_negate, (operator.neg, torch.neg, "neg")),
    (_permute, (torch.permute, "permute")),
    (_relu, (functional.relu, torch.relu, torch.relu_, "relu", "relu_")),
    (_relu6, (functional.relu6,)),
    (_reshape, (torch.reshape, "reshape", "view")),
    (_copy, (torch.clone, "clone")),
    (_same, ("contiguous", "detach", "float")),
    (_activation("sigmoid"), (functional.sigmoid, torch.sigmoid, "sigmoid")),
    (_size, ("size",)),
    (_softmax, (functional.softmax, torch.softmax, "softmax")),
    (_squeeze, (torch.squeeze, "squeeze")),
    (_subtract, (operator.sub, operator.isub, torch.sub, "sub", "sub_")),
    (_unsqueeze, (torch.unsqueeze, "unsqueeze")),
    (_activation("tanh"), (functional.tanh, torch.tanh, "tanh")),
]
FUNCTIONS = {function: make for make, functions in _MAKERS for function in functions}

#: Makers of what torch may keep in the memory of what it is made of, with the same numbers: who changes one later
#: changes both.
SHARING = (_dropout, _flatten, _module_flatten, _permute, _reshape, _same, _squeeze, _unchanged, _unsqueeze)

#: Functions that read no more than shapes.
LOOKS = ("size", getattr)
