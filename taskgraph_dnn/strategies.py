"""How layers are cut into spans, and which worker takes which of them: the decompositions of the literature.

Spans end where a network can be cut: what is a layer here is a segment where layers read several others.

A worker is a process of a cluster; where all threads are of one process, each thread counts as one. A place is a
preference: a free worker may take what waits for a busy one, and a lost worker's tasks go to the others.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

Spans = tuple[tuple[int, int], ...]

#: Where samples may be dropped, the first span is to last so many times as long as others do.
_FIRST = 10

#: Each worker thread gets at least so many partitions: so that one slow partition does not leave the others idle, and
#: in a pipeline, whose first and last partitions find most stages empty (Huang et al., GPipe, NeurIPS 2019), so many
#: that this costs a tenth, if they last long enough.
_PARTITIONS, _PIPELINED = 2, 8


@dataclass(frozen=True)
class Strategy:
    """A decomposition.

    Attributes:
        spans: `spans(seconds, lasting, growing, workers)` cuts layers that are expected to take so many seconds each:
            a span is to last so long, or longer and longer where samples may be dropped on the way.
        stays: what stays on a worker: "span", "partition", or "" if any task may run on any.
        partitions_per_thread: so many, as long as each of them lasts long enough.
    """

    spans: Callable[[Sequence[float], float, bool, int], Spans]
    stays: str = ""
    partitions_per_thread: int = _PARTITIONS

    def partitions(self, seconds: float, lasting: float, threads: int) -> int:
        """Return into how many partitions to cut a batch at least, where all of it takes so many seconds.

        Args:
            seconds: of one thread, for all samples and layers.
            lasting: a task is to last so long.
            threads: worker threads.
        """
        return max(_PARTITIONS * threads, int(min(self.partitions_per_thread * threads, seconds / lasting)))


def _hybrid_spans(seconds: Sequence[float], lasting: float, growing: bool, workers: int) -> Spans:  # noqa: ARG001
    """Group layers until a task lasts long enough that scheduling stays small beside it.

    Where samples may be dropped on the way, what is left of a partition is best handed on late, and later tasks may
    have next to nothing to do: the first span lasts longer, and each may last twice as long as the one before.
    """
    edges, running = [0], 0.0
    lasting *= _FIRST if growing else 1
    for layer, layer_seconds in enumerate(seconds):
        if running >= lasting:
            edges.append(layer)
            running = 0.0
            lasting *= 2 if growing else 1
        running += layer_seconds
    if running < lasting / 2 and len(edges) > 1:
        edges.pop()  # what is left is too little for a task of its own
    return tuple(pairwise([*edges, len(seconds)]))


def _data_spans(seconds: Sequence[float], lasting: float, growing: bool, workers: int) -> Spans:  # noqa: ARG001
    """All layers of a partition in one task: its activations never leave the worker."""
    return ((0, len(seconds)),)


def _pipeline_spans(seconds: Sequence[float], lasting: float, growing: bool, workers: int) -> Spans:  # noqa: ARG001
    """A stage for each worker; where stages would not last long enough, several workers share one.

    A stage lasts in proportion to its workers, so that all have about the same to do.
    """
    ends = list(accumulate(seconds))
    stages = max(1, int(min(workers, len(seconds), ends[-1] / lasting)))
    edges = [0]
    for stage in range(1, stages):
        nearest = bisect_left(ends, ends[-1] * stage_workers(stage, stages, workers).start / workers) + 1
        edges.append(min(max(nearest, edges[-1] + 1), len(seconds) - stages + stage))  # each stage has a layer
    return tuple(pairwise([*edges, len(seconds)]))


def stage_workers(stage: int, stages: int, workers: int) -> range:
    """Return the numbers of the workers that share a stage."""
    return range(stage * workers // stages, (stage + 1) * workers // stages)


def checkpoint_stops(spans: Spans, seconds: Sequence[float], every: float) -> tuple[int, ...]:
    """Return where those spans end after which activations are kept: `every` seconds apart, and the last one."""
    stops, running = [], 0.0
    for (_, stop), span_seconds in zip(spans, seconds, strict=True):
        running += span_seconds
        if running >= every or stop == spans[-1][1]:
            stops.append(stop)
            running = 0.0
    return tuple(stops)


#: hybrid: model and data parallelism in one graph (Lin and Huang, HPEC 2020), any ready span of any partition on any
#: free worker, Dask preferring the one that has the activations. data: each partition's whole chain on one worker
#: (Bisson and Fatica, HPEC 2019). pipeline: each worker keeps its layers, and partitions flow through (GPipe).
STRATEGIES = {
    "hybrid": Strategy(_hybrid_spans),
    "data": Strategy(_data_spans, "partition"),
    "pipeline": Strategy(_pipeline_spans, "span", _PIPELINED),
}
