"""Events of a cluster's tasks, told to this process: how a progress bar moves."""

import json
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Client, Worker, WorkerPlugin
from distributed.client import ClosedClientError

from taskgraph_dnn.events import Subscriber, TaskEvent, subscribed
from taskgraph_dnn.executors.cluster import current_worker

_TOPIC = "taskgraph-dnn"


class _ForwardEvents(WorkerPlugin):  # type: ignore[misc]
    """Sends the events that are published on a worker to the scheduler, which hands them to subscribed clients."""

    name = "taskgraph-dnn-events"

    def setup(self, worker: Worker) -> None:
        def forward(event: TaskEvent) -> None:
            if current_worker() == worker:  # several workers may share a process
                worker.log_event(_TOPIC, {"event": _small(event)})

        self._open = ExitStack()
        self._open.enter_context(subscribed(forward))

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002
        self._open.close()


def _small(event: TaskEvent) -> bytes:
    """Return an event as few bytes: Dask keeps the last thousand in each process that they pass."""
    return zlib.compress(json.dumps(event.to_dict()).encode())


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
            with suppress(ClosedClientError):  # the scheduler is gone; what ended the run says so
                client.unsubscribe_topic(_TOPIC)


def _receive(watchers: list[Subscriber], stamped: tuple[Any, dict[str, Any]]) -> None:
    told = stamped[1]["event"]  # nested, because Dask adds a "worker" of its own
    event = TaskEvent.from_dict(json.loads(zlib.decompress(told)))
    for watcher in tuple(watchers):
        watcher(event)


def not_on_a_worker(subscriber: Subscriber) -> Subscriber:
    """Return a subscriber that leaves out what is published by workers of this process; `watching` hears those."""
    return lambda event: subscriber(event) if current_worker() is None else None
