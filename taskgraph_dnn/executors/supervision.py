"""A run on a cluster, waited for as long as somebody gets on with it."""

import asyncio
import concurrent.futures
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from dask.utils import format_time
from distributed import Client, Future, futures_of

from taskgraph_dnn.config import cluster_settings
from taskgraph_dnn.executors.failures import SILENCE
from taskgraph_dnn.plan import Plan

#: A task that takes so many times as long as the longest was expected to is no silence.
_PATIENCE = 10

_LOOK_SECONDS = 5.0

_log = logging.getLogger(__name__)


def supervised(client: Client, plan: Plan) -> Callable[..., Any]:
    """Return what Dask's `compute` takes as a scheduler: `client.get`, cancelled when nothing happens any more."""
    seconds = max(cluster_settings().silence, _PATIENCE * plan.longest_task_seconds)
    if math.isinf(seconds):
        return client.get  # type: ignore[no-any-return]

    def get(expr: Any, keys: Sequence[Any], **kwargs: Any) -> Any:
        waiting = client.get(expr, keys, sync=False, **kwargs)
        futures = futures_of(waiting)
        try:
            with _watched(client, futures, seconds):
                return client.gather(waiting)
        finally:
            for future in futures:  # by an error or Ctrl-C, too: nothing of the run stays on the cluster
                future.release()

    return get


@contextmanager
def _watched(client: Client, futures: Sequence[Future], seconds: float) -> Iterator[None]:
    watch = asyncio.run_coroutine_threadsafe(_watch(client, futures, seconds), client.loop.asyncio_loop)
    watch.add_done_callback(_log_failure)
    try:
        yield
    finally:
        watch.cancel()


def _log_failure(watch: concurrent.futures.Future[None]) -> None:
    """Looking at a run must not break it."""
    if not watch.cancelled() and watch.exception() is not None:
        _log.error("nobody looks any more whether the run makes progress", exc_info=watch.exception())


async def _watch(client: Client, futures: Sequence[Future], seconds: float) -> None:
    """Cancel the futures when what leads to them has stood still for so many seconds."""
    clock = asyncio.get_running_loop().time
    found: _Standing | None = None
    seen: dict[str, dict[str, int]] = {}
    since = clock()
    while clock() - since < seconds:
        await asyncio.sleep(min(_LOOK_SECONDS, seconds / 10))
        found = await _ask(client, [future.key for future in futures], seconds)
        done = all(future.done() for future in futures)  # the result is on its way
        if done or (found is not None and found.tasks != seen):
            since = clock()
        seen = seen if found is None else found.tasks
    await client.cancel(futures, reason=SILENCE, msg=_silent(found, seconds))


class _Standing(NamedTuple):
    """How many tasks of each group are in which state, and how many workers in which."""

    tasks: dict[str, dict[str, int]]
    workers: dict[str, int]


async def _ask(client: Client, keys: Sequence[Any], seconds: float) -> _Standing | None:
    """Return how things stand, or None where the scheduler does not answer."""
    try:
        async with asyncio.timeout(seconds):
            found: _Standing = await client.run_on_scheduler(_standing, keys)
            return found
    except (OSError, TimeoutError):
        return None


def _standing(keys: Sequence[Any], dask_scheduler: Any = None) -> _Standing:
    """Return how the tasks that lead to `keys` stand. Runs on the scheduler; groups are few, tasks may be a million."""
    groups, new = set(), {dask_scheduler.tasks[key].group for key in keys if key in dask_scheduler.tasks}
    while new:
        groups |= new
        new = {before for group in new for before in group.dependencies} - groups
    states = [worker.status.name for worker in dask_scheduler.workers.values()]
    return _Standing({group.name: dict(group.states) for group in groups}, dict(Counter(states)))


def _silent(standing: _Standing | None, seconds: float) -> str:
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
