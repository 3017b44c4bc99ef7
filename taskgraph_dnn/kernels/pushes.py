"""The loops of `push`, compiled by numba for the types they meet; as `compiled`, but they read rows of input."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import from_dtype, types
from numba.extending import register_jitable

from taskgraph_dnn.kernels import compiled, emit, emit_samples, jit, vectors
from taskgraph_dnn.kernels.compiled import ENDS, activated, end_tile, limits_of
from taskgraph_dnn.kernels.emit_samples import add_of, push_of, turn
from taskgraph_dnn.kernels.jit import compile_for, readonly
from taskgraph_dnn.kernels.vectors import VECTOR_NBYTES

#: Outputs that an input adds to at a time, where it does not go one by one.
PUSHED = 16

#: Inputs that are added at a time, where they and the outputs they add to follow one another.
RUN = 16

_push1, _push16, _push16_shared = push_of(1), push_of(PUSHED), push_of(PUSHED, shared=True)
_add = add_of(RUN)

#: As in `compiled`, whose functions are used here, too.
_SOURCES = (Path(str(module.__file__)).read_bytes() for module in (compiled, emit, emit_samples, vectors, jit))
_EMITTED = hashlib.sha256(b"".join(_SOURCES)).hexdigest()


def _pushes(emitted: str) -> Callable[..., None]:
    def pushes(
        row, indptr, places, weights, order, biases, ends, rows_indptr, rows_indices, rows_values, outputs, alive
    ):
        """Every nonzero input through its edges (`push`), which are for so many outputs in a row each."""
        assert emitted
        limits = limits_of(ends, outputs)
        tiles, _, lanes = outputs.shape
        vector = VECTOR_NBYTES // outputs.itemsize
        sums = np.empty((vector, biases.size), outputs.dtype)
        for t in range(tiles):
            flags = 0
            for lane in range(0, lanes, vector):
                for v in range(vector):
                    for place in range(biases.size):
                        sums[v, place] = biases[place]
                    sample = t * lanes + lane + v
                    if sample < rows_indptr.size - 1:
                        for nonzero in range(rows_indptr[sample], rows_indptr[sample + 1]):
                            i, x = rows_indices[nonzero], sums.dtype.type(rows_values[nonzero])
                            first, stop, at = indptr[i], indptr[i + 1], v * biases.size
                            if row == PUSHED and weights.size == places.size:
                                _push16_shared(places, weights, first, stop, x, sums, at)
                            elif row == 1:
                                _push1(places, weights, first, stop, x, sums, at)
                            elif np.isfinite(x):
                                _push16(places, weights, first, stop, x, sums, at)
                            else:
                                _push_edges(places, weights, first, stop, x, sums, v)
                flags |= _turned(sums, order, limits, outputs, t, lane) << lane
            end_tile(outputs[t], flags, ends, alive[t])

    return pushes


def _singles(emitted: str) -> Callable[..., int]:
    def singles(places, weights, runs, order, biases, ends, rows_indptr, rows_indices, rows_values, outputs, alive):
        """Every nonzero input through its only edge; without weights, all are 1. Returns how many inputs there are not.

        The place of an input that has no edge is one after the last. `runs` says at which inputs so many begin that
        their places follow one another: where all of them are there, as in the strokes of an image, they are added
        together. Numbers are unsigned, because an index below 0 would have to be looked for.
        """
        assert emitted
        limits = limits_of(ends, outputs)
        tiles, _, lanes = outputs.shape
        vector, width, inputs, unknown = VECTOR_NBYTES // outputs.itemsize, biases.size, np.uint64(places.size), 0
        sums = np.empty((vector, width + 1), outputs.dtype)
        for t in range(tiles):
            flags = 0
            for lane in range(0, lanes, vector):
                for v in range(vector):
                    sample, row = t * lanes + lane + v, sums[v]
                    for place in range(width):
                        row[place] = biases[place]
                    if sample >= rows_indptr.size - 1:
                        continue
                    nonzero, stop = np.uint64(rows_indptr[sample]), np.uint64(rows_indptr[sample + 1])
                    while nonzero < stop:
                        i = np.uint64(rows_indices[nonzero])
                        last = nonzero + np.uint64(RUN - 1)
                        if i >= inputs:
                            unknown += 1
                        elif weights.size:
                            row[places[i]] += weights[i] * row.dtype.type(rows_values[nonzero])
                        elif runs[i] and last < stop and rows_indices[last] == i + np.uint64(RUN - 1):
                            at = v * (width + 1) + np.int64(places[i])
                            _add(rows_values, np.int64(nonzero), sums, at)
                            nonzero = last
                        else:
                            row[places[i]] += row.dtype.type(rows_values[nonzero])
                        nonzero += np.uint64(1)
                flags |= _turned(sums, order, limits, outputs, t, lane) << lane
            end_tile(outputs[t], flags, ends, alive[t])
        return unknown

    return singles


@register_jitable
def _push_edges(places, weights, first, stop, x, sums, v):
    """Add an infinite input times its weights, but not times the padding among them."""
    for k in range(first, stop):
        for r in range(PUSHED):
            if weights[k * PUSHED + r] != 0:
                sums[v, places[k] + r] += x * weights[k * PUSHED + r]


@register_jitable
def _turned(sums, order, limits, outputs, t, lane):
    """End the samples of one vector of lanes, and return the flags."""
    vector, stride = sums.shape
    _, width, lanes = outputs.shape
    flags, out = 0, t * width * lanes + lane
    for n in range(0, width, vector):
        n, following = min(n, width - vector), min(n + vector, width - vector)
        if n >= 0:
            flags |= turn(sums, n, stride, order, n, following, lanes, limits, outputs, out)
        else:
            for v in range(vector):
                for place in range(width):
                    total = activated(sums[v, place], limits)
                    outputs[t, order[place], lane + v] = total
                    flags |= (1 if total != 0 else 0) << v
    return flags


def function(name: str, value: np.dtype[Any], index: np.dtype[Any]) -> Callable[..., Any]:
    """Return a function of this module, compiled for the types of the activations and of the places."""
    with jit.compiling:  # a cache alone would let every thread compile it
        return _function(name, np.dtype(value), np.dtype(index))


@cache
def _function(name: str, value: np.dtype[Any], index: np.dtype[Any]) -> Callable[..., Any]:
    number, floats, int32s = readonly(from_dtype(index)), readonly(types.float32), readonly(types.int32)
    tiles, alive = types.Array(from_dtype(value), 3, "C", aligned=False), types.Array(types.boolean, 2, "C")
    rows = floats, tiles, alive
    if name == "pushes":
        layer: tuple[Any, ...] = types.int64, readonly(types.int64), number, floats, int32s, floats, ENDS
        return compile_for(_pushes(_EMITTED), *layer, int32s, int32s, *rows)
    layer = number, floats, readonly(types.boolean), int32s, floats, ENDS
    return compile_for(_singles(_EMITTED), *layer, int32s, readonly(types.uint32), *rows, returns=types.int64)
