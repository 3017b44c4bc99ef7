"""The loops of `moves`, compiled by numba for the types they meet."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import from_dtype, types

from taskgraph_dnn.kernels import emit_samples, jit, vectors
from taskgraph_dnn.kernels.emit_samples import flip, squeeze
from taskgraph_dnn.kernels.jit import compile_for, readonly
from taskgraph_dnn.kernels.vectors import SQUEEZES, VECTOR_NBYTES

#: As in `compiled`.
_SOURCES = (Path(str(module.__file__)).read_bytes() for module in (emit_samples, vectors, jit))
_EMITTED = hashlib.sha256(b"".join(_SOURCES)).hexdigest()


#: So many neurons ahead samples that move are fetched: the hardware does so only within a page of memory.
AHEAD = 32


def _squeeze(emitted: str) -> Callable[..., None]:
    def squeeze_all(values, places, into, at, neurons, lanes):
        """Move what is left of each vector side by side; it goes to one tile, or to the end of one and the next."""
        assert emitted
        vector = VECTOR_NBYTES // values.itemsize
        ahead = AHEAD * lanes
        parts = np.empty((4, lanes // vector + 1), np.int64)  # from where, which, to where, how many
        first = 0
        while first < places.size:
            tile, count = places[first] // lanes, 0
            while first < places.size and places[first] // lanes == tile:
                start, to, mask, kept = places[first] // vector, at + first, 0, 0
                room = lanes - to % lanes
                while first < places.size and places[first] // vector == start and kept < room:
                    mask |= 1 << places[first] % vector
                    kept += 1
                    first += 1
                parts[0, count] = tile * neurons * lanes + start * vector % lanes
                parts[1, count] = mask
                parts[2, count] = to // lanes * neurons * lanes + to % lanes
                parts[3, count] = (1 << kept) - 1
                count += 1
            for row in range(0, neurons * lanes, lanes):
                for part in range(count):
                    begin, end = parts[0, part] + row, parts[2, part] + row
                    squeeze(values, begin, parts[1, part], into, end, parts[3, part], ahead)

    return squeeze_all


def _move(values, places, into, at, neurons, lanes):
    first = 0
    while first < places.size:  # tile by tile, so that few lines of the cache are open
        tile, stop = places[first] // lanes, first
        while stop < places.size and places[stop] // lanes == tile:
            stop += 1
        for neuron in range(neurons):
            for i in range(first, stop):
                to = at + i
                end = np.uint64((to // lanes * neurons + neuron) * lanes + to % lanes)
                into[end] = values[np.uint64((tile * neurons + neuron) * lanes + places[i] % lanes)]
        first = stop


def _fill(emitted: str) -> Callable[..., None]:
    def fill(rows, samples, neurons, lanes, values):
        """Copy rows of samples into tiles, by squares as wide as a vector, and what is left one by one."""
        assert emitted
        vector = VECTOR_NBYTES // values.itemsize
        whole, squares = samples - samples % vector, neurons - neurons % vector
        for first in range(0, whole, vector):
            out = first // lanes * neurons * lanes + first % lanes
            for neuron in range(0, squares, vector):
                flip(rows, first * neurons + neuron, neurons, values, out + neuron * lanes, lanes)
            for neuron in range(squares, neurons):
                for i in range(vector):
                    values[np.uint64(out + neuron * lanes + i)] = rows[np.uint64((first + i) * neurons + neuron)]
        for sample in range(whole, samples):
            out = sample // lanes * neurons * lanes + sample % lanes
            for neuron in range(neurons):
                values[np.uint64(out + neuron * lanes)] = rows[np.uint64(sample * neurons + neuron)]

    return fill


def _pick(values, places, neurons, lanes, indptr, indices, data):
    end = np.uint64(0)
    for i in range(places.size):
        at = np.uint64(places[i] // lanes * neurons * lanes + places[i] % lanes)
        for neuron in range(neurons):  # without a branch that nobody could foretell
            value = values[at]
            indices[end], data[end] = neuron, value
            end += np.uint64(value != 0)
            at += np.uint64(lanes)
        indptr[i + 1] = end


def _look(bits, values, odd, threshold, hashes, above):
    tiles, neurons, lanes = values.shape
    for tile in range(tiles):
        sums, high = hashes[tile], above[tile]
        fours = neurons - neurons % 4
        for n in range(0, fours, 4):  # four at a time, so that the sums are loaded and stored less often
            f0, f1, f2, f3 = odd[n], odd[n + 1], odd[n + 2], odd[n + 3]
            b0, b1, b2, b3 = bits[tile, n], bits[tile, n + 1], bits[tile, n + 2], bits[tile, n + 3]
            v0, v1, v2, v3 = values[tile, n], values[tile, n + 1], values[tile, n + 2], values[tile, n + 3]
            for i in range(lanes):
                sums[i] += np.uint64(b0[i]) * f0 + np.uint64(b1[i]) * f1 + np.uint64(b2[i]) * f2 + np.uint64(b3[i]) * f3
                high[i] &= (v0[i] >= threshold) & (v1[i] >= threshold) & (v2[i] >= threshold) & (v3[i] >= threshold)
        for n in range(fours, neurons):
            for i in range(lanes):
                sums[i] += np.uint64(bits[tile, n, i]) * odd[n]
                high[i] &= values[tile, n, i] >= threshold


def _equal(left, right, starts, others, neurons, lanes, same):
    for i in range(starts.size):
        row, step, end = np.uint64(0), np.uint64(lanes), np.uint64(neurons * lanes)
        while row < end and left[starts[i] + row] == right[others[i] + row]:
            row += step
        same[i] = row >= end


def squeezes(value: np.dtype[Any], lanes: int) -> bool:
    """Return whether samples of tiles with so many lanes can be moved by whole vectors."""
    return SQUEEZES and lanes * value.itemsize % VECTOR_NBYTES == 0


@cache
def function(name: str, value: np.dtype[Any]) -> Callable[..., Any]:
    """Return a function of this module, compiled for the type of the activations."""
    element, word = from_dtype(value), types.uint64 if value.itemsize == 8 else types.uint32
    number = types.int64
    if name in ("move", "squeeze"):
        into = types.Array(element, 1, "C", aligned=False)
        python = _move if name == "move" else _squeeze(_EMITTED)
        return compile_for(python, readonly(element), readonly(number), into, number, number, number)
    if name == "fill":
        into = types.Array(element, 1, "C", aligned=False)
        return compile_for(_fill(_EMITTED), readonly(element), number, number, number, into)
    if name == "pick":
        numbers, picked = types.Array(types.int32, 1, "C"), types.Array(element, 1, "C")
        return compile_for(_pick, readonly(element), readonly(number), number, number, numbers, numbers, picked)
    if name == "look":
        found = types.Array(types.uint64, 2, "C"), types.Array(types.int32, 2, "C")
        return compile_for(_look, readonly(word, 3), readonly(element, 3), readonly(types.uint64), element, *found)
    offsets, same = readonly(types.uint64), types.Array(types.boolean, 1, "C")
    return compile_for(_equal, readonly(word), readonly(word), offsets, offsets, number, number, same)
