"""Figures of a run that its events do not hold as they are: seconds of a layer, what workers did, bytes over time."""

import os
import resource
import socket
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.record.slices import Slice, by_track, held
from taskgraph_dnn.result import Result


class Use(NamedTuple):
    """What a thread of a worker did.

    Attributes:
        process, thread: which one.
        tasks: that it ran.
        compute_seconds, prepare_seconds: that it spent on computing, and on getting at weights and kernels.
        idle_seconds: from the start of the run's first task to the end of its last, less these.
        multiply_adds: that it did.
        weights_nbytes, weights_seconds: bytes of weights that it loaded, and how long that took.
    """

    process: str
    thread: int
    tasks: int
    compute_seconds: float
    prepare_seconds: float
    idle_seconds: float
    multiply_adds: int
    weights_nbytes: int
    weights_seconds: float


def uses(tasks: Sequence[Slice]) -> list[Use]:
    """Return what each thread did."""
    whole = max((task.end for task in tasks), default=0) / 1e9
    return [_use(track, own, whole) for track, own in by_track(tasks).items()]


def _use(track: tuple[str, int], own: list[Slice], whole: float) -> Use:
    seconds, preparing = sum(task.seconds for task in own), sum(task.prepare_seconds for task in own)
    return Use(
        *track,
        tasks=len(own),
        compute_seconds=seconds - preparing,
        prepare_seconds=preparing,
        idle_seconds=whole - seconds,
        multiply_adds=sum(task.multiply_adds for task in own),
        weights_nbytes=sum(task.weights_nbytes for task in own),
        weights_seconds=sum(task.weights_seconds for task in own),
    )


def layer_seconds(result: Result) -> NDArray[np.float64]:
    """Return about how long all tasks computed in each layer, preparation apart.

    A task knows its own seconds only. They are shared among its layers as its multiply-adds are, or evenly where there
    were none.
    """
    seconds = np.zeros(len(result.plan.layers))
    for event in result.events:
        done = event.counts[:, 2].astype(float)
        share = done / done.sum() if done.any() else np.full(len(done), 1 / len(done))
        seconds[event.first_layer - 1 : event.last_layer] += max(0.0, event.seconds) * share
    return seconds


def held_nbytes(tasks: Sequence[Slice]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return n + 1 times in seconds, and how many bytes of what tasks returned there were between each and the next."""
    ends, nbytes = np.array([(0, 0), *held(tasks)], float).T
    return np.append(ends, ends[-1]) / 1e9, nbytes


def peak_nbytes(result: Result) -> int | None:
    """Return the most memory that this process has had so far, if it ran all tasks of the run."""
    here = f"{socket.gethostname()}-{os.getpid()}-"
    if not all(event.worker.startswith(here) for event in result.events):
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
