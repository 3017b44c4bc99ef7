"""What the operators of all frameworks come down to, on values of a sample."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.models.affine import Affine, Shape, side_by_side, total
from taskgraph_dnn.models.drafts import Drafts, UnsupportedError, require_finite
from taskgraph_dnn.models.maps import Pads, adaptive_pooling, convolution, mean, pooling


class Samples:
    """The number of samples, where a model asks for it: a shape may begin with it, and nothing be computed from it."""


SAMPLES = Samples()


def dense(drafts: Drafts, x: Affine, weights: Any, bias: Any = 0.0) -> Affine:
    """Return x @ weights + bias, over the last axis.

    Raises:
        UnsupportedError: they do not fit.
    """
    if not isinstance(x, Affine) or isinstance(weights, Affine):
        raise UnsupportedError("of anything else than values by constant weights")
    if len(weights.shape) != 2 or not x.shape or x.shape[-1] != weights.shape[0]:
        raise UnsupportedError(f"of values of shape {x.shape} by weights of shape {weights.shape}")
    rows = prod(x.shape[:-1])
    matrix = scipy.sparse.csc_array(weights, dtype=np.float64)
    if rows > 1:
        matrix = scipy.sparse.kron(scipy.sparse.eye_array(rows), matrix).tocsc()
    full = np.broadcast_to(np.asarray(bias, np.float64), (rows, weights.shape[1]))
    return drafts.linear(x, matrix, full.ravel(), (*x.shape[:-1], weights.shape[1]))


def convolved(
    drafts: Drafts,
    x: Affine,
    weights: Any,
    bias: Any,
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    groups: int,
) -> Affine:
    """Return a convolution over all axes behind the channels; see `maps.convolution`."""
    if not isinstance(x, Affine) or isinstance(weights, Affine) or isinstance(bias, Affine):
        raise UnsupportedError("of anything else than values by constant weights")
    matrix, shape = convolution(x.shape, np.asarray(weights, np.float64), strides, pads, dilations, groups)
    full = 0.0 if bias is None else np.repeat(np.asarray(bias, np.float64), prod(shape[1:]))
    return drafts.linear(x, matrix, full, shape)


def averaged(
    drafts: Drafts, x: Affine, kernel: Sequence[int], strides: Sequence[int], pads: Pads, **options: Any
) -> Affine:
    """Return averages over windows; see `maps.pooling`."""
    matrix, shape = pooling(x.shape, kernel, strides, pads, **options)
    return drafts.linear(x, matrix, 0.0, shape)


def averaged_to(drafts: Drafts, x: Affine, counts: Sequence[int | None]) -> Affine:
    """Return averages over so many windows of each axis; see `maps.adaptive_pooling`."""
    matrix, shape = adaptive_pooling(x.shape, counts)
    return drafts.linear(x, matrix, 0.0, shape)


def averaged_over(drafts: Drafts, x: Affine, axes: Sequence[int], keeps: bool) -> Affine:
    """Return averages over axes of a batch (so that 1 is the first of a sample).

    Raises:
        UnsupportedError: one of them is that of the samples.
    """
    chosen = [sample_axis(axis, x) for axis in axes]
    sizes = [1 if axis in chosen else size for axis, size in enumerate(x.shape)]
    shape = tuple(size for axis, size in enumerate(sizes) if keeps or axis not in chosen)
    return drafts.linear(x, mean(x.shape, chosen), 0.0, shape)


def normalised(drafts: Drafts, x: Affine, mean_: Any, variance: Any, weight: Any, bias: Any, epsilon: float) -> Affine:
    """Return what batch normalisation makes of x with running statistics, one of each a channel.

    Raises:
        UnsupportedError: they are not constant, or not as many as channels.
    """
    channels = x.shape[0] if x.shape else 0
    weight = np.ones(channels) if weight is None else weight
    bias = np.zeros(channels) if bias is None else bias
    if any(isinstance(value, Affine) or np.shape(value) != (channels,) for value in (mean_, variance, weight, bias)):
        raise UnsupportedError(f"with other statistics than one for each of {channels} channels")
    with np.errstate(invalid="ignore", divide="ignore"):  # variances may be anything, and are refused below
        factors = np.asarray(weight, np.float64) / np.sqrt(np.asarray(variance, np.float64) + epsilon)
    shifts = np.asarray(bias, np.float64) - np.asarray(mean_, np.float64) * factors
    each = prod(x.shape[1:])
    matrix = scipy.sparse.diags_array(np.repeat(factors, each), format="csc")
    return drafts.linear(x, matrix, np.repeat(shifts, each), x.shape)


def added(x: Any, y: Any) -> Affine:
    """Return x + y, one of them a constant or none, in the shape that holds both.

    Raises:
        UnsupportedError: a constant is not the same for all samples; or not all axes are there in both, so that samples
            of one would meet values of the other.
    """
    values, other = _values_first(x, y)
    if isinstance(other, Affine):
        if len(values.shape) != len(other.shape):
            raise UnsupportedError(f"of samples of shape {values.shape} and samples of shape {other.shape}")
        shape = np.broadcast_shapes((1, *values.shape), (1, *other.shape))[1:]
        return total([_broadcast(values, shape), _broadcast(other, shape)])
    values, constant = _with_constant(values, other)
    return values.plus(constant)


def multiplied(x: Any, y: Any) -> Affine:
    """Return x * y, one of them a constant.

    Raises:
        UnsupportedError: none is, or it is not the same for all samples.
    """
    values, other = _values_first(x, y)
    if isinstance(other, Affine):
        raise UnsupportedError("of two values that both depend on the sample")
    values, constant = _with_constant(values, other)
    return values.scaled(constant)


def subtracted(x: Any, y: Any) -> Affine:
    """Return x - y; see `added`."""
    return added(x, multiplied(y, -1.0) if isinstance(y, Affine) else -np.asarray(y, np.float64))


def divided(x: Any, y: Any) -> Affine:
    """Return x / y, where y is a constant without zeros.

    Raises:
        UnsupportedError: it is not.
    """
    if isinstance(y, Affine) or not np.all(np.asarray(y)):
        raise UnsupportedError("by anything else than constants that are not 0")
    return multiplied(x, 1 / np.asarray(y, np.float64))


def concatenated(parts: Sequence[Any], axis: int) -> Affine:
    """Return parts one after the other along an axis of a batch.

    Raises:
        UnsupportedError: a part is a constant, or the axis is that of the samples.
    """
    if not all(isinstance(part, Affine) for part in parts):
        raise UnsupportedError("with a constant")
    first = np.cumsum([0, *(part.size for part in parts)])
    positions = [part.positions + start for part, start in zip(parts, first, strict=False)]
    return side_by_side(parts).taken(np.concatenate(positions, sample_axis(axis, parts[0])))


def transposed(x: Affine, axes: Sequence[int]) -> Affine:
    """Return a batch with its axes in this order.

    Raises:
        UnsupportedError: that of the samples would not be the first.
    """
    if axes[0] != 0:
        raise UnsupportedError(f"to the axes {tuple(axes)}, where samples would not be first")
    return x.taken(x.positions.transpose([sample_axis(axis, x) for axis in axes[1:]]))


def padded(x: Affine, pads: Pads) -> Affine:
    """Return x with zeros before and behind each axis of a sample; fewer where the numbers are negative."""
    positions = np.pad(x.positions, [(max(before, 0), max(behind, 0)) for before, behind in pads], constant_values=-1)
    cut = [
        slice(max(-before, 0), size - max(-behind, 0))
        for (before, behind), size in zip(pads, positions.shape, strict=True)
    ]
    return x.taken(positions[tuple(cut)])


def reshaped(x: Affine, shape: Sequence[int], batch: int | None = None) -> Affine:
    """Return a batch in another shape; -1 in it stands for what is left.

    Args:
        x: any values.
        shape: of samples x values.
        batch: the number that means the samples, besides -1 and `SAMPLES`.

    Raises:
        UnsupportedError: a sample would not keep its own values.
    """
    target = list(shape)
    wanted = UnsupportedError(f"of samples of shape {x.shape} to {tuple(shape)}, expected samples x {x.size} values")
    if not target or target[0] not in (-1, SAMPLES, batch) or target.count(-1) - (target[0] == -1) > 1:
        raise wanted
    known = prod(size for size in target[1:] if size != -1)
    of_sample = tuple(x.size // known if size == -1 and known else size for size in target[1:])
    if prod(of_sample) != x.size:
        raise wanted
    return x.reshaped(of_sample)


def flattened(x: Affine, first: int = 1, last: int = -1) -> Affine:
    """Return a batch with its axes from `first` to `last` made one.

    Raises:
        UnsupportedError: the first is that of the samples.
    """
    start, stop = sample_axis(first, x), sample_axis(last, x) + 1
    return x.reshaped((*x.shape[:start], prod(x.shape[start:stop]), *x.shape[stop:]))


def softmax(drafts: Drafts, x: Affine, axis: int) -> Affine:
    """Return the softmax of all values of a sample.

    Raises:
        UnsupportedError: it is over a part of them.
    """
    if x.size != x.shape[sample_axis(axis, x)]:
        raise UnsupportedError(f"over axis {axis} of samples of shape {x.shape}, expected all values of a sample")
    return drafts.activated(x, "softmax")


def leaky_relu(drafts: Drafts, x: Affine, slope: float) -> Affine:
    """Return x where it is above 0, and slope * x below.

    Raises:
        UnsupportedError: the slope is not from 0 to 1.
    """
    if not 0 <= slope <= 1:
        raise UnsupportedError(f"with the slope {slope:g}, expected one from 0 to 1")
    return drafts.activated(x, "leaky_relu", negative_slope=slope)


def sample_axis(axis: int, x: Affine) -> int:
    """Return the axis of a sample that is this one of a batch.

    Raises:
        UnsupportedError: it is that of the samples, or there is none.
    """
    found = axis - 1 if axis >= 0 else axis + len(x.shape)
    if found not in range(len(x.shape)):
        raise UnsupportedError(f"along axis {axis} of samples of shape {x.shape}")
    return found


def _values_first(x: Any, y: Any) -> tuple[Affine, Any]:
    return (x, y) if isinstance(x, Affine) else (y, x)


def _with_constant(x: Affine, constant: Any) -> tuple[Affine, NDArray[np.float64]]:
    """Return both in the shape that holds both."""
    array = np.asarray(constant, np.float64)
    require_finite(array, "a constant")
    samples, *shape = np.broadcast_shapes((1, *x.shape), array.shape)
    if samples != 1 or array.ndim > len(x.shape) + 1:
        raise UnsupportedError(f"of samples of shape {x.shape} and constants of shape {array.shape}")
    return _broadcast(x, tuple(shape)), np.broadcast_to(array, (1, *shape))


def _broadcast(x: Affine, shape: Shape) -> Affine:
    aligned = x.positions.reshape((1,) * (len(shape) - len(x.shape)) + x.shape)
    return x if x.shape == shape else x.taken(np.broadcast_to(aligned, shape))
