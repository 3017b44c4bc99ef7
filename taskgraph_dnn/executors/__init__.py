"""Where a graph is run: threads of this process, or a cluster. The modules beside this one import `distributed`."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import dask.config
from dask import threaded
from dask.base import get_scheduler, named_schedulers
from dask.system import CPU_COUNT

from taskgraph_dnn.config import cluster_settings
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.events import Subscriber, TaskEvent, subscribed
from taskgraph_dnn.plan import Plan

_LOCAL = ("threads", "synchronous")
_PROCESSES = "processes"
_FILE = ".json"
_SSH = re.compile(r"ssh://(?:([^@,\s]+)@)?([^@,\s]+(?:,[^@,\s]+)*)")
_ADDRESS = re.compile(r"([a-z]+://)?\S+:[0-9]+")


#: `run(partitions, **kwargs)` computes an expression's keys and returns their values; keywords are Dask's.
Run = Callable[..., Sequence[Any]]


class Resources(NamedTuple):
    """What would run a graph now.

    Attributes:
        threads: of all workers of the active client's cluster, or of Dask's threaded scheduler; at least 1.
        workers: the addresses of the cluster's workers, in a fixed order; none where there is no client.
    """

    threads: int
    workers: tuple[str, ...]


def resources() -> Resources:
    """Return what would run a graph now; this asks the scheduler."""
    client = _client()
    if client is None:
        return Resources(int(dask.config.get("num_workers", None) or CPU_COUNT), ())
    threads: dict[str, int] = client.nthreads()
    return Resources(max(1, sum(threads.values())), tuple(sorted(threads)))


@contextmanager
def submission(plan: Plan, scheduler: Any) -> Iterator[Run]:
    """Make ready what a run of `plan` needs where Dask sends it, and turn Dask's errors there into ours.

    Args:
        plan: what is to be run.
        scheduler: the `scheduler` keyword of Dask's `compute` or `persist`.

    Yields:
        What runs the partitions of an expression and returns them; on a cluster it ends runs that make no progress.

    Raises:
        ClusterError: a worker has too little memory for the plan; or the cluster gives up the run.
        PlanError: a setting of runs on a cluster has a value that none can have.
    """
    client = _target(scheduler)
    if client is None:
        yield _on_threads(scheduler)
        return
    from taskgraph_dnn.executors import failures, supervision, workers

    # Dask warns of a large graph, which is for data that was put there by mistake. Ours holds each array of the input
    # and of a network in memory once, because that is where the user has them.
    quiet = dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PiB"})
    with failures.explained(plan), quiet:
        failures.check_fits(client, plan)
        client.sync(workers.prepare, client)
        yield supervision.supervised(client, plan)


def failures_on_workers(scheduler: Any, check: Callable[..., None], *arguments: Any) -> dict[str, BaseException]:
    """Run a check on each worker of now of the cluster that Dask would send a graph to, if it is a cluster.

    Args:
        scheduler: the `scheduler` keyword of Dask's `compute` or `persist`.
        check: raises an error where something is wrong; it goes to the workers by name.
        arguments: for it.

    Returns:
        The errors of those workers on which it fails, by address; none of workers that do not answer.
    """
    client = _target(scheduler)
    if client is None:
        return {}
    from taskgraph_dnn.executors import cluster

    return cluster.failures_on_workers(client, check, *arguments)


def check_scheduler(scheduler: str) -> None:
    """Check that `scheduler` is something that `connected` knows, without trying it, and the settings of clusters.

    Raises:
        PlanError: it is not, or a setting has a value that none can have.
    """
    cluster_settings()
    if scheduler.endswith(_FILE):
        _address_in(Path(scheduler))
    elif scheduler not in (*_LOCAL, _PROCESSES) and not _SSH.fullmatch(scheduler) and not _ADDRESS.fullmatch(scheduler):
        known = ", ".join((*_LOCAL, _PROCESSES))
        raise PlanError(
            f"unknown scheduler {scheduler!r}, expected {known}, or an address like tcp://127.0.0.1:8786, "
            f"or hosts like ssh://user@host1,host2, or the path of a scheduler file ({_FILE})"
        )


def _address_in(file: Path) -> str:
    """Return the address in a file that `dask scheduler --scheduler-file` wrote.

    Raises:
        PlanError: the file cannot be read, or holds no address.
    """
    try:
        address = json.loads(file.read_text(encoding="utf-8"))["address"]
    except OSError as error:
        raise PlanError(f"{file}: cannot read the scheduler file: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise PlanError(f"{file}: found no JSON object with an address, expected a scheduler file") from error
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise PlanError(f"{file}: the scheduler's address is {address!r}, expected one like tcp://127.0.0.1:8786")
    return address


@contextmanager
def connected(scheduler: str) -> Iterator[dict[str, Any]]:
    """Make `scheduler` ready and yield the keywords for `Inference.compute`.

    Args:
        scheduler: "threads" or "synchronous" (this process), "processes" (a cluster of worker processes on this
            machine, one a core, on loopback only, closed at the end), the address of a Dask scheduler, or the path of
            its scheduler file (.json); or "ssh://[USER@]HOST,HOST,..." (a scheduler on the first host and a worker on
            each, started by SSH, closed at the end).

    Raises:
        PlanError: the scheduler is unknown, its file holds no address, or nobody answers there.
        MissingDependencyError: there is no asyncssh, for SSH.

    Warns:
        UnprotectedSchedulerWarning: other machines may reach the scheduler, and it does without TLS.
    """
    check_scheduler(scheduler)
    if scheduler in _LOCAL:
        yield {"scheduler": scheduler}
        return
    from taskgraph_dnn.executors import cluster, ssh

    hosts = _SSH.fullmatch(scheduler)
    if hosts is not None:
        ready = ssh.client(hosts[1], hosts[2].split(","))
    else:
        ready = cluster.client(_address_in(Path(scheduler)) if scheduler.endswith(_FILE) else scheduler)
    with ready:
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
    from taskgraph_dnn.executors import forwarding

    with subscribed(forwarding.not_on_a_worker(of_run)), forwarding.watching(client, of_run):
        yield


def _on_threads(scheduler: Any) -> Run:
    """Return what runs partitions where Dask would, which has no supervised cluster: mostly, on threads."""
    known = scheduler if "distributed" in sys.modules else _without_client(scheduler)
    get = get_scheduler(scheduler=known) or threaded.get
    return lambda partitions, **kwargs: get(partitions, partitions.__dask_keys__(), **kwargs)


def _without_client(scheduler: Any) -> Any:
    """Return what Dask would take `scheduler` for, who would import `distributed` first, to look for a client."""
    asked = scheduler or dask.config.get("scheduler", None) or _LOCAL[0]
    return named_schedulers.get(asked.lower(), scheduler) if isinstance(asked, str) else scheduler


def _target(scheduler: Any) -> Any:
    if "distributed" not in sys.modules:
        return None
    from taskgraph_dnn.executors import cluster

    return cluster.target(scheduler)


def _client() -> Any:
    if "distributed" not in sys.modules:
        return None
    from taskgraph_dnn.executors import cluster

    return cluster.active_client()
