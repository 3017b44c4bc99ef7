"""Running on `distributed`: local worker processes or a running cluster. The only module that imports it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Worker, WorkerPlugin, default_client

from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.events import Subscriber, TaskEvent, subscribed

_TOPIC = "taskgraph-dnn"

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
        with LocalCluster(n_workers=CPU_COUNT, threads_per_worker=1, **_LOOPBACK) as local, Client(local) as connected:
            yield connected
        return
    try:
        connected = Client(scheduler, set_as_default=False)  # as the default, a failed one would remain behind
    except (OSError, ValueError) as error:
        expected = "threads, processes, synchronous, or the address of a running Dask scheduler"
        raise PlanError(f"cannot reach a scheduler at {scheduler!r} ({error}), expected {expected}") from error
    with connected, connected.as_current():
        yield connected


class _ForwardEvents(WorkerPlugin):  # type: ignore[misc]
    """Sends the events that are published on a worker to the scheduler, which hands them to subscribed clients."""

    name = "taskgraph-dnn-events"

    def setup(self, worker: Worker) -> None:
        self._open = ExitStack()
        self._open.enter_context(subscribed(lambda event: worker.log_event(_TOPIC, {"event": asdict(event)})))

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002
        self._open.close()


@contextmanager
def watching(client: Client, subscriber: Subscriber) -> Iterator[None]:
    """Call `subscriber` with the events of all tasks that end on the client's workers while the context is open."""

    def receive(stamped: tuple[Any, dict[str, Any]]) -> None:
        subscriber(TaskEvent(**stamped[1]["event"]))  # nested, because Dask adds a "worker" of its own

    client.register_plugin(_ForwardEvents())
    client.subscribe_topic(_TOPIC, receive)
    try:
        yield
    finally:
        client.unsubscribe_topic(_TOPIC)
