"""The answer of a run, and what it took."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from taskgraph_dnn.events import TaskEvent
from taskgraph_dnn.meter import Weights
from taskgraph_dnn.plan import Plan
from taskgraph_dnn.spans import Finished


@dataclass(frozen=True)
class Seconds:
    """Where the time of a run went.

    Attributes:
        read: reading or generating the network and the samples, where this package did it.
        prepare: validating, planning, and, summed over tasks, loading and packing weights and compiling kernels.
        infer: from the start of the first task to the end of the last, from the rows of input to the rows of output,
            less what every worker spent on preparing in the meantime. Of a run that was resumed, this is the sum of its
            attempts, for those of their tasks that the result was made of.
    """

    read: float
    prepare: float
    infer: float

    def __str__(self) -> str:
        return f"read {self.read:.3g} s, prepare {self.prepare:.3g} s, infer {self.infer:.3g} s"


class Durations(NamedTuple):
    """How long tasks last: seconds of computing, preparation apart; of the median task and of the longest."""

    median: float
    longest: float

    @classmethod
    def of(cls, seconds: ArrayLike) -> "Durations":
        """Return those of tasks that take so many seconds; 0 where there is no task."""
        taken = np.ravel(seconds)
        return cls(float(np.median(taken)), float(taken.max())) if taken.size else cls(0.0, 0.0)


class Resumed(NamedTuple):
    """Partitions that an attempt at a run found at its checkpoint: those that were finished, and others."""

    finished: int
    under_way: int


@dataclass(frozen=True)
class LayerCounts:
    """What was left, and what was done, in one layer of the network.

    Attributes:
        layer: its number, from 1; 0 where inputs were only added up, for the layers that follow.
        alive: samples that have a nonzero output after it.
        distinct: samples that were still carried after it: equal ones once, dropped ones not.
        done: multiply-adds that were done in it.
        skipped: multiply-adds that all samples and all its edges would have taken, less those; below 0 in layer 0.
    """

    layer: int
    alive: int
    distinct: int
    done: int
    skipped: int


@dataclass(frozen=True, eq=False)
class Result:
    """The answer of a run.

    Attributes:
        distinct: the last layer's activations as they were computed: one row for equal samples, one column for equal
            neurons; CSR.
        rows: for each sample its row of `distinct`, or -1 where all its outputs are zero.
        places: for each output its column of `distinct`, or -1 where it is always zero; None where the two agree.
        seconds: reading, preparing and inferring, apart.
        plan: how it was run.
        events: one for each task, by partition and layer.
    """

    distinct: scipy.sparse.csr_array
    rows: NDArray[np.int64]
    places: NDArray[np.int32] | None
    seconds: Seconds
    plan: Plan
    events: tuple[TaskEvent, ...]

    @cached_property
    def outputs(self) -> scipy.sparse.csr_array:
        """The last layer's activations, CSR, samples x outputs, of the plan's dtype; made at first use."""
        wide = self.distinct if self.places is None else _unfolded(self.distinct, self.places)
        rows = wide
        if not np.array_equal(self.rows, np.arange(wide.shape[0])):  # else nothing was left out, and this may be much
            none = scipy.sparse.csr_array((1, wide.shape[1]), dtype=wide.dtype)  # row -1
            rows = scipy.sparse.vstack([wide, none], format="csr")[self.rows]
        rows.sort_indices()
        return rows

    @cached_property
    def categories(self) -> NDArray[np.int64]:
        """Numbers, from 0 and ascending, of the samples that have a nonzero output (the challenge's answer)."""
        nonzero = np.append(np.diff(self.distinct.indptr) > 0, False)
        return np.flatnonzero(nonzero[self.rows]).astype(np.int64)

    @property
    def samples(self) -> int:
        """Samples of the batch."""
        return len(self.rows)

    @property
    def edges(self) -> int:
        """Samples x edges of the network: the challenge's measure of the work."""
        return self.samples * self.plan.edges

    @property
    def edges_per_second(self) -> float:
        """`edges` by the seconds of inference; 0 where there was nothing to do."""
        return self.edges / self.seconds.infer if self.seconds.infer > 0 else 0.0

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds that were done: fewer than `edges` where reductions left some out."""
        return sum(event.multiply_adds for event in self.events)

    @property
    def planned_tasks(self) -> Durations:
        """How long tasks were expected to last, if no sample leaves on the way."""
        return Durations.of(self.plan.task_seconds)

    @property
    def true_tasks(self) -> Durations:
        """How long they did."""
        return Durations.of([event.seconds for event in self.events])

    @property
    def weights(self) -> Weights:
        """What it took all tasks to get at weights."""
        return Weights(
            hits=sum(event.hits for event in self.events),
            misses=sum(event.misses for event in self.events),
            nbytes=sum(event.read_nbytes for event in self.events),
            stall_seconds=sum(event.stall_seconds for event in self.events),
        )

    @property
    def resumed(self) -> "Resumed":
        """What this attempt at the run found of earlier ones; nothing, where there was none."""
        attempts: defaultdict[int, set[int]] = defaultdict(set)
        for event in self.events:
            attempts[event.partition].add(event.attempt)
        before = [found for found in attempts.values() if min(found) < self.plan.attempt]
        finished = sum(self.plan.attempt not in found for found in before)
        return Resumed(finished, len(before) - finished)

    @cached_property
    def layers(self) -> tuple[LayerCounts, ...]:
        """What was left and what was done, layer by layer."""
        counts = np.zeros((len(self.plan.layers), 3), np.int64)
        for event in self.events:
            counts[event.first_layer - 1 : event.last_layer] += event.counts
        return tuple(
            LayerCounts(number, int(alive), int(distinct), int(done), self.samples * layer.edges - int(done))
            for number, (layer, (alive, distinct, done)) in enumerate(
                zip(self.plan.layers, counts, strict=True), start=1 - self.plan.folds_inputs
            )
        )

    def __repr__(self) -> str:
        outputs = self.distinct.shape[1] if self.places is None else len(self.places)
        return (
            f"Result({self.samples:,} samples x {outputs:,} outputs, "
            f"{len(self.categories):,} categories; {self.seconds}; {self.edges_per_second:.3g} edges/s)"
        )


def _unfolded(distinct: scipy.sparse.csr_array, places: NDArray[np.int32]) -> scipy.sparse.csr_array:
    """Return the matrix with column `places[n]` at n, and zeros where that is -1."""
    (outputs,) = np.nonzero(places >= 0)
    shape = distinct.shape[1], len(places)
    spread = scipy.sparse.csr_array((np.ones(outputs.size, distinct.dtype), (places[outputs], outputs)), shape=shape)
    return distinct @ spread


def collect(
    partitions: Sequence[Finished],
    plan: Plan,
    places: NDArray[np.int32] | None,
    read_seconds: float,
    prepare_seconds: float,
) -> Result:
    """Join the finished partitions, merged ones last, to a result."""
    events = tuple(event for partition in partitions for event in partition.events)
    empty = scipy.sparse.csr_array((0, plan.layers[-1].outputs), dtype=plan.dtype)
    distinct = scipy.sparse.vstack([empty, *(partition.outputs for partition in partitions)], format="csr")
    rows = np.full(plan.samples, -1)
    rows[np.concatenate([np.empty(0, int), *(p.samples for p in partitions)])] = np.arange(distinct.shape[0])
    rows = rows[_representatives(partitions, plan.samples)]
    seconds = Seconds(
        read=read_seconds,
        prepare=prepare_seconds + sum(event.prepare_seconds for event in events),
        infer=_infer_seconds(events),
    )
    return Result(distinct, rows, places, seconds, plan, events)


def _representatives(partitions: Sequence[Finished], samples: int) -> NDArray[np.int64]:
    """Return for each sample the one that stands for it at the end: itself, mostly."""
    found = np.arange(samples)
    for partition in partitions:
        found[partition.twins[0]] = partition.twins[1]
    while True:  # whoever stands for one may have been folded in turn
        further = found[found]
        if (further == found).all():
            return found
        found = further


def _infer_seconds(events: Sequence[TaskEvent]) -> float:
    """Return how long all attempts took."""
    attempts: defaultdict[int, list[TaskEvent]] = defaultdict(list)
    for event in events:
        attempts[event.attempt].append(event)
    return sum(map(_attempt_seconds, attempts.values()), 0.0)


def _attempt_seconds(events: Sequence[TaskEvent]) -> float:
    """Return the time from the first start to the last end, less the least that any worker prepared in that time."""
    preparing: defaultdict[str, float] = defaultdict(float)
    for event in events:
        preparing[event.worker] += event.prepare_seconds
    return max(e.end for e in events) - min(e.start for e in events) - min(preparing.values())
