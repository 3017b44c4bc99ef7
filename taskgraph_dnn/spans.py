"""What a task does: take one partition's activations through a span of layers.

This is the inner floor of a run: it knows networks, activations and kernels, not Dask. A task gets its rows of input,
or the activations of the span before, and returns activations, or the rows of the result after the last span, together
with the events of the whole chain so far. How samples go through the layers is in `flow`.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Activations, Values
from taskgraph_dnn.config import task_bytes
from taskgraph_dnn.data.stored import StoredPart
from taskgraph_dnn.errors import AbandonedError
from taskgraph_dnn.events import TaskEvent, publish
from taskgraph_dnn.flow import Block, Budget, Flow, Numbers, Pool, Span
from taskgraph_dnn.inputs import row_slice
from taskgraph_dnn.kernels import load_kernel
from taskgraph_dnn.kernels.moves import NonzeroRows, fill, joined, nonzero_rows
from taskgraph_dnn.kernels.packing import packed_layer
from taskgraph_dnn.matrices import sparse_nbytes
from taskgraph_dnn.meter import METER
from taskgraph_dnn.network import Network, NetworkSource
from taskgraph_dnn.pools import one_thread_each
from taskgraph_dnn.reductions.certificates import certify, nothing_proved
from taskgraph_dnn.spare import SPARE

_EVENT_NBYTES = 200  # about, of one event

#: Layers are read so far ahead at most: each task looks at all of them, and may last no longer than one of them does.
_LAYERS_AHEAD = 64


#: Runs, by their tokens, of which nobody in this process waits for the answer any more.
_abandoned: set[str] = set()


@contextmanager
def awaited(run: str) -> Iterator[None]:
    """Let tasks of a run in this process end at their next layer once the context is left by an error, or by Ctrl-C.

    Python waits for its threads before it ends, and a task may take its partition through thousands of layers.
    """
    _abandoned.discard(run)
    try:
        yield
    except BaseException:
        _abandoned.add(run)
        raise


#: Raises where nobody waits any more for the task that it was made for.
Check = Callable[[], None]

_makers: list[Callable[[], Check | None]] = []


@contextmanager
def checked(make: Callable[[], Check | None]) -> Iterator[None]:
    """Call `make` as each task in this process begins, in its thread, and what it returns before each of its layers."""
    _makers.append(make)
    try:
        yield
    finally:
        _makers.remove(make)


@dataclass(frozen=True, eq=False)
class Progressed:
    """A partition on its way through the network.

    Attributes:
        activations: of the samples that are left.
        twins: 2 x pairs: a sample that was folded, and the one that stands for it.
        budget: what may still be spent on looking at samples.
        events: of the tasks that made this.
    """

    activations: Activations
    twins: Numbers
    budget: Budget
    events: tuple[TaskEvent, ...]

    def __sizeof__(self) -> int:
        return self.activations.__sizeof__() + self.twins.nbytes + _EVENT_NBYTES * len(self.events)


@dataclass(frozen=True, eq=False)
class Finished:
    """A partition at its end.

    Attributes:
        outputs: the last layer's activations as CSR, of the samples that are left.
        samples: their numbers in the batch. All others are zero, or have a twin.
        twins: as of `Progressed`.
        events: of the partition's tasks.
    """

    outputs: scipy.sparse.csr_array
    samples: Numbers
    twins: Numbers
    events: tuple[TaskEvent, ...]

    def __sizeof__(self) -> int:
        return sparse_nbytes(self.outputs) + self.twins.nbytes + _EVENT_NBYTES * len(self.events)


def run_span(before: Any, network: Network | NetworkSource, span: Span) -> Progressed | Finished:
    """Take one partition through the layers of `span`.

    Args:
        before: what the span before returned, or a list of such partitions to be merged; for the first span the
            partition's rows of input, or where to read them.
        network: the network, or where to read it.
        span: which layers, and how.

    Returns:
        `Finished` after the network's last layer, else `Progressed`.
    """
    entered = time.time()
    if not isinstance(network, Network):
        network = network.open()
    given = _given(before, network, span)
    task = _Task(network, span, time.time() - entered)
    with SPARE.task():
        after = task.finish(given) if span.stop == len(network) else task.progress(given)
    event = task.event(entered, given.samples, after)
    publish(event)
    return replace(after, events=(*after.events, event))


def left_over(partition: Progressed, few: int) -> Progressed:
    """Return what a partition leaves to a merged one: its samples if there are at most `few`, without its history."""
    activations = partition.activations
    if activations.samples.size > few:
        activations = _none_of(activations)
    return Progressed(activations.copied(), np.empty((2, 0), np.int64), Budget(0.0, 0.0), ())


def _none_of(activations: Activations) -> Activations:
    return Activations(activations.values[:0], activations.samples[:0], activations.copies[:0])


@dataclass(frozen=True, eq=False)
class _Given:
    """What a task is given: blocks of samples, how many, and the history that comes with them."""

    parts: Sequence[Any]  # Activations, or rows of input
    samples: int
    carried: int  # how many of them are there; others stand for more than one
    twins: Numbers
    budget: Budget
    events: tuple[TaskEvent, ...]


def _given(before: Any, network: Network, span: Span) -> _Given:
    layers = network.layers[span.first :]
    if isinstance(before, StoredPart):
        before = before.read()
    if not isinstance(before, Progressed | list):
        samples = int(before.shape[0])
        return _Given([before], samples, samples, np.empty((2, 0), np.int64), Budget.of(layers, samples), ())
    partitions = before if isinstance(before, list) else [before]
    parts = [partition.activations for partition in partitions]
    if not span.merges:
        parts = [_none_of(part) if part.samples.size <= span.few else part for part in parts]
    carried = sum(part.samples.size for part in parts)
    return _Given(
        parts,
        int(sum(part.copies.sum() for part in parts)),
        carried,
        np.concatenate([partition.twins for partition in partitions], axis=1),
        Budget(Budget.of(layers, carried).allowed, np.inf) if span.merges else partitions[0].budget,
        tuple(event for partition in partitions for event in partition.events),
    )


class _ReadAhead:
    """Has the weights of the next layers read while one is computed, beyond the span too: of the next span's."""

    def __init__(self, network: Network, first: int) -> None:
        self.network = network
        self.reached = first - 1  # the last layer that a block has come to
        self.asked = first  # the first layer behind it that nobody was asked to read
        self.nbytes = 0  # of the layers between these two

    @cached_property
    def most(self) -> int:
        """How many bytes may be read ahead; a network in memory never asks."""
        return task_bytes("read-bytes") // 4

    def reach(self, layer: int) -> None:
        """Say that `layer` is computed next."""
        if layer <= self.reached or not self.network.layers[layer].stored:
            return
        for passed in range(self.reached + 1, min(layer + 1, self.asked)):
            self.nbytes -= self.network[passed].nbytes
        self.reached, self.asked = layer, max(self.asked, layer + 1)
        furthest = min(len(self.network), layer + _LAYERS_AHEAD)
        while self.asked < furthest and self.nbytes < self.most:
            following = self.network[self.asked]
            if not following.packed:
                following.read_ahead()
            self.nbytes += following.nbytes
            self.asked += 1


class _Task:
    """A span of one partition, and what it takes."""

    def __init__(self, network: Network, span: Span, opening_seconds: float) -> None:
        self.network, self.span, self.dtype = network, span, np.dtype(span.dtype)
        self.prepare_seconds = opening_seconds
        self.weights = METER.reading()
        self.proved = certify(network) if span.reductions else nothing_proved(len(network))
        self.kernels = [load_kernel(name) for name in span.kernels]
        self.counts = np.zeros((span.stop - span.first, 3), np.int64)
        self.ahead = _ReadAhead(network, span.first)
        self.checks = [check for make in tuple(_makers) if (check := make()) is not None]

    def progress(self, given: _Given) -> Progressed:
        """Return what is left after the span."""
        span, width = self.span, self.network[self.span.stop - 1].outputs
        here = Pool(-(-given.carried // span.lanes), width, span.lanes, self.dtype)
        flow = self._flow(given, here.add)
        if 1 < here.count <= 2 * span.tiles_at_once * span.lanes:
            block = here.block()
            here.add(flow.look(span.stop, block))
        twins = np.concatenate([given.twins, *flow.twins], axis=1)
        return Progressed(here.result(), twins, flow.budget, given.events)

    def finish(self, given: _Given) -> Finished:
        """Return the rows of the result."""
        rows: list[NonzeroRows] = []
        samples = [np.empty(0, np.int64)]

        def arrived(block: Block) -> None:
            rows.append(nonzero_rows(block.values, block.places))
            samples.append(block.samples[block.places])

        flow = self._flow(given, arrived)
        outputs = joined(rows, self.network.outputs, self.dtype, take=True)
        twins = np.concatenate([given.twins, *flow.twins], axis=1)
        return Finished(outputs, np.concatenate(samples), twins, given.events)

    def event(self, start: float, samples: int, after: Progressed | Finished) -> TaskEvent:
        """Return the event of the task, which ends now."""
        nbytes = after.activations.nbytes if isinstance(after, Progressed) else sparse_nbytes(after.outputs)
        weights = METER.since(self.weights)
        return TaskEvent(
            run=self.span.run,
            partition=self.span.partition,
            first_layer=self.span.first + 1,
            last_layer=self.span.stop,
            worker=f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}",
            prepare_seconds=self.prepare_seconds,
            start=start,
            end=time.time(),
            samples=samples,
            nbytes=nbytes,
            counts=self.counts,
            hits=weights.hits,
            misses=weights.misses,
            read_nbytes=weights.nbytes,
            stall_seconds=weights.stall_seconds,
            attempt=self.span.attempt,
        )

    def _flow(self, given: _Given, arrived: Any) -> Flow:
        flow = Flow(self.span, self.network, self._compute, self.proved, given.budget, given.carried, arrived)
        if given.samples:
            with one_thread_each() if any(kernel.uses_blas for kernel in self.kernels) else nullcontext():
                flow.run(self._blocks(given))
        self.counts = flow.counts
        return flow

    def _compute(self, layer: int, inputs: Any, outputs: Values, alive: NDArray[np.bool_]) -> None:
        if self.span.run in _abandoned:
            raise AbandonedError(f"the run was given up before layer {layer + 1} of partition {self.span.partition}")
        for check in self.checks:
            check()
        kernel = self.kernels[layer - self.span.first]
        started = time.perf_counter()
        self.ahead.reach(layer)
        packed = packed_layer(self.network[layer], kernel, self.dtype)
        self.prepare_seconds += time.perf_counter() - started
        kernel.run(packed, inputs, outputs, alive)

    def _blocks(self, given: _Given) -> Iterator[Block]:
        span = self.span
        if span.merges:
            together = Pool(span.tiles_at_once, self.network.width(span.first - 1), span.lanes, self.dtype)
            for part in given.parts:
                together.add(Block.of(part.values, part.samples, part.copies))
            yield from self._cut(together.activations())
            together.close()
        else:
            for part in given.parts:
                yield from self._cut(part) if isinstance(part, Activations) else self._rows(part)

    def _cut(self, part: Activations) -> Iterator[Block]:
        tiles, lanes = self.span.tiles_at_once, self.span.lanes
        for first in range(0, len(part.values), tiles):
            numbers = slice(first * lanes, (first + tiles) * lanes)
            yield Block.of(part.values[first : first + tiles], part.samples[numbers], part.copies[numbers])

    def _rows(self, rows: Any) -> Iterator[Block]:
        """Yield the rows of input, in tiles where the first kernel does not read rows."""
        lanes = self.span.lanes
        size = self.span.tiles_at_once * lanes
        tiles: Values | None = None
        for first in range(0, rows.shape[0], size):
            values = row_slice(rows, first, min(first + size, rows.shape[0]))
            count = values.shape[0]
            if self.kernels[0].reads_rows:
                values = values if scipy.sparse.issparse(values) else scipy.sparse.csr_array(values)
            else:
                if tiles is None:
                    tiles = SPARE.borrow((-(-min(size, rows.shape[0]) // lanes), rows.shape[1], lanes), self.dtype)
                rows_, values = values, tiles[: -(-count // lanes)]
                fill(values, rows_)
            numbers = self.span.first_sample + np.arange(first, first + count)
            yield Block.of(values, numbers, np.ones(count, np.int64))
        if tiles is not None:
            SPARE.give_back(tiles)
