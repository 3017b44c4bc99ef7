"""Which outputs of a layer to compute together, because they read the same inputs, or nearly so.

Together means: each input vector is loaded once for the whole group, and an output that lacks one of the group's inputs
gets a weight of 0 for it. A min-hash of its inputs (Broder, 1997) puts outputs that share most of them next to one
another, and those with the same inputs side by side; neighbours are joined for as long as that is expected to pay.
"""

from dataclasses import dataclass

import numpy as np
from numba import types
from numba.extending import register_jitable
from numpy.typing import NDArray

from taskgraph_dnn.kernels.csr import edge_seconds
from taskgraph_dnn.kernels.jit import compile_for, readonly
from taskgraph_dnn.network import Layer

#: The most outputs in a group: as many sums as registers can hold.
LARGEST = 16

#: What an input costs so many outputs together, in multiply-adds of one vector, at `BLOCK_RATE` of them a second and
#: lane (measured). There is code for these numbers of outputs; others are made of them and of single ones.
PIECES = {16: 16.3, 8: 8.6, 4: 5.2}
BLOCK_RATE = 5.3e10


def pieces(outputs: int) -> list[int]:
    """Return the numbers of outputs, those in `PIECES` and 1, in which a group is computed."""
    sizes = []
    for size in (*PIECES, 1):
        sizes += [size] * (outputs // size)
        outputs %= size
    return sizes


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
    indptr: NDArray[np.int64]
    indices: NDArray[np.int64]


def groups_of(layer: Layer) -> Groups:
    """Return the layer's groups, found at the first call and kept with the layer."""
    if "groups" not in layer.packed:
        layer.packed["groups"] = _find(layer)
    groups: Groups = layer.packed["groups"]
    return groups


def _find(layer: Layer) -> Groups:
    w = layer.weights
    index = types.int32 if w.indices.dtype == np.int32 else types.int64
    lists = readonly(index), readonly(index)
    hashes, least = np.zeros((2, layer.outputs), np.uint64)
    compile_for(_hash, *lists, *[types.Array(types.uint64, 1, "C")] * 2)(w.indptr, w.indices, hashes, least)
    order = np.lexsort((hashes, least))
    starts, indptr = np.zeros((2, layer.outputs + 1), np.int64)
    indices = np.empty(layer.nnz, np.int64)
    numbers = types.Array(types.int64, 1, "C")
    arguments = *lists, numbers, types.int64, readonly(types.float64), numbers, numbers, numbers
    join = compile_for(_join, *arguments, returns=types.int64)
    count = join(w.indptr, w.indices, order, layer.inputs, _costs(layer), starts, indptr, indices)
    return _in_order_of_outputs(Groups(order, starts[: count + 1], indptr[: count + 1], indices[: indptr[count]]))


def _costs(layer: Layer) -> NDArray[np.float64]:
    """Return what an input costs a group, by its outputs, 0 to `LARGEST`."""
    single = BLOCK_RATE * edge_seconds(layer, 32) / 32
    return np.array([sum(PIECES.get(size, single) for size in pieces(n)) for n in range(LARGEST + 1)])


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
        new = length = 0
        if place < order.size:
            edges = indices[indptr[order[place]] : indptr[order[place] + 1]]
            length = edges.size
            for i in edges:
                new += seen_in[i] != first
        size = place - first
        full = size == LARGEST or place == order.size
        larger = (costs[1] + more * size) * (known + new)
        if full or larger > (costs[1] + more * (size - 1)) * known + costs[1] * length:
            step = size if costs[size] * known < costs[1] * apart else 1
            for begin in range(first, place, max(step, 1)):
                starts[groups] = begin
                end = _union(indptr, indices, order[begin : begin + step], group_indices, group_indptr[groups])
                groups += 1
                group_indptr[groups] = end
            first, known, apart, new = place, 0, 0, length
        if place < order.size:
            for i in edges:
                seen_in[i] = first
            known += new
            apart += length
    starts[groups] = order.size
    return groups


@register_jitable
def _union(indptr, indices, outputs, into, at):
    """Write the inputs of some outputs, ascending and once each, and return where they end."""
    if outputs.size == 1:
        edges = indices[indptr[outputs[0]] : indptr[outputs[0] + 1]]
        into[at : at + edges.size] = edges
        return at + edges.size
    count = 0
    for output in outputs:
        count += indptr[output + 1] - indptr[output]
    every = np.empty(count, np.int64)
    count = 0
    for output in outputs:
        for edge in range(indptr[output], indptr[output + 1]):
            every[count] = indices[edge]
            count += 1
    every.sort()
    for k in range(count):
        if k == 0 or every[k] != every[k - 1]:
            into[at] = every[k]
            at += 1
    return at
