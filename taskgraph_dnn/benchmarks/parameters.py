"""What `distributed` and this machine take, for the model of `simulation`: measured on worker processes."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

import dask.config
import numpy as np
import psutil

from taskgraph_dnn.benchmarks.runs import NO_SECONDS, packed, task_seconds
from taskgraph_dnn.benchmarks.simulation import Cluster
from taskgraph_dnn.config import settings
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.inference import Inference, infer
from taskgraph_dnn.synthetic import radixnet
from taskgraph_dnn.synthetic.radixnet import COPIES

#: Bytes a second between workers: 10 gigabit Ethernet. Nothing here can measure it.
NETWORK_RATE = 1.25e9

#: Nothing that is measured here takes less: clocks of two processes are compared.
_LEAST_SECONDS = 1e-6


@dataclass(frozen=True)
class Moved:
    """Bytes that were moved, and the seconds that it took, round by round."""

    nbytes: int
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Bytes a second, of the median round."""
        return self.nbytes / median(self.seconds)


@dataclass(frozen=True)
class Parameters:
    """What the model knows of a machine; as of `Cluster`, in seconds.

    Attributes:
        scheduling: of the scheduler's processor, for each task, round by round.
        latency: from the end of a task to the begin of the next, in chains that are alone on the cluster, less the
            scheduler's: of the median task, round by round.
        weights: that a worker reads from a packed file in memory, and packs.
    """

    scheduling: tuple[float, ...]
    latency: tuple[float, ...]
    weights: Moved

    def cluster(self, workers: int, network_rate: float = NETWORK_RATE) -> Cluster:
        """Return a cluster of so many workers like those that were measured."""
        return Cluster(
            workers,
            scheduling_seconds=median(self.scheduling),
            latency_seconds=median(self.latency),
            network_rate=network_rate,
            weights_rate=self.weights.rate,
            kept_nbytes=settings().packed_bytes,
        )


@dataclass(frozen=True)
class Size:
    """How much is done to measure parameters.

    Attributes:
        partitions, layers: of the graph whose tasks do next to nothing; it has a task for each layer and partition.
        neurons: of the layers whose weights are read and whose activations are moved.
        rounds: how often.
    """

    partitions: int
    layers: int
    neurons: int
    rounds: int


def measure_parameters(scheduler: psutil.Process, folder: Path, size: Size) -> Parameters:
    """Measure what the model needs, on one worker process.

    Args:
        scheduler: the cluster's.
        folder: where networks are packed.
        size: how much is done.
    """
    _chains(size.layers, 1).compute()  # compiles kernels
    scheduling = tuple(_scheduling_seconds(scheduler, size) for _ in range(size.rounds))
    gaps = [median(_gaps(size.layers)) for _ in range(size.rounds)]
    latency = tuple(max(0.0, gap - median(scheduling)) for gap in gaps)
    return Parameters(scheduling, latency, _weights(folder, size))


def _chains(layers: int, partitions: int) -> Inference:
    """Return an inference that has a task for each layer and partition, with next to nothing to do."""
    rows = np.random.default_rng(0).random((32 * partitions, 64), np.float32)
    with task_seconds(NO_SECONDS):
        return infer(radixnet(64, layers), rows, partitions=partitions, strategy="hybrid", reductions="none")


def _scheduling_seconds(scheduler: psutil.Process, size: Size) -> float:
    inference = _chains(size.layers, size.partitions)
    before = scheduler.cpu_times()
    inference.compute()
    after = scheduler.cpu_times()
    return float(after.user + after.system - before.user - before.system) / inference.plan.tasks


def _gaps(layers: int) -> list[float]:
    """Return the seconds between the tasks of a chain that is alone."""
    events = sorted(_chains(layers, 1).compute().events, key=lambda event: event.start)
    return [later.start - event.end for event, later in pairwise(events)]


def _weights(folder: Path, size: Size) -> Moved:
    network, rows = packed(folder, size.neurons, distinct_layers(size.neurons)), np.ones((64, size.neurons), np.float32)
    inference = infer(network, rows, partitions=1, strategy="data", reductions="none")
    with dask.config.set({"taskgraph-dnn.packed-bytes": 1}):  # so that each round has to pack
        inference.compute()  # compiles kernels
        results = [inference.compute() for _ in range(size.rounds)]
    return Moved(network.nbytes, tuple(sum(event.prepare_seconds for event in each.events) for each in results))


def measure_moving(size: Size, otherwise_seconds: float) -> Moved:
    """Move activations from one worker process to another on this machine.

    Args:
        size: how much is done.
        otherwise_seconds: between two tasks that move nothing.

    Raises:
        PlanError: the workers do not take the tasks that are theirs.
    """
    rows = np.ones((1024, size.neurons), np.float32)
    with task_seconds(NO_SECONDS):
        inference = infer(radixnet(size.neurons, 2), rows, partitions=1, strategy="pipeline", reductions="none")
    taken = []
    for _ in range(size.rounds):
        first, second = sorted(inference.compute().events, key=lambda event: event.start)
        if first.worker == second.worker:
            raise PlanError("both stages of a pipeline ran on one worker, expected two")
        taken.append(max(_LEAST_SECONDS, second.start - first.end - otherwise_seconds))
    return Moved(first.nbytes, tuple(taken))


def distinct_layers(neurons: int) -> int:
    """Return the layers of two blocks of a RadiX-Net: the second is wired as all that follow."""
    return 2 * int(np.log2(neurons // COPIES))
