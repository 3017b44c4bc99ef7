"""The answer of a run, and what it took."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskgraph_dnn.events import TaskEvent
from taskgraph_dnn.kernels.moves import NonzeroRows, joined
from taskgraph_dnn.meter import Weights
from taskgraph_dnn.plan import Plan
from taskgraph_dnn.scores import Scores
from taskgraph_dnn.spans import Finished


@dataclass(frozen=True)
class Seconds:
    """Where the time of a run went.

    Attributes:
        read: reading or generating the network and the samples before the run, where this package did it.
        prepare: validating, planning, and, summed over tasks, reading samples from files, loading and packing weights
            and compiling kernels.
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
class Result(Scores):
    """The answer of a run: `Scores` of all samples, and what they took.

    Attributes:
        seconds: reading, preparing and inferring, apart.
        plan: how it was run.
        events: one for each task, by partition and layer.
    """

    seconds: Seconds
    plan: Plan
    events: tuple[TaskEvent, ...]

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
        return (
            f"Result({self.samples:,} samples x {self.width:,} outputs, "
            f"{len(self.categories):,} categories; {self.seconds}; {self.edges_per_second:.3g} edges/s)"
        )


def collect(
    partitions: Sequence[Finished],
    plan: Plan,
    places: NDArray[np.int32] | None,
    read_seconds: float,
    prepare_seconds: float,
) -> Result:
    """Join the finished partitions, merged ones last, to a result."""
    events = tuple(event for partition in partitions for event in partition.events)
    scores = scores_of(partitions, 0, plan.samples, places, plan.layers[-1].outputs, plan.dtype)
    seconds = Seconds(
        read=read_seconds,
        prepare=prepare_seconds + sum(event.prepare_seconds for event in events),
        infer=_infer_seconds(events),
    )
    return Result(scores.distinct, scores.rows, places, seconds, plan, events)


def scores_of(
    partitions: Sequence[Finished], first: int, stop: int, places: NDArray[np.int32] | None, outputs: int, dtype: Any
) -> Scores:
    """Return what finished partitions, merged ones last, say of samples `first` to `stop`, which must be all of theirs.

    Args:
        partitions: those that the samples ended in.
        first: number of the first sample in the batch.
        stop: number behind the last.
        places: as of `Scores`.
        outputs: columns of the partitions' outputs.
        dtype: of these.
    """
    finished = [NonzeroRows(np.diff(p.outputs.indptr), p.outputs.indices, p.outputs.data) for p in partitions]
    distinct = joined(finished, outputs, dtype)
    distinct.has_canonical_format = True  # as each partition's is; else whoever sorts it looks through all of it
    rows = np.full(stop - first, -1)
    rows[np.concatenate([np.empty(0, int), *(p.samples - first for p in partitions)])] = np.arange(distinct.shape[0])
    if any(partition.twins.size for partition in partitions):
        rows = rows[_representatives(partitions, first, stop)]
    return Scores(distinct, rows, places)


def _representatives(partitions: Sequence[Finished], first: int, stop: int) -> NDArray[np.int64]:
    """Return for each sample the one that stands for it at the end: itself, mostly; both numbered from `first`."""
    found = np.arange(stop - first)
    for partition in partitions:
        found[partition.twins[0] - first] = partition.twins[1] - first
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
