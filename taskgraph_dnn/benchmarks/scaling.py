"""How strategies scale: the model of `simulation`, with parameters that are measured, beside real runs, and far beyond.

python -m taskgraph_dnn.benchmarks.scaling
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from math import inf, log2
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import dask.config
import numpy as np
import psutil

from taskgraph_dnn import challenge, executors
from taskgraph_dnn.benchmarks.fingerprint import machine
from taskgraph_dnn.benchmarks.reporting import reporting
from taskgraph_dnn.benchmarks.scheduling import NO_SECONDS, packed, repeated
from taskgraph_dnn.benchmarks.simulation import Cluster, Limits, Work, simulate
from taskgraph_dnn.benchmarks.tables import made_on, markdown_table
from taskgraph_dnn.config import settings
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.inference import Inference, infer
from taskgraph_dnn.inputs import density
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import make_plan
from taskgraph_dnn.strategies import STRATEGIES
from taskgraph_dnn.synthetic import digit_images, radixnet
from taskgraph_dnn.synthetic.radixnet import COPIES

#: Neurons and layers of what is simulated, and on how many workers.
SIZES = (1024, 120), (16384, 1920), (65536, 1920)
WORKERS = tuple(2**power for power in range(11))

#: Bytes a second between workers: 10 gigabit Ethernet. Nothing here can measure it.
NETWORK_RATE = 1.25e9

#: A strategy has stopped scaling where twice as many workers make a run less than so many times as fast.
WORTH_IT = 1.25

#: Images of the real runs, and how long their spans are to last: they are to be several for each partition.
_VALIDATED, _VALIDATED_SECONDS = 12_000, 0.02

_START_SECONDS = 60
_NO_MORE_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@contextmanager
def worker_processes(count: int) -> Iterator[psutil.Process]:
    """Start a scheduler and workers of one thread each, all on loopback; yield the scheduler's process.

    Raises:
        PlanError: they do not start.
    """
    with TemporaryDirectory() as folder, ExitStack() as started:
        file = Path(folder) / "scheduler.json"
        local = "--scheduler-file", str(file), "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"

        def start(kind: str, *options: str) -> subprocess.Popen[bytes]:
            command = sys.executable, "-m", f"distributed.cli.dask_{kind}", *local, *options
            process = subprocess.Popen(
                command, env=os.environ | _NO_MORE_THREADS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            started.callback(_stop, process)
            return process

        scheduler = start("scheduler", "--port", "0")
        _until(file.exists, "a scheduler")
        for _ in range(count):
            start("worker", "--nthreads", "1", "--no-nanny", "--local-directory", folder)
        with executors.connected(json.loads(file.read_text(encoding="utf-8"))["address"]):
            _until(lambda: len(executors.resources().workers) == count, f"{count} workers")
            yield psutil.Process(scheduler.pid)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise PlanError(f"{what}: not there after {_START_SECONDS} s")
        time.sleep(0.05)


@dataclass(frozen=True)
class Parameters:
    """What `distributed` and this machine were measured to take; as of `Cluster`.

    Attributes:
        scheduling_seconds: of the scheduler's processor, for each task.
        latency_seconds: median, of a chain alone on the cluster, less that.
        weights_rate: bytes of weights a second that a worker reads from a packed file in memory, and packs.
        loopback_rate: bytes a second that a worker receives from another one on the same machine.
    """

    scheduling_seconds: float
    latency_seconds: float
    weights_rate: float
    loopback_rate: float

    def cluster(self, workers: int, network_rate: float = NETWORK_RATE) -> Cluster:
        """Return a cluster of so many workers like those that were measured."""
        return Cluster(
            workers,
            scheduling_seconds=self.scheduling_seconds,
            latency_seconds=self.latency_seconds,
            network_rate=network_rate,
            weights_rate=self.weights_rate,
            kept_nbytes=settings().packed_bytes,
        )


def measure_parameters(folder: Path, *, partitions: int = 60, layers: int = 60, neurons: int = 16384) -> Parameters:
    """Measure what the model needs, on worker processes.

    Args:
        folder: where networks are packed.
        partitions: of the graph whose tasks do next to nothing.
        layers: likewise; it has a task for each layer and partition.
        neurons: of the layers whose weights are read and whose activations are moved.

    Raises:
        PlanError: worker processes do not start, or do not take the tasks that are theirs.
    """
    with worker_processes(1) as scheduler:
        scheduling_seconds = _scheduling_seconds(scheduler, partitions, layers)
        latency_seconds = max(0.0, statistics.median(_gaps(layers)) - scheduling_seconds)
        weights_rate = _weights_rate(folder, neurons)
    with worker_processes(2):
        loopback_rate = max(_loopback_rate(neurons, scheduling_seconds + latency_seconds) for _ in range(3))
    return Parameters(scheduling_seconds, latency_seconds, weights_rate, loopback_rate)


def _task_seconds(seconds: float) -> Any:
    """Make plans whose spans of layers last about so long."""
    return dask.config.set({"taskgraph-dnn.task-seconds": seconds})


def _chains(layers: int, partitions: int) -> Inference:
    """Return an inference that has a task for each layer and partition, with next to nothing to do."""
    rows = np.random.default_rng(0).random((32 * partitions, 64), np.float32)
    with _task_seconds(NO_SECONDS):
        return infer(radixnet(64, layers), rows, partitions=partitions, strategy="hybrid", reductions="none")


def _scheduling_seconds(scheduler: psutil.Process, partitions: int, layers: int) -> float:
    _chains(layers, 1).compute()  # compiles kernels
    inference = _chains(layers, partitions)
    before = scheduler.cpu_times()
    inference.compute()
    after = scheduler.cpu_times()
    return float(after.user + after.system - before.user - before.system) / inference.plan.tasks


def _gaps(layers: int) -> list[float]:
    """Return the seconds between the tasks of a chain that is alone."""
    events = sorted(_chains(layers, 1).compute().events, key=lambda event: event.start)
    return [later.start - event.end for event, later in pairwise(events)]


def _weights_rate(folder: Path, neurons: int) -> float:
    rate = 0.0
    for layers in (3, _distinct(neurons)):  # the first run compiles
        network, rows = packed(folder, neurons, layers), np.ones((64, neurons), np.float32)
        result = infer(network, rows, partitions=1, strategy="data", reductions="none").compute()
        rate = network.nbytes / sum(event.prepare_seconds for event in result.events)
    return rate


def _loopback_rate(neurons: int, otherwise_seconds: float) -> float:
    """Move activations once; between two tasks that move nothing lie so many seconds, too."""
    rows = np.ones((1024, neurons), np.float32)
    with _task_seconds(NO_SECONDS):
        inference = infer(radixnet(neurons, 2), rows, partitions=1, strategy="pipeline", reductions="none")
    first, second = sorted(inference.compute().events, key=lambda event: event.start)
    if first.worker == second.worker:
        raise PlanError("both stages of a pipeline ran on one worker, expected two")
    return first.nbytes / max(1e-6, second.start - first.end - otherwise_seconds)


def validate(
    folder: Path, parameters: Parameters, size: tuple[int, int], samples: int, rounds: int
) -> list[dict[str, Any]]:
    """Run each strategy on 1 and 2 worker processes, and simulate the same runs from their tasks' durations.

    Weights are read before, by a run that is not timed.

    Returns:
        For each, plain values: seconds of the median run, and from its first task to the end of the last, which is what
        is simulated: the model knows no input to send and no result to join. And seconds of all tasks, as measured and
        as planned.
    """
    network, images = packed(folder, *size), digit_images(samples, size[0])
    found = []
    for workers in (1, 2):
        cluster = replace(parameters.cluster(workers, parameters.loopback_rate), weights_rate=inf)
        with worker_processes(workers):
            for strategy in STRATEGIES:
                with _task_seconds(_VALIDATED_SECONDS):
                    inference = infer(network, images, strategy=strategy, partitions=16, reductions="none")
                inference.compute()
                overhead, result = repeated(inference, {}, rounds)[0]
                work = Work.measured(network, inference.plan, result.events)
                found.append(
                    {
                        "strategy": strategy,
                        "workers": workers,
                        "seconds": overhead.wall,
                        "first_to_last": overhead.tasks + overhead.idle,
                        "simulated": simulate(work, cluster).seconds,
                        "computing": work.total,
                        "planned_computing": float(inference.plan.task_seconds.sum()),
                    }
                )
    return found


def _distinct(neurons: int) -> int:
    """Layers of two blocks of a RadiX-Net: the second is wired as all that follow."""
    return 2 * int(log2(neurons // COPIES))


def deep_network(neurons: int, layers: int) -> Network:
    """Return a network that costs what a RadiX-Net does, but holds few layers, again and again: for planning only."""
    made = radixnet(neurons, min(layers, _distinct(neurons)))
    return Network([made[number % len(made)] for number in range(layers)])


def scale(
    network: Network, strategy: str, samples: int, parameters: Parameters, workers: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield what the model says of a run without reductions on so many workers, planned for them."""
    chosen = settings(strategy=strategy, reductions="none")
    part = density(digit_images(64, network.inputs))
    for count in workers:
        plan = make_plan(network, samples, chosen, threads=count, workers=count, density=part)
        limits = Limits(Work.planned(network, plan), parameters.cluster(count))
        yield {
            "strategy": strategy,
            "workers": count,
            "partitions": len(plan.partitions),
            "spans": len(plan.spans),
            **asdict(limits.outcome),
            "speedup": limits.outcome.speedup,
            "utilisation": limits.outcome.utilisation,
            "limit": limits.limit,
            "losses": limits.losses,
        }


def stops(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the row of a strategy beyond which twice as many workers are not worth it; None if all are."""
    for row, doubled in pairwise(rows):
        if row["seconds"] < WORTH_IT * doubled["seconds"]:
            return {"workers": row["workers"], "limit": doubled["limit"]}
    return None


def benchmark(samples: int, rounds: int, *, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure, compare and simulate everything, and return a report of plain values, ready for JSON.

    Raises:
        PlanError: as of `measure_parameters`.
    """
    with TemporaryDirectory() as name:
        say("parameters")
        parameters = measure_parameters(Path(name))
        say(f"{parameters}\n1 and 2 workers")
        validation = validate(Path(name), parameters, SIZES[0], _VALIDATED, rounds)
    networks = []
    for neurons, layers in SIZES:
        network, rows = deep_network(neurons, layers), {}
        for strategy in STRATEGIES:
            say(f"{neurons:,} x {layers:,}, {strategy}")
            rows[strategy] = list(scale(network, strategy, samples, parameters, WORKERS))
        stopped = {strategy: stops(found) for strategy, found in rows.items()}
        networks.append({"neurons": neurons, "layers": layers, "samples": samples, "stops": stopped, "rows": rows})
    return {
        "machine": machine(),
        "parameters": asdict(parameters) | {"network_rate": NETWORK_RATE, "kept_nbytes": settings().packed_bytes},
        "validation": validation,
        "networks": networks,
    }


def page(report: dict[str, Any]) -> str:
    """Return the report as a page."""
    lines = [
        "# How strategies scale",
        "",
        f"Made by `make bench-scaling` on {made_on(report['machine'])}. What the model knows, and what the columns "
        "say, is in [scaling](../scaling.md).",
        "",
        *markdown_table(
            [["parameter", "value"], *([name, f"{value:.3g}"] for name, value in report["parameters"].items())]
        ),
        "",
        "Real runs, and the same simulated from their tasks' durations:",
        "",
        *markdown_table(list(_validated(report))),
        "",
    ]
    for network in report["networks"]:
        size = f"{network['neurons']:,} x {network['layers']:,}"
        lines += [f"{size}, {network['samples']:,} samples: seconds, part of the workers' time computing, limit.", ""]
        lines += [*markdown_table(list(_simulated(network))), ""]
    return "\n".join(lines)


def _validated(report: dict[str, Any]) -> Iterator[list[str]]:
    """Yield one row for each real run, first what the columns are."""
    durations = "seconds", "first to last task", "simulated", "computing"
    yield ["strategy, workers", *durations, "simulated / real", "planned / computing"]
    for row in report["validation"]:
        yield [
            f"{row['strategy']}, {row['workers']}",
            *(f"{row[name]:.3f}" for name in ("seconds", "first_to_last", "simulated", "computing")),
            f"{row['simulated'] / row['first_to_last']:.2f}",
            f"{row['planned_computing'] / row['computing']:.2f}",
        ]


def _simulated(network: dict[str, Any]) -> Iterator[list[str]]:
    """Yield one row for each number of workers, and where strategies stop; first what the columns are."""
    yield ["workers", *network["rows"]]
    for rows in zip(*network["rows"].values(), strict=True):
        cells = [f"{row['seconds']:,.3g}, {row['utilisation']:.0%}, {row['limit']}" for row in rows]
        yield [f"{rows[0]['workers']:,}", *cells]
    ends = network["stops"].values()
    yield ["stops at", *("nowhere" if end is None else f"{end['workers']:,}: {end['limit']}" for end in ends)]


@click.command()
@click.option("--samples", default=challenge.OFFICIAL_SAMPLES, show_default=True, help="Images of a simulated run.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="How often a real run is timed.")
@reporting
def main(samples: int, rounds: int) -> tuple[dict[str, Any], str]:
    """Run strategies on 1 and 2 worker processes, and simulate them on up to 1,024."""
    report = benchmark(samples, rounds, say=lambda text: click.echo(text, err=True))
    made = page(report)
    click.echo(made)
    return report, made


if __name__ == "__main__":
    main()
