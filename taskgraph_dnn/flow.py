"""How a task takes its samples through a span of layers: in blocks, and those that are left closer together.

A **block** is a few tiles. It goes through all layers before the next one begins, so that a layer finds in the cache
what the layer before has left there. Where it is all that later layers read, at the joints of the network, samples
leave it:

- dead samples, all zero, that no later layer can revive;
- samples whose values equal another one's, bit by bit, which from there on stands for both;
- samples that the next layers provably leave as they are: they wait where that ends.

When so few are left that moving them together pays, they move into the **pool** of their layer. A pool that holds a
block's worth goes on as a block. So tiles stay full, however fast samples die, and no sample is moved often.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.activations import Activations
from taskgraph_dnn.kernels.moves import CALLS, LOOK, MOVE, PASS, equal, look, move
from taskgraph_dnn.layer import Layer
from taskgraph_dnn.network import Network
from taskgraph_dnn.reductions.certificates import Certificates
from taskgraph_dnn.segments import Compute, Passage
from taskgraph_dnn.spare import SPARE

#: Looking for samples to fold or to settle may take this part of the work that a partition would have without
#: reductions, and this part of what was done since the last look: more of it once no new blocks come, when the few
#: samples that are left have moved together.
_OF_ALL, _OF_DONE, _OF_DONE_AT_LAST = 0.015, 0.02, 0.1

#: Moving samples pays if it saves as much in so many layers.
_SOON = 2

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """The layers of one task, and how it goes through them.

    Attributes:
        run: the run's token, for its events.
        partition: the batch partition, from 0.
        first_sample: the number of its first sample in the batch.
        first, stop: the layers, from 0.
        kernels: the kernel of each of them.
        lanes: samples in a tile.
        tiles_at_once: tiles of a block.
        dtype: of the activations.
        reductions: names of those that a task may use.
        few: a partition with no more samples left leaves them to a merged one.
        merges: whether this is a merged partition, made of such samples.
        attempt: of the run, for its events.
    """

    run: str
    partition: int
    first_sample: int
    first: int
    stop: int
    kernels: tuple[str, ...]
    lanes: int
    tiles_at_once: int
    dtype: str
    reductions: tuple[str, ...]
    few: int = 0
    merges: bool = False
    attempt: int = 0


@dataclass(frozen=True, eq=False)
class Block:
    """Tiles on their way, or rows of input before the first layer.

    Attributes:
        values: tiles x neurons x lanes, or rows.
        samples, copies: of each place, as of `Activations`.
        places: which places hold a sample that is still on its way, ascending; the others are not looked at again.
        carried: how many samples these stand for.
    """

    values: Any
    samples: Numbers
    copies: Numbers
    places: Numbers
    carried: int

    @classmethod
    def of(cls, values: Any, samples: Numbers, copies: Numbers) -> "Block":
        """Return a block of which all samples are on their way."""
        return cls(values, samples, copies.copy(), np.arange(len(samples)), int(copies.sum()))

    def only(self, places: Numbers) -> "Block":
        """Return the block with these samples left."""
        return Block(self.values, self.samples, self.copies, places, int(self.copies[places].sum()))

    def where(self, flags: NDArray[np.bool_]) -> "Block":
        """Return the block with those samples left whose places have a flag: mostly, all of them."""
        there = flags[self.places]
        return self if np.count_nonzero(there) == there.size else self.only(self.places[there])

    def become(self, values: Any) -> "Block":
        """Return the same samples with other values."""
        return Block(values, self.samples, self.copies, self.places, self.carried)


class Budget(NamedTuple):
    """What may be spent on looking at samples, in multiply-adds.

    Attributes:
        allowed: in all that is still to come.
        done: what was done since the last look, of which a part is allowed, too.
    """

    allowed: float
    done: float

    @classmethod
    def of(cls, layers: Iterable[Layer], samples: int) -> "Budget":
        """Return the budget of so many samples that are to go through these layers."""
        return cls(_OF_ALL * sum(_effort(layer, samples) for layer in layers), 0.0)


def _effort(layer: Layer, samples: int) -> float:
    """Return what a layer takes for a block of so many samples, in multiply-adds."""
    return samples * (layer.nnz + PASS * sum(layer.shape)) + CALLS / 2


class Pool:
    """Tiles that are being filled with samples; end it with `close` or with `result`."""

    def __init__(self, tiles: int, neurons: int, lanes: int, dtype: Any) -> None:
        self.values = SPARE.borrow((tiles, neurons, lanes), dtype)
        self.samples, self.copies = np.empty((2, tiles * lanes), np.int64)
        self.count = 0

    def add(self, block: Block) -> None:
        """Move the samples of a block here."""
        self._reserve(block.places.size)
        move(block.values, block.places, self.values, self.count)
        self._number(block.samples[block.places], block.copies[block.places])

    def fill(self, value: float, samples: Numbers, copies: Numbers) -> None:
        """Add samples of which every value is this one."""
        self._reserve(samples.size)
        lanes, places = self.values.shape[2], np.arange(self.count, self.count + samples.size)
        self.values[places // lanes, :, places % lanes] = value
        self._number(samples, copies)

    def _reserve(self, samples: int) -> None:
        tiles, neurons, lanes = self.values.shape
        if self.count + samples > tiles * lanes:
            larger = Pool(2 * max(tiles, -(-samples // lanes)), neurons, lanes, self.values.dtype)
            larger.add(Block.of(self.values, self.samples[: self.count], self.copies[: self.count]))
            self.close()
            self.values, self.samples, self.copies = larger.values, larger.samples, larger.copies

    def _number(self, samples: Numbers, copies: Numbers) -> None:
        stop = self.count + len(samples)
        self.samples[self.count : stop], self.copies[self.count : stop] = samples, copies
        self.count = stop

    def activations(self) -> Activations:
        """Return what is here."""
        tiles = -(-self.count // self.values.shape[2])
        return Activations(self.values[:tiles], self.samples[: self.count], self.copies[: self.count])

    def block(self) -> Block:
        """Return what is here as a block, and be empty: it is to be used before anything is added."""
        here = self.activations()
        self.count = 0
        return Block.of(here.values, here.samples.copy(), here.copies)

    def result(self) -> Activations:
        """Return what is here, for somebody to keep: it may be long until the next task comes."""
        here = self.activations()
        if 2 * here.nbytes > self.values.nbytes:
            SPARE.leave(self.values)
            return here
        here = here.copied()
        self.close()
        return here

    def close(self) -> None:
        """Give the tiles back."""
        SPARE.give_back(self.values)


class Flow:
    """Takes blocks through the layers of a span.

    Args:
        span: the layers, the blocks' size and the reductions.
        network: the whole network.
        compute: computes a layer.
        proved: what the layers do to zeros and saturated samples.
        budget: for looking at samples.
        given: how many samples will come: no pool needs more room.
        arrived: called with what is left of each block after the last layer; it may be overwritten afterwards.

    Attributes:
        counts: as of `TaskEvent`.
        twins: pairs of a sample and the one that stands for it, 2 x pairs each.
        budget: what is left of it.
    """

    def __init__(
        self,
        span: Span,
        network: Network,
        compute: Compute,
        proved: Certificates,
        budget: Budget,
        given: int,
        arrived: Callable[[Block], None],
    ) -> None:
        self.counts = np.zeros((span.stop - span.first, 3), np.int64)
        self.twins: list[Numbers] = []
        self.budget = budget
        self._span, self._layers, self._proved = span, network.layers, proved
        self._width, self._ends = network.width, network.wiring.ends
        self._passage, self._arrived = Passage(network, compute, span.lanes, span.dtype), arrived
        self._drops_dead, self._folds, self._settles = (
            name in span.reductions for name in ("dead-samples", "duplicate-samples", "fixed-point")
        )
        self._looks = self._folds or self._settles
        self._pooled = min(2 * span.tiles_at_once, max(1, -(-given // span.lanes)))  # tiles
        self._pools: dict[int, Pool] = {}
        self._more = bool(span.reductions)  # whether blocks may still come
        self._compared = False  # with the layer before, at the last look: folding and repeating take turns

    def run(self, blocks: Iterable[Block]) -> None:
        """Take all blocks through all layers."""
        for block in blocks:
            self._descend(self._span.first, block)
            self._descend_from_full_pools()
        self._more = False
        for layer in range(self._span.first, self._span.stop):
            while layer in self._pools:  # again, where those left of them have moved together
                self._descend_from(layer)
                self._descend_from_full_pools()
        self._passage.close()

    def look(self, layer: int, block: Block) -> Block:
        """Return what is left of a block before `layer` once samples are folded and settled.

        It is left as it is unless enough work was done to allow for a look.
        """
        if not (self._looks and self._may_look(block)):
            return block
        self._compared = False
        threshold, target = self._proved.thresholds[layer], min(self._proved.settled[layer], self._span.stop)
        hashes, saturated = look(block.values, len(block.samples), threshold)
        hashes, saturated = hashes[block.places], saturated[block.places]
        if self._settles and target > layer + 1 and threshold < np.inf and saturated.any():
            self._settle(layer, target, block.only(block.places[saturated]))
            block, hashes = block.only(block.places[~saturated]), hashes[~saturated]
        return self._fold(block, hashes) if self._folds and block.places.size > 1 else block

    def _descend_from_full_pools(self) -> None:
        full = self._span.tiles_at_once * self._span.lanes
        while layers := [layer for layer, pool in self._pools.items() if pool.count >= full]:
            self._descend_from(max(layers))

    def _descend_from(self, layer: int) -> None:
        pool = self._pools.pop(layer)
        block = self._advance(layer, pool.block())
        pool.close()  # now: what is left has moved on, and may soon need another pool
        self._descend(self._ends[layer], block)

    def _descend(self, layer: int, block: Block) -> None:
        while block.places.size and layer < self._span.stop:
            block = self._advance(layer, block)
            layer = self._ends[layer]
        if block.places.size:
            self._arrived(block)

    def _advance(self, layer: int, block: Block) -> Block:
        """Return what is left of a block after a segment; what waits before its first layer is not among that."""
        if isinstance(block.values, np.ndarray):  # not rows
            block = self.look(layer, block)
            if block.places.size and self._pays_to_wait(layer, block):
                self._pool(layer).add(block)
                return block.only(block.places[:0])
        return self._through(layer, block) if block.places.size else block

    def _pays_to_wait(self, layer: int, block: Block) -> bool:
        """Whether to move a block's samples into the layer's pool: it must save tiles, and more than moving takes."""
        tiles, neurons, lanes = block.values.shape
        left = block.places.size
        waiting = self._pools[layer].count if layer in self._pools else 0
        needed = -(-(waiting + left) // lanes) - -(-waiting // lanes)
        if needed >= tiles and not (self._more and 2 * left <= tiles * lanes):
            return False
        saved = _SOON * _effort(self._layers[layer], tiles * lanes - left)
        return bool(saved >= MOVE * left * neurons)

    def _may_look(self, block: Block) -> bool:
        """Whether a block may be looked at; then it is taken for done."""
        cost = LOOK * block.values.size + CALLS
        part = _OF_DONE if self._more else _OF_DONE_AT_LAST
        if cost > self.budget.allowed or cost > part * self.budget.done:
            return False
        self.budget = Budget(self.budget.allowed - cost, 0.0)
        return True

    def _through(self, first: int, block: Block) -> Block:
        """Compute the segment that begins with the layer `first`, and drop the dead."""
        samples = len(block.samples)
        outputs, flags = self._passage.through(first, block.values, -(-samples // self._span.lanes))
        for layer, alive in enumerate(flags, start=first):
            if self._looks:
                self.budget = Budget(self.budget.allowed, self.budget.done + _effort(self._layers[layer], samples))
            living = block.where(alive)
            left = living if self._drops_dead and self._proved.dead[layer + 1] else block
            counts = self.counts[layer - self._span.first]
            counts += (living.carried, left.places.size, samples * self._layers[layer].nnz)
        ended = layer + 1 == len(self._layers)  # rows of the result that are zero need not be made
        after = (living if ended else left).become(outputs)
        if self._settles and self._proved.tied[layer] and isinstance(block.values, np.ndarray):
            target = min(layer + 1 + self._proved.tied[layer], self._span.stop)
            after = self._repeat(layer, target, block, after, alive)
        return after

    def _pool(self, layer: int) -> Pool:
        if layer not in self._pools:
            neurons = self._width(layer - 1)
            self._pools[layer] = Pool(self._pooled, neurons, self._span.lanes, self._span.dtype)
        return self._pools[layer]

    def _count_settled(self, layer: int, stop: int, alive: int, distinct: int) -> None:
        self.counts[layer - self._span.first : stop - self._span.first] += (alive, distinct, 0)

    def _fold(self, block: Block, hashes: NDArray[np.uint64]) -> Block:
        """Let the first of several equal samples stand for all of them."""
        order = np.argsort(hashes, kind="stable")
        new = np.append(True, hashes[order][1:] != hashes[order][:-1])
        if new.all():
            return block
        first = np.empty(len(order), np.int64)
        first[order] = order[new][np.cumsum(new) - 1]
        (others,) = np.nonzero(first != np.arange(len(order)))
        places, firsts = block.places[others], block.places[first[others]]
        same = equal(block.values, places, block.values, firsts)
        self._join(block, places[same], firsts[same])
        return block.only(np.delete(block.places, others[same]))

    def _join(self, block: Block, places: Numbers, firsts: Numbers) -> None:
        self.twins.append(np.stack([block.samples[places], block.samples[firsts]]))
        np.add.at(block.copies, firsts, block.copies[places])

    def _settle(self, layer: int, target: int, block: Block) -> None:
        """Let saturated samples wait before the layer `target`: until there, every value is the cap."""
        if self._folds:  # there they are equal, whatever they are here
            first, others = block.places[:1], block.places[1:]
            self._join(block, others, np.repeat(first, others.size))
            block = block.only(first)
        samples, copies = block.samples[block.places], block.copies[block.places]
        self._count_settled(layer, target, block.carried, samples.size)
        last, lanes = self._layers[target - 1], self._span.lanes
        cap = np.dtype(self._span.dtype).type(last.cap)
        if target < self._span.stop:
            self._pool(target).fill(cap, samples, copies)
        else:
            uniform = np.full((-(-samples.size // lanes), last.outputs, lanes), cap)
            self._arrived(Block.of(uniform, samples, copies))

    def _repeat(self, layer: int, target: int, before: Block, after: Block, alive: NDArray[np.bool_]) -> Block:
        """Let samples that a layer has left as they were, with equal ones behind it, wait before the layer `target`."""
        kernels = self._span.kernels[layer - self._span.first : target - self._span.first]
        if target == layer + 1 or len(set(kernels)) > 1 or self._compared or not self._may_look(after):
            return after
        self._compared = self._folds
        same = equal(before.values, after.places, after.values, after.places)
        if same.any():
            settled = after.only(after.places[same])
            self._count_settled(layer + 1, target, settled.where(alive).carried, settled.places.size)
            if target < self._span.stop:
                self._pool(target).add(settled)
            else:
                self._arrived(settled)
        return after.only(after.places[~same])
