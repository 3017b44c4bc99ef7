"""How strategies scale: real runs on one and two workers, and the model of `simulation` beside them, and far beyond."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, pairwise
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from taskgraph_dnn import challenge
from taskgraph_dnn.benchmarks.parameters import (
    NETWORK_RATE,
    Moved,
    Parameters,
    Size,
    distinct_layers,
    measure_moving,
    measure_parameters,
)
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.runs import Rounds, counted, packed, right_outputs, side_by_side, task_seconds
from taskgraph_dnn.benchmarks.simulation import Cluster, Limits, Work, simulate
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table
from taskgraph_dnn.benchmarks.timing import ratios, summary
from taskgraph_dnn.benchmarks.workers import worker_processes
from taskgraph_dnn.config import settings
from taskgraph_dnn.inference import infer
from taskgraph_dnn.inputs import density
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import make_plan
from taskgraph_dnn.strategies import STRATEGIES
from taskgraph_dnn.synthetic import digit_images, radixnet

#: A strategy has stopped scaling where twice as many workers make a run less than so many times as fast.
WORTH_IT = 1.25

#: Kinds of measurement of this suite, as their details say.
_PARAMETER, _REAL, _SIMULATED = "parameter", "real", "simulated"


class Real(NamedTuple):
    """What is run: samples of a network, in partitions, in spans that are to last so long, so that they are several."""

    neurons: int
    layers: int
    samples: int
    partitions: int
    seconds: float


class Model(NamedTuple):
    """What is simulated: the challenge's samples on networks of so many neurons and layers, on so many workers."""

    sizes: tuple[tuple[int, int], ...]
    workers: tuple[int, ...]


_REAL_RUNS = Real(256, 24, 800, 4, 1e-12), Real(1024, 120, 3_000, 16, 0.01), Real(1024, 120, 12_000, 16, 0.02)
_SIZES = (1024, 120), (16384, 1920), (65536, 1920)
_MODELS = (
    Model(((1024, 24),), (1, 16)),
    Model(_SIZES[:2], tuple(4**power for power in range(6))),
    Model(_SIZES, tuple(2**power for power in range(11))),
)
_PARAMETERS = Size(8, 8, 256, rounds=1), Size(30, 40, 4096, rounds=3), Size(60, 60, 16384, rounds=3)


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield what the model needs to know, real runs beside the model, and what the model says of many workers."""
    real, model, size = effort.pick(*zip(_REAL_RUNS, _MODELS, _PARAMETERS, strict=True))
    with TemporaryDirectory() as name:
        say("parameters, and runs on 1 worker")
        with worker_processes(1) as scheduler:
            parameters = measure_parameters(scheduler, Path(name), size)
            yield from _parameters(parameters, size)
            yield from _real(real, Path(name), replace(parameters.cluster(1), weights_rate=inf), effort)
        say("runs on 2 workers")
        with worker_processes(2):
            cluster = parameters.cluster(2)
            moved = measure_moving(size, cluster.scheduling_seconds + cluster.latency_seconds)
            yield _moved("between workers of this machine", moved, size)
            yield from _real(real, Path(name), replace(cluster, network_rate=moved.rate, weights_rate=inf), effort)
    for neurons, layers in model.sizes:
        say(f"{neurons:,} x {layers:,}, simulated")
        network = deep_network(neurons, layers)
        for strategy in STRATEGIES:
            yield from simulated(network, strategy, challenge.OFFICIAL_SAMPLES, parameters, model.workers)


def _parameters(parameters: Parameters, size: Size) -> Iterator[Measurement]:
    each = _parameter(parameters={"partitions": size.partitions, "layers": size.layers})
    yield replace(each, contender="scheduler, a task", rounds=parameters.scheduling)
    yield replace(each, contender="latency of a task", rounds=parameters.latency)
    yield _moved("weights read and packed", parameters.weights, size)


def _moved(what: str, moved: Moved, size: Size) -> Measurement:
    each = _parameter(parameters={"neurons": size.neurons})
    return replace(each, contender=what, rounds=moved.seconds, work=moved.nbytes, work_unit="bytes")


def _parameter(parameters: dict[str, float]) -> Measurement:
    return Measurement("scaling", "a cluster", "", "ours", parameters=parameters, details={"kind": _PARAMETER})


def _real(real: Real, folder: Path, cluster: Cluster, effort: Effort) -> Iterator[Measurement]:
    """Yield runs of each strategy on worker processes, and the same runs simulated from their tasks' durations.

    The model knows no input to send and no result to join: what it says is held against the seconds from the first task
    to the end of the last.
    """
    network, images = packed(folder, real.neurons, real.layers), digit_images(real.samples, real.neurons)
    with task_seconds(real.seconds):
        inferences = {
            strategy: infer(network, images, strategy=strategy, partitions=real.partitions, reductions="none")
            for strategy in STRATEGIES
        }
    right = right_outputs(network, images)
    for strategy, rounds in side_by_side(inferences, {}, effort.rounds, right).items():
        yield _run(real, strategy, cluster.workers, rounds, _modelled(network, rounds, cluster))


def _modelled(network: Network, rounds: Rounds, cluster: Cluster) -> dict[str, Any]:
    plan = rounds.inference.plan
    works = [Work.measured(network, plan, events) for events in rounds.events]
    return {
        "first_to_last": [parts.first_to_last for parts in rounds.parts],
        "simulated": [simulate(work, cluster).seconds for work in works],
        "computing": [work.total for work in works],
        "planned_computing": float(plan.task_seconds.sum()),
    }


def _run(real: Real, strategy: str, workers: int, rounds: Rounds, modelled: dict[str, Any]) -> Measurement:
    return Measurement(
        suite="scaling",
        case=f"{real.neurons:,} x {real.layers:,}, {real.samples:,} samples, workers: {workers}",
        contender=strategy,
        kind="ours",
        rounds=rounds.walls,
        formulation="worker processes",
        threads=workers,
        work=rounds.result.edges,
        work_unit="edges",
        counted=counted(rounds.inference, rounds.result),
        parameters={"neurons": real.neurons, "layers": real.layers, "samples": real.samples, "workers": workers},
        details={"kind": _REAL} | modelled,
    )


def deep_network(neurons: int, layers: int) -> Network:
    """Return a network that costs what a RadiX-Net does, but holds few layers, again and again: for planning only."""
    made = radixnet(neurons, min(layers, distinct_layers(neurons)))
    return Network([made[number % len(made)] for number in range(layers)])


def simulated(
    network: Network, strategy: str, samples: int, parameters: Parameters, workers: Sequence[int]
) -> Iterator[Measurement]:
    """Yield what the model says of a run without reductions on so many workers, planned for them."""
    chosen = settings(strategy=strategy, reductions="none")
    part = density(digit_images(64, network.inputs))
    for count in workers:
        plan = make_plan(network, samples, chosen, threads=count, workers=count, density=part)
        limits = Limits(Work.planned(network, plan), parameters.cluster(count))
        yield Measurement(
            suite="scaling",
            case=f"{network.inputs:,} x {len(network):,}, {samples:,} samples, workers: {count:,}",
            contender=strategy,
            kind="model",
            rounds=(limits.outcome.seconds,),
            formulation="simulated",
            threads=count,
            work=samples * plan.edges,
            work_unit="edges",
            parameters={"neurons": network.inputs, "layers": len(network), "samples": samples, "workers": count},
            details={
                "kind": _SIMULATED,
                "partitions": len(plan.partitions),
                "spans": len(plan.spans),
                "computing": limits.outcome.computing,
                "utilisation": limits.outcome.utilisation,
                "limit": limits.limit,
                "losses": limits.losses,
            },
        )


def stops(runs: Sequence[Measurement]) -> str:
    """Return beyond how many workers twice as many are not worth it, and why; "nowhere" if all are.

    Args:
        runs: simulated ones of a strategy, on more and more workers. Where these are more than twice as many at a time,
            so much more is expected of them.
    """
    for run, more in pairwise(runs):
        worth = WORTH_IT ** np.log2(more.threads / run.threads)
        if run.rounds[0] < worth * more.rounds[0]:
            return f"{run.threads:,}: {more.details['limit']}"
    return "nowhere"


def tables(report: Report) -> Sequence[Table]:
    """Return the parameters, real runs beside the model, and for each network what the model says."""
    found = report.of("scaling")
    parameters, real, model = (
        [m for m in found if m.details["kind"] == kind] for kind in (_PARAMETER, _REAL, _SIMULATED)
    )
    cells = [_parameter_row(each) for each in parameters]
    assumed = ["between workers of a cluster", f"{NETWORK_RATE:.3g} bytes a second", "assumed: 10 gigabit Ethernet"]
    networks = groupby(model, lambda each: (each.parameters["neurons"], each.parameters["layers"]))
    return [
        Table("What the model knows", [["parameter", "median", "10th to 90th"], *cells, assumed]),
        Table("Real runs, and the same simulated from their tasks' durations", [_RUN_HEAD, *map(_real_row, real)]),
        *(_simulated_table(neurons, layers, list(runs)) for (neurons, layers), runs in networks),
    ]


_RUN_HEAD = [
    *("network", "strategy", "seconds", "first to last task", "simulated", "computing"),
    *("simulated / real", "planned / computing"),
]


def _parameter_row(each: Measurement) -> list[str]:
    values = summary([each.work / seconds for seconds in each.rounds] if each.work else each.rounds)
    unit = "bytes a second" if each.work else "s"
    return [each.contender, f"{values.median:.3g} {unit}", f"{values.low:.3g} to {values.high:.3g}"]


def _real_row(each: Measurement) -> list[str]:
    details = each.details
    names = "first_to_last", "simulated", "computing"
    agreement = summary(ratios(details["simulated"], details["first_to_last"]))
    return [
        each.case,
        each.contender,
        f"{summary(each.rounds).median:.3f}",
        *(f"{summary(details[name]).median:.3f}" for name in names),
        f"{agreement.median:.2f} ({agreement.low:.2f} to {agreement.high:.2f})",
        f"{details['planned_computing'] / summary(details['computing']).median:.2f}",
    ]


def _simulated_table(neurons: float, layers: float, runs: Sequence[Measurement]) -> Table:
    by_strategy = {
        name: [run for run in runs if run.contender == name] for name in dict.fromkeys(r.contender for r in runs)
    }
    rows = [["workers", *by_strategy]]
    for of_count in zip(*by_strategy.values(), strict=False):
        cells = (f"{r.rounds[0]:,.3g}, {r.details['utilisation']:.0%}, {r.details['limit']}" for r in of_count)
        rows.append([f"{of_count[0].threads:,}", *cells])
    title = f"{neurons:,} x {layers:,}, simulated: seconds, part of the workers' time computing, limit"
    return Table(title, [*rows, ["stops at", *map(stops, by_strategy.values())]])


SCALING = Suite(
    "scaling",
    "Scaling",
    "Each strategy on one and two worker processes, without reductions, beside a model of the same run; and what the "
    "model says of networks of the challenge, 60,000 samples, on up to 1,024 workers, as it is planned for them. A "
    f"strategy stops where twice as many workers make a run less than {WORTH_IT} times as fast. What the model knows, "
    "what it leaves out, and what the limits mean is in [scaling](scaling.md).",
    measure,
    tables,
)
