"""How much room activations take on their way through a network, and how many tiles go through it at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taskgraph_dnn.costs import Cost
from taskgraph_dnn.machine import last_cache
from taskgraph_dnn.network import NETWORK_INPUT, Network

#: With so many tiles at once the weights, which are read once for all of them, cost next to nothing; more would only
#: need more room. But in small layers a block of tiles has so many bytes at least: what is done in Python for each
#: block and layer is done by one thread at a time, and with 1 MiB two threads were no faster than one (measured).
_MOST_TILES, _BLOCK_NBYTES = 8, 2**23


@dataclass(frozen=True)
class Width:
    """The most bytes of dense activations of a tile.

    Attributes:
        widest: in one place, or half of what all buffers have that it passes through.
        passing: what a segment reads, and what its layers fill; in a chain what a layer reads and writes.
    """

    widest: int
    passing: int

    @classmethod
    def of(cls, network: Network, lanes: int, dtype: str, *, rows: bool) -> "Width":
        """Return a network's; `rows` says that its first layer reads rows, which are no dense activations."""
        value = lanes * np.dtype(dtype).itemsize
        ends = [(0 if rows and not number else y.inputs, y.outputs) for number, y in enumerate(network)]
        passing = [_room(network, *segment, given=bool(segment[0]) or not rows) for segment in network.wiring.segments]
        buffers = _room(network, 0, len(network), given=False)
        return cls(value * max(*map(max, ends), -(-buffers // 2)), value * max(passing))


def _room(network: Network, first: int, stop: int, *, given: bool) -> int:
    """Return how many values of a sample the buffers of some layers hold, and, if need be, what these are given.

    The network's input, as tiles, is in one more buffer where it is read again.
    """
    given = given or (not first and NETWORK_INPUT not in network.wiring.released[0])
    return network.layout.width(first, stop) + (network.width(first - 1) if given else 0)


def tiles_at_once(width: Width, threads: int) -> int:
    """Return so many that the activations of a layer stay in the caches, where the next layer finds them."""
    last = last_cache()
    share = last.nbytes // (2 * min(threads, last.cores))  # the weights go through the other half
    return max(1, min(max(_MOST_TILES, _BLOCK_NBYTES // width.passing), share // width.passing))


def span_nbytes(network: Network, span: tuple[int, int], costs: Sequence[Cost], passing: float, *, pools: bool) -> int:
    """Return the bytes of a task: what it was given, what it returns, and buffers for what is passing through.

    The last span returns rows, which are no dense activations, and mostly few. Where samples may wait in pools, all
    that were given may wait before the widest layer; those that wait are not yet among what is returned.

    Args:
        network: what is run.
        span: the (first, stop) layers of the task.
        costs: of all layers, for the largest partition.
        passing: which part of the partition passes through at once.
        pools: whether samples may wait.
    """
    first, stop = span
    widest = max(max(layer.read_nbytes, layer.written_nbytes) for layer in costs[first:stop])
    returned = widest if pools else 0 if stop == len(costs) else costs[stop - 1].written_nbytes
    buffers = _room(network, first, stop, given=False) * (costs[first].written_nbytes // network[first].outputs)
    return costs[first].read_nbytes + returned + int(passing * max(2 * widest, buffers))
