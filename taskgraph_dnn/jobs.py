"""Jobs: inferences that run on a cluster under a name, by which any process finds them again.

    submit ──> published on the scheduler ──> status, result ──> cancel

A job is two of Dask's published datasets. One is the persisted inference: as long as it is published, the scheduler
keeps its tasks and their results, whoever comes and goes. The other is the `Submission`, plain values. To look at a job
is to read that one and to ask the scheduler about the keys in it. So nobody who looks, or waits, holds futures, which
would keep a job running that somebody else cancels.

All functions speak to the cluster of the active `distributed.Client`.
"""

import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import taskgraph_dnn
from taskgraph_dnn.errors import JobError, TaskgraphError
from taskgraph_dnn.inference import Inference
from taskgraph_dnn.io import Progress
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan
from taskgraph_dnn.result import Result

_NAME = re.compile(r"[A-Za-z0-9._-]+")

#: What the datasets' names begin with.
_INFERENCE, _SUBMISSION = "taskgraph-dnn/", "taskgraph-dnn-submission/"

_UNFINISHED = ("waiting", "running")
_POLL_SECONDS = 0.5
_ERROR_SECONDS = 10

_LOST = "the cluster was restarted, or somebody cancelled its tasks; cancel the job and submit it again"


@dataclass(frozen=True)
class Submission:
    """What was submitted.

    Attributes:
        name: of the job.
        submitted: when, in seconds since the epoch.
        version: of the package that submitted it.
        samples, layers, edges: of the batch and the network.
        tasks: of all partitions.
        longest_task_seconds: what the longest of them is expected to take.
        strategy, reductions: as of the plan.
        keys: of the partitions' last tasks.
    """

    name: str
    submitted: float
    version: str
    samples: int
    layers: int
    edges: int
    tasks: int
    longest_task_seconds: float
    strategy: str
    reductions: tuple[str, ...]
    keys: tuple[Any, ...]

    @property
    def since(self) -> str:
        """When it was submitted, in local time."""
        return datetime.fromtimestamp(self.submitted).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@dataclass(frozen=True)
class Status:
    """How far a job is.

    Attributes:
        submission: what was submitted.
        state: "waiting" (no worker has any of its tasks), "running", "finished", "failed", or "lost" (the cluster does
            not know its tasks any more).
        done: partitions that are finished.
        workers: addresses of the workers that have tasks of it now.
        error: why it failed or is lost; else empty.
    """

    submission: Submission
    state: str
    done: int
    workers: tuple[str, ...]
    error: str

    @property
    def partitions(self) -> int:
        """All partitions, merged ones too."""
        return len(self.submission.keys)

    @property
    def unfinished(self) -> bool:
        """Whether there is something to wait for."""
        return self.state in _UNFINISHED

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        described = asdict(self.submission)
        del described["keys"]
        progress = {"state": self.state, "done": self.done, "partitions": self.partitions}
        return described | progress | {"workers": list(self.workers), "error": self.error}

    def __str__(self) -> str:
        return f"{self.state}, {self.done:,} of {self.partitions:,} partitions done"


def submit(inference: Inference, name: str) -> Submission:
    """Start an inference on the cluster under a name, and return at once.

    The cluster keeps it, and its result, until it is cancelled.

    Raises:
        JobError: the name is not valid, or in use; or a worker cannot read the network's file.
        ClusterError: a worker has too little memory for the plan.
        CheckpointError: a worker does not see the inference's checkpoint.
    """
    check_free(name)
    client, plan = _client(), inference.plan
    _check_readable(client, getattr(inference.expr, "network", None))
    submission = Submission(
        name=name,
        submitted=time.time(),
        version=taskgraph_dnn.__version__,
        samples=plan.samples,
        layers=plan.depth,
        edges=plan.edges,
        tasks=plan.tasks,
        longest_task_seconds=plan.longest_task_seconds,
        strategy=plan.strategy,
        reductions=plan.reductions,
        keys=tuple(inference.__dask_keys__()),
    )
    started = inference.persist()
    try:
        client.publish_dataset({_SUBMISSION + name: submission, _INFERENCE + name: started})
    except KeyError:  # somebody was faster
        check_free(name)
        raise
    return submission


def check_free(name: str) -> None:
    """Check that a job can get this name; call it before long work.

    Raises:
        JobError: the name is not valid, or in use.
    """
    if not _NAME.fullmatch(name):
        raise JobError(f"a job cannot be called {name!r}: expected letters from A to Z, digits, and . _ -")
    for job in statuses():
        if job.submission.name == name:
            raise JobError(
                f"there is a job {name!r} since {job.submission.since} ({job}): cancel it, or take another name"
            )


def statuses() -> list[Status]:
    """Return how far all jobs of the cluster are, by name."""
    client = _client()
    return _statuses(client, _names(client))


def status(name: str) -> Status:
    """Return how far a job is.

    Raises:
        JobError: there is no such job.
    """
    client = _client()
    for found in _statuses(client, [name]):
        return found
    raise _unknown(client, name)


def result(name: str, *, timeout: float | None = None, report: Progress | None = None) -> Result:
    """Return the result of a job, once it is finished; the cluster keeps it.

    Args:
        name: of the job.
        timeout: seconds to wait for it; None for as long as it takes.
        report: called with the partitions that are finished and all of them, while it waits.

    Raises:
        JobError: there is no such job, it failed or is lost, or it is not finished by then; or nobody gets on with it
            for `taskgraph-dnn.cluster.silence`.
    """
    client = _client()
    job = _ended(client, name, math.inf if timeout is None else timeout, report)
    if job.error:
        raise JobError(f"job {name!r}: {job}; {job.error}")
    inference: Inference | None = client.get_dataset(_INFERENCE + name, default=None)
    if inference is None:  # cancelled in the meantime
        raise _unknown(client, name)
    return inference.compute()


def _ended(client: Any, name: str, timeout: float, report: Progress | None) -> Status:
    """Wait until there is nothing to wait for any more, and return how far the job is then."""
    from taskgraph_dnn.executors import supervision

    limit, job = time.monotonic() + timeout, status(name)
    progress = supervision.Progress(supervision.patience(job.submission.longest_task_seconds))
    while job.unfinished:
        if report is not None:
            report(job.done, job.partitions)
        if time.monotonic() >= limit:
            raise JobError(f"job {name!r}: {job}")
        progress.look(client.run_on_scheduler(supervision.standing, job.submission.keys))
        if progress.silent:
            raise JobError(f"job {name!r}: {job}; {progress}")
        time.sleep(max(0.0, min(_POLL_SECONDS, limit - time.monotonic())))
        job = status(name)
    return job


def cancel(name: str) -> Status:
    """Take a job and its result from the cluster, and return how far it was.

    A task that a worker has begun ends before its next layer. Tasks that another job, or somebody else, wants as well
    go on.

    Raises:
        JobError: there is no such job.
    """
    before = status(name)
    _client().unpublish_dataset([_SUBMISSION + name, _INFERENCE + name])
    return before


def _client() -> Any:
    from taskgraph_dnn.executors import cluster

    client = cluster.active_client()
    if client is None:
        raise JobError("jobs are on a cluster: connect to it first, with distributed.Client(ADDRESS)")
    return client


def _names(client: Any) -> list[str]:
    datasets = [dataset for dataset in client.list_datasets() if isinstance(dataset, str)]
    return [dataset.removeprefix(_SUBMISSION) for dataset in datasets if dataset.startswith(_SUBMISSION)]


def _unknown(client: Any, name: str) -> JobError:
    known = ", ".join(_names(client))
    return JobError(f"there is no job {name!r} on this cluster, {f'but {known}' if known else 'nor any other'}")


def _check_readable(client: Any, network: Any) -> None:
    """Check that the workers of now find the file that they are to read the network from."""
    if network is None or isinstance(network, Network):  # it travels with the job
        return
    from taskgraph_dnn.executors import cluster

    for worker, error in cluster.failures_on_workers(client, _open, network).items():
        raise JobError(f"worker {worker} cannot read the network: {error}")


def _open(network: Any) -> None:
    network.open()


def _statuses(client: Any, names: Sequence[str]) -> list[Status]:
    """Return how far these jobs are; those that are not there are left out."""
    datasets = client.get_dataset([_SUBMISSION + name for name in names], default=None)
    submissions = [found for found in datasets if found is not None]
    found = client.run_on_scheduler(_progress_of_all, [submission.keys for submission in submissions])
    return [_status(client, *each) for each in zip(submissions, found, strict=True)]


def _status(client: Any, submission: Submission, found: "_Progress") -> Status:
    error = _LOST if found.state == "lost" else ""
    if found.failed is not None:
        error = _failure(client, submission.name, *found.failed)
    return Status(submission, found.state, found.done, found.workers, error)


def _failure(client: Any, name: str, last: Any, blamed: Any) -> str:
    """Return why task `blamed` failed, and with it `last`, the last one of its partition."""
    inference = client.get_dataset(_INFERENCE + name, default=None)
    if inference is None:  # cancelled in the meantime
        return "it was cancelled, too"
    error = inference.__dask_graph__()[last].exception(timeout=_ERROR_SECONDS)
    return f"{_place(blamed, inference.plan.folds_inputs)}: {_explanation(error, inference.plan)}"


def _explanation(error: Exception, plan: Plan) -> str:
    from taskgraph_dnn.executors.failures import explained

    try:
        with explained(plan):
            raise error
    except TaskgraphError as known:
        return str(known)
    except Exception:
        return f"{type(error).__name__}: {error}"


def _place(key: Any, folds_inputs: bool) -> str:
    match key:
        case (_, int(stop), int(partition)):
            return f"partition {partition}, in the span that ends at layer {stop - folds_inputs}"
        case (_, int(partition)):
            return f"the samples of partition {partition}"
    return f"task {key}"


@dataclass(frozen=True)
class _Progress:
    """What the scheduler says of a job."""

    state: str
    done: int
    workers: tuple[str, ...]
    failed: tuple[Any, Any] | None  # the last task of a partition that failed, and the task that is to blame


def _progress_of_all(jobs: Sequence[Sequence[Any]], dask_scheduler: Any) -> list[_Progress]:
    """Return how far jobs are, by the keys of their partitions' last tasks; this runs on the scheduler."""
    workers = dask_scheduler.workers.values()
    return [_progress([dask_scheduler.tasks.get(key) for key in keys], workers) for keys in jobs]


def _progress(tasks: Sequence[Any], workers: Iterable[Any]) -> _Progress:
    groups = {task.group_key for task in tasks if task is not None}
    busy = [worker.address for worker in workers if any(task.group_key in groups for task in worker.processing)]
    states = ["lost" if task is None else task.state for task in tasks]
    done = states.count("memory")
    failed = next(((task.key, task.exception_blame.key) for task in tasks if task and task.state == "erred"), None)
    if failed is not None:
        state = "failed"
    elif "lost" in states:
        state = "lost"
    elif done == len(tasks):
        state = "finished"
    else:
        state = "running" if busy else "waiting"
    return _Progress(state, done, tuple(sorted(busy)), failed)
