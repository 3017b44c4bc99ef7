"""`infer`: from a network and samples to a lazy Dask collection."""

import os
import time
from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from dask import is_dask_collection, threaded
from dask.base import DaskMethodsMixin, replace_name_in_key
from dask.tokenize import tokenize

from taskgraph_dnn import executors
from taskgraph_dnn.config import Settings, settings
from taskgraph_dnn.errors import InputError
from taskgraph_dnn.graph import InferencePartitions, RebuiltPartitions, array_expr
from taskgraph_dnn.inputs import checked_rows, density
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan, even_ranges, make_plan
from taskgraph_dnn.reductions.choice import choose_reductions
from taskgraph_dnn.reductions.names import chosen_reductions
from taskgraph_dnn.result import Result, collect
from taskgraph_dnn.spans import awaited


def infer(
    network: Network,
    samples: Any,
    *,
    partitions: int | str | None = None,
    kernel: str | None = None,
    strategy: str | None = None,
    dtype: Any = None,
    reductions: Any = None,
) -> "Inference":
    """Return the lazy inference of `samples` by `network`.

    Args:
        network: what to run.
        samples: samples x inputs: a scipy sparse matrix or array, a 2-D array, or a Dask array, whose chunks of rows
            are then the batch partitions unless a number of partitions is given.
        partitions: number of batch partitions, or "auto".
        kernel: a kernel's name, or "auto" for the one that is expected to be the fastest for each layer.
        strategy: "hybrid" (spans of layers of any partition on any worker), "data" (a partition's whole chain in one
            task) or "pipeline" (each worker keeps its layers, and partitions flow through).
        dtype: of activations, sums and outputs: float32 or float64.
        reductions: work to leave out: "exact" (all that leave the answer as it is), "dynamic" (those among them that
            leave every bit as it is), "none", or names of reductions; see docs/reductions.md.

    Options that are None are taken from Dask's configuration, `taskgraph-dnn.*`.

    Raises:
        InputError: the samples do not fit the network, or hold nan or infinity. (A Dask array's values are only looked
            at when its blocks are there: the run then fails with this error.)
        PlanError: an option is out of range or unknown.
        KernelError: the kernel is unknown.
        MissingDependencyError: the kernel needs a package that is not installed.
    """
    started = time.perf_counter()
    if not isinstance(network, Network):
        raise InputError(f"network is a {type(network).__name__}, expected a Network")
    chosen = settings(partitions=partitions, kernel=kernel, strategy=strategy, dtype=dtype, reductions=reductions)
    reduced = choose_reductions(network, chosen_reductions(chosen.reductions), chosen.dtype)
    threads, workers = executors.thread_count(), executors.worker_addresses()
    inputs: Any
    if is_dask_collection(samples):
        array = _row_chunks(samples, network, chosen)
        bounds = tuple(pairwise(accumulate(array.chunks[0], initial=0)))
        plan = make_plan(reduced, len(array), chosen, threads=threads, workers=len(workers) or None, partitions=bounds)
        inputs = array_expr(array)
    else:
        inputs = checked_rows(samples, network.inputs)
        plan = make_plan(
            reduced, inputs.shape[0], chosen, threads=threads, workers=len(workers) or None, density=density(inputs)
        )
    read_seconds = network.read_seconds + getattr(samples, "read_seconds", 0.0)
    source = reduced.network if reduced.network.source is None else reduced.network.source
    token = tokenize(network.digest, inputs, plan, ensure_deterministic=True)
    prepare_seconds = time.perf_counter() - started
    timing = read_seconds, prepare_seconds
    return Inference(InferencePartitions(source, inputs, plan, reduced.places, workers, token, *timing))


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
        """The name of its tasks and events (`TaskEvent.run`): equal for equal networks, samples and plans."""
        token: str = self.expr.token
        return token

    def compute(self, **kwargs: Any) -> Result:
        """Run it and return the `Result`: on this process's threads, or on the cluster of the active client.

        Raises:
            ClusterError: a worker has too little memory for the plan, or the cluster failed or made no progress.
        """
        with executors.submission(self.plan, kwargs.get("scheduler")) as scheduler, awaited(self.token):
            result: Result = super().compute(**kwargs | {"scheduler": scheduler})
        return result

    def persist(self, **kwargs: Any) -> "Inference":
        """Run it, keep the finished partitions in memory, here or on the cluster, and return that inference.

        Raises:
            ClusterError: a worker has too little memory for the plan.
        """
        with executors.submission(self.plan, kwargs.get("scheduler")), awaited(self.token):
            persisted: Inference = super().persist(**kwargs)
        return persisted

    def visualize(self, filename: str | os.PathLike[str] = "graph.svg", **kwargs: Any) -> Any:
        """Write the logical graph, a node for each layer and partition, to a .svg, .dot or .json file.

        With any keyword (`color=`, `optimize_graph=` ...) Dask draws its own picture of the tasks instead, which needs
        graphviz.

        Raises:
            DumpError: the file's suffix is none of these, or the graph is too large to look at.
        """
        if kwargs:
            return super().visualize(filename=os.fspath(filename), **kwargs)
        from taskgraph_dnn.dump import write_graph

        return write_graph(self.plan, filename)

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
