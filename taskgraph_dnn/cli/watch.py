"""How far a run is while it goes on: a bar, or with `--watch` a front of partitions x layers, or lines in a pipe."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
from dask.utils import format_time
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live
from rich.text import Text

from taskgraph_dnn.cli.terminal import progress
from taskgraph_dnn.events import Subscriber, TaskEvent
from taskgraph_dnn.plan import Plan, even_ranges
from taskgraph_dnn.words import counted

_PER_SECOND = 10
_LINE_SECONDS = 5.0
_HEAD_LINES = 3

#: Done by all partitions of a row, by some of them, by none.
_GLYPHS, _ASCII_GLYPHS = "█▒·", "#=."


@contextmanager
def bar(plan: Plan) -> Iterator[Subscriber]:
    """Yield a subscriber to the run's events that moves a bar."""
    done = count(1)
    with progress("Infer") as report:
        yield lambda event: report(next(done), plan.tasks)  # noqa: ARG005


@contextmanager
def front(plan: Plan) -> Iterator[Subscriber]:
    """Yield a subscriber to the run's events that shows how far each partition is, on standard error.

    A terminal gets a picture, redrawn up to 10 times a second, which goes away when the context is left. Anything else
    gets a line, every 5 seconds at most, and one at the end.
    """
    run, console = Front(plan), Console(stderr=True, highlight=False)
    if console.is_interactive:
        picture = Live(
            get_renderable=lambda: _picture(run, console),
            console=console,
            refresh_per_second=_PER_SECOND,
            transient=True,
            vertical_overflow="crop",
        )
        with picture:
            yield run.add
        return
    lines = _Lines(run, console)
    yield lines.add
    lines.say()


class Front:
    """How far each partition of a run is, as its events tell it; they may come from any thread, in any order, twice.

    Attributes:
        plan: of the run.
        reached: for each partition, merged ones last, the layers that it is through.
        kept: through how many of them earlier attempts had taken it, where the run was resumed.
        alive: samples of it that had a nonzero output after these.
        workers: names of those that ran tasks in this attempt.
        began: `time.monotonic()` when nothing was done.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sizes = np.array([stop - first for first, stop in plan.partitions] + [0] * plan.merged, np.int64)
        self.reached = np.zeros(len(self.sizes), np.int64)
        self.kept = self.reached.copy()
        self.alive = self.sizes.copy()
        self.workers: set[str] = set()
        self.began = time.monotonic()
        self._stops = np.array([stop for _, stop in plan.spans])
        self._edges = np.cumsum([0, *(layer.edges for layer in plan.layers)])
        self._lock = threading.Lock()

    def add(self, event: TaskEvent) -> None:
        """Take note of a task that has ended."""
        with self._lock:
            if event.attempt == self.plan.attempt:
                self.workers.add(event.worker)
            if event.last_layer > self.reached[event.partition]:
                self.reached[event.partition] = event.last_layer
                if event.attempt < self.plan.attempt:
                    self.kept[event.partition] = event.last_layer
                self.alive[event.partition] = event.alive

    @property
    def layers(self) -> NDArray[np.int64]:
        """For each partition the network's layers that it is through."""
        return np.maximum(self.reached - self.plan.folds_inputs, 0)

    @property
    def tasks(self) -> int:
        """Tasks that are done; merged partitions begin with the second span."""
        spans = self._spans(self.reached)
        own = len(self.plan.partitions)
        return int(spans[:own].sum() + np.maximum(spans[own:] - 1, 0).sum())

    @property
    def seconds(self) -> float:
        """Seconds since nothing was done."""
        return time.monotonic() - self.began

    @property
    def edges_per_second(self) -> float:
        """Samples x edges of the layers that partitions were taken through, a second."""
        return float(self.sizes @ (self._edges[self.reached] - self._edges[self.kept])) / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """What the rest is going to take if the plan's durations of tasks are right; None as long as nobody knows."""
        if self.tasks == self.plan.tasks:
            return 0.0
        done, kept = self._expected_seconds(self.reached), self._expected_seconds(self.kept)
        whole = float(self.plan.task_seconds.sum())
        return self.seconds * (whole - done) / (done - kept) if done > kept else None

    def _expected_seconds(self, layers: NDArray[np.int64]) -> float:
        """Return what the plan expects of the tasks that take partitions through so many layers."""
        expected = self.plan.task_seconds
        through = np.arange(1, expected.shape[1] + 1) <= self._spans(layers)[: len(expected), None]
        return float(expected[through].sum())

    def _spans(self, layers: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._stops, layers, side="right")

    def __str__(self) -> str:
        """Return it in a line."""
        layers = self.layers[: len(self.plan.partitions)]
        least, most = int(layers.min(initial=self.plan.depth)), int(layers.max(initial=0))
        left = self.seconds_left
        rest = "time left unknown" if left is None else f"about {format_time(left)} left" if left else "done"
        return ", ".join(
            [
                f"{self.tasks:,} of {self.plan.tasks:,} tasks",
                f"layers {min(least, most):,} to {most:,} of {self.plan.depth:,}",
                f"{int(self.alive.sum()):,} of {self.plan.samples:,} samples alive",
                counted(len(self.workers), "thread"),
                f"{self.edges_per_second:.3g} edges/s",
                f"{format_time(self.seconds)} so far",
                rest,
            ]
        )


class _Lines:
    """Says now and then how far a run is."""

    def __init__(self, run: Front, console: Console) -> None:
        self.run, self.console = run, console
        self.said = -np.inf
        self._lock = threading.Lock()

    def add(self, event: TaskEvent) -> None:
        """Take note of a task that has ended, and say so if nothing was said for a while."""
        self.run.add(event)
        with self._lock:
            if time.monotonic() - self.said >= _LINE_SECONDS:
                self.said = time.monotonic()
                self.say()

    def say(self) -> None:
        """Say how far the run is."""
        self.console.print(str(self.run), soft_wrap=True, markup=False)


def _picture(run: Front, console: Console) -> Text:
    """Return a row of blocks for each partition, or for several where there are more than fit, under a few words."""
    words = Text(str(run) + "\n")
    room = max(1, console.height - _HEAD_LINES - 1)
    ranges = even_ranges(len(run.reached), room)
    labels = [f"{first:,}" if stop == first + 1 else f"{first:,}-{stop - 1:,}" for first, stop in ranges]
    label, depth = max(map(len, labels), default=0), run.plan.depth
    tail = 2 * len(f"{depth:,}") + len(f"{run.plan.samples:,}") + 3
    width = max(8, console.width - label - tail - 3)
    glyphs = _GLYPHS if console.encoding.startswith("utf") else _ASCII_GLYPHS
    for name, (first, stop) in zip(labels, ranges, strict=True):
        layers, alive = run.layers[first:stop], int(run.alive[first:stop].sum())
        least, most = int(layers.min()), int(layers.max())
        words.append(f"{name:>{label}} {_blocks(least, most, depth, width, glyphs)} {least:,}/{depth:,} {alive:,}\n")
    return words


def _blocks(least: int, most: int, depth: int, width: int, glyphs: str) -> str:
    full, begun = least * width // depth, -(-most * width // depth)
    return glyphs[0] * full + glyphs[1] * (begun - full) + glyphs[2] * (width - begun)
