"""`infer`: from a network and samples to a lazy Dask collection."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from dask import is_dask_collection, threaded
from dask.base import DaskMethodsMixin, replace_name_in_key
from dask.tokenize import tokenize

from taskgraph_dnn import executors
from taskgraph_dnn.checkpoints import Attempt, begin, rows_digest
from taskgraph_dnn.config import Settings, checkpoint_settings, settings
from taskgraph_dnn.data import StoredSamples, open_samples
from taskgraph_dnn.data.frames import frame_array, is_frame
from taskgraph_dnn.errors import CheckpointError, InputError, PlanError
from taskgraph_dnn.graph import InferencePartitions, RebuiltPartitions, array_expr, outputs_array
from taskgraph_dnn.inputs import checked_rows, density
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan, even_ranges, make_plan
from taskgraph_dnn.reductions.choice import choose_reductions
from taskgraph_dnn.reductions.names import chosen_reductions
from taskgraph_dnn.result import Result, collect
from taskgraph_dnn.spans import awaited

_log = logging.getLogger(__name__)


def infer(
    network: Network,
    samples: Any,
    *,
    partitions: int | str | None = None,
    kernel: str | None = None,
    strategy: str | None = None,
    dtype: Any = None,
    reductions: Any = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
) -> "Inference":
    """Return the lazy inference of `samples` by `network`.

    Args:
        network: what to run.
        samples: samples x inputs: a scipy sparse matrix or array, or a 2-D array; a Dask array or dataframe, whose
            chunks of rows are then the batch partitions unless a number of partitions is given; or the path or URL of
            files that `read_samples` knows, of which tasks read their rows.
        partitions: number of batch partitions, or "auto".
        kernel: a kernel's name, or "auto" for the one that is expected to be the fastest for each layer.
        strategy: "hybrid" (spans of layers of any partition on any worker), "data" (a partition's whole chain in one
            task) or "pipeline" (each worker keeps its layers, and partitions flow through).
        dtype: of activations, sums and outputs: float32 or float64.
        reductions: work to leave out: "exact" (all that leave the answer as it is), "dynamic" (those among them that
            leave every bit as it is), "none", or names of reductions; see docs/reductions.md.
        checkpoint: a folder, or a URL that fsspec knows, where partitions are kept on their way and at their end, for
            this one run; see docs/checkpoints.md. It says at once that the run begins. None keeps nothing.
        resume: whether to go on with the run that is kept there, if any, with the plan that it began with.

    Options that are None, but for `checkpoint`, are taken from Dask's configuration, `taskgraph-dnn.*`.

    Raises:
        InputError: the samples do not fit the network, or hold nan or infinity. (Values of files and of a Dask array
            are only looked at when they are there: the run then fails with this error.)
        FileError: there are no files of samples, or they cannot be read.
        PlanError: an option is out of range or unknown.
        KernelError: the kernel is unknown.
        CheckpointError: the checkpoint is of another run, or of this one and not to be resumed; or cannot be used.
        MissingDependencyError: the kernel, or the checkpoint's URL, needs a package that is not installed.
    """
    if resume and checkpoint is None:
        raise PlanError("resume needs a checkpoint to go on from: checkpoint is None")
    chosen = settings(partitions=partitions, kernel=kernel, strategy=strategy, dtype=dtype, reductions=reductions)
    if checkpoint is None:
        return planned(network, samples, chosen)

    def keep(plan: Plan, about: Mapping[str, Any], places: Any) -> Attempt:  # noqa: ARG001
        return begin(checkpoint, plan, about, resume=resume)

    return planned(network, samples, chosen, keep, checkpoint_settings().every)


def planned(
    network: Network,
    samples: Any,
    chosen: Settings,
    keep: Callable[[Plan, Mapping[str, Any], Any], Attempt] | None = None,
    every: float | None = None,
) -> "Inference":
    """Return the lazy inference of `samples` by `network`; raises as `infer`.

    Args:
        network: what to run.
        samples: as of `infer`, or `StoredSamples`.
        chosen: how to plan.
        keep: begins an attempt at a run that is kept, given the plan, what is run, and `places` as of the result; None
            keeps nothing.
        every: as of `make_plan`, `checkpoint_seconds`.
    """
    started = time.perf_counter()
    if not isinstance(network, Network):
        raise InputError(f"network is a {type(network).__name__}, expected a Network")
    reduced = choose_reductions(network, chosen_reductions(chosen.reductions), chosen.dtype)
    threads, workers = executors.resources()
    crew: dict[str, Any] = {"threads": threads, "workers": len(workers) or None, "checkpoint_seconds": every}
    inputs, plan = _inputs(network, samples, chosen, partial(make_plan, reduced, settings=chosen, **crew))
    read_seconds = network.read_seconds + getattr(samples, "read_seconds", 0.0)
    source = reduced.network if reduced.network.source is None else reduced.network.source
    if keep is None:
        token, attempt = tokenize(network.digest, inputs, plan, ensure_deterministic=True), Attempt(None, plan, {})
    else:
        attempt = keep(plan, _about(network, reduced.network, inputs, chosen), reduced.places)
        token = tokenize(attempt.checkpoint, ensure_deterministic=True)
        inputs = _rows_left(inputs, attempt) if _is_data(inputs) else inputs
    timing = read_seconds, time.perf_counter() - started
    how = attempt.plan, reduced.places, workers, token, *timing, attempt.checkpoint, attempt.reached
    return Inference(InferencePartitions(source, inputs, *how))


def _inputs(network: Network, samples: Any, chosen: Settings, plan: Callable[..., Plan]) -> tuple[Any, Plan]:
    """Return the samples as the graph takes them, and the plan: `plan(samples=..., partitions=..., density=...)`."""
    if isinstance(samples, str | os.PathLike):
        samples = open_samples(samples, inputs=network.inputs)
    if isinstance(samples, StoredSamples):
        return _stored(network, samples, chosen, plan)
    if is_dask_collection(samples):
        array = _row_chunks(frame_array(samples, network.inputs) if is_frame(samples) else samples, network, chosen)
        return array_expr(array), plan(samples=len(array), partitions=_bounds(array.chunks[0]))
    rows = checked_rows(samples, network.inputs)
    return rows, plan(samples=rows.shape[0], density=density(rows))


def _stored(network: Network, samples: StoredSamples, chosen: Settings, plan: Callable[..., Plan]) -> tuple[Any, Plan]:
    count, width = samples.shape
    if width != network.inputs:
        raise InputError(
            f"samples in {samples.path} are {width} values wide, but the network has {network.inputs} inputs"
        )
    bounds = plan(samples=count).partitions
    if not isinstance(chosen.partitions, int):
        bounds = samples.bounds(max((stop - first for first, stop in bounds), default=1))
    inputs = array_expr(samples.array(bounds)) if samples.format.whole else samples
    return inputs, plan(samples=count, partitions=bounds)


def _bounds(sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(pairwise(accumulate(sizes, initial=0)))


def _is_data(inputs: Any) -> bool:
    return isinstance(inputs, np.ndarray) or scipy.sparse.issparse(inputs)


def _about(network: Network, computed: Network, inputs: Any, chosen: Settings) -> dict[str, Any]:
    """Return what must be the same when a run is resumed."""
    return {
        "network": network.digest,
        "inputs": rows_digest(inputs) if _is_data(inputs) else tokenize(inputs, ensure_deterministic=True),
        "partitions": chosen.partitions,
        "kernel": chosen.kernel,
        "strategy": chosen.strategy,
        "dtype": chosen.dtype,
        "reductions": list(chosen_reductions(chosen.reductions)),
        "computed network": computed.digest,  # last, because the other choices say more to people
    }


def _rows_left(rows: Any, attempt: Attempt) -> Any:
    """Return the rows of the partitions that begin with them."""
    if not attempt.reached:
        return rows
    left = [np.arange(*bounds) for p, bounds in enumerate(attempt.plan.partitions) if p not in attempt.reached]
    return rows[np.concatenate([np.empty(0, np.int64), *left])]


def _row_chunks(array: Any, network: Network, chosen: Settings) -> Any:
    if not hasattr(type(array), "chunks") or array.ndim != 2:  # an instance of Delayed has any attribute one asks for
        found = f" of shape {array.shape}" if hasattr(type(array), "chunks") else ""
        raise InputError(f"samples are a {type(array).__name__}{found}, expected a 2-D Dask array, samples x inputs")
    if any(np.isnan(size) for size in array.shape):
        raise InputError("samples are a Dask array with chunks of unknown size: call its compute_chunk_sizes() first")
    if array.shape[1] != network.inputs:
        raise InputError(f"samples are {array.shape[1]} values wide, but the network has {network.inputs} inputs")
    if array.dtype.kind not in "fiub":
        raise InputError(f"samples are of type {array.dtype}, expected real numbers")
    if isinstance(chosen.partitions, int):
        array = array.rechunk({0: tuple(stop - first for first, stop in even_ranges(len(array), chosen.partitions))})
    return array.rechunk({1: -1})


class Inference(DaskMethodsMixin):  # type: ignore[misc]
    """A lazy inference: a Dask collection that computes to a `Result`.

    Attributes:
        expr: the Dask expression.
        plan: the `Plan`; `print(inference.plan)` shows it as a table.
    """

    def __init__(self, expr: InferencePartitions | RebuiltPartitions) -> None:
        self.expr = expr

    @property
    def plan(self) -> Plan:
        """How it will be run."""
        plan: Plan = self.expr.plan
        return plan

    @property
    def token(self) -> str:
        """The name of its tasks and events (`TaskEvent.run`): equal for equal networks, samples and plans.

        Each attempt at a checkpointed run has its own.
        """
        token: str = self.expr.token
        return token

    def compute(self, **kwargs: Any) -> Result:
        """Run it and return the `Result`: on this process's threads, or on the cluster of the active client.

        Raises:
            ClusterError: a worker has too little memory for the plan, or the cluster failed or made no progress.
            CheckpointError: a worker does not see the checkpoint, or it cannot be written, or what is there is damaged.
        """
        scheduler = kwargs.pop("scheduler", None)
        self._check_checkpoint(scheduler)
        with executors.submission(self.plan, scheduler) as run, awaited(self.token):
            finished = run(self.expr.optimize(), **kwargs)
        join, described = self.__dask_postcompute__()
        return join(finished, *described)

    def persist(self, **kwargs: Any) -> "Inference":
        """Run it, keep the finished partitions in memory, here or on the cluster, and return that inference.

        Raises:
            ClusterError: a worker has too little memory for the plan.
            CheckpointError: as of `compute`.
        """
        self._check_checkpoint(kwargs.get("scheduler"))
        with executors.submission(self.plan, kwargs.get("scheduler")), awaited(self.token):
            persisted: Inference = super().persist(**kwargs)
        return persisted

    def to_dask_array(self) -> Any:
        """Return the outputs as a lazy Dask array for what comes next: samples x outputs, a chunk for each partition.

        Its blocks are dense arrays of the plan's dtype, and stay on the workers. Nothing supervises such a computation:
        errors and waiting are Dask's own.
        """
        return outputs_array(self.expr)

    def _check_checkpoint(self, scheduler: Any) -> None:
        checkpoint = getattr(self.expr, "checkpoint", None)
        if checkpoint is not None:
            for worker, error in executors.failures_on_workers(scheduler, checkpoint.check).items():
                raise CheckpointError(f"worker {worker}: {error}: every worker has to see it there")

    def visualize(
        self,
        filename: str | os.PathLike[str] = "graph.svg",
        *,
        view: str | None = None,
        layout: str = "auto",
        **kwargs: Any,
    ) -> Any:
        """Write the graph to a .svg, .png, .dot, .json, .graphml, .mmd (Mermaid) or .html file, and return its path.

        Args:
            filename: the file; its suffix is the format.
            view: "logical" (a node for each layer and partition), "tasks" (for each span of layers and partition) or
                "collapsed" (for groups of them); None for the logical one, or, where that is too large for the format,
                the collapsed one, which is logged and said in the file.
            layout: of a .svg or .png file: "grid", "dot" (graphviz's), or "auto" for graphviz's where it is installed
                and the graph is small.
            **kwargs: with any other option (`color=`, `optimize_graph=` ...) Dask draws its own picture of the tasks
                instead, which needs graphviz.

        Raises:
            DumpError: the suffix, the view or the layout is none of these, or the graph is too large for a .png file.
            MissingDependencyError: a .png file needs Pillow where graphviz does not draw it.
            FileError: the file cannot be written.
        """
        if kwargs:
            return super().visualize(filename=os.fspath(filename), **kwargs)
        from taskgraph_dnn.dump import write_graph

        made = write_graph(self.plan, filename, view=view, layout=layout)
        if view is None and made.note:
            _log.warning("%s: %s, because all of them would be too many", filename, made.note)
        return Path(filename)

    def __repr__(self) -> str:
        plan = self.plan
        return f"Inference({plan.samples:,} samples, {len(plan.layers)} layers, {len(plan.partitions)} partitions)"

    # Dask's collection protocol.

    __dask_scheduler__ = staticmethod(threaded.get)
    __dask_optimize__ = None

    def __dask_graph__(self) -> Mapping[Any, Any]:
        graph: Mapping[Any, Any] = self.expr.lower_completely().__dask_graph__()  # the input may be an array expression
        return graph

    def __dask_keys__(self) -> list[Any]:
        keys: list[Any] = self.expr.__dask_keys__()
        return keys

    def __dask_tokenize__(self) -> str:
        token: str = tokenize(type(self).__name__, self.expr._name)
        return token

    def __dask_postcompute__(self) -> tuple[Callable[..., Result], tuple[Any, ...]]:
        return collect, (self.plan, self.expr.places, self.expr.read_seconds, self.expr.prepare_seconds)

    def __dask_postpersist__(self) -> tuple[Callable[..., "Inference"], tuple[Any, ...]]:
        timing = self.expr.read_seconds, self.expr.prepare_seconds
        return _rebuilt, (self.__dask_keys__(), self.token, self.plan, self.expr.places, *timing)


def _rebuilt(
    graph: Mapping[Any, Any],
    keys: list[Any],
    token: str,
    plan: Plan,
    places: Any,
    read_seconds: float,
    prepare_seconds: float,
    rename: Mapping[str, str] | None = None,
) -> Inference:
    keys = [replace_name_in_key(key, rename or {}) for key in keys]
    return Inference(RebuiltPartitions(graph, keys, token, plan, places, read_seconds, prepare_seconds))
