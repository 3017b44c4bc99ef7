"""Clusters and connections to them: worker processes of this machine, a running scheduler by address or by file."""

import asyncio
import logging
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from multiprocessing import resource_tracker
from typing import Any

from dask.base import get_scheduler
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Security, default_client, get_worker
from distributed.comm import connect, get_address_host

from taskgraph_dnn.errors import PlanError, UnprotectedSchedulerWarning

#: Nobody who can be reached takes longer to take a connection.
CONNECT_SECONDS = 10

#: What workers are asked before a run, they answer in less, unless something is wrong with them.
ANSWER_SECONDS = 5.0

#: And checks, which may have to read what is far away, end in less.
_CHECK_SECONDS = 30.0

#: Whoever reaches a scheduler can run code there, so nothing of ours listens beyond this machine. The default would;
#: and the dashboard's server starts even where it is given no address.
_LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}


def active_client() -> Client | None:
    """Return the client that `compute` would use, or None."""
    try:
        return default_client()
    except ValueError:
        return None


def target(scheduler: Any) -> Client | None:
    """Return the client that Dask would send a graph to; None where it goes elsewhere, or from within a task.

    Args:
        scheduler: the `scheduler` keyword of a `compute`.
    """
    if current_worker() is not None:
        return None
    owner = getattr(get_scheduler(scheduler=scheduler), "__self__", None)
    return owner if isinstance(owner, Client) else None


def failures_on_workers(client: Client, check: Callable[..., None], *arguments: Any) -> dict[str, BaseException]:
    """Run a check on each worker of now; return the errors of those on which it fails, by address.

    A worker that cannot be asked, because it is going, is left out; and if one does not answer, all are.
    """
    found = client.sync(_answers, client, check, arguments)
    return {worker: error for worker, error in found.items() if error is not None and not isinstance(error, OSError)}


async def _answers(client: Client, check: Callable[..., None], arguments: Sequence[Any]) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            answers: dict[str, Any] = await client.run(check, *arguments, on_error="return")
            return answers
    except TimeoutError:
        return {}


@contextmanager
def client(scheduler: str) -> Iterator[Client]:
    """Connect to a scheduler by address, or start one with local worker processes for "processes".

    Raises:
        PlanError: the address cannot be reached.

    Warns:
        UnprotectedSchedulerWarning: other machines may reach the scheduler, and it does without TLS.
    """
    if scheduler == "processes":
        with _interrupts_deferred():
            local = LocalCluster(n_workers=CPU_COUNT, threads_per_worker=1, silence_logs=logging.ERROR, **_LOOPBACK)
        with local, Client(local) as connected, quiet_when_interrupted():
            yield connected
        return
    asyncio.run(_check_reachable(scheduler))
    warn_unprotected(scheduler)
    with Client(scheduler) as connected, quiet_when_interrupted():
        yield connected


async def _check_reachable(scheduler: str) -> None:
    """A client that cannot connect hangs the process at its exit, so nobody makes one before this has passed."""
    try:
        security = Security().get_connection_args("client")
        comm = await connect(scheduler, timeout=CONNECT_SECONDS, **security)
        await comm.close()
    except (OSError, ValueError, TypeError, TimeoutError) as error:  # TypeError: TLS without certificates
        reason = str(error).strip() or type(error).__name__
        raise PlanError(f"cannot reach a Dask scheduler at {scheduler!r}: {reason}") from error


def warn_unprotected(address: str) -> None:
    """Warn of a scheduler that other machines may reach, and that asks nobody for a certificate."""
    encrypted, reachable = address.startswith(("tls://", "wss://")), get_address_host(address)
    if not encrypted and not is_loopback(reachable):
        warnings.warn(
            f"the scheduler at {address} takes connections without TLS: whoever reaches this port can run code as the "
            "user of its workers, and read what is sent; start it with TLS and use its tls:// address (see "
            "docs/clusters.md), or let it listen on 127.0.0.1 and reach it through an SSH tunnel",
            UnprotectedSchedulerWarning,
            stacklevel=2,
        )


def is_loopback(host: str) -> bool:
    """Return whether a name or address is this machine's alone."""
    found = socket.getaddrinfo(host, None)
    return all(ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Hold Ctrl-C back until the context is left, and for good from threads and processes that start meanwhile.

    A terminal sends Ctrl-C to every process of a command. Workers are to leave it to this one, which closes them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it would let Ctrl-C through again, in the thread that needs it first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def quiet_when_interrupted() -> Iterator[None]:
    """Keep Dask from reporting what Ctrl-C cut off in this context."""
    try:
        yield
    except KeyboardInterrupt:
        # What Dask was doing is now cut off, which it reports, as errors, while it closes.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise


def current_worker() -> Any:
    """Return the worker whose task this thread runs, or None."""
    try:
        return get_worker()
    except ValueError:
        return None
