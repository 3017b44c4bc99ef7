"""Clusters that are started by SSH on the hosts that the user names, and closed at the end."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import dask.config
from distributed import Client, Security, SSHCluster

from taskgraph_dnn.config import cluster_settings
from taskgraph_dnn.errors import MissingDependencyError, PlanError
from taskgraph_dnn.executors.cluster import CONNECT_SECONDS, is_loopback, quiet_when_interrupted, warn_unprotected


@contextmanager
def client(user: str | None, hosts: Sequence[str]) -> Iterator[Client]:
    """Start a scheduler on the first host and a worker on each, and connect to it.

    On loopback alone it listens on 127.0.0.1; else on the hosts' networks, with TLS where Dask is configured for it.

    Raises:
        PlanError: a host cannot be reached, or the cluster does not start there.
        MissingDependencyError: asyncssh is not installed.

    Warns:
        UnprotectedSchedulerWarning: other machines may reach the scheduler, and it does without TLS.
    """
    if find_spec("asyncssh") is None:
        raise MissingDependencyError.of("a cluster by SSH", "asyncssh", "ssh")
    with _started(user, hosts) as cluster:
        warn_unprotected(cluster.scheduler_address)
        with Client(cluster) as connected, quiet_when_interrupted():
            connected.wait_for_workers(len(hosts))
            yield connected


def _started(user: str | None, hosts: Sequence[str]) -> Any:
    settings = cluster_settings()
    tls = dask.config.get("distributed.comm.tls.ca-file") is not None
    common = {"host": "127.0.0.1"} if all(map(_is_here, hosts)) else {}
    security = Security()
    common |= {"dashboard_address": "127.0.0.1:0", "protocol": "tls" if tls else "tcp"}
    try:
        return SSHCluster(
            [hosts[0], *hosts],
            connect_options={"connect_timeout": CONNECT_SECONDS} | ({} if user is None else {"username": user}),
            scheduler_options=common | {"port": 0},
            worker_options=common | {"nthreads": settings.ssh_threads},
            remote_python=settings.ssh_python,
            security=security,
        )
    except Exception as error:  # what SSH raises, and Dask, which has closed what it had started
        reason = str(error.__cause__ or error) or type(error).__name__
        raise PlanError(f"cannot start a cluster by SSH on {', '.join(hosts)}: {reason}") from error


def _is_here(host: str) -> bool:
    try:
        return is_loopback(host)
    except OSError:  # a name that only SSH's own configuration knows
        return False
