"""What scheduling costs: where the seconds of `compute` go that no task computes in, and how long tasks were to last.

python -m taskgraph_dnn.benchmarks.scheduling
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from taskgraph_dnn import challenge, executors
from taskgraph_dnn.benchmarks.simulation import Work
from taskgraph_dnn.benchmarks.timing import machine, summary
from taskgraph_dnn.config import settings
from taskgraph_dnn.inference import Inference, infer
from taskgraph_dnn.inputs import density, row_slice
from taskgraph_dnn.io.atomic import check_writable, write_text
from taskgraph_dnn.io.pack import write_packed
from taskgraph_dnn.io.packed import read_packed
from taskgraph_dnn.network import Network
from taskgraph_dnn.reductions.choice import choose_reductions
from taskgraph_dnn.reductions.names import chosen_reductions
from taskgraph_dnn.result import Result
from taskgraph_dnn.synthetic import digit_images, radixnet

SCHEDULERS = "threads", "processes"
MODES = "exact", "dynamic", "none"

#: Neurons and layers of what is run; and layers, of so few neurons, and partitions of what is planned.
SIZES = (1024, 120), (4096, 480)
LOGICAL_NEURONS, LOGICAL_LAYERS, LOGICAL_PARTITIONS = 64, 1920, 60

#: Images that compile kernels and pack weights before anything is timed.
_WARM_UP = 1024


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


def durations(network: Network, images: Any, mode: str, result: Result) -> dict[str, Any]:
    """Return planned and true seconds of a run's tasks; merged partitions' were not planned."""
    plan = result.plan
    reduced = choose_reductions(network, chosen_reductions(mode), plan.dtype).network
    expected = Work.planned(reduced, plan, density=density(images)).seconds
    spans = {stop: number for number, (_, stop) in enumerate(plan.spans)}
    pairs = [
        (expected[event.partition, spans[event.last_layer]], event.seconds)
        for event in result.events
        if event.partition < len(plan.partitions)
    ]
    planned, true = np.array(pairs).T
    return {
        "planned": asdict(summary(planned)) | {"longest": plan.longest_task_seconds},
        "true": asdict(summary(true)) | {"longest": float(true.max())},
        "true_to_planned": asdict(summary(true / planned)),
    }


def measure(network: Network, images: Any, mode: str, scheduler: str, rounds: int) -> dict[str, Any]:
    """Time whole runs, after a short one, where `executors.connected` has made `scheduler` ready.

    Returns:
        Plain values, ready for JSON: every round's `Overhead`, and the durations of the median round's tasks.
    """
    where = {"scheduler": scheduler} if scheduler == "threads" else {}
    infer(network, row_slice(images, 0, min(_WARM_UP, images.shape[0])), reductions=mode).compute(**where)
    inference = infer(network, images, reductions=mode)
    runs = sorted((timed(inference, where) for _ in range(rounds)), key=lambda run: run[0].wall)
    overhead, result = runs[(rounds - 1) // 2]
    return {
        "reductions": mode,
        "scheduler": scheduler,
        "threads": inference.plan.threads,
        "tasks": inference.plan.tasks,
        "share": overhead.share,
        "median": asdict(overhead),
        "rounds": [asdict(each) for each, _ in runs],
        **durations(network, images, mode, result),
    }


def logical(network: Network, partitions: int, mode: str, scheduler: str, rounds: int) -> dict[str, Any]:
    """Time what the logical graph costs: planning, making the task graph, and what a run takes beside its tasks."""
    where = {"scheduler": scheduler} if scheduler == "threads" else {}
    images = np.random.default_rng(0).random((32 * partitions, network.inputs), np.float32)
    started = time.perf_counter()
    inference = infer(network, images, partitions=partitions, reductions=mode)
    planned = time.perf_counter()
    keys = len(inference.__dask_graph__())
    made = time.perf_counter()
    inference.compute(**where)  # compiles kernels and packs weights
    overheads = [timed(inference, where)[0] for _ in range(rounds)]
    return {
        "reductions": mode,
        "scheduler": scheduler,
        "nodes": inference.plan.nodes,
        "tasks": inference.plan.tasks,
        "keys": keys,
        "plan_seconds": planned - started,
        "graph_seconds": made - planned,
        "overhead_seconds": statistics.median(each.wall - each.tasks for each in overheads),
        "rounds": [asdict(each) for each in overheads],
    }


def packed(folder: Path, neurons: int, layers: int) -> Network:
    """Return a network that workers can read from a file in `folder`, as users of several processes have it."""
    path = folder / f"{neurons}x{layers}.safetensors"
    if not path.exists():
        write_packed(radixnet(neurons, layers), path)
    return read_packed(path)


def benchmark(
    sizes: Sequence[tuple[int, int]],
    samples: int,
    rounds: int,
    *,
    logical_layers: int = LOGICAL_LAYERS,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Time everything, and return a report of plain values, ready for JSON."""
    cases: list[dict[str, Any]] = []
    nodes: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        for scheduler, neurons, layers in _each(sizes):
            network, images = packed(Path(name), neurons, layers), digit_images(samples, neurons)
            size = {"neurons": neurons, "layers": layers, "samples": samples}
            with executors.connected(scheduler):
                for mode in MODES:
                    say(f"{neurons:,} x {layers:,}, {mode}, {scheduler}")
                    cases.append(size | measure(network, images, mode, scheduler, rounds))
        for scheduler in SCHEDULERS:
            with executors.connected(scheduler):
                for mode in MODES:
                    say(f"{LOGICAL_NEURONS} x {logical_layers:,}, {LOGICAL_PARTITIONS} partitions, {mode}, {scheduler}")
                    network = packed(Path(name), LOGICAL_NEURONS, logical_layers)
                    nodes.append(logical(network, LOGICAL_PARTITIONS, mode, scheduler, rounds))
    return {"machine": machine(), "task_seconds": settings().task_seconds, "cases": cases, "logical": nodes}


def _each(sizes: Sequence[tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    for scheduler in SCHEDULERS:
        for neurons, layers in sizes:
            yield scheduler, neurons, layers


def tables(report: dict[str, Any]) -> list[Table]:
    """Return the report as tables."""
    seconds = "wall", "before", "tasks", "idle", "after"
    runs = Table(
        "network",
        "reductions",
        "where",
        "tasks",
        *seconds,
        "overhead",
        "planned, longest",
        "true, longest",
        "true / planned",
    )
    for case in report["cases"]:
        ratio = case["true_to_planned"]
        runs.add_row(
            f"{case['neurons']:,} x {case['layers']:,}",
            case["reductions"],
            case["scheduler"],
            f"{case['tasks']:,}",
            *(f"{case['median'][name]:.3f}" for name in seconds),
            f"{case['share']:.1%}",
            f"{case['planned']['longest']:.3f}",
            f"{case['true']['longest']:.3f}",
            f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
        )
    nodes = Table("nodes", "reductions", "where", "tasks", "plan, seconds", "graph, seconds", "overhead, seconds")
    for case in report["logical"]:
        nodes.add_row(
            f"{case['nodes']:,}",
            case["reductions"],
            case["scheduler"],
            f"{case['tasks']:,}",
            *(f"{case[name]:.3f}" for name in ("plan_seconds", "graph_seconds", "overhead_seconds")),
        )
    return [runs, nodes]


@click.command()
@click.option("--samples", default=challenge.OFFICIAL_SAMPLES, show_default=True, help="Images of a run.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often each is run.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all times to this file.")
def main(samples: int, rounds: int, json_file: Path | None) -> None:
    """Time what scheduling costs, on this process's threads and on a worker process a core."""
    if json_file is not None:
        check_writable(json_file)
    report = benchmark(SIZES, samples, rounds, say=lambda text: click.echo(text, err=True))
    console = Console()
    for table in tables(report):
        Console(width=None if console.is_terminal else 200).print(table)
    if json_file is not None:
        write_text(json_file, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
