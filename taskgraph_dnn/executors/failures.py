"""Dask's errors in this package's words: which layers of which partition, what they need, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dask.utils import format_bytes
from distributed import CancelledError, Client, KilledWorker
from distributed.client import ClosedClientError
from distributed.comm import CommClosedError
from distributed.scheduler import NoValidWorkerError, NoWorkerError

from taskgraph_dnn.errors import ClusterError
from taskgraph_dnn.plan import Plan


def check_fits(client: Client, plan: Plan) -> None:
    """Check that no worker would need more memory than it may have, if all its threads computed the largest task.

    Workers without a limit, and those that are yet to come, are not looked at.

    Raises:
        ClusterError: a worker would.
    """
    tasks = len(plan.partitions) + plan.merged
    for address, worker in sorted(client.scheduler_info(n_workers=-1)["workers"].items()):
        limit, at_once = worker["memory_limit"], min(worker["nthreads"], tasks)
        if 0 < limit < at_once * plan.largest_task_nbytes:
            raise ClusterError(
                f"worker {address} may have {format_bytes(limit)} of memory (its memory limit), but the "
                f"{at_once} largest tasks that its threads run at once need {_need(plan)} each, "
                f"{format_bytes(at_once * plan.largest_task_nbytes)} in all: use {_less_memory(limit // at_once)}"
            )


@contextmanager
def explained(plan: Plan) -> Iterator[None]:
    """Turn the errors with which Dask gives up a run of `plan` into ours; those that tasks raise stay as they are.

    Raises:
        ClusterError: workers died, ran out of memory or are missing; the scheduler is gone; the run was cancelled.
    """
    try:
        yield
    except KilledWorker as error:
        raise ClusterError(
            f"workers died {error.allowed_failures + 1} times while they ran {_task(error.task, plan)}, the last one "
            f"at {error.last_worker.address}. Most often memory runs out: a task of this plan needs up to "
            f"{_need(plan)}, and a worker holds weights and results besides. Use {_less_memory()}. "
            "The workers' logs say how they ended."
        ) from error
    except (NoValidWorkerError, NoWorkerError) as error:
        raise ClusterError(
            f"no worker that may run {_task(error.task, plan)} came within {error.timeout:g} s "
            "(distributed.scheduler.no-workers-timeout): start workers, and run again"
        ) from error
    except MemoryError as error:
        raise ClusterError(
            f"a task ran out of memory, or what took its result did: {error or 'MemoryError'}. A task of this plan "
            f"needs up to {_need(plan)}. Use {_less_memory()}."
        ) from error
    except CancelledError as error:
        raise ClusterError(_cancelled(error)) from error
    except (CommClosedError, ClosedClientError) as error:
        raise ClusterError(f"{_LOST} ({error})") from error


_LOST = "the connection to the scheduler was lost, and the run with it: see whether the scheduler still runs, and why"


def _cancelled(error: CancelledError) -> str:
    reason = getattr(error, "reason", "unknown")
    if reason == "scheduler-connection-lost":
        return _LOST
    return f"the run was cancelled on the cluster: {reason}"


def _need(plan: Plan) -> str:
    return f"{format_bytes(plan.largest_task_nbytes)} for activations"


def _less_memory(fitting: int | None = None) -> str:
    smaller = "" if fitting is None else f" (at most {format_bytes(fitting)})"
    return (
        f"more partitions, a smaller taskgraph-dnn.partition-bytes{smaller}, fewer threads for each worker, "
        "or more memory for it"
    )


def _task(key: Any, plan: Plan) -> str:
    """Return what a task computes, by its key; layers are numbered as in the plan's table."""
    match key:
        case (str(name), int(stop), int(partition)) if name.startswith("layers-"):
            first = next((start for start, end in plan.spans if end == stop), stop - 1)
            numbers = f"{first + 1 - plan.folds_inputs} to {stop - plan.folds_inputs}"
            return f"layers {numbers} of partition {partition}"
        case (str(name), int(partition)) if name.startswith("inputs-"):
            return f"the input of partition {partition}"
    return f"task {key!r}"
