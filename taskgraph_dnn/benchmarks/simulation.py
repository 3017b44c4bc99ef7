"""How a run would go on more workers than there are: a small, deterministic discrete-event model.

Every partition is a chain of tasks, one for each span of layers. A task that may begin goes to the scheduler, which
handles one task after the other; a while later it reaches a worker. Workers have one thread. Before a worker computes,
it gets the activations, if another worker has them, and reads the span's weights, unless it has read them before.

Where a task is for a certain worker (`Plan.worker`), activations travel while that worker computes something else, one
partition after the other. Where any worker will do, a task goes to the one that has the activations, as Dask sends it.
A worker that has nothing else to do begins with a partition that nobody has begun with; and if its own are not on their
way to it either, it takes one from another worker, and waits for the activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heappop, heappush
from math import inf

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.errors import InputError
from taskgraph_dnn.events import TaskEvent
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan

#: What costs less than this part of a run is nobody's worry; and a chain that takes the other part of it is the limit.
LITTLE = 0.1


@dataclass(frozen=True, eq=False)
class Work:
    """The tasks of a run.

    Attributes:
        seconds: partitions x spans, of computing.
        nbytes: partitions x spans, of the activations that the task returns.
        weights: for each span, bytes of its layers' weights.
        places: partitions x spans, the number of the worker that the task is for; -1 where any will do.
    """

    seconds: NDArray[np.float64]
    nbytes: NDArray[np.float64]
    weights: NDArray[np.float64]
    places: NDArray[np.int64]

    @classmethod
    def planned(cls, network: Network, plan: Plan) -> "Work":
        """Return what a plan expects, with all samples in all layers.

        Args:
            network: the network that the plan computes, after static reductions.
            plan: how it is run; its merged partitions have nothing to do.
        """
        samples = [-(-(stop - first) // plan.lanes) * plan.lanes for first, stop in plan.partitions]
        nbytes = [float(plan.layers[stop - 1].outputs * np.dtype(plan.dtype).itemsize) for _, stop in plan.spans]
        return cls(plan.task_seconds, np.outer(samples, nbytes), _weights(network, plan), _places(plan))

    @classmethod
    def measured(cls, network: Network, plan: Plan, events: Sequence[TaskEvent]) -> "Work":
        """Return what the tasks of a run took.

        Args:
            network: the network that the plan computes, after static reductions.
            plan: how it was run.
            events: of the run (`Result.events`).

        Raises:
            InputError: not every partition has every span, or there are merged partitions.
        """
        spans = {stop: number for number, (_, stop) in enumerate(plan.spans)}
        seconds, nbytes = np.full((2, len(plan.partitions), len(plan.spans)), np.nan)
        if plan.merged:
            raise InputError(f"the run has {plan.merged} merged partitions, expected none: run it without reductions")
        for event in events:
            task = event.partition, spans[event.last_layer]
            seconds[task], nbytes[task] = event.seconds, event.nbytes
        if missing := int(np.isnan(seconds).sum()):
            raise InputError(f"events of {seconds.size - missing} tasks, expected {seconds.size}: one of each")
        return cls(seconds, nbytes, _weights(network, plan), _places(plan))

    @property
    def total(self) -> float:
        """Seconds of computing, of all tasks."""
        return float(self.seconds.sum())

    @property
    def longest_chain(self) -> float:
        """Seconds of computing, of the longest chain: no run is shorter."""
        return float(self.seconds.sum(axis=1).max(initial=0.0))


def _weights(network: Network, plan: Plan) -> NDArray[np.float64]:
    return np.array([sum(layer.nbytes for layer in network.layers[first:stop]) for first, stop in plan.spans], float)


def _places(plan: Plan) -> NDArray[np.int64]:
    shape = len(plan.partitions), len(plan.spans)
    found = [plan.worker(span, partition) for partition in range(shape[0]) for span in range(shape[1])]
    return np.array([-1 if worker is None else worker for worker in found], np.int64).reshape(shape)


@dataclass(frozen=True)
class Cluster:
    """What the tasks run on. Everything beside computing is free unless it is said to cost something.

    Attributes:
        workers: how many, of one thread each.
        scheduling_seconds: of the scheduler, for each task.
        latency_seconds: from the end of a task to the start of its chain's next one, where nobody else wants anything,
            beside the scheduler's seconds.
        network_rate: bytes a second that a worker receives from other workers.
        weights_rate: bytes of weights a second that a worker reads and packs.
        kept_nbytes: bytes of weights that a worker keeps. One whose spans have more reads them anew for each task, as
            what was used longest ago is dropped, and a chain comes back to it last.
    """

    workers: int
    scheduling_seconds: float = 0.0
    latency_seconds: float = 0.0
    network_rate: float = inf
    weights_rate: float = inf
    kept_nbytes: float = inf


@dataclass(frozen=True)
class Outcome:
    """A simulated run.

    Attributes:
        workers: how many.
        seconds: from the first task's way to the scheduler to the end of the last.
        computing: seconds of computing, of all tasks: what one worker would take if all else were free.
    """

    workers: int
    seconds: float
    computing: float

    @property
    def speedup(self) -> float:
        """How many times as fast as one worker that only computes."""
        return self.computing / self.seconds if self.seconds else float(self.workers)

    @property
    def utilisation(self) -> float:
        """Which part of the workers' time is computing."""
        return self.speedup / self.workers


def simulate(work: Work, cluster: Cluster) -> Outcome:
    """Return how the run goes.

    Raises:
        InputError: a task is for a worker that the cluster does not have.
    """
    if not 0 <= int(work.places.max(initial=0)) < cluster.workers:
        raise InputError(f"a task is for worker {work.places.max()}, expected one of {cluster.workers}, from 0")
    return Outcome(cluster.workers, _Simulation(work, cluster).run(), work.total)


@dataclass(frozen=True, eq=False)
class Limits:
    """What keeps a run from being as fast as its workers compute.

    Attributes:
        work, cluster: of the run.
    """

    work: Work
    cluster: Cluster

    @cached_property
    def outcome(self) -> Outcome:
        """The run with all that it costs."""
        return simulate(self.work, self.cluster)

    @cached_property
    def losses(self) -> dict[str, float]:
        """By how many seconds the run would be shorter if one thing were free, and, last, what none of them explains.

        scheduler: handling tasks and latency. network: moving activations. weights: reading and packing them. parts or
        critical path: what is lost where all of that is free, because tasks are too few, uneven, or wait for others;
        critical path where the longest chain is what lasts.
        """
        seconds = self.outcome.seconds
        free = simulate(self.work, Cluster(self.cluster.workers)).seconds
        rest = "critical path" if self.work.longest_chain > (1 - LITTLE) * free else "parts"
        without = {
            "scheduler": replace(self.cluster, scheduling_seconds=0.0, latency_seconds=0.0),
            "network": replace(self.cluster, network_rate=inf),
            "weights": replace(self.cluster, weights_rate=inf),
        }
        saved = {name: seconds - simulate(self.work, cluster).seconds for name, cluster in without.items()}
        return saved | {rest: free - self.work.total / self.cluster.workers}

    @property
    def limit(self) -> str:
        """The name of the largest loss; "computing" where all are little, and more workers would help."""
        name, seconds = max(self.losses.items(), key=lambda loss: loss[1])
        return name if seconds > LITTLE * self.outcome.seconds else "computing"


class _Simulation:
    """A run under way. Of a partition one task is under way at a time, so a partition's number stands for its task."""

    def __init__(self, work: Work, cluster: Cluster) -> None:
        partitions, self.spans = work.seconds.shape
        self.seconds, self.places = work.seconds.tolist(), work.places.tolist()
        self.receiving = (work.nbytes / cluster.network_rate).tolist()
        self.reading = (work.weights / cluster.weights_rate).tolist()
        self.scheduling, self.latency = cluster.scheduling_seconds, cluster.latency_seconds
        self.scheduler_free = 0.0
        self.link_free = [0.0] * cluster.workers  # when each can receive something else
        self.span, self.holder = [0] * partitions, [-1] * partitions
        self.waits = [False] * partitions  # for a worker, that any may be
        self.own: list[list[int]] = [[] for _ in range(cluster.workers)]
        self.new: list[int] = []  # partitions that nobody has begun with
        self.begun: list[int] = []  # those of a worker that is busy
        self.coming = [0] * cluster.workers  # tasks on their way to the one that has the activations
        self.idle, self.is_idle = list(range(cluster.workers)), [True] * cluster.workers
        self.has_read = [bytearray(self.spans) for _ in range(cluster.workers)]
        self.keeps = _keeping(work, cluster)
        self.events: list[tuple[float, int, int, bool]] = []  # when, in which order, what, and whether it has ended
        self.number = 0

    def run(self) -> float:
        """Return the seconds from the beginning to the end."""
        now = 0.0
        for partition in range(len(self.span)):
            self._schedule(now, partition)
        while self.events:
            now, _, partition, ended = heappop(self.events)
            if ended:
                self._end(now, partition)
            else:
                self._arrive(now, partition)
        return now

    def _at(self, when: float, partition: int, ended: bool) -> None:
        self.number += 1
        heappush(self.events, (when, self.number, partition, ended))

    def _schedule(self, now: float, partition: int) -> None:
        self.scheduler_free = max(now, self.scheduler_free) + self.scheduling
        when, span = self.scheduler_free + self.latency, self.span[partition]
        place = self.places[partition][span]
        if place >= 0 and span and self.holder[partition] != place:
            when = max(when, self.link_free[place]) + self.receiving[partition][span - 1]
            self.link_free[place] = when
        if place < 0 and span:
            self.coming[self.holder[partition]] += 1
        self._at(when, partition, False)

    def _wanted(self, partition: int) -> int:
        """Return the worker that a partition's next task is for, or that has its activations; -1 if there is none."""
        place: int = self.places[partition][self.span[partition]]
        return place if place >= 0 else self.holder[partition]

    def _arrive(self, now: float, partition: int) -> None:
        wanted, anywhere = self._wanted(partition), self.places[partition][self.span[partition]] < 0
        if anywhere and wanted >= 0:
            self.coming[wanted] -= 1
        worker = wanted if wanted >= 0 and self.is_idle[wanted] else self._idle_worker() if anywhere else -1
        if worker >= 0:
            self._start(now, worker, partition)
            return
        self.waits[partition] = True
        if wanted >= 0:
            heappush(self.own[wanted], partition)
        if anywhere:
            heappush(self.begun if wanted >= 0 else self.new, partition)

    def _idle_worker(self) -> int:
        while self.idle:
            worker = heappop(self.idle)
            if self.is_idle[worker] and not self.coming[worker]:
                return worker
        return -1

    def _start(self, now: float, worker: int, partition: int) -> None:
        self.waits[partition] = self.is_idle[worker] = False
        span, holder = self.span[partition], self.holder[partition]
        if span and holder != worker and self.places[partition][span] < 0:
            now += self.receiving[partition][span - 1]
        if not self.has_read[worker][span]:
            now += self.reading[span]
            self.has_read[worker][span] = self.keeps[worker]
        self.holder[partition] = worker
        self._at(now + self.seconds[partition][span], partition, True)

    def _end(self, now: float, partition: int) -> None:
        worker = self.holder[partition]
        self.span[partition] += 1
        if self.span[partition] < self.spans:
            self._schedule(now, partition)
        following = self._waiting(worker)
        if following >= 0:
            self._start(now, worker, following)
        else:
            self.is_idle[worker] = True
            heappush(self.idle, worker)

    def _waiting(self, worker: int) -> int:
        """Return the partition that a worker takes next; -1 if none waits that it may take."""
        own = self.own[worker]
        while own:  # others may have taken what stands there
            partition = heappop(own)
            if self.waits[partition] and self._wanted(partition) == worker:
                return partition
        for common in [self.new] if self.coming[worker] else [self.new, self.begun]:
            while common:
                partition = heappop(common)
                if self.waits[partition]:
                    return partition
        return -1


def _keeping(work: Work, cluster: Cluster) -> list[bool]:
    """Return for each worker whether it keeps the weights of all spans that it may compute."""
    needed = np.zeros(cluster.workers)
    spans = np.broadcast_to(np.arange(work.weights.size), work.places.shape)
    for place, span in np.unique(np.stack([work.places.ravel(), spans.ravel()]), axis=1).T:
        needed[slice(None) if place < 0 else place] += work.weights[span]
    return [bool(nbytes <= cluster.kept_nbytes) for nbytes in needed]
