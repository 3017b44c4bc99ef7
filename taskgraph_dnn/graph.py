"""From plan to task graph: the only module that knows Dask's expressions and task specification.

    inputs-TOKEN, p                        rows of partition p: data, or where its first span is to read them, or a
                                           task that maps them, or that checks a block of a Dask array; none where an
                                           earlier attempt has taken the partition on
    network-TOKEN                          the network, where it has no file that workers could read, or one for this
                                           run only
    layers-TOKEN, stop, p                  a span of layers, up to layer `stop`, of partition p, or what is kept of it;
                                           merged partitions are numbered behind the others
    left-TOKEN, stop, p                    the samples that partition p leaves to a merged one after that span
    inferenceresult-TOKEN                  all partitions, joined
    outputs-TOKEN, p, 0                    dense outputs of partition p, where somebody asks for them as a Dask array

Two expressions make it. `InferencePartitions` is what a collection holds: its keys are the last span of every
partition; `Inference.compute` asks for these, and joins them itself. `InferenceResult` is what `dask.compute` asks for,
who may compute other collections with it: one key, the joined result. An expression is sent to a cluster as it is, and
the graph is built where the scheduler runs.

The methods with underscores are Dask's expression protocol (`dask._expr.Expr`).
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import scipy.sparse
from dask._expr import Expr, HLGExpr
from dask._task_spec import DataNode, List, Task, TaskRef
from dask.highlevelgraph import HighLevelGraph
from dask.sizeof import sizeof
from dask.tokenize import tokenize

from taskgraph_dnn.checkpoints import run_kept
from taskgraph_dnn.data.stored import StoredSamples
from taskgraph_dnn.flow import Span
from taskgraph_dnn.inputs import checked_rows, row_slice
from taskgraph_dnn.io.packed import SharedFile
from taskgraph_dnn.io.rows import SharedRows
from taskgraph_dnn.matrices import sparse_nbytes
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan
from taskgraph_dnn.result import collect, scores_of
from taskgraph_dnn.spans import Finished, left_over, run_span

# Dask takes a matrix for 56 bytes, and then moves and spills blindly.
sizeof.register(scipy.sparse.csr_array, sparse_nbytes)


class _Partitions(Expr):  # type: ignore[misc]
    """Partitions of an inference, which a result joins."""

    _determ_token: str

    # Dask looks for operands where there is no attribute, which takes microseconds: much for each of 100,000 tasks.

    @property
    def plan(self) -> Plan:
        plan: Plan = self.operand("plan")
        return plan

    @property
    def token(self) -> str:
        token: str = self.operand("token")
        return token

    def __dask_tokenize__(self) -> str:
        if not self._determ_token:
            identity = type(self).__name__, self.token, self.__dask_keys__(), self.dependencies()
            self._determ_token = tokenize(*identity, ensure_deterministic=True)
        return self._determ_token

    def finalize_compute(self) -> "InferenceResult":
        """Return the expression that `dask.compute` evaluates; Dask wants it to have one key."""
        return InferenceResult(self, self.plan, self.places, self.read_seconds, self.prepare_seconds)


class InferencePartitions(_Partitions):
    """One inference, a key for each partition.

    Operands:
        network: a `Network`, or the `NetworkSource` to read it from, or the `SharedFile` that holds it for this run.
        inputs: checked rows (CSR or dense, samples x inputs) of the partitions that begin with them, or the
            `SharedRows` that hold them for this run, or the `StoredSamples` that say where all rows are to be read, or
            the expression of a Dask array with one block of all inputs for each partition.
        plan: the `Plan`.
        places: as of `Reductions`.
        workers: addresses of the workers that the plan was made for; none where nobody has an address.
        token: what the keys are named by; equal for equal networks, inputs and plans. It is not the expression's own
            token: that one changes when Dask's optimizer rewrites `inputs`, and the collection's keys must not.
        read_seconds, prepare_seconds: what came before the run, for the result; no part of the expression's name.
        checkpoint: where partitions are kept on their way; None where the plan has no checkpoints.
        reached: partitions that do not begin with their rows, and after which layer they are kept at the checkpoint.
    """

    _parameters = [  # noqa: RUF012
        *("network", "inputs", "plan", "places", "workers"),
        *("token", "read_seconds", "prepare_seconds", "checkpoint", "reached"),
    ]
    _defaults: dict[str, Any] = {"checkpoint": None, "reached": {}}  # noqa: RUF012

    def __dask_annotations__(self) -> dict[str, dict[Any, Any]]:
        """Return where tasks are to run if they can: a lost or busy worker holds nobody up."""
        if not self.workers:
            return {}
        plan, places = self.plan, {}
        for partition in range(len(plan.partitions) + plan.merged):
            for number, (_, stop) in enumerate(plan.spans):
                worker = plan.worker(number, partition)
                if worker is not None and stop >= self.reached.get(partition, 0):
                    places[self._span_key(stop, partition)] = [self.workers[worker]]
        return {"workers": places, "allow_other_workers": dict.fromkeys(places, True)} if places else {}

    def __dask_keys__(self) -> list[Any]:
        partitions = len(self.plan.partitions) + self.plan.merged
        return [self._span_key(len(self.plan.layers), p) for p in range(partitions)]

    def _span_key(self, stop: int, partition: int) -> tuple[str, int, int]:
        return (f"layers-{self.token}", stop, partition)

    def _layer(self) -> dict[Any, Any]:
        nodes = self._first_nodes()
        network: Any = self.network
        if isinstance(network, Network | SharedFile):
            node = DataNode(f"network-{self.token}", network)
            nodes.append(node)
            network = TaskRef(node.key)
        for partition in range(len(self.plan.partitions)):
            before = TaskRef(nodes[partition].key)
            for first, stop in self._spans_left(partition):
                nodes.append(self._span_task(partition, first, stop, before, network))
                before = TaskRef(nodes[-1].key)
        for merged in range(self.plan.merged):
            nodes += self._merged_nodes(merged, network)
        return {node.key: node for node in nodes}

    def _merged_nodes(self, merged: int, network: Any) -> list[Task]:
        """Return the tasks of a merged partition, which takes on what others leave after each span but the last."""
        nodes, partition = [], len(self.plan.partitions) + merged
        together: list[TaskRef] = []
        for (_, left), (first, stop) in pairwise(self.plan.spans):
            for member in self.plan.members(merged):
                before = TaskRef(self._span_key(left, member))
                nodes.append(Task((f"left-{self.token}", left, member), left_over, before, self.plan.few))
                together.append(TaskRef(nodes[-1].key))
            nodes.append(self._span_task(partition, first, stop, List(*together), network))
            together = [TaskRef(nodes[-1].key)]
        return nodes

    def _spans_left(self, partition: int) -> list[tuple[int, int]]:
        return [span for span in self.plan.spans if span[0] >= self.reached.get(partition, 0)]

    def _span_task(self, partition: int, first: int, stop: int, before: Any, network: Any) -> Task:
        key, span = self._span_key(stop, partition), self._span(partition, first, stop)
        kept = self.plan.checkpoints
        number = bisect_left(kept, stop)
        if stop not in kept[number : number + 1]:
            return Task(key, run_span, before, network, span)
        replaced = kept[number - 1] if number and kept[number - 1] > self.reached.get(partition, 0) else None
        return Task(key, run_kept, before, network, span, self.checkpoint, replaced)

    def _first_nodes(self) -> list[Any]:
        """Return for each partition the node that it begins with: its rows, or what is kept of it."""
        inputs = self._input_nodes()
        return [
            self._kept_task(partition) if partition in self.reached else next(inputs)
            for partition in range(len(self.plan.partitions))
        ]

    def _kept_task(self, partition: int) -> Task:
        stop = self.reached[partition]
        (first,) = (start for start, end in self.plan.spans if end == stop)
        outputs, last = self.plan.layers[stop - 1].outputs, stop == len(self.plan.layers)
        span = self._span(partition, first, stop)
        return Task(self._span_key(stop, partition), self.checkpoint.kept, span, outputs, last)

    def _input_nodes(self) -> Iterator[Any]:
        name = f"inputs-{self.token}"
        beginning = [(p, *bounds) for p, bounds in enumerate(self.plan.partitions) if p not in self.reached]
        if isinstance(self.inputs, StoredSamples):
            parts = tuple(self.inputs.parts(self.plan.partitions))
            yield from (DataNode((name, p), parts[p]) for p, _, _ in beginning)
            return
        if not isinstance(self.inputs, Expr):
            ends = accumulate((stop - first for _, first, stop in beginning), initial=0)
            for (p, _, _), (first, stop) in zip(beginning, pairwise(ends), strict=True):
                if isinstance(self.inputs, SharedRows):
                    yield Task((name, p), self.inputs.part, first, stop)
                else:
                    yield DataNode((name, p), row_slice(self.inputs, first, stop))
            return
        width = self.plan.inputs
        blocks = [key for row in self.inputs.__dask_keys__() for key in row]
        for p, first, stop in beginning:
            yield Task((name, p), checked_rows, TaskRef(blocks[p]), width, first, stop - first)

    def _span(self, partition: int, first: int, stop: int) -> Span:
        plan, merges = self.plan, partition >= len(self.plan.partitions)
        return Span(
            run=self.token,
            partition=partition,
            first_sample=0 if merges else plan.partitions[partition][0],
            first=first,
            stop=stop,
            kernels=tuple(layer.kernel for layer in plan.layers[first:stop]),
            lanes=plan.lanes,
            tiles_at_once=plan.tiles_at_once,
            dtype=plan.dtype,
            reductions=plan.dynamic,
            few=plan.few,
            merges=merges,
            attempt=plan.attempt,
        )


class RebuiltPartitions(_Partitions):
    """An inference whose graph Dask has made over: run already (`persist`), optimized, or cloned.

    Operands:
        graph: the graph, or the partitions' values or futures.
        keys: the partitions' keys in it.
        token, plan, places, read_seconds, prepare_seconds: as of the inference.
    """

    _parameters = ["graph", "keys", "token", "plan", "places", "read_seconds", "prepare_seconds"]  # noqa: RUF012

    def __dask_keys__(self) -> list[Any]:
        return list(self.keys)

    def _layer(self) -> dict[Any, Any]:
        return dict(self.graph)


class InferenceResult(Expr):  # type: ignore[misc]
    """The result of an inference: one key. Operands as of `InferencePartitions`, whose partitions it joins."""

    _parameters = ["partitions", "plan", "places", "read_seconds", "prepare_seconds"]  # noqa: RUF012

    def __dask_tokenize__(self) -> str:
        token: str = tokenize(type(self).__name__, self.partitions)
        return token

    def __dask_annotations__(self) -> dict[str, dict[Any, Any]]:
        annotations: dict[str, dict[Any, Any]] = self.partitions.__dask_annotations__()
        return annotations

    def __dask_keys__(self) -> list[Any]:
        return [self._name]

    def _layer(self) -> dict[Any, Any]:
        finished = List(*(TaskRef(key) for key in self.partitions.__dask_keys__()))
        described = self.plan, self.places, self.read_seconds, self.prepare_seconds
        return {self._name: Task(self._name, collect, finished, *described)}


def array_expr(array: Any) -> Expr:
    """Return the expression of a Dask array."""
    expr = getattr(array, "expr", None)
    if isinstance(expr, Expr):
        return expr
    # An array on a HighLevelGraph: its expression would get a random name, which would be ours in turn.
    return HLGExpr(
        array.dask,
        array.__dask_optimize__,
        array.__dask_keys__(),
        array.__dask_postcompute__(),
        _determ_token=tokenize(array),
    )


def outputs_array(partitions: _Partitions) -> Any:
    """Return the outputs as a Dask array, samples x outputs, with a chunk for each partition."""
    import dask.array  # takes as long to import as all the rest

    plan, places, name = partitions.plan, partitions.places, f"outputs-{partitions.token}"
    width = plan.layers[-1].outputs if places is None else len(places)
    if not plan.partitions:
        return dask.array.zeros((0, width), dtype=plan.dtype)
    layer, keys = {}, partitions.__dask_keys__()
    for members, merged in _gathered(partitions):
        around = plan.partitions[members.start][0], plan.partitions[members.stop - 1][1]
        for p in members:
            ended = List(TaskRef(keys[p]), *merged)
            described = plan.partitions[p], around, places, plan.layers[-1].outputs, plan.dtype
            layer[name, p, 0] = Task((name, p, 0), _outputs, ended, *described)
    run = f"partitions-{partitions.token}"
    layers = {name: layer, run: partitions.lower_completely().__dask_graph__()}
    chunks = tuple(stop - first for first, stop in plan.partitions), (width,)
    return dask.array.Array(HighLevelGraph(layers, {name: {run}, run: set()}), name, chunks, dtype=plan.dtype)


def _gathered(partitions: _Partitions) -> Iterator[tuple[range, list[TaskRef]]]:
    """Yield partitions that leave samples to a merged one, and that one; each alone, where none is merged."""
    plan, keys = partitions.plan, partitions.__dask_keys__()
    own = len(plan.partitions)
    if not plan.merged:
        yield from ((range(p, p + 1), []) for p in range(own))
    for m in range(plan.merged):
        yield plan.members(m), [TaskRef(keys[own + m])]


def _outputs(
    ended: Sequence[Finished], bounds: tuple[int, int], around: tuple[int, int], places: Any, outputs: int, dtype: str
) -> Any:
    """Return the dense outputs of a partition, of what it and the merged one that took it on have come to.

    Args:
        ended: these two, or the first alone.
        bounds: first sample of the partition, and the one behind its last.
        around: those of all partitions that the merged one took on.
        places: as of `scores_of`.
        outputs: as of `scores_of`.
        dtype: as of `scores_of`.
    """
    first, stop = bounds
    scores = scores_of(ended, *around, places, outputs, dtype)
    return replace(scores, rows=scores.rows[first - around[0] : stop - around[0]]).dense()
