"""One layer: every kernel of ours, other libraries, and what the machine can do, side by side.

A rate is edges x samples / seconds, whatever a format computes besides. Ours run as tasks run them, with bias, relu and
the flags of living samples; peers compute the product alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Alive, Values, aligned_empty, fill_tiles
from taskgraph_dnn.benchmarks.cases.layers import BATCH_NBYTES, CASES, Case, Problem
from taskgraph_dnn.benchmarks.peers.products import DENSE_NEURONS, PEERS
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table
from taskgraph_dnn.benchmarks.suites.ceilings import SIZES, sgemm
from taskgraph_dnn.benchmarks.timing import THREADS, Contender, fastest, in_threads, measured, rates, ratios, summary
from taskgraph_dnn.config import settings
from taskgraph_dnn.inputs import row_slice
from taskgraph_dnn.kernels import Kernel, automatic_kernels, load_kernel
from taskgraph_dnn.kernels.packing import packed_layer, packed_nbytes
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan, even_ranges, make_plan
from taskgraph_dnn.pools import one_thread_each
from taskgraph_dnn.reference import mismatch

#: Cases by their names, of the smaller efforts.
_SMOKE = "random-1024", "radix-1024", "push-1024"
_SHORT = *_SMOKE, "sparse50-1024", "sparse90-1024", "random-16384"

#: What auto takes should reach this part of the best kernel's rate.
LEAST_OF_OURS = 0.95

#: Bytes of a tile's row, which an edge needs.
_ROW_NBYTES = 128


# Ours.


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
    # A kernel may work on the layer itself, and pack nothing.
    weights = packed_nbytes(partitions[0].packed) or problem.layer.nbytes
    return Contender(
        kernel.name,
        f"tiles of {plan.lanes}",
        threads,
        problem.multiply_adds,
        in_threads(pool, [partition.run for partition in partitions]),
        lambda: mismatch(np.concatenate([p.rows() for p in partitions])[problem.checked], problem.outputs),
        one_thread_each,
        kind="ours",
        counted=lambda: {"weight bytes": weights},
    )


def _plan(problem: Problem, kernel: str, threads: int, density: float = 1.0) -> Plan:
    asked = settings(kernel=kernel, strategy="data", dtype="float32", reductions="none")
    return make_plan(Network([problem.layer]), problem.samples, asked, threads=threads, density=density)


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


# Measuring.


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield what all contenders take for the layers of an effort."""
    names = effort.pick(_SMOKE, _SHORT, [case.name for case in CASES])
    for case in CASES:
        if case.name in names:
            say(case.name)
            yield from measure_case(case, effort)


def measure_case(
    case: Case, effort: Effort, *, threads: int = THREADS, nbytes: int = BATCH_NBYTES
) -> Iterator[Measurement]:
    """Yield what the contenders of one layer take; details tell which of ours a plan takes, and why.

    Raises:
        KernelError: the answer of a contender is wrong.
    """
    problem = case.problem(threads, nbytes)
    planned = _plan(problem, "auto", threads, case.density).layers[0]
    auto, why = load_kernel(planned.kernel), planned.reason
    left_out = _left_out(case)
    with ThreadPoolExecutor(threads) as pool:
        found = [our_contender(kernel, problem, n, pool) for kernel in _kernels(case, auto) for n in (1, threads)]
        for peer in () if case.first else PEERS:
            if peer.problem is None and ("peer", peer.name) not in left_out:
                found += peer.contenders(problem, threads, pool)
        found += [sgemm(n) for n in (1, threads)]
        taken = measured("kernels", case.name, found, effort, _parameters(case, problem))
    for each in taken:
        chosen = (each.kind, each.contender, each.threads) == ("ours", auto.name, threads)
        yield replace(each, details={"default": True, "why": why}) if chosen else each
    for (kind, name), reason in left_out.items():
        yield Measurement("kernels", case.name, name, kind, threads=threads, left_out=reason)


def _kernels(case: Case, auto: Kernel) -> list[Kernel]:
    """Return ours that are timed: of CSR rows those that the case is about, and always the one that auto takes."""
    able = {kernel.name: kernel for kernel in automatic_kernels() if case.first or not kernel.reads_rows}
    left_out = {name for kind, name in _left_out(case) if kind == "ours"}
    names = {"push", "tile"} if case.first else able.keys() - {"scipy"} - left_out
    return [kernel for name, kernel in able.items() if name in {*names, auto.name}]


def _left_out(case: Case) -> dict[tuple[str, str], str]:
    """Return contenders that are left out, by kind and name, and why."""
    if case.first or case.neurons <= DENSE_NEURONS:
        return {}
    why = f"dense weights would take {4 * case.neurons**2 / 2**30:.0f} GiB"
    return {("ours", "dense"): why, **{("peer", peer.name): why for peer in PEERS if peer.dense}}


def _parameters(case: Case, problem: Problem) -> dict[str, float]:
    """Return the numbers of a case. Bytes are those of each array once, and of a row of a tile for each edge."""
    rows = problem.rows
    arrays = [rows.data, rows.indices, rows.indptr] if scipy.sparse.issparse(rows) else [rows]
    return {
        "neurons": case.neurons,
        "edges": problem.layer.nnz,
        "samples": problem.samples,
        "density": case.density,
        "weight bytes": problem.layer.nbytes,
        "activation bytes": sum(array.nbytes for array in arrays) + 4 * problem.samples * problem.layer.outputs,
        "gathered bytes": 4 * problem.multiply_adds,
    }


def intensity(measurement: Measurement) -> float:
    """Return the multiply-adds of a kernel for each byte that must move.

    These bytes are the weights as they are stored (of peers, as scipy stores them), the inputs and the outputs, each
    once.
    """
    given = measurement.parameters
    weights = measurement.counted.get("weight bytes", given["weight bytes"])
    return measurement.work / (weights + given["activation bytes"])


# Tables.


def tables(report: Report) -> Sequence[Table]:
    """Return the rates, what auto's choice is worth, and how near ours are to what the machine allows."""
    cases: dict[str, list[Measurement]] = {}
    for each in report.of("kernels"):
        cases.setdefault(each.case, []).append(each)
    return [
        Table("Rates of kernels: 1e9 multiply-adds a second", _rate_rows(cases, report.missing)),
        Table("What auto takes", _ratio_rows(cases)),
        Table("What the machine allows", _roof_rows(cases, report.of("ceilings"))),
    ]


Cases = Mapping[str, Sequence[Measurement]]


def _best(measurements: Sequence[Measurement], kind: str, name: str = "", threads: int = THREADS) -> Measurement | None:
    """Return the fastest of a kind, or of those called so, on so many threads."""
    able = [each for each in measurements if each.rounds and (each.kind, each.threads) == (kind, threads)]
    return fastest([each for each in able if name in ("", each.contender)])


def _auto(measurements: Sequence[Measurement]) -> Measurement:
    return next(each for each in measurements if each.details.get("default"))


def _rate_rows(cases: Cases, missing: Mapping[str, str]) -> list[list[str]]:
    timed = [each for measurements in cases.values() for each in measurements if each.rounds]
    ours = list(dict.fromkeys(each.contender for each in timed if each.kind == "ours"))
    columns = [*(("ours", name) for name in ours), *(("peer", peer.name) for peer in PEERS), ("ceiling", "sgemm")]
    rows = [["case", "auto", *(name for _, name in columns)]]
    return rows + [[case, *_rate_row(measurements, columns, missing)] for case, measurements in cases.items()]


def _rate_row(
    measurements: Sequence[Measurement], columns: Sequence[tuple[str, str]], missing: Mapping[str, str]
) -> Iterator[str]:
    peer = _best(measurements, "peer")
    first = fastest([each for each in (_best(measurements, "ours"), peer) if each is not None])
    absent = {(each.kind, each.contender): "left out" for each in measurements if each.left_out}
    if peer is not None:
        absent |= {("peer", name): "missing" for name in missing}
    yield _auto(measurements).contender
    for column in columns:
        found = _best(measurements, *column)
        text = absent.get(column, "") if found is None else f"{_rate(found) / 1e9:.1f}"
        yield f"**{text}**" if found is not None and found is first else text


def _rate(measurement: Measurement) -> float:
    return summary(rates(measurement)).median


def _ratio_rows(cases: Cases) -> list[list[str]]:
    compared = "auto / best peer", "auto / peer, one call", "auto / best of ours", "auto / sgemm"
    rows = [["case", "auto", "best peer", *compared, f"{THREADS} threads / 1"]]
    for case, measurements in cases.items():
        auto, peer = _auto(measurements), _best(measurements, "peer")
        one_call = _best([each for each in measurements if each.formulation.startswith("one call")], "peer")
        others = peer, one_call, _best(measurements, "ours"), _best(measurements, "ceiling")
        alone = _best(measurements, "ours", auto.contender, 1)
        cells = [_ratio(auto, other, claim) for other, claim in zip(others, _CLAIMS, strict=True)]
        named = "" if peer is None else f"{peer.contender}, {peer.formulation}"
        rows.append([case, auto.contender, named, *cells, _ratio(auto, alone)])
    return rows


#: What is claimed of these ratios; nothing of the last one.
_CLAIMS = 1.0, 1.0, LEAST_OF_OURS, None


def _ratio(above: Measurement, below: Measurement | None, claim: float | None = None) -> str:
    if below is None:
        return ""
    found = summary(ratios(rates(above), rates(below)))
    text = f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"
    if claim is None or claim < found.low or above is below:
        return text
    return f"{text}, {'open' if claim <= found.high else 'too low'}"


def _roof_rows(cases: Cases, ceilings: Sequence[Measurement]) -> list[list[str]]:
    rows = [["case", "auto", "rate", "multiply-adds a byte", "copying would allow", "gathering would allow"]]
    for case, measurements in cases.items():
        auto = _auto(measurements)
        copying = _allowed(ceilings, "copy", "16 MiB", intensity(auto))
        tile = _ROW_NBYTES * auto.parameters["neurons"]
        near = next((name for name, nbytes in SIZES.items() if nbytes >= tile), "")
        gathering = _allowed(ceilings, "gather", near, auto.work / auto.parameters["gathered bytes"])
        if auto.parameters["density"] < 1:
            gathering = ""  # edges of zero inputs count, but gather nothing
        rows.append([case, auto.contender, f"{_rate(auto) / 1e9:.1f}", f"{intensity(auto):.2f}", copying, gathering])
    return rows


def _allowed(ceilings: Sequence[Measurement], name: str, case: str, a_byte: float) -> str:
    found = _best([each for each in ceilings if each.case == case], "ceiling", name)
    return "" if found is None else f"{a_byte * _rate(found) / 1e9:.1f}"


KERNELS = Suite(
    "kernels",
    "Kernels",
    f"One layer, {THREADS} threads, float32. Rates are edges x samples / seconds of the median round, in 1e9 "
    "multiply-adds a second, whatever a format computes besides. Ours include bias, relu and the flags of living "
    "samples; peers compute the product alone, in the fastest of their formulations: one call on all samples, or 64 of "
    "them a call, with their own threads or from two of Python's. *auto* is the kernel that a plan takes; *sgemm* is "
    "numpy's product of two matrices of 1,024 x 1,024, in the same rounds. In *push* cases inputs are CSR rows, a "
    "tenth of them nonzero: *tile* makes them dense first, and edges of zero inputs count.\n\n"
    "Ratios are of rates, within rounds: median, and 10th to 90th percentile. *One call* leaves peers only that "
    "formulation, which is what their users write. auto is to be ahead of every peer, and to reach "
    f"{LEAST_OF_OURS} of the best of ours; *open* means that the spread is wider than this claim.\n\n"
    "*Multiply-adds a byte* counts the weights as they are stored, the inputs and the outputs, each once; *copying* "
    "allows that many times the rate of copying 16 MiB. *Gathering* allows one for each 4 bytes of rows of a table of "
    "the least size measured that holds a tile, where outputs share no inputs; *tile* loads them once for up to 16 "
    "outputs and may be faster.",
    measure,
    tables,
    lambda: {peer.name: peer.problem for peer in PEERS if peer.problem is not None},
)
