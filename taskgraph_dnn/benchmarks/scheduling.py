"""What scheduling costs: where the seconds of `compute` go that no task computes in, and how long tasks were to last.

python -m taskgraph_dnn.benchmarks.scheduling
"""

import pickle
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import dask.config
import numpy as np

from taskgraph_dnn import challenge, executors
from taskgraph_dnn.benchmarks.fingerprint import machine
from taskgraph_dnn.benchmarks.reporting import reporting
from taskgraph_dnn.benchmarks.tables import made_on, markdown_table
from taskgraph_dnn.config import settings
from taskgraph_dnn.inference import Inference, infer
from taskgraph_dnn.inputs import row_slice
from taskgraph_dnn.io.pack import write_packed
from taskgraph_dnn.io.packed import read_packed
from taskgraph_dnn.network import Network
from taskgraph_dnn.result import Result
from taskgraph_dnn.synthetic import digit_images, radixnet

SCHEDULERS = "threads", "processes"
MODES = "exact", "dynamic", "none"

#: Neurons and layers of what is run; and layers, of so few neurons, and partitions of what is planned.
SIZES = (1024, 120), (4096, 480)
LOGICAL_NEURONS, LOGICAL_LAYERS, LOGICAL_PARTITIONS = 64, 1920, 60

#: Images that compile kernels and pack weights before anything is timed.
_WARM_UP = 1024

#: Runs that have taken so many seconds in all are not repeated.
_ENOUGH_SECONDS = 30

#: With spans that are to last so long, each layer is a span.
NO_SECONDS = 1e-12


@dataclass(frozen=True)
class Overhead:
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
    def share(self) -> float:
        """Which part of the seconds no task computed in."""
        return 1 - self.tasks / self.wall


def timed(inference: Inference, where: Mapping[str, Any]) -> tuple[Overhead, Result]:
    """Run an inference once; `where` is what `compute` is called with."""
    called = time.time()
    result = inference.compute(**where)
    returned = time.time()
    first, last = min(e.start for e in result.events), max(e.end for e in result.events)
    tasks = sum(event.end - event.start for event in result.events) / inference.plan.threads
    return Overhead(returned - called, first - called, tasks, last - first - tasks, returned - last), result


def repeated(inference: Inference, where: Mapping[str, Any], rounds: int) -> list[tuple[Overhead, Result]]:
    """Run an inference so many times, or fewer where that takes long; the median run comes first."""
    runs: list[tuple[Overhead, Result]] = []
    while len(runs) < rounds and sum(overhead.wall for overhead, _ in runs) < _ENOUGH_SECONDS:
        runs.append(timed(inference, where))
    runs.sort(key=lambda run: run[0].wall)
    return [runs.pop((len(runs) - 1) // 2), *runs]


def sent_nbytes(inference: Inference) -> int:
    """Return the bytes that a client sends, without the input's: a source or the weights, and the plan."""
    return len(pickle.dumps(inference.expr)) - len(pickle.dumps(inference.expr.inputs))


def measure(network: Network, images: Any, mode: str, scheduler: str, rounds: int) -> dict[str, Any]:
    """Time whole runs, after a short one, where `executors.connected` has made `scheduler` ready.

    Returns:
        Plain values, ready for JSON: every round's `Overhead`, the median's first, and how long its tasks lasted.
    """
    where = _where(scheduler)
    infer(network, row_slice(images, 0, min(_WARM_UP, images.shape[0])), reductions=mode).compute(**where)
    inference = infer(network, images, reductions=mode)
    runs = repeated(inference, where, rounds)
    overhead, result = runs[0]
    return {
        "reductions": mode,
        "scheduler": scheduler,
        "threads": inference.plan.threads,
        "tasks": inference.plan.tasks,
        "sent_nbytes": sent_nbytes(inference),
        "share": overhead.share,
        "rounds": [asdict(each) for each, _ in runs],
        "planned": result.planned_tasks._asdict(),
        "true": result.true_tasks._asdict(),
    }


def _where(scheduler: str) -> dict[str, Any]:
    return {"scheduler": scheduler} if scheduler == "threads" else {}


def logical(folder: Path, mode: str, scheduler: str, rounds: int, task_seconds: float | None = None) -> dict[str, Any]:
    """Time what the logical graph costs: planning, making the task graph, and what a run takes beside its tasks.

    Args:
        folder: where the network is packed.
        mode: of reductions.
        scheduler: that `executors.connected` has made ready.
        rounds: how often to run it.
        task_seconds: that spans are to last; None for the configured ones.
    """
    where = _where(scheduler)
    images = np.random.default_rng(0).random((32 * LOGICAL_PARTITIONS, LOGICAL_NEURONS), np.float32)

    def planned(network: Network) -> Inference:
        return infer(network, images, partitions=LOGICAL_PARTITIONS, reductions=mode)

    size = LOGICAL_NEURONS, LOGICAL_LAYERS
    planned(packed(folder, *size)).compute(**where)  # compiles kernels and packs weights
    network = packed(folder, *size)  # one of which nothing is known but what its file says
    with dask.config.set({} if task_seconds is None else {"taskgraph-dnn.task-seconds": task_seconds}):
        started = time.perf_counter()
        inference = planned(network)
    ready = time.perf_counter()
    keys = len(inference.__dask_graph__())
    made = time.perf_counter()
    overheads = [overhead for overhead, _ in repeated(inference, where, rounds)]
    return {
        "reductions": mode,
        "scheduler": scheduler,
        "nodes": inference.plan.nodes,
        "tasks": inference.plan.tasks,
        "keys": keys,
        "sent_nbytes": sent_nbytes(inference),
        "plan_seconds": ready - started,
        "graph_seconds": made - ready,
        "overhead_seconds": statistics.median(each.wall - each.tasks for each in overheads),
        "rounds": [asdict(each) for each in overheads],
    }


def packed(folder: Path, neurons: int, layers: int) -> Network:
    """Return a network that workers can read from a file in `folder`, as users of several processes have it."""
    path = folder / f"{neurons}x{layers}.safetensors"
    if not path.exists():
        write_packed(radixnet(neurons, layers), path)
    return read_packed(path)


def benchmark(samples: int, rounds: int, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Time everything, and return a report of plain values, ready for JSON."""
    cases: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        for scheduler, (neurons, layers) in product(SCHEDULERS, SIZES):
            network, images = packed(Path(name), neurons, layers), digit_images(samples, neurons)
            size = {"neurons": neurons, "layers": layers, "samples": samples}
            with executors.connected(scheduler):
                for mode in MODES:
                    say(f"{neurons:,} x {layers:,}, {mode}, {scheduler}")
                    cases.append(size | measure(network, images, mode, scheduler, rounds))
        for scheduler in SCHEDULERS:
            with executors.connected(scheduler):
                for mode, task_seconds in [*((mode, None) for mode in MODES), ("none", NO_SECONDS)]:
                    each = "" if task_seconds is None else ", a task for each"
                    say(f"{LOGICAL_LAYERS:,} layers of {LOGICAL_PARTITIONS} partitions{each}, {mode}, {scheduler}")
                    nodes.append(logical(Path(name), mode, scheduler, rounds, task_seconds))
    return {"machine": machine(), "task_seconds": settings().task_seconds, "cases": cases, "logical": nodes}


def page(report: dict[str, Any]) -> str:
    """Return the report as a page."""
    return "\n".join(
        [
            "# What scheduling costs",
            "",
            f"Made by `make bench-scaling` on {made_on(report['machine'])}. What the columns say is in "
            "[scaling](../scaling.md).",
            "",
            *markdown_table(list(_cases(report))),
            "",
            *markdown_table(list(_logical(report))),
            "",
        ]
    )


_SECONDS = "wall", "before", "tasks", "idle", "after"


def _cases(report: dict[str, Any]) -> Iterator[list[str]]:
    """Yield one row for each case, first what the columns are."""
    durations = "planned s, median", "longest", "true s, median", "longest"
    columns = "tasks", "sent KiB", *(f"{name} s" for name in _SECONDS), "overhead", *durations
    yield ["network, reductions, where", *columns]
    for case in report["cases"]:
        yield [
            f"{case['neurons']:,} x {case['layers']:,}, {case['reductions']}, {case['scheduler']}",
            f"{case['tasks']:,}",
            _kibibytes(case["sent_nbytes"]),
            *(f"{case['rounds'][0][name]:.3f}" for name in _SECONDS),
            f"{case['share']:.1%}",
            *(f"{case[which][name]:.4f}" for which in ("planned", "true") for name in ("median", "longest")),
        ]


def _logical(report: dict[str, Any]) -> Iterator[list[str]]:
    """Yield one row for each way to run the logical graph, first what the columns are."""
    yield ["nodes, reductions, where", "tasks", "sent KiB", "plan s", "graph s", "tasks s", "overhead s"]
    for case in report["logical"]:
        yield [
            f"{case['nodes']:,}, {case['reductions']}, {case['scheduler']}",
            f"{case['tasks']:,}",
            _kibibytes(case["sent_nbytes"]),
            *(f"{case[name]:.3f}" for name in ("plan_seconds", "graph_seconds")),
            f"{case['rounds'][0]['tasks']:.3f}",
            f"{case['overhead_seconds']:.3f}",
        ]


def _kibibytes(nbytes: int) -> str:
    return f"{nbytes / 2**10:,.0f}"


@click.command()
@click.option("--samples", default=challenge.OFFICIAL_SAMPLES, show_default=True, help="Images of a run.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often each is run.")
@reporting
def main(samples: int, rounds: int) -> tuple[dict[str, Any], str]:
    """Time what scheduling costs, on this process's threads and on a worker process a core."""
    report = benchmark(samples, rounds, say=lambda text: click.echo(text, err=True))
    made = page(report)
    click.echo(made)
    return report, made


if __name__ == "__main__":
    main()
