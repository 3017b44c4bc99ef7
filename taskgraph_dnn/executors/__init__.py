"""Where a graph is run: threads of this process, or a cluster. Only `cluster` imports `distributed`."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask.config
from dask.system import CPU_COUNT

from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.events import Subscriber, TaskEvent, subscribed

_LOCAL = ("threads", "synchronous")
_PROCESSES = "processes"
_ADDRESS = re.compile(r"([a-z]+://)?\S+:[0-9]+")


def thread_count() -> int:
    """Return how many threads would run a graph now: the active client's, or those of Dask's threaded scheduler."""
    if _client() is not None:
        from taskgraph_dnn.executors import cluster

        return cluster.thread_count(_client())
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


@contextmanager
def sending_data() -> Iterator[None]:
    """Silence Dask's warning of a large graph, which is for data that was put there by mistake.

    Ours holds each array of the input and of a network in memory once, because that is where the user has them.
    """
    if _client() is None:
        yield
        return
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PiB"}):
        yield


def check_scheduler(scheduler: str) -> None:
    """Check that `scheduler` is something that `connected` knows, without trying it.

    Raises:
        PlanError: it is not.
    """
    if scheduler in (*_LOCAL, _PROCESSES) or _ADDRESS.fullmatch(scheduler):
        return
    known = ", ".join((*_LOCAL, _PROCESSES))
    raise PlanError(f"unknown scheduler {scheduler!r}, expected {known}, or an address like tcp://127.0.0.1:8786")


@contextmanager
def connected(scheduler: str) -> Iterator[dict[str, Any]]:
    """Make `scheduler` ready and yield the keywords for `Inference.compute`.

    Args:
        scheduler: "threads" or "synchronous" (this process), "processes" (a cluster of worker processes on this
            machine, one a core, on loopback only, closed at the end), or the address of a Dask scheduler.

    Raises:
        PlanError: the scheduler is unknown, or nobody answers at the address.
    """
    check_scheduler(scheduler)
    if scheduler in _LOCAL:
        yield {"scheduler": scheduler}
        return
    from taskgraph_dnn.executors import cluster

    with cluster.client(scheduler):
        yield {}


@contextmanager
def watching(run: str, subscriber: Subscriber) -> Iterator[None]:
    """Call `subscriber` with the events of `run` (an inference's token) as its tasks end, wherever that is."""

    def of_run(event: TaskEvent) -> None:
        if event.run == run:
            subscriber(event)

    client = _client()
    if client is None:
        with subscribed(of_run):
            yield
        return
    from taskgraph_dnn.executors import cluster

    with subscribed(cluster.not_on_a_worker(of_run)), cluster.watching(client, of_run):
        yield


def _client() -> Any:
    if "distributed" not in sys.modules:
        return None
    from taskgraph_dnn.executors import cluster

    return cluster.active_client()
