"""A run on a cluster: its partitions are taken as they finish, for as long as somebody gets on with it."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dask.utils import format_time
from distributed import Client, Future

from taskgraph_dnn.config import cluster_settings
from taskgraph_dnn.errors import ClusterError
from taskgraph_dnn.executors.sharing import shared
from taskgraph_dnn.plan import Plan

#: A task that takes so many times as long as the longest was expected to is no silence.
_PATIENCE = 10

_LOOK_SECONDS = 5.0

_log = logging.getLogger(__name__)


def patience(longest_task_seconds: float) -> float:
    """Return for how many seconds a run may be without any task that begins or ends."""
    return max(cluster_settings().silence, _PATIENCE * longest_task_seconds)


def supervised(client: Client, plan: Plan) -> Callable[..., Any]:
    """Return what runs the partitions of an inference and returns them, each taken as it finishes.

    A worker that dies takes no partition with it that was finished before, and the cluster's memory does not fill.
    """
    seconds = patience(plan.longest_task_seconds)

    def run(partitions: Any, **kwargs: Any) -> Sequence[Any]:
        with shared(client, partitions) as given:
            futures = client.get(given, given.__dask_keys__(), sync=False, **kwargs)
            try:
                finished: Sequence[Any] = client.sync(_taken, client, futures, seconds)
            finally:
                for future in futures:  # by an error or Ctrl-C, too: nothing of the run stays on the cluster
                    future.release()
        return finished

    return run


async def _taken(client: Client, futures: Sequence[Future], seconds: float) -> list[Any]:
    """Return the values of futures, in their order, each fetched and released when it is there.

    Raises:
        ClusterError: what leads to them has stood still for so many seconds.
    """
    taking = asyncio.gather(*(_take(client, future) for future in futures))
    watch = asyncio.create_task(_watch(client, futures, seconds))
    try:
        await asyncio.wait((taking, watch), return_when=asyncio.FIRST_COMPLETED)
        if not taking.done() and watch.exception() is None:
            raise ClusterError(watch.result())
        if not taking.done():  # looking at a run must not break it
            _log.error("nobody looks any more whether the run makes progress", exc_info=watch.exception())
        return await taking
    finally:
        watch.cancel()
        # Dask complains of requests that are cancelled, so these are left to end with the futures.
        taking.add_done_callback(lambda left: left.cancelled() or left.exception())


async def _take(client: Client, future: Future) -> Any:
    value = await client.gather(future, asynchronous=True)  # Dask makes a few requests of many
    future.release()
    return value


async def _watch(client: Client, futures: Sequence[Future], seconds: float) -> str:
    """Return how things stand once what leads to the futures has stood still for so many seconds."""
    progress = Progress(seconds)
    while not progress.silent:
        await asyncio.sleep(min(_LOOK_SECONDS, seconds / 10))
        found = await _ask(client, [future.key for future in futures if not future.done()], seconds)
        done = all(future.done() for future in futures)  # the last values are on their way
        progress.look(found, moving=done)
    return str(progress)


class Standing(NamedTuple):
    """How many tasks of each group are in which state, and how many workers in which."""

    tasks: dict[str, dict[str, int]]
    workers: dict[str, int]


class Progress:
    """Whether a run gets on, by how its tasks stand from look to look.

    Attributes:
        seconds: after so many of them without a change it does not.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._since = time.monotonic()
        self._tasks: dict[str, dict[str, int]] = {}
        self._found: Standing | None = None

    def look(self, found: Standing | None, *, moving: bool = False) -> None:
        """Take note of how things stand now; None where nobody answers. What is `moving` gets on in any case."""
        if moving or (found is not None and found.tasks != self._tasks):
            self._since = time.monotonic()
        if found is not None:
            self._tasks = found.tasks
        self._found = found

    @property
    def silent(self) -> bool:
        """Whether nothing has changed for so long."""
        return time.monotonic() - self._since >= self.seconds

    def __str__(self) -> str:
        return _silent(self._found, self.seconds)


async def _ask(client: Client, keys: Sequence[Any], seconds: float) -> Standing | None:
    """Return how things stand, or None where the scheduler does not answer."""
    try:
        async with asyncio.timeout(seconds):
            found: Standing = await client.run_on_scheduler(standing, keys)
            return found
    except (OSError, TimeoutError):
        return None


def standing(keys: Sequence[Any], dask_scheduler: Any = None) -> Standing:
    """Return how the tasks that lead to `keys` stand. Runs on the scheduler; groups are few, tasks may be a million."""
    groups, new = set(), {dask_scheduler.tasks[key].group for key in keys if key in dask_scheduler.tasks}
    while new:
        groups |= new
        new = {before for group in new for before in group.dependencies} - groups
    states = [worker.status.name for worker in dask_scheduler.workers.values()]
    return Standing({group.name: dict(group.states) for group in groups}, dict(Counter(states)))


def _silent(standing: Standing | None, seconds: float) -> str:
    silence = f"no task of the run began or ended for {format_time(seconds)} (taskgraph-dnn.cluster.silence)"
    if standing is None:
        return f"{silence}, and the scheduler does not answer: see whether it still runs"
    states = ("processing", "waiting", "queued", "no-worker")
    counts = {state: sum(group[state] for group in standing.tasks.values()) for state in states}
    tasks = ", ".join(f"{count:,} {state}" for state, count in counts.items())
    there = ", ".join(f"{count} {state}" for state, count in sorted(standing.workers.items())) or "none"
    advice = (
        "paused workers wait for memory (give them more, or use more partitions); a running one may have stopped "
        "to answer: see its log. If tasks may take that long, raise the setting"
        if standing.workers
        else "start workers, and run again"
    )
    return f"{silence}: tasks {tasks}; workers {there}; {advice}"
