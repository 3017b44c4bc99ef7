"""Which outputs of a layer to compute together, because they read the same inputs, or nearly so.

Together means: each input vector is loaded once for the whole group, and an output that lacks one of the group's inputs
gets a weight of 0 for it. A min-hash of its inputs (Broder, 1997) puts outputs that share most of them next to one
another, and those with the same inputs side by side; neighbours are joined for as long as that is expected to pay.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import types
from numba.extending import register_jitable
from numpy.typing import NDArray

from taskgraph_dnn.kernels.csr import edge_seconds
from taskgraph_dnn.kernels.jit import compile_for, readonly
from taskgraph_dnn.network import Layer

#: The most outputs in a group. Their sums fit the registers of AVX-512 and NEON; elsewhere they are computed in halves.
LARGEST = 16

#: Outputs that are looked at first, in a large layer.
_SAMPLED = 2048

#: What an input costs so many outputs together, in multiply-adds of one vector, at `BLOCK_RATE` of them a second and
#: lane (measured). There is code for these numbers of outputs; others are made of them and of single ones.
_BLOCKS = {16: 16.3, 8: 8.6, 4: 5.2}
BLOCK_RATE = 5.3e10


def _pieces(outputs: int) -> tuple[int, ...]:
    sizes: list[int] = []
    for size in (*_BLOCKS, 1):
        sizes += [size] * (outputs // size)
        outputs %= size
    return tuple(sizes)


#: By the outputs of a group, 0 to `LARGEST`: the numbers in which they are computed; what those of them cost that are
#: computed together; and how many are single.
PIECES = tuple(map(_pieces, range(LARGEST + 1)))
TOGETHER = np.array([sum(_BLOCKS.get(size, 0.0) for size in sizes) for sizes in PIECES])
SINGLE = np.array([sizes.count(1) for sizes in PIECES])


@dataclass(frozen=True, eq=False)
class Groups:
    """A layer's outputs in groups.

    Attributes:
        order: the outputs, group by group.
        starts: where in `order` each group begins, and where the last one ends.
        indptr, indices: the inputs of each group, ascending.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    indptr: NDArray[Any]
    indices: NDArray[Any]


def groups_of(layer: Layer) -> Groups:
    """Return the layer's groups, found at the first call and kept with the layer."""
    with layer.packing:
        if "groups" not in layer.packed:
            layer.packed["groups"] = _find(layer)
        groups: Groups = layer.packed["groups"]
        return groups


def _find(layer: Layer) -> Groups:
    w = layer.weights
    hashes, least = np.zeros((2, layer.outputs), np.uint64)
    compile_for(_hash, *_lists(layer), *[types.Array(types.uint64, 1, "C")] * 2)(w.indptr, w.indices, hashes, least)
    order = np.lexsort((hashes, least))
    # Neighbours in this order are a fair sample: where none of many go together, few of the others would.
    if layer.outputs > 2 * _SAMPLED:
        middle = order[layer.outputs // 2 :][:_SAMPLED]
        if len(_joined(layer, middle).starts) == _SAMPLED + 1:
            return Groups(np.arange(layer.outputs), np.arange(layer.outputs + 1), w.indptr, w.indices)
    return _in_order_of_outputs(_joined(layer, order))


def _lists(layer: Layer) -> tuple[Any, Any]:
    index = types.int32 if layer.weights.indices.dtype == np.int32 else types.int64
    return readonly(index), readonly(index)


def _joined(layer: Layer, order: NDArray[np.int64]) -> Groups:
    """Return groups of these outputs, neighbours in their order."""
    w, numbers = layer.weights, types.Array(types.int64, 1, "C")
    starts, indptr = np.zeros((2, len(order) + 1), np.int64)
    indices = np.empty(int((w.indptr[order + 1] - w.indptr[order]).sum()), np.int64)
    arguments = *_lists(layer), numbers, types.int64, readonly(types.float64), numbers, numbers, numbers
    join = compile_for(_join, *arguments, returns=types.int64)
    count = join(w.indptr, w.indices, order, layer.inputs, _costs(layer), starts, indptr, indices)
    return Groups(order, starts[: count + 1], indptr[: count + 1], indices[: indptr[count]])


def inputs_by_size(groups: Groups) -> list[int]:
    """Return how many inputs the groups of 0, 1, ... `LARGEST` outputs have together, by size."""
    sizes, inputs = np.diff(groups.starts), np.diff(groups.indptr)
    return [int(count) for count in np.bincount(sizes, inputs, minlength=LARGEST + 1)]


def count_rows(layer: Layer, width: int) -> int:
    """Return how many pairs of an input and `width` outputs, in the groups' order, have an edge between them."""
    w = layer.weights
    arguments = *_lists(layer), readonly(types.int64), types.int64, types.int64
    count = compile_for(_count_rows, *arguments, returns=types.int64)
    return int(count(w.indptr, w.indices, groups_of(layer).order, layer.inputs, width))


def _count_rows(indptr, indices, order, inputs, width):
    seen_in = np.full(inputs, -1)
    count = 0
    for place in range(order.size):
        for edge in range(indptr[order[place]], indptr[order[place] + 1]):
            if seen_in[indices[edge]] != place // width:
                seen_in[indices[edge]] = place // width
                count += 1
    return count


def _costs(layer: Layer) -> NDArray[np.float64]:
    """Return what an input costs a group, by its outputs, 0 to `LARGEST`."""
    single = BLOCK_RATE * edge_seconds(layer, 32) / 32
    return np.asarray(TOGETHER + single * SINGLE)


def _in_order_of_outputs(groups: Groups) -> Groups:
    """Sort the groups by their first output, so that what is written next to one another is so soon after."""
    sizes, lengths = np.diff(groups.starts), np.diff(groups.indptr)
    by_output = np.argsort(np.minimum.reduceat(groups.order, groups.starts[:-1]))
    rank = np.empty(len(sizes), np.int64)
    rank[by_output] = np.arange(len(sizes))
    order = groups.order[np.lexsort((groups.order, np.repeat(rank, sizes)))]
    starts, indptr = (np.concatenate([[0], np.cumsum(counts[by_output])]) for counts in (sizes, lengths))
    moved = np.repeat(groups.indptr[by_output] - indptr[:-1], lengths[by_output]) + np.arange(indptr[-1])
    return Groups(order, starts, indptr, groups.indices[moved])


@register_jitable
def _mixed(number):
    """SplitMix64 (Steele et al., OOPSLA 2014)."""
    z = np.uint64(number) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _hash(indptr, indices, hashes, least):
    """Give each output the sum and the least of its inputs' hashes."""
    for output in range(hashes.size):
        total, smallest = np.uint64(0), np.uint64(2**64 - 1)
        for edge in range(indptr[output], indptr[output + 1]):
            mixed = _mixed(indices[edge])
            total += mixed
            smallest = min(smallest, mixed)
        hashes[output], least[output] = total, smallest


def _join(indptr, indices, order, inputs, costs, starts, group_indptr, group_indices):
    """Cut `order` into groups, write where they begin and their inputs, and return how many there are.

    A group grows, output by output, for as long as it would pay if it became as large as it can; when it is closed, it
    is kept if it pays as it is.
    """
    more = (costs[LARGEST] - costs[1]) / (LARGEST - 1)  # what an output adds to a large group
    seen_in = np.full(inputs, -1)  # the group that saw an input last, by its first place in `order`
    groups, first, known, apart = 0, 0, 0, 0
    for place in range(order.size + 1):
        output = order[min(place, order.size - 1)]
        edge, stop = indptr[output], indptr[output + 1]
        new = 0
        for k in range(edge, stop):
            new += seen_in[indices[k]] != first
        size = place - first
        larger = (costs[1] + more * size) * (known + new)
        full = size == LARGEST or place == order.size
        if full or larger > (costs[1] + more * (size - 1)) * known + costs[1] * (stop - edge):
            if costs[size] * known < costs[1] * apart:
                starts[groups], group_indptr[groups + 1] = first, group_indptr[groups] + known
                groups += 1
            else:
                for alone in range(first, place):
                    at, output = group_indptr[groups], order[alone]
                    for k in range(indptr[output], indptr[output + 1]):
                        group_indices[at] = indices[k]
                        at += 1
                    starts[groups], group_indptr[groups + 1] = alone, at
                    groups += 1
            first, known, apart, new = place, 0, 0, stop - edge
        if place < order.size:
            _merge(group_indices, group_indptr[groups], known, indices, edge, stop, new)
            for k in range(edge, stop):
                seen_in[indices[k]] = first
            known += new
            apart += stop - edge
    starts[groups] = order.size
    return groups


@register_jitable
def _merge(into, start, known, indices, edge, stop, new):
    """Put the inputs of an output among the `known` ones from `start` on, of which `new` are not there yet."""
    old, at = start + known - 1, start + known + new - 1
    k = stop - 1
    while new and k >= edge:
        if old >= start and into[old] >= indices[k]:
            k -= into[old] == indices[k]
            into[at] = into[old]
            old -= 1
        else:
            into[at] = indices[k]
            k -= 1
        at -= 1
