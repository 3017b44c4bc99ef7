"""Whole runs of this package as benchmarks time them: on fixed threads or workers, counted, and taken apart."""

import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

import dask.config
import numpy as np

from taskgraph_dnn.benchmarks.timing import rest
from taskgraph_dnn.benchmarks.workers import worker_processes
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.inference import Inference
from taskgraph_dnn.io.pack import write_packed
from taskgraph_dnn.io.packed import read_packed
from taskgraph_dnn.matrices import sparse_nbytes
from taskgraph_dnn.network import Network
from taskgraph_dnn.result import Result
from taskgraph_dnn.synthetic import radixnet

THREADS, PROCESSES = "threads", "processes"

#: With spans that are to last so long, each layer is a span.
NO_SECONDS = 1e-12


@contextmanager
def ready(where: str, count: int) -> Iterator[dict[str, Any]]:
    """Plan and run on so many threads of this process, or on so many worker processes of one thread each.

    Yields:
        What to call `compute` with.

    Raises:
        PlanError: worker processes do not start.
    """
    if where == THREADS:
        with dask.config.set(num_workers=count):
            yield {"scheduler": THREADS}
    else:
        with worker_processes(count):
            yield {}


def task_seconds(seconds: float | None) -> Any:
    """Return the context in which spans of layers are to last so long; None for as long as is configured."""
    return dask.config.set({} if seconds is None else {"taskgraph-dnn.task-seconds": seconds})


def packed(folder: Path, neurons: int, layers: int) -> Network:
    """Return a network that workers can read from a file in `folder`, as users of several processes have it."""
    path = folder / f"{neurons}x{layers}.safetensors"
    if not path.exists():
        write_packed(radixnet(neurons, layers), path)
    return read_packed(path)


def counted(inference: Inference, result: Result | None = None) -> dict[str, float]:
    """Return what was planned, and, with its result, what a run has done; nothing of it is time.

    tasks: that compute layers. keys: of the graph. weight_nbytes: of a pass through all layers, 8 bytes an edge.
    multiply_adds: that were done. activation_nbytes: that tasks returned, rows of outputs included. result_nbytes: of
    the result.
    """
    plan = inference.plan
    planned: dict[str, float] = {
        "tasks": plan.tasks,
        "keys": len(inference.__dask_graph__()),
        "weight_nbytes": 8 * sum(layer.nnz for layer in plan.layers),
    }
    if result is None:
        return planned
    return planned | {
        "multiply_adds": result.multiply_adds,
        "activation_nbytes": sum(event.nbytes for event in result.events),
        "result_nbytes": sparse_nbytes(result.distinct) + result.rows.nbytes,
    }


def sent_nbytes(inference: Inference) -> int:
    """Return the bytes that a client sends, without the input's: a source or the weights, and the plan."""
    return len(pickle.dumps(inference.expr)) - len(pickle.dumps(inference.expr.inputs))


@dataclass(frozen=True)
class Parts:
    """Where the seconds of a call of `compute` went.

    Attributes:
        wall: from the call to its return: the sum of what follows.
        before: until the first task began: sending the expression and the input, and making the graph.
        tasks: durations of the tasks, by the number of worker threads.
        idle: between the first task's begin and the last one's end, in which a worker thread had no task; on average.
        after: from the last task's end: joining the result.
    """

    wall: float
    before: float
    tasks: float
    idle: float
    after: float

    @property
    def first_to_last(self) -> float:
        """Seconds from the first task's begin to the last one's end."""
        return self.tasks + self.idle

    @property
    def overhead(self) -> float:
        """Seconds in which no task computed."""
        return self.wall - self.tasks


def timed(inference: Inference, where: Mapping[str, Any]) -> tuple[Parts, Result]:
    """Run an inference once; `where` is what `compute` is called with."""
    called = time.time()
    result = inference.compute(**where)
    returned = time.time()
    first, last = min(e.start for e in result.events), max(e.end for e in result.events)
    tasks = sum(event.end - event.start for event in result.events) / inference.plan.threads
    return Parts(returned - called, first - called, tasks, last - first - tasks, returned - last), result


@dataclass(frozen=True, eq=False)
class Rounds:
    """An inference, run a few times.

    Attributes:
        inference: that was run.
        parts: of each round.
        results: of each round.
    """

    inference: Inference
    parts: tuple[Parts, ...]
    results: tuple[Result, ...]

    @property
    def walls(self) -> tuple[float, ...]:
        """Seconds of each round."""
        return tuple(parts.wall for parts in self.parts)

    def columns(self) -> dict[str, list[float]]:
        """Return each part's seconds, round by round."""
        return {name: [getattr(parts, name) for parts in self.parts] for name in asdict(self.parts[0])}


def side_by_side(inferences: Mapping[str, Inference], where: Mapping[str, Any], rounds: int) -> dict[str, Rounds]:
    """Run inferences of the same samples side by side: each once a round, in a new order each round.

    Each runs once before, which packs weights and compiles kernels, and must find what the others find.

    Raises:
        KernelError: two of them find different categories.
    """
    categories = {name: inference.compute(**where).categories for name, inference in inferences.items()}
    first, expected = next(iter(categories.items()))
    for name, found in categories.items():
        if not np.array_equal(found, expected):
            raise KernelError(f"{name} finds {len(found)} categories, but {first} finds {len(expected)}, or others")
    rng, runs = np.random.default_rng(0), {name: list[tuple[Parts, Result]]() for name in inferences}
    for _ in range(rounds):
        for name in rng.permutation(list(inferences)):
            rest()
            runs[name].append(timed(inferences[name], where))
    return {
        name: Rounds(inferences[name], tuple(parts for parts, _ in taken), tuple(result for _, result in taken))
        for name, taken in runs.items()
    }


def median_round(columns: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the parts of the round whose wall is the median, or the one below, as of `Rounds.columns`."""
    number = columns["wall"].index(median_low(columns["wall"]))
    return {name: seconds[number] for name, seconds in columns.items()}
