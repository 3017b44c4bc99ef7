"""How much memory whole runs need: beside what their plan says, and beside scipy doing the same."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.benchmarks import timing
from taskgraph_dnn.benchmarks.memory import in_new_process, peaks, why_no_peaks
from taskgraph_dnn.benchmarks.peers.chains import scipy_columns
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.runs import THREADS, ready, right_outputs
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table, amount
from taskgraph_dnn.benchmarks.timing import check, ratios, summary
from taskgraph_dnn.inference import infer
from taskgraph_dnn.matrices import sparse_nbytes
from taskgraph_dnn.network import Network
from taskgraph_dnn.reference import mismatch
from taskgraph_dnn.result import Result
from taskgraph_dnn.synthetic import digit_images, radixnet

#: What is compared: reductions of this package, among them those that a user gets, and a peer.
_DEFAULT, _SCIPY = "exact", "scipy"


class Case(NamedTuple):
    """A RadiX-Net and digit images; `partitions` of None are for the plan to choose."""

    neurons: int
    layers: int
    samples: int
    partitions: int | None = None

    def problem(self) -> tuple[Network, scipy.sparse.csr_array]:
        """Return the network and the images, made anew: nothing of it is packed."""
        return radixnet(self.neurons, self.layers), digit_images(self.samples, self.neurons)


_SMOKE = (Case(1024, 4, 2_000, partitions=4),)
_SHORT = Case(1024, 8, 8_000), Case(16384, 4, 500)
_ALL = Case(1024, 8, 12_000), Case(1024, 120, 500), Case(4096, 12, 2_000), Case(16384, 6, 1_000)


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield the peaks of runs, each in a process of its own."""
    contenders = effort.pick((_DEFAULT, _SCIPY), ("none", _DEFAULT, _SCIPY), ("none", "dynamic", _DEFAULT, _SCIPY))
    for case in effort.pick(_SMOKE, _SHORT, _ALL):
        for contender in contenders:
            say(f"{case.neurons:,} x {case.layers:,}, {case.samples:,} samples, {contender}")
            yield in_new_process(peak, case, contender, effort.rounds)


def peak(case: Case, contender: str, rounds: int) -> Measurement:
    """Measure what a run holds beyond its network and samples, from these to the result; planning included.

    All memory of this process should be its own.

    Args:
        case: what is run.
        contender: reductions, or scipy.
        rounds: how often.

    Raises:
        KernelError: the answer is wrong.
    """
    ours = partial(_with_ours, contender, case.partitions)
    work: Callable[[Network, Any], Any] = _with_scipy if contender == _SCIPY else ours
    found = work(*case.problem())  # compiles kernels
    network, images = case.problem()
    right = right_outputs(network, images)
    check(contender, mismatch((found.outputs if isinstance(found, Result) else found)[: len(right)], right))
    why_not = why_no_peaks()
    measured = [] if why_not else peaks(partial(work, network, images), rounds)
    peer = Measurement(
        suite="memory",
        case=f"{case.neurons:,} x {case.layers:,}, {case.samples:,} samples",
        contender=contender,
        kind="peer",
        rounds=tuple(measured),
        unit="bytes",
        formulation="sparse weights x dense columns",
        work=case.samples * sum(layer.nnz for layer in network),
        work_unit="edges",
        left_out=why_not,
        parameters={"neurons": case.neurons, "layers": case.layers, "samples": case.samples},
    )
    if not isinstance(found, Result):
        return peer
    return replace(
        peer,
        kind="ours",
        formulation="",
        threads=found.plan.threads,
        counted={"tasks": found.plan.tasks, "multiply_adds": found.multiply_adds},
        details={"estimate": estimate(found), "default": contender == _DEFAULT},
    )


def _with_ours(mode: str, partitions: int | None, network: Network, images: Any) -> Result:
    with ready(THREADS, timing.THREADS) as options:
        return infer(network, images, reductions=mode, partitions=partitions).compute(**options)


def _with_scipy(network: Network, images: Any) -> NDArray[np.float32]:
    return np.asarray(scipy_columns(network, 1)(images))


def estimate(result: Result) -> dict[str, int]:
    """Return what a run should hold at most, in bytes, as its plan knows it.

    activations: those of the largest task, on each thread. weights: packed, about 8 bytes an edge. result: its rows.
    """
    plan = result.plan
    return {
        "activations": plan.largest_task_nbytes * min(plan.threads, len(plan.partitions)),
        "weights": 8 * sum(layer.nnz for layer in plan.layers),
        "result": sparse_nbytes(result.distinct) + result.rows.nbytes,
    }


_PARTS = "activations", "weights", "result"
_HEAD = "network", "with", "peak", "10th to 90th", "estimate", *_PARTS, "peak / estimate", "scipy's peak / this"


def tables(report: Report) -> Sequence[Table]:
    """Return the peaks, what they should be, and how many times as much scipy needs."""
    found = [each for each in report.of("memory") if not each.left_out]
    peers = {each.case: each for each in found if each.contender == _SCIPY}
    return [Table("Peak memory of runs", [_HEAD, *(_row(each, peers.get(each.case)) for each in found)])]


def _row(each: Measurement, peer: Measurement | None) -> list[str]:
    peak, estimated = summary(each.rounds), each.details.get("estimate", {})
    cells = [each.case, each.contender, _bytes(peak.median), f"{_bytes(peak.low)} to {_bytes(peak.high)}"]
    if each is peer:
        return [*cells, *[""] * (len(_HEAD) - len(cells))]
    total = sum(estimated.values())
    estimates = [_bytes(total), *(_bytes(estimated[part]) for part in _PARTS), f"{peak.median / total:.2f}"]
    return [*cells, *estimates, "" if peer is None else f"{summary(ratios(peer.rounds, each.rounds)).median:.2f}"]


def _bytes(value: float) -> str:
    return amount(value, "bytes")


MEMORY = Suite(
    "memory",
    "Memory",
    "The most memory that a run needs beyond its network and samples, which are in memory: from these to the result, "
    "planning included, each in a process of its own that has done the same once, so that code is loaded. The estimate "
    "is the plan's: activations of the largest task on each of two threads, 8 bytes an edge for packed weights, and "
    "the result. *scipy* multiplies sparse weights and all samples as dense columns, layer after layer, on one thread.",
    measure,
    tables,
)
