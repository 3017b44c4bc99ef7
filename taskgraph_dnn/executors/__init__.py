"""Where a graph is run: threads of this process, or a cluster. Only `cluster` imports `distributed`."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask.config
from dask.system import CPU_COUNT

from taskgraph_dnn.events import Subscriber, subscribed


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


@contextmanager
def connected(scheduler: str) -> Iterator[dict[str, Any]]:
    """Make `scheduler` ready and yield the keywords for `Inference.compute`.

    Args:
        scheduler: "threads" or "synchronous" (this process), "processes" (a cluster of worker processes on this
            machine, one a core, on loopback only, closed at the end), or the address of a Dask scheduler.

    Raises:
        PlanError: there is no scheduler at that address.
    """
    if scheduler in ("threads", "synchronous"):
        yield {"scheduler": scheduler}
        return
    from taskgraph_dnn.executors import cluster

    with cluster.client(scheduler):
        yield {}


@contextmanager
def watching(subscriber: Subscriber) -> Iterator[None]:
    """Call `subscriber` with the events of all tasks that end while the context is open, wherever they ran."""
    client = _client()
    if client is None:
        with subscribed(subscriber):
            yield
        return
    from taskgraph_dnn.executors import cluster

    with cluster.watching(client, subscriber):
        yield


def _client() -> Any:
    if "distributed" not in sys.modules:
        return None
    from taskgraph_dnn.executors import cluster

    return cluster.active_client()
