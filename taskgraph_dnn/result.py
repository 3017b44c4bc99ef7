"""The answer of a run, and what it took."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.events import TaskEvent
from taskgraph_dnn.plan import Plan
from taskgraph_dnn.spans import Finished


@dataclass(frozen=True)
class Seconds:
    """Where the time of a run went.

    Attributes:
        read: reading or generating the network and the samples, where this package did it.
        prepare: validating, planning, and, summed over tasks, loading and packing weights and compiling kernels.
        infer: from the start of the first task to the end of the last, from the rows of input to the rows of output.
    """

    read: float
    prepare: float
    infer: float

    def __str__(self) -> str:
        return f"read {self.read:.3g} s, prepare {self.prepare:.3g} s, infer {self.infer:.3g} s"


@dataclass(frozen=True, eq=False)
class Result:
    """The answer of a run.

    Attributes:
        outputs: the last layer's activations, CSR, samples x outputs, of the plan's dtype.
        seconds: reading, preparing and inferring, apart.
        plan: how it was run.
        events: one for each task, by partition and layer.
    """

    outputs: scipy.sparse.csr_array
    seconds: Seconds
    plan: Plan
    events: tuple[TaskEvent, ...]

    @cached_property
    def categories(self) -> NDArray[np.int64]:
        """Numbers, from 0 and ascending, of the samples that have a nonzero output (the challenge's answer)."""
        return np.flatnonzero(np.diff(self.outputs.indptr)).astype(np.int64)

    @property
    def samples(self) -> int:
        """Samples of the batch."""
        return int(self.outputs.shape[0])

    @property
    def edges(self) -> int:
        """Samples x edges of the network: the challenge's measure of the work."""
        return self.samples * self.plan.nnz

    @property
    def edges_per_second(self) -> float:
        """`edges` by the seconds of inference; 0 where there was nothing to do."""
        return self.edges / self.seconds.infer if self.seconds.infer > 0 else 0.0

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds that were done."""
        return sum(event.multiply_adds for event in self.events)

    def __repr__(self) -> str:
        return (
            f"Result({self.samples:,} samples x {self.outputs.shape[1]:,} outputs, "
            f"{len(self.categories):,} categories; {self.seconds}; {self.edges_per_second:.3g} edges/s)"
        )


def collect(partitions: Sequence[Finished], plan: Plan, read_seconds: float, prepare_seconds: float) -> Result:
    """Join the finished partitions, in order, to a result."""
    events = tuple(event for partition in partitions for event in partition.events)
    if partitions:
        outputs = scipy.sparse.vstack([partition.outputs for partition in partitions], format="csr")
    else:
        outputs = scipy.sparse.csr_array((0, plan.layers[-1].outputs), dtype=plan.dtype)
    seconds = Seconds(
        read=read_seconds,
        prepare=prepare_seconds + sum(event.prepare_seconds for event in events),
        infer=max((e.end for e in events), default=0.0) - min((e.start for e in events), default=0.0),
    )
    return Result(outputs, seconds, plan, events)
