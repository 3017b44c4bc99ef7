"""How a network is run: every choice, made before the run, in one frozen value.

A plan says into which partitions the batch is cut, into which spans of layers the chain is grouped, and which kernel
computes each layer. The logical graph has one node for each (layer, partition); a task is one span of one partition.
Nothing here makes tasks, and nothing reads weights.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any

from taskgraph_dnn.config import Settings
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.kernels import Kernel, resolve_kernel
from taskgraph_dnn.network import Layer, Network

#: Wider tiles give a kernel more samples for each weight it reads, as long as a tile of one layer stays in the caches.
_LANES = (64, 32, 16)
_TILE_BYTES = 4 * 2**20

#: Each worker thread gets at least this many partitions, so that one slow partition does not leave the others idle.
_PARTITIONS_PER_THREAD = 2

#: More tasks than this no Dask scheduler can hold.
MOST_PARTITIONS = 1_000_000


@dataclass(frozen=True)
class Cost:
    """What a layer is expected to cost: seconds of one thread, and bytes of activations that it reads and writes."""

    seconds: float
    read_nbytes: int
    written_nbytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of activations read and written."""
        return self.read_nbytes + self.written_nbytes


def cost(layer: Layer, kernel: Kernel, samples: int, lanes: int) -> Cost:
    """Estimate one layer for `samples` samples, in tiles of `lanes`, on one thread."""
    slots = -(-samples // lanes) * lanes
    return Cost(
        seconds=layer.nnz * slots / kernel.multiply_adds_per_second,
        read_nbytes=4 * slots * layer.inputs,
        written_nbytes=4 * slots * layer.outputs,
    )


@dataclass(frozen=True)
class LayerPlan:
    """One layer: the layers it reads (from 0; -1 is the network's input), its shape, its kernel and why that one."""

    sources: tuple[int, ...]
    inputs: int
    outputs: int
    nnz: int
    kernel: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Every choice made for a run; `str(plan)` is a table.

    Attributes:
        strategy: how spans are cut, one of `STRATEGIES`.
        layers: one entry a layer.
        spans: (first, stop) layers of each span, from 0, in order and without gaps.
        partitions: (first, stop) samples of each batch partition, likewise.
        lanes: samples in a tile of activations.
        threads: worker threads that the plan was made for.
        longest_task_seconds: what the longest task is expected to take.
        largest_task_nbytes: the most bytes of dense activations that a task needs: what it was given, and one layer's
            inputs and outputs.
    """

    strategy: str
    layers: tuple[LayerPlan, ...]
    spans: tuple[tuple[int, int], ...]
    partitions: tuple[tuple[int, int], ...]
    lanes: int
    threads: int
    longest_task_seconds: float
    largest_task_nbytes: int

    @property
    def samples(self) -> int:
        """Samples of all partitions."""
        return self.partitions[-1][1] if self.partitions else 0

    @property
    def nodes(self) -> int:
        """Nodes of the logical graph: layers x partitions."""
        return len(self.layers) * len(self.partitions)

    @property
    def tasks(self) -> int:
        """Tasks that compute layers: spans x partitions."""
        return len(self.spans) * len(self.partitions)

    @property
    def nnz(self) -> int:
        """Edges of all layers."""
        return sum(layer.nnz for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return _table(self)


def make_plan(
    network: Network,
    samples: int,
    settings: Settings,
    *,
    threads: int,
    partitions: Sequence[tuple[int, int]] | None = None,
) -> Plan:
    """Plan a run.

    Args:
        network: what to run.
        samples: samples in the batch.
        settings: how to plan.
        threads: worker threads that will run it.
        partitions: (first, stop) samples of each partition where the input fixes them.

    Raises:
        PlanError: the strategy is unknown.
        KernelError: the kernel is unknown.
        MissingDependencyError: the kernel needs a package that is not installed.
    """
    if settings.strategy not in STRATEGIES:
        raise PlanError(f"unknown strategy {settings.strategy!r}, expected one of {', '.join(STRATEGIES)}")
    kernel, reason = resolve_kernel(settings.kernel)
    lanes = _lanes(network)
    if partitions is None:
        partitions = _cut(samples, lanes, network, settings, threads)
    largest = max((stop - first for first, stop in partitions), default=0)
    costs = [cost(layer, kernel, largest, lanes) for layer in network]
    spans = STRATEGIES[settings.strategy]([c.seconds for c in costs], settings)
    return Plan(
        strategy=settings.strategy,
        layers=tuple(
            LayerPlan(network.sources(number), layer.inputs, layer.outputs, layer.nnz, kernel.name, reason)
            for number, layer in enumerate(network)
        ),
        spans=spans,
        partitions=tuple(partitions),
        lanes=lanes,
        threads=threads,
        longest_task_seconds=max(sum(c.seconds for c in costs[first:stop]) for first, stop in spans),
        largest_task_nbytes=max(_span_nbytes(costs[first:stop]) for first, stop in spans),
    )


def _span_nbytes(costs: Sequence[Cost]) -> int:
    """Bytes of a span: what the task was given stays until its end, beside the layer that is being computed."""
    first, *later = costs
    return first.read_nbytes + max([first.written_nbytes, *(layer.nbytes for layer in later)])


def _lanes(network: Network) -> int:
    widest = max(max(layer.inputs, layer.outputs) for layer in network)
    return next((lanes for lanes in _LANES if 4 * lanes * widest <= _TILE_BYTES), _LANES[-1])


def _cut(samples: int, lanes: int, network: Network, settings: Settings, threads: int) -> tuple[tuple[int, int], ...]:
    if isinstance(settings.partitions, int):
        return even_ranges(samples, settings.partitions)
    given = max(layer.inputs for layer in network)
    per_sample = 4 * (given + max(layer.inputs + layer.outputs for layer in network))
    tiles = -(-samples // lanes)
    fitting = max(1, settings.partition_bytes // (per_sample * lanes))  # tiles
    count = max(-(-tiles // fitting), min(_PARTITIONS_PER_THREAD * threads, tiles))
    # Whole tiles, so that no partition but the last computes padding.
    return tuple((first * lanes, min(stop * lanes, samples)) for first, stop in even_ranges(tiles, count))


def even_ranges(total: int, parts: int) -> tuple[tuple[int, int], ...]:
    """Cut 0 to `total` into `parts` ranges (first, stop) of nearly one size, but into none that is empty.

    Raises:
        PlanError: there would be more ranges than a task graph can hold.
    """
    parts = min(parts, total)
    if parts > MOST_PARTITIONS:
        raise PlanError(f"{parts:,} partitions, expected at most {MOST_PARTITIONS:,}: ask for fewer, or larger ones")
    edges = [total * part // parts for part in range(parts + 1)] if parts else []
    return tuple(pairwise(edges))


def _hybrid_spans(seconds: Sequence[float], settings: Settings) -> tuple[tuple[int, int], ...]:
    """Group layers until a task lasts `task_seconds`, so that scheduling stays small beside it."""
    edges, running = [0], 0.0
    for layer, layer_seconds in enumerate(seconds):
        if running >= settings.task_seconds:
            edges.append(layer)
            running = 0.0
        running += layer_seconds
    if running < settings.task_seconds / 2 and len(edges) > 1:
        edges.pop()  # what is left is too little for a task of its own
    return tuple(pairwise([*edges, len(seconds)]))


def _data_spans(seconds: Sequence[float], settings: Settings) -> tuple[tuple[int, int], ...]:  # noqa: ARG001
    """All layers of a partition in one task: its activations never leave the worker."""
    return ((0, len(seconds)),)


#: hybrid: model and data parallelism in one graph (Lin and Huang, HPEC 2020), any ready span of any partition on any
#: free worker. data: each partition's whole chain on one worker (Bisson and Fatica, HPEC 2019).
STRATEGIES = {"hybrid": _hybrid_spans, "data": _data_spans}


def _table(plan: Plan) -> str:
    largest = max((stop - first for first, stop in plan.partitions), default=0)
    longest = max(stop - first for first, stop in plan.spans)
    mebibytes = plan.largest_task_nbytes / 2**20
    rows = [("layers", "inputs", "outputs", "nnz a layer", "kernel")]
    described = [(f"{y.inputs:,}", f"{y.outputs:,}", f"{y.nnz:,}", y.kernel) for y in plan.layers]
    for alike, group in groupby(enumerate(described, start=1), key=lambda numbered: numbered[1]):
        numbers = [number for number, _ in group]
        label = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        rows.append((label, *alike))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    reasons = {layer.kernel: layer.reason for layer in plan.layers}
    return "\n".join(
        [
            f"strategy    {plan.strategy}, for {plan.threads} threads",
            f"partitions  {len(plan.partitions):,} of up to {largest:,} samples, in tiles of {plan.lanes}",
            f"spans       {len(plan.spans):,} of up to {longest:,} layers",
            f"graph       {plan.nodes:,} logical nodes (layer x partition) in {plan.tasks:,} tasks",
            f"a task      up to {plan.longest_task_seconds:.2g} s and {mebibytes:,.1f} MiB of activations",
            *(f"kernel      {name}: {reason}" for name, reason in reasons.items()),
            "",
            *("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows),
        ]
    )
