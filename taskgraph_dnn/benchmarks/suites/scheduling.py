"""What scheduling costs: where the seconds of `compute` go that no task computes in, and how long tasks last."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from taskgraph_dnn.benchmarks import timing
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.runs import (
    NO_SECONDS,
    PROCESSES,
    THREADS,
    Rounds,
    counted,
    median_round,
    packed,
    ready,
    right_outputs,
    sent_nbytes,
    side_by_side,
    task_seconds,
)
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table
from taskgraph_dnn.benchmarks.timing import summary
from taskgraph_dnn.inference import Inference, infer
from taskgraph_dnn.result import Durations
from taskgraph_dnn.synthetic import digit_images

#: Neurons of what has next to nothing to do.
_FEW_NEURONS = 64


class _Runs(NamedTuple):
    """A network of the challenge; `partitions` of None are for the plan to choose."""

    neurons: int
    layers: int
    samples: int
    modes: tuple[str, ...]
    partitions: int | None = None


class _Nodes(NamedTuple):
    """Layers and partitions of a logical graph; a task for each, where not too many for the scheduler of processes."""

    layers: int
    partitions: int
    task_each: bool


#: Where runs are timed.
WHERE = THREADS, PROCESSES

_REDUCED = "exact", "dynamic"
_ALL_RUNS = (
    _Runs(1024, 120, 60_000, _REDUCED),
    _Runs(1024, 120, 12_000, (*_REDUCED, "none")),
    _Runs(4096, 480, 60_000, _REDUCED),
    _Runs(4096, 480, 2_000, (*_REDUCED, "none")),
)
_SMOKE_RUNS = (_Runs(256, 24, 800, (*_REDUCED, "none"), partitions=4),)
_NODES = {
    THREADS: ([_Nodes(24, 4, True)], [_Nodes(120, 16, True)], [_Nodes(1920, 60, False), _Nodes(240, 30, True)]),
    PROCESSES: ([_Nodes(12, 4, True)], [_Nodes(60, 8, True)], [_Nodes(1920, 60, False), _Nodes(240, 8, True)]),
}


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield runs of networks of the challenge, and of graphs whose tasks have next to nothing to do."""
    runs = effort.pick(_SMOKE_RUNS, _ALL_RUNS[:2], _ALL_RUNS)
    with TemporaryDirectory() as name:
        for where in WHERE:
            with ready(where, timing.THREADS) as options:
                for case in runs:
                    say(f"{case.neurons:,} x {case.layers:,}, {case.samples:,} samples, {where}")
                    yield from _whole(case, Path(name), where, options, effort)
                for nodes in effort.pick(*_NODES[where]):
                    say(f"{nodes.layers:,} layers of {nodes.partitions:,} partitions, {where}")
                    yield from _logical(nodes, Path(name), where, options, effort)


def _whole(case: _Runs, folder: Path, where: str, options: dict[str, Any], effort: Effort) -> Iterator[Measurement]:
    network = packed(folder, case.neurons, case.layers)
    images = digit_images(case.samples, case.neurons)
    inferences = {mode: infer(network, images, reductions=mode, partitions=case.partitions) for mode in case.modes}
    parameters: Mapping[str, float] = {"neurons": case.neurons, "layers": case.layers, "samples": case.samples}
    right = right_outputs(network, images)
    for mode, rounds in side_by_side(inferences, options, effort.rounds, right).items():
        durations = {
            "planned": rounds.result.planned_tasks._asdict(),
            "true": [Durations.of([each.seconds for each in events])._asdict() for events in rounds.events],
        }
        name = f"{case.neurons:,} x {case.layers:,}, {case.samples:,} samples, {where}"
        yield _measurement(name, mode, rounds, parameters, {"kind": "network", "where": where} | durations)


def _logical(nodes: _Nodes, folder: Path, where: str, options: dict[str, Any], effort: Effort) -> Iterator[Measurement]:
    shape = 32 * nodes.partitions, _FEW_NEURONS
    rows = np.random.default_rng(0).random(shape, np.float32)
    spans = {
        **dict.fromkeys(("exact", "dynamic", "none")),
        **({"none, a task each": NO_SECONDS} if nodes.task_each else {}),
    }
    inferences: dict[str, Inference] = {}
    seconds: dict[str, dict[str, list[float]]] = {}
    for name, lasting in spans.items():
        with task_seconds(lasting):
            made = [_planned(folder, nodes, rows, name.partition(",")[0]) for _ in range(effort.rounds)]
        inferences[name] = made[0][0]
        seconds[name] = {"plan": [plan for _, plan, _ in made], "graph": [graph for *_, graph in made]}
    parameters: Mapping[str, float] = {"neurons": _FEW_NEURONS, "layers": nodes.layers, "partitions": nodes.partitions}
    case = f"{nodes.layers:,} layers of {nodes.partitions:,} partitions, {where}"
    right = right_outputs(packed(folder, _FEW_NEURONS, nodes.layers), rows)
    for name, rounds in side_by_side(inferences, options, effort.rounds, right).items():
        details = {"kind": "nodes", "where": where, "nodes": rounds.inference.plan.nodes} | seconds[name]
        yield _measurement(case, name, rounds, parameters, details)


def _planned(folder: Path, nodes: _Nodes, rows: Any, mode: str) -> tuple[Inference, float, float]:
    """Return an inference of a network of which nothing is known but what its file says; and seconds of both steps."""
    network = packed(folder, _FEW_NEURONS, nodes.layers)
    started = time.perf_counter()
    inference = infer(network, rows, partitions=nodes.partitions, reductions=mode)
    planned = time.perf_counter()
    inference.__dask_graph__()
    return inference, planned - started, time.perf_counter() - planned


def _measurement(
    case: str, contender: str, rounds: Rounds, parameters: Mapping[str, float], details: dict[str, Any]
) -> Measurement:
    inference, result = rounds.inference, rounds.result
    sent = {"sent_nbytes": sent_nbytes(inference), "parts": rounds.columns()}
    return Measurement(
        suite="scheduling",
        case=case,
        contender=contender,
        kind="ours",
        rounds=rounds.walls,
        threads=inference.plan.threads,
        work=result.edges,
        work_unit="edges",
        counted=counted(inference, result),
        parameters=parameters,
        details=details | sent,
    )


def tables(report: Report) -> Sequence[Table]:
    """Return where the seconds of whole runs go, and what the logical graph costs."""
    found = report.of("scheduling")
    whole = [each for each in found if each.details["kind"] == "network"]
    nodes = [each for each in found if each.details["kind"] == "nodes"]
    return [
        Table("Where the seconds of a run go", [_WHOLE, *map(_whole_row, whole)]),
        Table("What the logical graph costs", [_LOGICAL, *map(_logical_row, nodes)]),
    ]


_PARTS = "before", "tasks", "idle", "after"
_WHOLE = [
    *("network, where", "reductions", "tasks", "sent KiB", "seconds", "10th to 90th", *_PARTS, "overhead"),
    *("planned task, median", "longest", "true task, median", "longest"),
]
_LOGICAL = ["layers, partitions, where", "reductions", "nodes", "tasks", "sent KiB", "plan", "graph", "run", "overhead"]


def _whole_row(each: Measurement) -> list[str]:
    parts, walls = median_round(each.details["parts"]), summary(each.rounds)
    planned, true = each.details["planned"], each.details["true"]
    return [
        each.case,
        each.contender,
        f"{each.counted['tasks']:,}",
        f"{each.details['sent_nbytes'] / 2**10:,.0f}",
        f"{parts['wall']:.3f}",
        f"{walls.low:.3f} to {walls.high:.3f}",
        *(f"{parts[name]:.3f}" for name in _PARTS),
        f"{1 - parts['tasks'] / parts['wall']:.1%}",
        *(f"{planned[name]:.4f}" for name in ("median", "longest")),
        *(f"{summary([of[name] for of in true]).median:.4f}" for name in ("median", "longest")),
    ]


def _logical_row(each: Measurement) -> list[str]:
    overhead = [wall - tasks for wall, tasks in zip(each.rounds, each.details["parts"]["tasks"], strict=True)]
    seconds = each.details["plan"], each.details["graph"], each.rounds, overhead
    numbers = f"{each.details['nodes']:,}", f"{each.counted['tasks']:,}", f"{each.details['sent_nbytes'] / 2**10:,.0f}"
    return [each.case, each.contender, *numbers, *(f"{summary(taken).median:.3f}" for taken in seconds)]


SCHEDULING = Suite(
    "scheduling",
    "Scheduling",
    "A call of `compute`, taken apart, on two threads of this process and on two worker processes. *before*: until the "
    "first task begins. *tasks*: durations of the tasks, by the number of threads. *idle*: what a thread waits between "
    "the first task and the last, on average. *after*: joining the result. They are those of the median round, and the "
    "overhead is all but *tasks*. *sent* is the expression, with the plan, without the input. *planned* and *true* are "
    "seconds of a task, as the plan expects them and as they were.\n\n"
    "The second table is of layers of 64 neurons on partitions of 32 samples, whose tasks have next to nothing to do: "
    "in spans as they are configured, and with a task for each layer of each partition (a node). Seconds of planning, "
    "of making the graph, of a run, and what of it no task computes in. See [scaling](scaling.md).",
    measure,
    tables,
)
