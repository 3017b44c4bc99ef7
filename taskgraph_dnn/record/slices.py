"""The tasks of a run as slices of time, each on the track of the thread that ran it.

A trace holds them as they are, so what is drawn of a run can be drawn of its trace as well.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from taskgraph_dnn.events import TaskEvent
from taskgraph_dnn.result import Result


@dataclass(frozen=True)
class Slice:
    """One task.

    Attributes:
        name: its layers and its partition.
        process: the worker process that ran it.
        thread: its thread, numbered from 1 in each process.
        start, end: nanoseconds since the first task of the run began.
        partition: as of the event.
        first_layer, last_layer: as the network has them; 0 where inputs are only added up.
        samples, alive, carried: that the task was given, that had a nonzero output after it, and that it handed on,
            equal ones once.
        multiply_adds: that it did.
        nbytes: of the activations that it returned.
        prepare: seconds that went into getting at weights and kernels.
        packed, found_packed: how often weights had to be packed, and how often they were.
        weights_nbytes, weights_seconds: bytes of weights that it loaded, and how long that took.
        worker, attempt: as of the event.
    """

    name: str
    process: str
    thread: int
    start: int
    end: int
    partition: int
    first_layer: int
    last_layer: int
    samples: int
    alive: int
    carried: int
    multiply_adds: int
    nbytes: int
    prepare: float
    packed: int
    found_packed: int
    weights_nbytes: int
    weights_seconds: float
    worker: str
    attempt: int

    @property
    def track(self) -> tuple[str, int]:
        """Its process and thread."""
        return self.process, self.thread

    @property
    def seconds(self) -> float:
        """Seconds from its start to its end."""
        return (self.end - self.start) / 1e9

    @property
    def prepare_seconds(self) -> float:
        """Seconds of these that went into getting at weights and kernels."""
        return min(self.seconds, self.prepare)


def slices(result: Result) -> tuple[Slice, ...]:
    """Return the tasks of a run, in the order in which they began."""
    events = sorted(result.events, key=lambda event: event.start)
    threads: defaultdict[str, dict[str, int]] = defaultdict(dict)
    ends: defaultdict[str, int] = defaultdict(int)
    made = []
    for event in events:
        process, _, thread = event.worker.rpartition("-")
        number = threads[process].setdefault(thread, len(threads[process]) + 1)
        # A thread has one task at a time. Viewers drop those that overlap, as they seem to where a clock is set back.
        start = max(_nanoseconds(event.start - events[0].start), ends[event.worker])
        end = ends[event.worker] = max(_nanoseconds(event.end - events[0].start), start)
        made.append(_slice(event, result, process, number, start, end))
    return tuple(made)


def closed_up(tasks: Sequence[Slice]) -> tuple[Slice, ...]:
    """Return the tasks as if a run that was resumed had gone on at once: without the time between its attempts."""
    closed: list[Slice] = []
    pause = end = 0
    for _, attempt in groupby(
        sorted(tasks, key=lambda task: (task.attempt, task.start)), key=lambda task: task.attempt
    ):
        own = list(attempt)
        pause += max(0, own[0].start - end)
        end = max(end, *(task.end for task in own))
        closed += [replace(task, start=task.start - pause, end=task.end - pause) for task in own] if pause else own
    return tuple(closed)


def by_track(tasks: Sequence[Slice]) -> dict[tuple[str, int], list[Slice]]:
    """Return the tasks of each track, processes in the order of their first tasks, threads by number."""
    order = {process: number for number, process in enumerate(dict.fromkeys(task.process for task in tasks))}
    tracks = sorted(tasks, key=lambda task: (order[task.process], task.thread, task.start))
    return {track: list(group) for track, group in groupby(tracks, key=lambda task: task.track)}


def held(tasks: Sequence[Slice]) -> Iterator[tuple[int, int]]:
    """Yield when, in nanoseconds, and how many bytes there are then that tasks returned and no other has replaced."""
    latest: dict[int, int] = {}
    total = 0
    for task in sorted(tasks, key=lambda task: task.end):
        total += task.nbytes - latest.get(task.partition, 0)
        latest[task.partition] = task.nbytes
        yield task.end, total


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _slice(event: TaskEvent, result: Result, process: str, thread: int, start: int, end: int) -> Slice:
    first, last = (layer - result.plan.folds_inputs for layer in (event.first_layer, event.last_layer))
    layers = f"layer {first:,}" if first == last else f"layers {first:,} to {last:,}"
    merged = "merged partition" if event.partition >= len(result.plan.partitions) else "partition"
    return Slice(
        name=f"{layers}, {merged} {event.partition:,}",
        process=process,
        thread=thread,
        start=start,
        end=end,
        partition=event.partition,
        first_layer=first,
        last_layer=last,
        samples=event.samples,
        alive=event.alive,
        carried=int(event.counts[-1, 1]),
        multiply_adds=event.multiply_adds,
        nbytes=event.nbytes,
        prepare=event.prepare_seconds,
        packed=event.misses,
        found_packed=event.hits,
        weights_nbytes=event.read_nbytes,
        weights_seconds=event.stall_seconds,
        worker=event.worker,
        attempt=event.attempt,
    )
