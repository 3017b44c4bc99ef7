"""The loops around the vector code of `emit`, compiled by numba for the types they meet, and kept on disk.

All take `inputs` and `outputs` (tiles x neurons x lanes, 16 or 32 lanes), fill `alive`, and end a layer as `ends` says.
"""

import hashlib
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, types
from numba.extending import register_jitable

from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.kernels import emit, jit, vectors
from taskgraph_dnn.kernels.emit import QUAD, SLICE
from taskgraph_dnn.kernels.jit import compile_for, readonly
from taskgraph_dnn.kernels.vectors import BLOCK, NAN, VECTOR_NBYTES
from taskgraph_dnn.network import Layer

#: Lanes that tiles may have.
LANES = (16, 32)

#: What two tiles at once may have read by an edge: more of them are not in the second cache (measured).
PAIR_NBYTES = 2**20

_row16, _row32 = emit.row_of(16), emit.row_of(32)
_pair16, _pair32 = emit.row_of(16, tiles=2), emit.row_of(32, tiles=2)
_single16, _single32 = emit.row_of(16, flag_nan=True), emit.row_of(32, flag_nan=True)
_slice16, _slice32 = emit.slice_of(16), emit.slice_of(32)
_quad1, _quad2, _quads2 = emit.quad_of(1), emit.quad_of(2), emit.quad_of(2, tiles=2)
_block4, _block8, _block16 = emit.block_of(4), emit.block_of(8), emit.block_of(16)
_exp, _sigmoid, _tanh = emit.pass_of("exp"), emit.pass_of("sigmoid"), emit.pass_of("tanh")

#: numba keeps compiled code until the module that it was written in changes. This is to make it see the others, too:
#: as a variable of the functions' closures it is a part of what numba looks the code up by.
_SOURCES = (Path(str(module.__file__)).read_bytes() for module in (emit, vectors, jit))
_EMITTED = hashlib.sha256(b"".join(_SOURCES)).hexdigest()

_SMOOTH = {"sigmoid": 1, "tanh": 2, "softmax": 3}


class Ends(NamedTuple):
    """What is done with a sum: the larger of it and `slope` x it, at least `low`, at most `cap`.

    After that comes a smooth function, where there is one, and its result is at most `last`.
    """

    low: float
    slope: float
    cap: float
    smooth: int
    last: float

    @classmethod
    def of(cls, layer: Layer) -> "Ends":
        """Return the layer's."""
        cap = math.inf if layer.cap is None else layer.cap
        relu = layer.activation == "relu" or layer.negative_slope == 0  # 0 x inf would be nan
        smooth = _SMOOTH.get(layer.activation, 0)
        slope = layer.negative_slope or 1.0
        return cls(0.0 if relu else -math.inf, slope, math.inf if smooth else cap, smooth, cap)


#: What numba calls them.
ENDS = types.NamedTuple([types.float64, types.float64, types.float64, types.int64, types.float64], Ends)


@register_jitable
def limits_of(ends, values):
    """Return low, slope and cap in the type of the values."""
    number = values.dtype.type
    return number(ends.low), number(ends.slope), number(ends.cap)


@register_jitable
def _softmax(tile):
    neurons, lanes = tile.shape
    sums = np.zeros(lanes, np.float64)  # float32 loses digits over many outputs
    largest = tile[0].copy()
    for neuron in range(1, neurons):
        for lane in range(lanes):
            value = tile[neuron, lane]
            if value > largest[lane] or value != value:
                largest[lane] = value
    for neuron in range(neurons):
        for lane in range(lanes):
            tile[neuron, lane] -= largest[lane]
    _exp(tile, 0, neurons * lanes)
    for neuron in range(neurons):
        for lane in range(lanes):
            sums[lane] += tile[neuron, lane]
    for neuron in range(neurons):
        for lane in range(lanes):
            tile[neuron, lane] = tile[neuron, lane] / sums[lane]


@register_jitable
def end_tile(tile, flags, ends, alive):
    """Put the smooth function on a tile of sums, where there is one, and see which samples are alive."""
    neurons, lanes = tile.shape
    last = tile.dtype.type(ends.last)
    if ends.smooth:
        if ends.smooth == 1:
            _sigmoid(tile, 0, neurons * lanes)
        elif ends.smooth == 2:
            _tanh(tile, 0, neurons * lanes)
        else:
            _softmax(tile)
        alive[:] = False
        for neuron in range(neurons):
            for lane in range(lanes):
                if tile[neuron, lane] > last:
                    tile[neuron, lane] = last
                alive[lane] |= tile[neuron, lane] != 0
    else:
        for lane in range(lanes):
            alive[lane] = (flags >> lane) & 1


@register_jitable
def _again(indices, weights, where, tile, bias, ends, out):
    """Compute an output without the padding among its edges, whose weight is 0: 0 x infinity would be nan.

    All lanes are computed again, and those without infinities get the bits they had: LLVM fuses these multiplies and
    adds, too, wherever the processor can. `where` says where the inputs and the weights begin, how far apart they are,
    and how many there are.
    """
    limits = limits_of(ends, tile)
    index, index_stride, weight, weight_stride, edges = where
    flags = 0
    for lane in range(tile.shape[1]):
        total = tile.dtype.type(bias)
        for k in range(edges):
            w = weights[weight + k * weight_stride]
            if w != 0:
                total += w * tile[indices[index + k * index_stride], lane]
        out[lane] = activated(total, limits)
        if out[lane] != 0:
            flags |= 1 << lane
    return flags


def _rows(emitted: str) -> Callable[..., None]:
    def rows(indptr, indices, weights, biases, ends, inputs, outputs, alive):
        """One output after the other, for one block of inputs after the other (`csr`); two tiles at once, if they fit.

        What an output has summed up for the blocks before stands in its place meanwhile.
        """
        assert emitted
        limits = limits_of(ends, outputs)
        tiles, width, lanes = inputs.shape
        count = outputs.shape[1]
        blocks = (indptr.size - 1) // max(1, count)
        tile, out = width * lanes, count * lanes
        together = 2 if 2 * tile * inputs.itemsize <= blocks * PAIR_NBYTES else 1
        for t in range(0, tiles, together):
            pair, flags = together == 2 and t + 1 < tiles, 0
            for block in range(blocks):
                passing = np.int64(block == 0), np.int64(block == blocks - 1), tile, out
                for n in range(count):
                    at = block * count + n
                    where = indptr[at], indptr[at + 1], 0, t * tile, n, t * out + n * lanes
                    if lanes == 16 and pair:
                        flags |= _pair16(indices, weights, inputs, biases, limits, outputs, where, passing)
                    elif pair:
                        flags |= _pair32(indices, weights, inputs, biases, limits, outputs, where, passing)
                    elif lanes == 16:
                        flags |= _row16(indices, weights, inputs, biases, limits, outputs, where, passing)
                    else:
                        flags |= _row32(indices, weights, inputs, biases, limits, outputs, where, passing)
            end_tile(outputs[t], flags, ends, alive[t])
            if pair:
                end_tile(outputs[t + 1], flags >> lanes, ends, alive[t + 1])

    return rows


def _slices(emitted: str) -> Callable[..., None]:
    def slices(words, numbers, weights, biases, ends, inputs, outputs, alive):
        """`SLICE` outputs after `SLICE` outputs, all with equally many edges (`ell`)."""
        assert emitted
        limits = limits_of(ends, outputs)
        tiles, width, lanes = inputs.shape
        count = -(-outputs.shape[1] // SLICE)
        edges = words.size // (count * SLICE)
        for t in range(tiles):
            tile, out, flags = t * width * lanes, t * outputs.shape[1] * lanes, 0
            for s in range(count):
                n = min(s * SLICE, outputs.shape[1] - SLICE)  # the last slice overlaps the one before
                where = s * edges, (s + 1) * edges, tile, n, out + n * lanes
                if n < 0:
                    found = 1 << NAN  # fewer outputs than a slice has
                elif lanes == 16:
                    found = _slice16(words, inputs, biases, limits, outputs, where)
                else:
                    found = _slice32(words, inputs, biases, limits, outputs, where)
                if found >> NAN & 1:
                    found = 0
                    for r in range(max(0, -n), SLICE):
                        first = 2 * (SLICE * s * edges + r)
                        halves = first, 2 * SLICE, first + 1, 2 * SLICE, edges
                        found |= _again(numbers, weights, halves, inputs[t], biases[n + r], ends, outputs[t, n + r])
                flags |= found
            end_tile(outputs[t], flags, ends, alive[t])

    return slices


def _quads(emitted: str) -> Callable[..., None]:
    def quads(table, indices, weights, biases, ends, inputs, outputs, alive):
        """Four outputs after four outputs, and then what is left (`quads`); blocks of inputs as for `rows`.

        So many lanes at once, and two tiles, as there are registers for the sums of.
        """
        assert emitted
        limits = limits_of(ends, outputs)
        tiles, width, lanes = inputs.shape
        count, columns, vector = outputs.shape[1], table.shape[1], VECTOR_NBYTES // outputs.itemsize
        fours = count // QUAD
        pieces = fours + count % QUAD
        blocks = table.shape[0] // max(1, pieces)
        tile, out = width * lanes, count * lanes
        together = 2 if BLOCK == 16 and lanes > vector else 1
        for t in range(0, tiles, together):
            pair, flags = together == 2 and t + 1 < tiles, 0
            for block in range(blocks):
                passing = np.int64(block == 0), np.int64(block == blocks - 1), tile, out
                for n in range(fours):
                    row = (block * pieces + n) * columns
                    for lane in range(0, lanes, min(lanes, 2 * vector)):
                        where = row, t * tile + lane, n * QUAD, t * out + n * QUAD * lanes + lane, lanes
                        if pair:
                            new = _quads2(table, indices, weights, inputs, biases, limits, outputs, where, passing)
                        elif lanes > vector:
                            new = _quad2(table, indices, weights, inputs, biases, limits, outputs, where, passing)
                        else:
                            new = _quad1(table, indices, weights, inputs, biases, limits, outputs, where, passing)
                        flags |= new << lane
                for n in range(fours * QUAD, count):
                    piece = table[block * pieces + n - fours * (QUAD - 1)]
                    for u in range(t, t + 1 + pair):
                        only = piece[1], piece[2], piece[0] - piece[1], u * tile, n, u * out + n * lanes
                        if lanes == 16:
                            new = _row16(indices, weights, inputs, biases, limits, outputs, only, passing)
                        else:
                            new = _row32(indices, weights, inputs, biases, limits, outputs, only, passing)
                        flags |= new << (u - t) * lanes
            end_tile(outputs[t], flags, ends, alive[t])
            if pair:
                end_tile(outputs[t + 1], flags >> lanes, ends, alive[t + 1])

    return quads


def _groups(emitted: str) -> Callable[..., None]:
    def groups(pieces, order, indices, weights, biases, ends, inputs, outputs, alive):
        """Outputs that share their inputs together (`tile`).

        All in one function: numba counts references to arrays that are handed on, which takes as long as half a piece.
        """
        assert emitted
        limits = limits_of(ends, outputs)
        tiles, width, lanes = inputs.shape
        vector, whole = VECTOR_NBYTES // outputs.itemsize, (1, 1, 0, 0)
        for t in range(tiles):
            tile, out, flags = t * width * lanes, t * outputs.shape[1] * lanes, 0
            for p in range(pieces.shape[0]):
                size, first, edge, stop = pieces[p, 0], pieces[p, 1], pieces[p, 2], pieces[p, 3]
                weight, ahead, padded, stride = pieces[p, 4], pieces[p, 5], pieces[p, 6], pieces[p, 7]
                found = 0
                if size == 1:
                    only = edge, stop, weight - edge, tile, np.int64(order[first]), out + order[first] * lanes
                    if lanes == 16:
                        found = _single16(indices, weights, inputs, biases, limits, outputs, only, whole)
                    else:
                        found = _single32(indices, weights, inputs, biases, limits, outputs, only, whole)
                for lane in range(0 if size > 1 else lanes, lanes, vector):
                    for part in range(0, size, BLOCK):
                        at, x, y = weight + part, tile + lane, out + lane
                        where = edge, stop, ahead, at, stride, x, lanes, first + part, y
                        if size == 4:
                            new = _block4(indices, weights, inputs, biases, order, limits, outputs, where)
                        elif size == 8 or BLOCK == 8:
                            new = _block8(indices, weights, inputs, biases, order, limits, outputs, where)
                        else:
                            new = _block16(indices, weights, inputs, biases, order, limits, outputs, where)
                        found |= (new & ~(1 << NAN)) << lane | new & 1 << NAN
                if padded and found >> NAN & 1:
                    found = 0
                    for r in range(size):
                        n = order[first + r]
                        column = edge, 1, weight + r, size, stop - edge
                        found |= _again(indices, weights, column, inputs[t], biases[n], ends, outputs[t, n])
                flags |= found
            end_tile(outputs[t], flags, ends, alive[t])

    return groups


def _pack_groups(indptr, indices, data, order, group_indices, pieces, weights):
    """Write the weights of all pieces, and where they are into the table; return how many there are."""
    end = 0
    for p in range(pieces.shape[0]):
        size, first, edge, stop = pieces[p, 0], pieces[p, 1], pieces[p, 2], pieces[p, 3]
        count = size * (stop - edge)
        block = weights[end : end + count]
        block[:] = 0
        edges = 0
        for r in range(size):
            at = edge
            for k in range(indptr[order[first + r]], indptr[order[first + r] + 1]):
                while group_indices[at] != indices[k]:
                    at += 1
                block[(at - edge) * size + r] = data[k]
                edges += 1
        shared = size > 1 and count > size  # whether all inputs have the weights of the first one
        for k in range(size, count):
            if block[k] != block[k - size]:
                shared = False
                break
        pieces[p, 4], pieces[p, 6], pieces[p, 7] = end, edges < count, 0 if shared else size
        end += size if shared else count
    return end


@register_jitable
def activated(total, limits):
    """Return what becomes of a sum before the smooth function, where there is one."""
    low, slope, cap = limits
    total = slope * total if slope * total > total else total
    total = low if low > total else total
    return cap if cap < total else total


def check_shapes(
    inputs: tuple[int, ...], outputs: tuple[int, ...], alive: tuple[int, ...], shape: tuple[int, int]
) -> None:
    """Check that blocks of these shapes are those of a layer of inputs x outputs: compiled code does not look.

    Raises:
        KernelError: they are not.
    """
    tiles, _, lanes = outputs
    expected = (tiles, shape[0], lanes), (tiles, shape[1], lanes), (tiles, lanes)
    if (inputs, outputs, alive) != expected or lanes not in LANES:
        found = f"inputs {inputs}, outputs {outputs} and alive {alive}"
        raise KernelError(
            f"{found} do not belong to a layer of {shape}, in tiles of {' or '.join(map(str, LANES))} lanes"
        )


def function(name: str, value: np.dtype[Any], index: np.dtype[Any]) -> Callable[..., None]:
    """Return a function of this module, compiled for the types of the activations and of the input numbers."""
    with jit.compiling:  # a cache alone would let every thread compile it
        return _function(name, np.dtype(value), np.dtype(index))


@cache
def _function(name: str, value: np.dtype[Any], index: np.dtype[Any]) -> Callable[..., None]:
    number, element = from_dtype(index), from_dtype(value)
    int64s, floats, tiles = readonly(types.int64), readonly(types.float32), readonly(element, 3)
    python, layer, inputs = {
        "rows": (_rows, (int64s, readonly(number), floats), (tiles,)),
        "slices": (_slices, (readonly(types.uint64), readonly(number), floats), (tiles,)),
        "quads": (_quads, (readonly(types.int64, 2), readonly(number), floats), (tiles,)),
        "groups": (_groups, (readonly(types.int64, 2), readonly(types.int32), readonly(number), floats), (tiles,)),
    }[name]
    outputs, alive = types.Array(element, 3, "C", aligned=False), types.Array(types.boolean, 2, "C")
    return compile_for(python(_EMITTED), *layer, floats, ENDS, *inputs, outputs, alive)


def pack_groups(*arrays: Any) -> int:
    """Pack the weights of `tile`; see `_pack_groups`."""
    kinds = [readonly(from_dtype(array.dtype)) for array in arrays[:5]]
    table, weights = types.Array(types.int64, 2, "C"), types.Array(types.float32, 1, "C")
    return int(compile_for(_pack_groups, *kinds, table, weights, returns=types.int64)(*arrays))
