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
from numpy.typing import NDArray

from taskgraph_dnn.benchmarks.timing import check, rest
from taskgraph_dnn.benchmarks.workers import worker_processes
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.events import TaskEvent
from taskgraph_dnn.inference import Inference
from taskgraph_dnn.inputs import row_slice
from taskgraph_dnn.io.pack import write_packed
from taskgraph_dnn.io.packed import read_packed
from taskgraph_dnn.matrices import sparse_nbytes
from taskgraph_dnn.network import Network
from taskgraph_dnn.reference import mismatch, reference_outputs
from taskgraph_dnn.result import Result
from taskgraph_dnn.synthetic import radixnet

THREADS, PROCESSES = "threads", "processes"

#: With spans that are to last so long, each layer is a span.
NO_SECONDS = 1e-12

#: Samples, the first ones, whose outputs are compared with the right ones.
_CHECKED = 8


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


def right_outputs(network: Network, rows: Any) -> NDArray[np.float64]:
    """Return what the first samples should come to: few, because a reference is slow."""
    return reference_outputs(network, row_slice(rows, 0, _CHECKED))


def sent_nbytes(inference: Inference) -> int:
    """Return the bytes that a client sends, without the input's: a source or the weights, and the plan."""
    return len(pickle.dumps(inference.expr)) - len(pickle.dumps(inference.expr.inputs))


@dataclass(frozen=True)
class Parts:
    """Where the seconds of a call of `compute` went.

    Attributes:
        wall: from the call to its return: the sum of the next four.
        before: until the first task began: sending the expression and the input, and making the graph.
        tasks: durations of the tasks, by the number of worker threads.
        idle: between the first task's begin and the last one's end, in which a worker thread had no task; on average.
        after: from the last task's end: joining the result.
        processors: that processors worked for all threads of this process meanwhile.
    """

    wall: float
    before: float
    tasks: float
    idle: float
    after: float
    processors: float

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
    worked, called = time.process_time(), time.time()
    result = inference.compute(**where)
    returned, worked = time.time(), time.process_time() - worked
    first, last = min(e.start for e in result.events), max(e.end for e in result.events)
    tasks = sum(event.end - event.start for event in result.events) / inference.plan.threads
    return Parts(returned - called, first - called, tasks, last - first - tasks, returned - last, worked), result


@dataclass(frozen=True, eq=False)
class Rounds:
    """An inference, run a few times.

    Attributes:
        inference: that was run.
        parts: of each round.
        events: of each round's tasks.
        result: of the first round; those of all would fill the memory.
    """

    inference: Inference
    parts: tuple[Parts, ...]
    events: tuple[tuple[TaskEvent, ...], ...]
    result: Result

    @property
    def walls(self) -> tuple[float, ...]:
        """Seconds of each round."""
        return tuple(parts.wall for parts in self.parts)

    def columns(self) -> dict[str, list[float]]:
        """Return each part's seconds, round by round."""
        return {name: [getattr(parts, name) for parts in self.parts] for name in asdict(self.parts[0])}


def side_by_side(
    inferences: Mapping[str, Inference],
    where: Mapping[str, Any],
    rounds: int,
    right: NDArray[np.float64] | None = None,
) -> dict[str, Rounds]:
    """Run inferences of the same samples side by side: each once a round, in a new order each round.

    Each runs once before, which packs weights and compiles kernels, and must find what the others find.

    Args:
        inferences: what to run, by name.
        where: what `compute` is called with.
        rounds: how often.
        right: outputs of the first samples, which each must find, too; None where they are not known.

    Raises:
        KernelError: an output is wrong, or two of them find different categories.
    """
    _check_answers(inferences, where, right)
    rng = np.random.default_rng(0)
    parts: dict[str, list[Parts]] = {name: [] for name in inferences}
    events: dict[str, list[tuple[TaskEvent, ...]]] = {name: [] for name in inferences}
    first: dict[str, Result] = {}
    for _ in range(rounds):
        for name in rng.permutation(list(inferences)):
            rest()
            taken, result = timed(inferences[name], where)
            parts[name].append(taken)
            events[name].append(result.events)
            first.setdefault(name, result)
    return {
        name: Rounds(inference, tuple(parts[name]), tuple(events[name]), first[name])
        for name, inference in inferences.items()
    }


def _check_answers(
    inferences: Mapping[str, Inference], where: Mapping[str, Any], right: NDArray[np.float64] | None
) -> None:
    first, expected = "", None
    for name, inference in inferences.items():
        result = inference.compute(**where)
        if right is not None:
            check(name, mismatch(result.outputs[: len(right)], right))
        found = result.categories
        if expected is None:
            first, expected = name, found
        elif not np.array_equal(found, expected):
            raise KernelError(f"{name} finds {len(found)} categories, but {first} finds {len(expected)}, or others")


def median_round(columns: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the parts of the round whose wall is the median, or the one below, as of `Rounds.columns`."""
    number = columns["wall"].index(median_low(columns["wall"]))
    return {name: seconds[number] for name, seconds in columns.items()}
