"""How time and memory grow: one number of a run after the other is raised, the others stay as they are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.benchmarks import timing
from taskgraph_dnn.benchmarks.memory import in_new_process, peaks, why_no_peaks
from taskgraph_dnn.benchmarks.powerlaw import PowerLaw, power_law
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.runs import NO_SECONDS, PROCESSES, THREADS, counted, ready, right_outputs, task_seconds
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table, amount
from taskgraph_dnn.benchmarks.timing import Contender, Summary, in_turn, measured, summary
from taskgraph_dnn.inference import Inference, infer
from taskgraph_dnn.network import Network
from taskgraph_dnn.reference import mismatch
from taskgraph_dnn.result import Result
from taskgraph_dnn.synthetic import digit_images, radixnet

#: Samples that kernels are compiled with.
_FEW = 64

#: Formulations: what of a run is measured.
TIME, MEMORY = "a run", "peak memory of a run"


@dataclass(frozen=True)
class Point:
    """A run: a RadiX-Net of so many neurons and layers, and so many samples in so many partitions."""

    neurons: int
    layers: int
    samples: int
    partitions: int
    workers: int = 0

    @property
    def parameters(self) -> dict[str, float]:
        """The numbers by name; there are workers where it is run by processes."""
        found = {name: getattr(self, name) for name in ("neurons", "layers", "samples", "partitions")}
        return found | ({"workers": self.workers} if self.workers else {})

    def problem(self) -> tuple[Network, scipy.sparse.csr_array]:
        """Return the network and the images, made anew: nothing of it is packed."""
        return radixnet(self.neurons, self.layers), digit_images(self.samples, self.neurons)


class Axis(NamedTuple):
    """What is raised: the name of a number of `Point`, its values, and the other numbers."""

    name: str
    values: tuple[int, ...]
    others: Point

    @property
    def points(self) -> list[Point]:
        """One for each value."""
        return [replace(self.others, **{self.name: value}) for value in self.values]


_SMALL, _SHALLOW, _DEEP = Point(256, 16, 400, 4), Point(1024, 6, 16_000, 4), Point(1024, 30, 500, 4)
_DOUBLED = tuple(2**power for power in range(8))

_SMOKE = (
    Axis("samples", (100, 400, 1_600), _SMALL),
    Axis("neurons", (64, 256, 1024), _SMALL),
    Axis("layers", (8, 32, 128), _SMALL),
    Axis("partitions", (1, 2, 4), _SMALL),
)
_SHORT = (
    Axis("samples", tuple(2_000 * n for n in _DOUBLED[:6]), _SHALLOW),
    Axis("neurons", (64, 256, 1024, 4096, 16384), replace(_DEEP, samples=750)),
    Axis("layers", tuple(20 * n for n in _DOUBLED[:6]), _DEEP),
    Axis("partitions", _DOUBLED[:7], _SHALLOW),
    Axis("workers", (1, 2), replace(_SHALLOW, partitions=8)),
)
_ALL = (
    Axis("samples", tuple(1_500 * n for n in _DOUBLED), _SHALLOW),
    Axis("neurons", (64, 256, 1024, 4096, 16384, 65536), replace(_DEEP, samples=1_000, layers=16)),
    Axis("layers", tuple(15 * n for n in _DOUBLED), replace(_DEEP, samples=1_000)),
    Axis("partitions", _DOUBLED, _SHALLOW),
    Axis("workers", (1, 2), replace(_SHALLOW, samples=60_000, partitions=8)),
)

#: Layers and, as many, partitions of graphs that have a task for each.
_GRAPHS = (8, 16), (16, 32, 64, 128), (16, 32, 64, 128, 256)
_GRAPH_NEURONS = 64


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield time and peak memory of runs along each axis, then planning and making the graph."""
    modes = effort.pick(("none", "exact"), ("none", "exact"), ("none", "dynamic", "exact"))
    for axis in effort.pick(_SMOKE, _SHORT, _ALL):
        say(axis.name)
        yield from in_new_process(along, axis, modes, effort)
    for count in effort.pick(*_GRAPHS):
        say(f"graph of {count} x {count}")
        yield from graph(count, effort)


def along(axis: Axis, modes: Sequence[str], effort: Effort) -> list[Measurement]:
    """Return time and peak memory of the runs along an axis; all memory of this process should be theirs."""
    found = []
    for point in axis.points:
        where, count = (PROCESSES, point.workers) if point.workers else (THREADS, timing.THREADS)
        with ready(where, count) as options:
            for mode in modes:
                infer(*replace(point, samples=_FEW).problem(), reductions=mode).compute(**options)  # compiles kernels
            found += [_peak(axis, point, mode, options, effort) for mode in modes]
            found += _timed(axis, point, modes, options, effort)
    return found


def _case(axis: Axis, point: Point) -> str:
    return f"{axis.name}: {getattr(point, axis.name):,}"


def _peak(axis: Axis, point: Point, mode: str, options: dict[str, Any], effort: Effort) -> Measurement:
    """Measure what a run holds beyond its network and samples: packed weights, activations and the result."""
    inference = infer(*point.problem(), reductions=mode, partitions=point.partitions)
    why_not = why_no_peaks()
    found = [] if why_not else peaks(partial(inference.compute, **options), effort.rounds)
    return Measurement(
        suite="growth",
        case=_case(axis, point),
        contender=mode,
        kind="ours",
        rounds=tuple(found),
        unit="bytes",
        formulation=MEMORY,
        threads=inference.plan.threads,
        left_out=why_not,
        parameters=point.parameters,
        details={"axis": axis.name},
    )


def _timed(
    axis: Axis, point: Point, modes: Sequence[str], options: dict[str, Any], effort: Effort
) -> list[Measurement]:
    network, images = point.problem()
    expected = right_outputs(network, images)
    inferences = {mode: infer(network, images, reductions=mode, partitions=point.partitions) for mode in modes}
    contenders = [_contender(mode, inference, expected, options) for mode, inference in inferences.items()]
    return measured("growth", _case(axis, point), contenders, effort, point.parameters, {"axis": axis.name})


def _contender(mode: str, inference: Inference, expected: NDArray[np.float64], options: dict[str, Any]) -> Contender:
    results: list[Result] = []

    def run() -> None:
        results[:] = [inference.compute(**options)]

    return Contender(
        mode,
        TIME,
        inference.plan.threads,
        inference.plan.samples * inference.plan.edges,
        in_turn(run),
        lambda: mismatch(results[0].outputs[: len(expected)], expected),
        kind="ours",
        work_unit="edges",
        counted=lambda: counted(inference, results[0]),
    )


def graph(count: int, effort: Effort) -> list[Measurement]:
    """Time planning and making the graph of so many layers and as many partitions, with a task for each node."""
    network, rows = radixnet(_GRAPH_NEURONS, count), np.ones((32 * count, _GRAPH_NEURONS), np.float32)
    made: list[Inference] = []

    def plan() -> None:
        with task_seconds(NO_SECONDS):
            made[:] = [infer(network, rows, partitions=count, reductions="none")]

    def make() -> None:
        made[0].__dask_graph__()

    def lacking() -> float:
        return float(abs(made[0].plan.tasks - count**2))

    plan()
    planning = Contender(
        "planning",
        "",
        1,
        count**2,
        in_turn(plan),
        lacking,
        kind="ours",
        work_unit="nodes",
        counted=lambda: counted(made[0]),
    )
    making = replace(planning, name="making the graph", run=in_turn(make))
    parameters = {"neurons": _GRAPH_NEURONS, "layers": count, "partitions": count, "nodes": count**2}
    case = f"nodes: {count:,} layers x {count:,} partitions"
    return measured("growth", case, [planning, making], effort, parameters, {"axis": "nodes"})


@dataclass(frozen=True)
class Curve:
    """How something grows along an axis.

    Attributes:
        axis: what is raised.
        contender: by what; reductions, mostly.
        formulation: what was measured.
        unit: of y: "seconds" or "bytes".
        x: ascending.
        y: for each of them.
    """

    axis: str
    contender: str
    formulation: str
    unit: str
    x: tuple[float, ...]
    y: tuple[Summary, ...]

    @property
    def law(self) -> PowerLaw:
        """The power law through the medians."""
        return power_law(self.x, [y.median for y in self.y])


def curves(report: Report) -> list[Curve]:
    """Return how time and memory grow, along each axis."""
    found: dict[tuple[str, str, str, str], list[tuple[float, Summary]]] = {}
    for each in report.of("growth"):
        if each.left_out:
            continue
        axis = each.details["axis"]
        name = axis, each.contender, each.formulation, each.unit
        found.setdefault(name, []).append((each.parameters[axis], summary(each.rounds)))
    return [Curve(*name, *zip(*sorted(points), strict=True)) for name, points in found.items() if len(points) > 1]


def tables(report: Report) -> Sequence[Table]:
    """Return the exponents, and the points that they are of."""
    found = curves(report)
    head = ["with", "what", "reductions", "from", "to", "points", "exponent", "standard error", "is it a power law?"]
    points = [
        [curve.axis, _what(curve), curve.contender, f"{x:,.0f}", *_amounts(y, curve.unit)]
        for curve in found
        for x, y in zip(curve.x, curve.y, strict=True)
    ]
    return [
        Table("Exponents", [head, *map(_exponent_row, found)]),
        Table("Points", [["with", "what", "reductions", "at", "median", "10th to 90th"], *points]),
    ]


def _exponent_row(curve: Curve) -> list[str]:
    law = curve.law
    error = "" if law.error is None else f"{law.error:.2f}"
    note = f"points are up to {law.worst:.2f} times off"
    if law.error is None:
        note = "two points"
    elif not law.holds:
        note = f"no: {note}; exponents of the first and last two are {law.first:z.2f} and {law.last:z.2f}"
    ends = f"{curve.x[0]:,.0f}", f"{curve.x[-1]:,.0f}", str(len(curve.x))
    return [curve.axis, _what(curve), curve.contender, *ends, f"{law.exponent:z.2f}", error, note]


def _amounts(y: Summary, unit: str) -> tuple[str, str]:
    return amount(y.median, unit), f"{amount(y.low, unit)} to {amount(y.high, unit)}"


def _what(curve: Curve) -> str:
    return "memory" if curve.unit == "bytes" else "time"


GROWTH = Suite(
    "growth",
    "Growth",
    "RadiX-Nets and digit images, on two threads, or on so many worker processes. One number is raised, the others "
    "stay: samples, neurons, layers, partitions, workers. *Time* is a call of `compute` whose weights are packed. "
    "*Memory* is the peak of a run beyond what was held before, with the network and samples in memory: packed "
    "weights, activations and the result; on workers of all processes together. *nodes* are layers x partitions, with "
    "a task for each: seconds of planning, and of making the graph.\n\n"
    "The exponent is the slope of the nearest line through the logarithms of the medians (least squares), with its "
    "standard error. Where points lie more than a fifth off it is no power law, mostly because something constant is "
    "larger than what grows; then exponents of the first and last two points say what the ends are like.",
    measure,
    tables,
)
