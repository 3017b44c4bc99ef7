"""What workers get from those who submit to them: settings, and news of tasks that nobody waits for any more."""

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import dask.config
from dask.utils import parse_bytes
from distributed import Client, Reschedule, Worker, WorkerPlugin
from distributed.protocol.pickle import dumps

from taskgraph_dnn.config import task_settings
from taskgraph_dnn.executors.cluster import ANSWER_SECONDS, current_worker
from taskgraph_dnn.spans import Check, checked


class _Submitted(WorkerPlugin):  # type: ignore[misc]
    """Sets what the client has set, and ends tasks, before their next layer, that nobody waits for."""

    name = "taskgraph-dnn"

    def __init__(self, settings: Mapping[str, int]) -> None:
        self.settings = settings

    def setup(self, worker: Worker) -> None:
        # A process may be the client's own, where what is set already must stay when this is taken back.
        missing = {path: value for path, value in self.settings.items() if parse_bytes(dask.config.get(path)) != value}
        self._open = ExitStack()
        self._open.enter_context(dask.config.set(missing))
        self._open.enter_context(checked(partial(_check_of_task, worker)))

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002
        self._open.close()


def _check_of_task(worker: Worker) -> Check | None:
    """Return the check of the task that this thread begins; None where it is no task of this worker."""
    if current_worker() is not worker:  # several workers may share a process
        return None
    task = worker.state.tasks[worker.get_current_task()]

    def check() -> None:
        # The worker cannot stop a task. One that was released meanwhile is "cancelled", unless somebody wants it again:
        # if that news comes only now, what is raised here has the task run once more, where an error would be its end.
        if task.state == "cancelled":
            raise Reschedule

    return check


async def prepare(client: Client) -> None:
    """Give the workers of now, and those to come, what this client has set, unless they have it.

    Nobody waits long for a worker that does not answer, or is going: the scheduler has told it, and tells all others.
    """
    plugin = _Submitted(task_settings())
    with suppress(OSError):
        async with asyncio.timeout(ANSWER_SECONDS):
            if not await client.run_on_scheduler(_has, dumps(plugin)):
                await client.register_plugin(plugin)


def _has(plugin: bytes, dask_scheduler: Any) -> bool:
    return bool(dask_scheduler.worker_plugins.get(_Submitted.name) == plugin)
