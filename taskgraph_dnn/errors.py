"""The exceptions of the package.

Every error that bad input can cause is a `TaskgraphError`, so one `except` clause catches them all. A message names the
place (file and line, layer, sample) and both values: what was found and what was expected.
"""


class TaskgraphError(Exception):
    """Base class of every error that this package raises on purpose."""


class FileError(TaskgraphError):
    """A file is missing, damaged, not what its reader expects, or cannot be written."""


class NetworkError(TaskgraphError):
    """A layer, or how layers fit together, is not valid."""


class InputError(TaskgraphError):
    """Input samples do not fit the network or hold values that are no numbers."""


class PlanError(TaskgraphError):
    """An option of a run is unknown or out of range."""


class KernelError(TaskgraphError):
    """A kernel is unknown or cannot run here."""


class ClusterError(TaskgraphError):
    """A cluster cannot hold a run, or lost it: workers died, nobody got on with it, the scheduler is gone."""


class CheckpointError(TaskgraphError):
    """A checkpoint is damaged, of another run or in the way, or cannot be written."""


class DumpError(TaskgraphError):
    """A task graph cannot be written as asked."""


class MissingDependencyError(TaskgraphError):
    """An optional package that this function needs is not installed."""

    @classmethod
    def of(cls, purpose: str, package: str, extra: str) -> "MissingDependencyError":
        """Return the error that says what to install."""
        return cls(f"{purpose} needs {package}, which is not installed: pip install 'taskgraph-dnn[{extra}]'")


class JobError(TaskgraphError):
    """A job on a cluster is unknown, unfinished, failed or lost, or cannot get the name it was to have."""


class AbandonedError(TaskgraphError):
    """A task ended early, because nobody waits for its run any more."""


class UnprotectedSchedulerWarning(UserWarning):
    """A scheduler was reached over a network without TLS."""
