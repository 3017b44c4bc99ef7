"""The kernel benchmark: one layer, every kernel, other libraries, and what the machine can do, side by side.

A rate is edges x samples / seconds, whatever a format computes besides. Ours run as tasks run them, with bias, relu and
the flags of living samples; peers compute the product alone.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import click
import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taskgraph_dnn.activations import Alive, Values, aligned_empty, fill_tiles
from taskgraph_dnn.benchmarks.fingerprint import machine, processor_seconds
from taskgraph_dnn.benchmarks.layers import BATCH_NBYTES, CASES, Case, Problem
from taskgraph_dnn.benchmarks.peers import DENSE_NEURONS, PEERS
from taskgraph_dnn.benchmarks.reporting import reporting
from taskgraph_dnn.benchmarks.suites.ceilings import copy, sgemm
from taskgraph_dnn.benchmarks.tables import markdown, rate_table, ratio_table
from taskgraph_dnn.benchmarks.timing import (
    LEAST_ROUNDS,
    Contender,
    in_threads,
    interleaved,
    ratios,
    summary,
)
from taskgraph_dnn.config import settings
from taskgraph_dnn.costs import choose_kernel
from taskgraph_dnn.inputs import row_slice
from taskgraph_dnn.kernels import Kernel, automatic_kernels
from taskgraph_dnn.kernels.packing import packed_layer
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan, even_ranges, make_plan
from taskgraph_dnn.pools import one_thread_each
from taskgraph_dnn.reference import mismatch

#: Threads of all that is compared; ours run on one, too.
THREADS = 2


@dataclass(frozen=True, eq=False)
class _Partition:
    """The samples of one thread: what the kernel is given of them, and where its outputs go."""

    kernel: Kernel
    packed: Any
    given: Callable[[int, int], Any]
    outputs: Values
    alive: Alive
    tiles_at_once: int

    def run(self) -> None:
        """Go through the tiles as a task does."""
        for first in range(0, len(self.outputs), self.tiles_at_once):
            stop = min(first + self.tiles_at_once, len(self.outputs))
            inputs = self.given(first, stop)
            self.kernel.run(self.packed, inputs, self.outputs[first:stop], self.alive[first:stop])

    def rows(self) -> NDArray[Any]:
        """Return the outputs, samples x outputs; nan where `alive` is wrong."""
        right = self.alive == self.outputs.any(axis=1)
        rows = np.where(right[:, None, :], self.outputs, np.nan).transpose(0, 2, 1)
        return np.asarray(rows.reshape(-1, self.outputs.shape[1]))


def our_contender(kernel: Kernel, problem: Problem, threads: int, pool: Executor) -> Contender:
    """Return one of our kernels as so many of Dask's threads would run it."""
    plan = _plan(problem, kernel.name, threads)
    tiles = -(-problem.samples // plan.lanes)
    partitions = [_partition(kernel, problem, plan, *part) for part in even_ranges(tiles, threads)]
    return Contender(
        kernel.name,
        f"{plan.tiles_at_once} tiles of {plan.lanes} a call",
        threads,
        problem.multiply_adds,
        in_threads(pool, [partition.run for partition in partitions]),
        lambda: mismatch(np.concatenate([p.rows() for p in partitions])[problem.checked], problem.outputs),
        one_thread_each,
    )


def _plan(problem: Problem, kernel: str, threads: int) -> Plan:
    asked = settings(kernel=kernel, strategy="data", dtype="float32", reductions="none")
    return make_plan(Network([problem.layer]), problem.samples, asked, threads=threads)


def _partition(kernel: Kernel, problem: Problem, plan: Plan, first: int, stop: int) -> _Partition:
    outputs = aligned_empty((stop - first, problem.layer.outputs, plan.lanes), np.float32)
    outputs[...] = np.nan
    return _Partition(
        kernel,
        packed_layer(problem.layer, kernel, outputs.dtype),
        _given(kernel, row_slice(problem.rows, first * plan.lanes, stop * plan.lanes), plan),
        outputs,
        np.zeros((stop - first, plan.lanes), np.bool_),
        plan.tiles_at_once,
    )


def _given(kernel: Kernel, rows: Any, plan: Plan) -> Callable[[int, int], Any]:
    """Return `given(first, stop)`: these tiles of the rows, as a task has them."""
    lanes, inputs = plan.lanes, rows.shape[1]
    if not scipy.sparse.issparse(rows):
        tiles = aligned_empty((len(rows) // lanes, inputs, lanes), np.float32)
        fill_tiles(tiles, rows)
        return lambda first, stop: tiles[first:stop]
    if kernel.reads_rows:
        return lambda first, stop: row_slice(rows, first * lanes, stop * lanes)
    buffer = aligned_empty((plan.tiles_at_once, inputs, lanes), np.float32)

    def densified(first: int, stop: int) -> Values:
        fill_tiles(buffer[: stop - first], row_slice(rows, first * lanes, stop * lanes))
        return buffer[: stop - first]

    return densified


@dataclass(frozen=True, eq=False)
class _Timed:
    """A contender, what it is ("ours", "peer" or "ceiling"), and the seconds of its passes, round by round."""

    contender: Contender
    kind: str
    seconds: list[float]

    @property
    def rate(self) -> float:
        """Multiply-adds a second in the median round."""
        return self.contender.work / summary(self.seconds).median

    def to(self, other: "_Timed | None") -> dict[str, float] | None:
        """Return how many times the other's rate this one's is, round by round."""
        if other is None:
            return None
        rates = ([timed.contender.work / seconds for seconds in timed.seconds] for timed in (self, other))
        return asdict(summary(ratios(*rates)))


def measure(
    case: Case, *, rounds: int, seconds: float, threads: int = THREADS, nbytes: int = BATCH_NBYTES
) -> dict[str, Any]:
    """Time a case, and return what came out as plain values, ready for JSON.

    Raises:
        KernelError: the answer of a contender is wrong.
    """
    problem = case.problem(threads, nbytes)
    lanes = _plan(problem, "auto", threads).lanes
    auto, why = choose_kernel("auto", problem.layer, lanes, first=case.first, density=case.density)
    with ThreadPoolExecutor(threads) as pool:
        ours = _kernels(case, auto)
        found = [(our_contender(k, problem, count, pool), "ours") for k in ours for count in (1, threads)]
        for peer in () if case.first else PEERS:
            if peer.problem is None and peer.name not in _left_out(case):
                found += [(contender, "peer") for contender in peer.contenders(problem, threads, pool)]
        found += [(sgemm(count), "ceiling") for count in (1, threads)]
        before = processor_seconds()
        contenders = [contender for contender, _ in found]
        taken = interleaved(contenders, rounds=rounds, seconds=seconds, rng=np.random.default_rng(0))
        after = processor_seconds()
    timed = [_Timed(*pair, each) for pair, each in zip(found, taken, strict=True)]
    others, everything = after - before
    return {
        "name": case.name,
        "neurons": case.neurons,
        "edges": problem.layer.nnz,
        "samples": problem.samples,
        "density": case.density,
        "used_by_others": max(0.0, float(others / everything)),
        "left_out": _left_out(case),
        **_results(timed, auto.name, why, threads),
    }


def _kernels(case: Case, auto: Kernel) -> list[Kernel]:
    """Return ours that are timed: of CSR rows those that the case is about, and always the one that auto takes."""
    able = {kernel.name: kernel for kernel in automatic_kernels() if case.first or not kernel.reads_rows}
    names = {"push", "tile"} if case.first else able.keys() - {"scipy", *_left_out(case)}
    return [kernel for name, kernel in able.items() if name in {*names, auto.name}]


def _left_out(case: Case) -> dict[str, str]:
    """Return contenders that are left out, and why."""
    if case.first or case.neurons <= DENSE_NEURONS:
        return {}
    why = f"dense weights would take {4 * case.neurons**2 / 2**30:.0f} GiB"
    return {"dense": why, **{peer.name: why for peer in PEERS if peer.dense}}


def _results(timed: Sequence[_Timed], auto: str, why: str, threads: int) -> dict[str, Any]:
    def fastest(
        kind: str, count: int = threads, name: str | None = None, among: Callable[[_Timed], bool] = lambda _: True
    ) -> _Timed | None:
        able = [t for t in timed if t.kind == kind and t.contender.threads == count and among(t)]
        return max((t for t in able if name in (None, t.contender.name)), key=lambda t: t.rate, default=None)

    peer, chosen = fastest("peer"), fastest("ours", name=auto)
    one_call = fastest("peer", among=lambda t: t.contender.formulation.startswith("one call"))
    peers = [fastest("peer", name=peer.name) for peer in PEERS]
    assert chosen is not None
    return {
        "best_peer": None if peer is None else peer.contender.name,
        "formulations": {t.contender.name: t.contender.formulation for t in peers if t is not None},
        "auto": {
            "kernel": auto,
            "why": why,
            "to_best_peer": chosen.to(peer),
            "to_best_peer_in_one_call": chosen.to(one_call),
            "to_best_of_ours": chosen.to(fastest("ours")),
            "to_sgemm": chosen.to(fastest("ceiling")),
            "to_one_thread": chosen.to(fastest("ours", 1, auto)),
        },
        "contenders": [
            {
                "name": t.contender.name,
                "kind": t.kind,
                "formulation": t.contender.formulation,
                "threads": t.contender.threads,
                "multiply_adds": t.contender.work,
                "seconds": {"rounds": t.seconds, **asdict(summary(t.seconds))},
                "rate": t.rate,
                "to_best_peer": t.to(peer),
                "to_sgemm": t.to(fastest("ceiling", t.contender.threads)),
            }
            for t in timed
        ],
    }


def benchmark(cases: Sequence[Case], *, rounds: int, seconds: float, threads: int = THREADS) -> dict[str, Any]:
    """Time the cases, and return a report of plain values, ready for JSON."""
    with ThreadPoolExecutor(threads) as pool:
        copying = copy(threads, pool)
        (taken,) = interleaved([copying], rounds=rounds, seconds=seconds, rng=np.random.default_rng(0))
    measured = []
    for case in cases:
        click.echo(case.name, err=True)
        measured.append(measure(case, rounds=rounds, seconds=seconds, threads=threads))
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "threads": threads,
        "rounds": rounds,
        "seconds": seconds,
        "copied_bytes_per_second": copying.work / summary(taken).median,
        "peers": [peer.name for peer in PEERS],
        "missing": {peer.name: peer.problem for peer in PEERS if peer.problem is not None},
        "cases": measured,
    }


def _show(rows: list[list[str]]) -> None:
    console = Console()
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*(Text(cell.strip("*"), "bold" if cell.startswith("*") else "") for cell in row))
    Console(width=None if console.is_terminal else 200).print(table)


def _chosen(_context: click.Context, _option: click.Parameter, names: str | None) -> list[Case]:
    known = {case.name: case for case in CASES}
    asked = list(known) if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise click.BadParameter(f"unknown case {unknown[0]!r}, expected some of {', '.join(known)}")
    return [known[name] for name in asked]


@click.command()
@reporting
@click.option("--only", "cases", callback=_chosen, metavar="CASE,...", help="Time these cases; default: all.")
@click.option("--rounds", type=click.IntRange(LEAST_ROUNDS), default=7, show_default=True, help="How often.")
@click.option(
    "--seconds", type=click.FloatRange(0.001), default=0.05, show_default=True, help="How long each time, at least."
)
def main(cases: list[Case], rounds: int, seconds: float) -> tuple[dict[str, Any], str]:
    """Time every kernel, other libraries, and what the machine can do, on single layers."""
    report = benchmark(cases, rounds=rounds, seconds=seconds)
    _show(rate_table(report))
    _show(ratio_table(report))
    for name, why in report["missing"].items():
        click.echo(f"{name} is missing: {why}")
    return report, markdown(report)


if __name__ == "__main__":
    main()
