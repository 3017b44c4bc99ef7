"""Running on `distributed`: local worker processes or a running cluster. The only module that imports it."""

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from multiprocessing import resource_tracker
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Security, Worker, WorkerPlugin, default_client, get_worker
from distributed.comm import connect

from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.events import Subscriber, TaskEvent, subscribed

_TOPIC = "taskgraph-dnn"
_CONNECT_SECONDS = 10

#: Whoever reaches a scheduler can run code there, so nothing of ours listens beyond this machine. The default would;
#: and the dashboard's server starts even where it is given no address.
_LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}


def active_client() -> Client | None:
    """Return the client that `compute` would use, or None."""
    try:
        return default_client()
    except ValueError:
        return None


def thread_count(client: Client) -> int:
    """Return the threads of all workers of the client's cluster, at least 1."""
    threads: int = sum(client.nthreads().values())
    return max(1, threads)


@contextmanager
def client(scheduler: str) -> Iterator[Client]:
    """Connect to a scheduler by address, or start one with local worker processes for "processes".

    Raises:
        PlanError: the address cannot be reached.
    """
    if scheduler == "processes":
        with _interrupts_deferred():
            local = LocalCluster(n_workers=CPU_COUNT, threads_per_worker=1, silence_logs=logging.ERROR, **_LOOPBACK)
        with local, Client(local) as connected, _quiet_when_interrupted():
            yield connected
        return
    asyncio.run(_check_reachable(scheduler))
    with Client(scheduler) as connected, _quiet_when_interrupted():
        yield connected


async def _check_reachable(scheduler: str) -> None:
    """A client that cannot connect hangs the process at its exit, so nobody makes one before this has passed."""
    try:
        security = Security().get_connection_args("client")
        comm = await connect(scheduler, timeout=_CONNECT_SECONDS, **security)
        await comm.close()
    except (OSError, ValueError, TypeError, TimeoutError) as error:  # TypeError: TLS without certificates
        reason = str(error).strip() or type(error).__name__
        raise PlanError(f"cannot reach a Dask scheduler at {scheduler!r}: {reason}") from error


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
def _quiet_when_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        # What Dask was doing is now cut off, which it reports, as errors, while it closes.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise


class _ForwardEvents(WorkerPlugin):  # type: ignore[misc]
    """Sends the events that are published on a worker to the scheduler, which hands them to subscribed clients."""

    name = "taskgraph-dnn-events"

    def setup(self, worker: Worker) -> None:
        def forward(event: TaskEvent) -> None:
            if _current_worker() == worker:  # several workers may share a process
                worker.log_event(_TOPIC, {"event": asdict(event) | {"counts": event.counts.tolist()}})

        self._open = ExitStack()
        self._open.enter_context(subscribed(forward))

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002
        self._open.close()


def _current_worker() -> Any:
    try:
        return get_worker()
    except ValueError:
        return None


#: A client takes one handler for a topic; these are the subscribers that ours passes events on to.
_watchers: WeakKeyDictionary[Client, list[Subscriber]] = WeakKeyDictionary()


@contextmanager
def watching(client: Client, subscriber: Subscriber) -> Iterator[None]:
    """Call `subscriber` with the events of all tasks that end on the client's workers while the context is open.

    The workers go on sending events afterwards; other clients may be watching.
    """
    watchers = _watchers.setdefault(client, [])
    if not watchers:
        client.register_plugin(_ForwardEvents())
        client.subscribe_topic(_TOPIC, partial(_receive, watchers))
    watchers.append(subscriber)
    try:
        yield
    finally:
        watchers.remove(subscriber)
        if not watchers:
            client.unsubscribe_topic(_TOPIC)


def _receive(watchers: list[Subscriber], stamped: tuple[Any, dict[str, Any]]) -> None:
    told = stamped[1]["event"]  # nested, because Dask adds a "worker" of its own
    event = TaskEvent(**told | {"counts": np.array(told["counts"], np.int64).reshape(-1, 3)})
    for watcher in tuple(watchers):
        watcher(event)


def not_on_a_worker(subscriber: Subscriber) -> Subscriber:
    """Return a subscriber that leaves out what is published by workers of this process; `watching` hears those."""
    return lambda event: subscriber(event) if _current_worker() is None else None
