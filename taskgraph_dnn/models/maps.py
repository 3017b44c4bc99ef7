"""Convolutions and averages as sparse matrices, inputs x outputs: exactly the numbers that they multiply by, no more.

Shapes are channels, then any number of further axes; nothing has an axis of samples.
"""

from collections.abc import Sequence
from functools import reduce
from math import ceil, prod

import numpy as np
import psutil
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.layer import index_dtype
from taskgraph_dnn.models.affine import Shape
from taskgraph_dnn.models.drafts import UnsupportedError

#: What an edge of a convolution takes while the matrix is made.
_EDGE_NBYTES = 64

#: Of each axis, how much is put before and behind it.
Pads = Sequence[tuple[int, int]]


def windows(
    size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int = 1, *, rounds_up: bool = False
) -> int:
    """Return at how many places of an axis a kernel is applied.

    Raises:
        UnsupportedError: at none.
    """
    room = size + sum(pads) - dilation * (kernel - 1) - 1
    count = (ceil(room / stride) if rounds_up else room // stride) + 1
    if rounds_up and (count - 1) * stride >= size + pads[0]:  # it would begin behind all values
        count -= 1
    if count < 1:
        raise UnsupportedError(f"of {kernel} values where there are {size + sum(pads)}")
    return count


def convolution(
    shape: Shape,
    weights: NDArray[np.float64],
    strides: Sequence[int],
    pads: Pads,
    dilations: Sequence[int],
    groups: int = 1,
) -> tuple[scipy.sparse.csc_array, Shape]:
    """Return a convolution as a matrix, and the shape of what comes out of it.

    Args:
        shape: channels and axes of what goes in.
        weights: outputs, channels of a group, and the kernel's axes; those that are 0 make no edges.
        strides: of each axis, as the next two.
        pads: zeros before and behind.
        dilations: the distance of neighbouring weights.
        groups: of channels that see nothing of each other.

    Raises:
        UnsupportedError: the weights do not fit the shape, or the matrix does not fit into memory.
    """
    filters, of_group, *kernel = weights.shape
    if len(shape) != weights.ndim - 1 or shape[0] != of_group * groups or filters % groups:
        raise UnsupportedError(f"with weights of shape {weights.shape} in {groups} groups, on values of shape {shape}")
    axes = list(zip(shape[1:], kernel, strides, pads, dilations, strict=True))
    counts = [windows(size, width, stride, pad, dilation) for size, width, stride, pad, dilation in axes]
    outputs, edges = (filters, *counts), int(np.count_nonzero(weights)) * prod(counts)
    _require_memory(edges)
    dtype = index_dtype((prod(shape), prod(outputs)), edges)
    output, channel, *offsets = (numbers.astype(dtype) for numbers in np.nonzero(weights))
    rows = (channel + output // (filters // groups) * of_group)[:, None]  # weights x places, axis by axis
    columns = output[:, None]
    there = np.ones_like(rows, dtype=bool)
    for (size, _, stride, pad, dilation), count, offset in zip(axes, counts, offsets, strict=True):
        places = np.arange(count, dtype=dtype)
        at = places * stride - pad[0] + offset[:, None] * dilation
        rows = (rows[:, :, None] * size + at[:, None]).reshape(len(at), -1)
        columns = (columns[:, :, None] * count + places).reshape(len(at), -1)
        there = (there[:, :, None] & ((at >= 0) & (at < size))[:, None]).reshape(len(at), -1)
    values = np.broadcast_to(weights[output, channel, *offsets][:, None], there.shape)
    triples = values[there], (rows[there], columns[there])
    return scipy.sparse.csc_array(triples, shape=(prod(shape), prod(outputs))), outputs


def _require_memory(edges: int) -> None:
    needed, available = edges * _EDGE_NBYTES, psutil.virtual_memory().available
    if needed > available:
        raise UnsupportedError(
            f"of {edges:,} edges, which take {needed / 2**30:,.1f} GiB to write out, but "
            f"{available / 2**30:,.1f} GiB are available"
        )


def pooling(
    shape: Shape,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    *,
    dilations: Sequence[int] | None = None,
    counts_pads: bool = False,
    rounds_up: bool = False,
) -> tuple[scipy.sparse.csc_array, Shape]:
    """Return the averages over windows as a matrix, and the shape of what comes out of it.

    Args:
        shape: channels and axes of what goes in.
        kernel: values of each axis in a window.
        strides: of each axis, as the next two.
        pads: zeros before and behind.
        dilations: the distance of neighbouring values of a window; None is 1.
        counts_pads: whether the zeros before and behind count in an average.
        rounds_up: whether there is a last window that is not full.

    Raises:
        UnsupportedError: there is no window.
    """
    if len(shape) != len(kernel) + 1:
        raise UnsupportedError(f"with windows of shape {tuple(kernel)} on values of shape {shape}")
    axes = zip(shape[1:], kernel, strides, pads, dilations or [1] * len(kernel), strict=True)
    return _averages(
        shape[0],
        [
            _windows(size, width, stride, pad, dilation, counts_pads, rounds_up)
            for size, width, stride, pad, dilation in axes
        ],
    )


def _windows(
    size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int, counts_pads: bool, rounds_up: bool
) -> NDArray[np.float64]:
    count = windows(size, kernel, stride, pads, dilation, rounds_up=rounds_up)
    at = np.arange(count)[:, None] * stride - pads[0] + np.arange(kernel) * dilation
    there = (at >= 0) & (at < size)
    counted = at < size + pads[1] if counts_pads else there
    if not there.any(axis=1).all():
        raise UnsupportedError("with a window of nothing but padding")
    average = np.zeros((size, count))
    windows_of, _ = np.nonzero(there)
    average[at[there], windows_of] = 1 / counted.sum(axis=1)[windows_of]
    return average


def adaptive_pooling(shape: Shape, counts: Sequence[int | None]) -> tuple[scipy.sparse.csc_array, Shape]:
    """Return the averages over so many windows of each axis (None: all of its values) as a matrix, and their shape."""
    if len(shape) != len(counts) + 1:
        raise UnsupportedError(f"to the shape {tuple(counts)}, of values of shape {shape}")
    sizes = zip(shape[1:], counts, strict=True)
    return _averages(shape[0], [_adaptive(size, count or size) for size, count in sizes])


def _adaptive(size: int, count: int) -> NDArray[np.float64]:
    average = np.zeros((size, count))
    for window in range(count):
        first, stop = window * size // count, -(-(window + 1) * size // count)
        average[first:stop, window] = 1 / (stop - first)
    return average


def mean(shape: Shape, axes: Sequence[int]) -> scipy.sparse.csc_array:
    """Return the averages over axes, however many, as a matrix."""
    kept = [np.full((size, 1), 1 / size) if axis in axes else np.eye(size) for axis, size in enumerate(shape)]
    return _averages(1, kept)[0]


def _averages(channels: int, of_axes: Sequence[NDArray[np.float64]]) -> tuple[scipy.sparse.csc_array, Shape]:
    """Return the product of averages of each axis, for each channel."""
    factors = [scipy.sparse.eye_array(channels), *map(scipy.sparse.coo_array, of_axes)]
    matrix = reduce(scipy.sparse.kron, factors).tocsc()
    return matrix, (channels, *(average.shape[1] for average in of_axes))
