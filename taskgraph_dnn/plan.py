"""How a network is run: every choice, made before the run, in one frozen value.

A plan says into which partitions the batch is cut, into which spans the layers are grouped, how a task goes through
its span, and which kernel computes each layer. The logical graph has one node for each (layer, partition); a
task is one span of one partition. Nothing here makes tasks.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.config import Settings
from taskgraph_dnn.costs import Cost, choose_kernels, network_costs
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.kernels import Kernel
from taskgraph_dnn.network import NETWORK_INPUT, Network, Wiring
from taskgraph_dnn.reductions.choice import Reductions, choose_reductions
from taskgraph_dnn.reductions.names import DYNAMIC, chosen_reductions
from taskgraph_dnn.sizing import Width, span_nbytes, tiles_at_once
from taskgraph_dnn.strategies import STRATEGIES, checkpoint_stops, stage_workers
from taskgraph_dnn.words import counted

#: Lanes of a tile, of which a plan takes those that are expected to be the faster: every edge is decoded once for all
#: lanes, but a wider tile needs more of the caches.
_LANES = (32, 16)

#: A partition leaves its last samples to a merged one if they fill no more than this part of a tile; so many partitions
#: share a merged one, or fewer where their tiles are more than a task may hold.
_FEW, _MERGED = 1 / 4, 64

#: More tasks than this no Dask scheduler can hold.
MOST_PARTITIONS = 1_000_000


@dataclass(frozen=True)
class LayerPlan:
    """One layer that is computed.

    Attributes:
        sources: the layers it reads (from 0; -1 is the network's input).
        inputs, outputs, nnz: its shape and edges, as they are computed: after static reductions.
        edges: of the layer as the network has it; 0 where the layer only adds inputs up, for those that follow.
        kernel: what computes it.
        reason: why.
        seconds: what it is expected to take for the largest partition, if no sample leaves it on the way.
    """

    sources: tuple[int, ...]
    inputs: int
    outputs: int
    nnz: int
    edges: int
    kernel: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Every choice made for a run; `str(plan)` is a table.

    Attributes:
        strategy: how spans are cut, one of `STRATEGIES`.
        layers: one entry for each layer that is computed.
        folds_inputs: whether the first of them only adds inputs up.
        reductions: names of the reductions in use.
        notes: for each reduction that was asked for, its name and what it finds, or why it is off.
        few: a partition with no more samples left, after a span, leaves them to a merged one; 0 if there is none.
        merged: merged partitions; they are numbered behind the others.
        spans: (first, stop) layers of each span, from 0, in order and without gaps.
        partitions: (first, stop) samples of each batch partition, likewise.
        lanes: samples in a tile of activations.
        tiles_at_once: tiles that go through all layers of a span before the next ones begin.
        dtype: of the activations, and of the sums: float32 or float64.
        threads: worker threads that the plan was made for.
        workers: worker processes; all threads, where they are of one process.
        span_seconds: what each span is expected to take for the largest partition, if no sample leaves it on the way.
        largest_task_nbytes: the most bytes of dense activations that a task needs: what it was given, what it returns,
            and between them, for a few tiles, the inputs and outputs of one layer, and what later ones are to read.
        checkpoints: layers, each the last of a span and counted from 1, after which a partition's activations are kept
            for another attempt; none where the run is not checkpointed.
        attempt: of the run, from 0; each time that it is resumed is one more.
    """

    strategy: str
    layers: tuple[LayerPlan, ...]
    folds_inputs: bool
    reductions: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]
    few: int
    merged: int
    spans: tuple[tuple[int, int], ...]
    partitions: tuple[tuple[int, int], ...]
    lanes: int
    tiles_at_once: int
    dtype: str
    threads: int
    workers: int
    span_seconds: tuple[float, ...]
    largest_task_nbytes: int
    checkpoints: tuple[int, ...] = ()
    attempt: int = 0

    @property
    def wiring(self) -> Wiring:
        """What the layers read."""
        return Wiring(tuple(layer.sources for layer in self.layers))

    @property
    def inputs(self) -> int:
        """Neurons of the input."""
        return self.layers[0].inputs // len(self.layers[0].sources)

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
        """Tasks that compute layers: spans x partitions, and the merged partitions' from the second span on."""
        return len(self.spans) * len(self.partitions) + (len(self.spans) - 1) * self.merged

    @property
    def longest_task_seconds(self) -> float:
        """What the longest task is expected to take."""
        return max(self.span_seconds)

    @property
    def task_seconds(self) -> NDArray[np.float64]:
        """Partitions x spans: what each task is expected to take; nobody expects anything of merged partitions."""
        tiles = np.array([-(-(stop - first) // self.lanes) for first, stop in self.partitions])
        return np.outer(tiles / tiles.max(initial=1), self.span_seconds)

    @property
    def edges(self) -> int:
        """Edges of all layers as the network has them."""
        return sum(layer.edges for layer in self.layers)

    @property
    def depth(self) -> int:
        """Layers of the network."""
        return len(self.layers) - self.folds_inputs

    @property
    def dynamic(self) -> tuple[str, ...]:
        """Those reductions in use that tasks apply to activations."""
        return tuple(name for name in self.reductions if name in DYNAMIC)

    def worker(self, span: int, partition: int) -> int | None:
        """Return the number of the worker that is to compute a span of a partition if it can; None if any will do.

        Merged partitions, numbered behind the others, take part like these.
        """
        stays = STRATEGIES[self.strategy].stays
        if stays == "span":
            sharing = stage_workers(span, len(self.spans), self.workers)
            return sharing[partition % len(sharing)]
        if stays == "partition":
            return partition * self.workers // (len(self.partitions) + self.merged)
        return None

    def members(self, merged: int) -> range:
        """Return the partitions that leave their last samples to a merged one, which is numbered from 0."""
        return range(*even_ranges(len(self.partitions), self.merged)[merged])

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values, ready for JSON."""
        return asdict(self)

    def __dask_tokenize__(self) -> object:
        return type(self).__name__, repr(self)  # field by field it would take Dask a third of a second

    def __str__(self) -> str:
        return _table(self)


def make_plan(
    network: Network | Reductions,
    samples: int,
    settings: Settings,
    *,
    threads: int,
    workers: int | None = None,
    partitions: Sequence[tuple[int, int]] | None = None,
    density: float = 1.0,
    checkpoint_seconds: float | None = None,
) -> Plan:
    """Plan a run.

    Args:
        network: what to run, or what is to be left out of it already.
        samples: samples in the batch.
        settings: how to plan.
        threads: worker threads that will run it.
        workers: the processes that they belong to; None where it is one, whose threads then count as workers.
        partitions: (first, stop) samples of each partition where the input fixes them.
        density: which part of the input is not zero.
        checkpoint_seconds: a partition's activations are kept after so many seconds of computing, as they are expected;
            None where the run is not checkpointed.

    Raises:
        PlanError: the strategy, or a reduction, is unknown.
        KernelError: the kernel is unknown.
        MissingDependencyError: the kernel needs a package that is not installed.
    """
    strategy = STRATEGIES.get(settings.strategy)
    if strategy is None:
        raise PlanError(f"unknown strategy {settings.strategy!r}, expected one of {', '.join(STRATEGIES)}")
    if isinstance(network, Network):
        network = choose_reductions(network, chosen_reductions(settings.reductions), settings.dtype)
    reductions, network = network, network.network
    # For one width, because not all kernels add in the same order: bits do not depend on how many samples there are.
    chosen = choose_kernels(network, settings, max(_LANES), density)
    seconds = {
        lanes: sum(layer.seconds for layer in network_costs(network, chosen, samples, lanes, settings, density))
        for lanes in _LANES
    }
    lanes = min(_LANES, key=seconds.__getitem__)
    width = Width.of(network, lanes, settings.dtype, rows=chosen[0][0].reads_rows)
    tiles = tiles_at_once(width, threads)
    if partitions is None:
        wanted = strategy.partitions(seconds[lanes], settings.task_seconds, threads)
        partitions = _cut(samples, lanes, width, settings, wanted, threads)
    largest = max((stop - first for first, stop in partitions), default=0)
    tiles = max(1, min(tiles, -(-largest // lanes)))
    costs = network_costs(network, chosen, largest, lanes, settings, density)
    growing = any(name in DYNAMIC for name in reductions.used)
    segments = network.wiring.segments
    segment_seconds = [sum(c.seconds for c in costs[first:stop]) for first, stop in segments]
    groups = strategy.spans(segment_seconds, settings.task_seconds, growing, workers or threads)
    spans = tuple((segments[first][0], segments[stop - 1][1]) for first, stop in groups)
    span_seconds = tuple(sum(c.seconds for c in costs[first:stop]) for first, stop in spans)
    checkpoints = () if checkpoint_seconds is None else checkpoint_stops(spans, span_seconds, checkpoint_seconds)
    fitting = settings.partition_bytes // width.widest
    used, notes, merged = _merging(reductions, len(partitions), len(spans), fitting, kept=bool(checkpoints))
    passing = min(1.0, tiles * lanes / largest) if largest else 0.0
    return Plan(
        strategy=settings.strategy,
        layers=_layer_plans(reductions, chosen, costs),
        folds_inputs=reductions.folds_inputs,
        reductions=used,
        notes=notes,
        few=int(_FEW * lanes) if merged else 0,
        merged=merged,
        spans=spans,
        partitions=tuple(partitions),
        lanes=lanes,
        tiles_at_once=tiles,
        dtype=settings.dtype,
        threads=threads,
        workers=workers or threads,
        span_seconds=span_seconds,
        largest_task_nbytes=max(span_nbytes(network, span, costs, passing, pools=growing) for span in spans),
        checkpoints=checkpoints,
    )


def _layer_plans(reductions: Reductions, chosen: list[tuple[Kernel, str]], costs: list[Cost]) -> tuple[LayerPlan, ...]:
    network = reductions.network
    edges = [0] * reductions.folds_inputs + [layer.nnz for layer in reductions.original]
    return tuple(
        LayerPlan(network.sources(n), y.inputs, y.outputs, y.nnz, edges[n], kernel.name, reason, costs[n].seconds)
        for n, (y, (kernel, reason)) in enumerate(zip(network, chosen, strict=True))
    )


def _merging(
    reductions: Reductions, partitions: int, spans: int, fitting: int, *, kept: bool
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], int]:
    """Return the reductions in use, the notes, and how many merged partitions there are."""
    name = "merge-partitions"
    if name not in reductions.used:
        return reductions.used, reductions.notes, 0
    off = "off: there is only one partition" if partitions <= 1 else "off: there is only one span of layers"
    if partitions > 1 and spans > 1:
        if not kept:
            return reductions.used, reductions.notes, -(-partitions // max(2, min(_MERGED, fitting)))
        off = "off: a checkpointed run goes on partition by partition"
    notes = tuple((noted, off if noted == name else note) for noted, note in reductions.notes)
    return tuple(used for used in reductions.used if used != name), notes, 0


def _cut(
    samples: int, lanes: int, width: Width, settings: Settings, wanted: int, threads: int
) -> tuple[tuple[int, int], ...]:
    if isinstance(settings.partitions, int):
        return even_ranges(samples, settings.partitions)
    tiles = -(-samples // lanes)
    # What a task was given, and what it returns; and two buffers for the tiles that pass through, or for all of them.
    passing = min(tiles_at_once(width, threads), settings.partition_bytes // (4 * width.widest))
    fitting = max(1, settings.partition_bytes // (2 * width.widest) - passing)
    count = max(-(-tiles // fitting), min(wanted, tiles))
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


def _table(plan: Plan) -> str:
    largest = max((stop - first for first, stop in plan.partitions), default=0)
    longest = max(stop - first for first, stop in plan.spans)
    mebibytes = plan.largest_task_nbytes / 2**20
    wiring = plan.wiring
    known = [("reads", "inputs", "outputs", "edges a layer", "computed", "kernel", "why"), *map(_cells, plan.layers)]
    head, *described = (row[1:] if wiring.is_chain else row for row in known)
    rows = [("layers", *head)]
    for alike, group in groupby(enumerate(described, start=1 - plan.folds_inputs), key=lambda numbered: numbered[1]):
        numbers = [number for number, _ in group]
        label = str(numbers[0] or "input") if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        rows.append((label, *alike))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    passing = f"{counted(plan.tiles_at_once, 'tile')} at once"
    return "\n".join(
        [
            f"strategy    {plan.strategy}, for {plan.threads} threads{_of_workers(plan)}",
            f"partitions  {len(plan.partitions):,} of up to {largest:,} samples, in tiles of {plan.lanes} {plan.dtype}",
            f"spans       {len(plan.spans):,} of up to {longest:,} layers, {passing}",
            *_joints(wiring),
            f"graph       {plan.nodes:,} logical nodes (layer x partition) in {plan.tasks:,} tasks",
            f"a task      up to {plan.longest_task_seconds:.2g} s and {mebibytes:,.1f} MiB of activations",
            *([f"checkpoints after {len(plan.checkpoints):,} of the spans"] if plan.checkpoints else []),
            *(f"{'' if number else 'reductions':<12}{name}: {note}" for number, (name, note) in enumerate(plan.notes)),
            "",
            *(_line(row, widths) for row in rows),
        ]
    )


def _cells(y: LayerPlan) -> tuple[str, ...]:
    reads = ", ".join("input" if source == NETWORK_INPUT else f"{source + 1:,}" for source in y.sources)
    return reads, f"{y.inputs:,}", f"{y.outputs:,}", f"{y.edges:,}", f"{y.nnz:,}", y.kernel, y.reason


def _joints(wiring: Wiring) -> tuple[str, ...]:
    ends, layers = len(wiring.segments), len(wiring.sources)
    line = f"joints      after {ends:,} of {layers:,} layers: elsewhere no span ends, earlier ones are read again"
    return () if wiring.is_chain else (line,)


def _of_workers(plan: Plan) -> str:
    return f" of {plan.workers} workers" if plan.workers != plan.threads else ""


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    *cells, why = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join([*cells, why.strip()])
