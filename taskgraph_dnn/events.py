"""What happened during a run: one frozen event for each task, and who wants to hear of it.

Every task of the graph ends by making a `TaskEvent`. The event takes two ways at once: it travels with the task's
result, so a finished run holds the exact history of what produced it (a task that a lost worker took with it leaves no
trace, its replay does); and it is published to the subscribers of this process, which is how a progress bar moves.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One task, from start to end.

    Attributes:
        run: the run's token; events of several runs may reach one subscriber.
        partition: the batch partition, from 0.
        first_layer, last_layer: the layers that the task computed, from 1, both included.
        worker: the thread, or the worker process and thread, that ran it.
        prepare_seconds: spent on reading samples from files, loading and packing weights and compiling kernels, or on
            waiting for another task that did.
        start, end: seconds since the epoch, of the machine that ran it.
        samples: samples that the task was given, each of those counted that were folded into another one.
        nbytes: bytes of the activations that the task returned.
        counts: layers x 3: after each layer, the samples that have a nonzero output, folded ones counted; the samples
            that are still carried, folded ones not counted; and the multiply-adds done.
        hits, misses, read_nbytes, stall_seconds: what it took to get at the weights, as of `Weights`.
        attempt: of the run, from 0; each time that it is resumed from a checkpoint is one more.
    """

    run: str
    partition: int
    first_layer: int
    last_layer: int
    worker: str
    prepare_seconds: float
    start: float
    end: float
    samples: int
    nbytes: int
    counts: NDArray[np.int64] = field(compare=False)
    hits: int = 0
    misses: int = 0
    read_nbytes: int = 0
    stall_seconds: float = 0.0
    attempt: int = 0

    @property
    def seconds(self) -> float:
        """Seconds of computing, preparation apart."""
        return self.end - self.start - self.prepare_seconds

    @property
    def alive(self) -> int:
        """How many of the samples have a nonzero output after the last layer."""
        return int(self.counts[-1, 0])

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds that the task did."""
        return int(self.counts[:, 2].sum())

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return asdict(self) | {"counts": self.counts.tolist()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TaskEvent":
        """Return the event that `to_dict` made these values of."""
        return cls(**values | {"counts": np.array(values["counts"], np.int64).reshape(-1, 3)})


Subscriber = Callable[[TaskEvent], None]

_subscribers: list[Subscriber] = []
_log = logging.getLogger(__name__)


def publish(event: TaskEvent) -> None:
    """Hand the event to every subscriber of this process, in the thread that ran the task.

    A subscriber that fails is logged: looking at a run must not break it.
    """
    for subscriber in tuple(_subscribers):
        try:
            subscriber(event)
        except Exception:
            _log.exception("a subscriber to task events failed")


@contextmanager
def subscribed(subscriber: Subscriber) -> Iterator[None]:
    """Call `subscriber` with every event published in this process while the context is open."""
    _subscribers.append(subscriber)
    try:
        yield
    finally:
        _subscribers.remove(subscriber)
