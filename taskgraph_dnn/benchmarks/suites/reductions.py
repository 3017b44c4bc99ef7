"""What reductions cost where there is nothing to leave out: networks without structure, with and without them.

A part of a percent is to be seen on machines whose other users cost tens of percents. So the seconds that processors
worked for this process are counted beside those on the clock: somebody else's work is not among them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np

from taskgraph_dnn.benchmarks import runs
from taskgraph_dnn.benchmarks.cases.networks import Problem, pruned_network, random_network, trained_network
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.runs import counted, ready
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table
from taskgraph_dnn.benchmarks.timing import THREADS, TOLERANCE, ratios, rest, summary
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.inference import infer
from taskgraph_dnn.reference import mismatch, reference_outputs
from taskgraph_dnn.result import Result

#: Without reductions, which others are compared with; and these.
WITHOUT, MODES = "none", ("dynamic", "exact")

#: How seconds are counted.
CLOCK, PROCESSORS = "on the clock", "of processors"

#: At least this part of the work must be done, or the network has structure.
_LEAST_DONE = 0.99

#: Samples whose outputs are compared with the reference.
_CHECKED = 8

#: The cases; small efforts measure the first ones.
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "random, 784-300-100-10, 90% pruned": lambda: pruned_network(60_000),
    "random, 1,024 x 40, 32 inputs an output": lambda: random_network(1024, 40, 32, 10_000),
    "random, 16,384 x 6, 32 inputs an output": lambda: random_network(16384, 6, 32, 3_000),
    "trained, 64-512-512-512-10, 90% pruned": lambda: trained_network(60_000),
}


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield what networks take with and without reductions. More rounds than elsewhere: differences are small."""
    count, rounds = effort.pick((2, 2), (3, 9), (4, 25))
    for name, make in list(PROBLEMS.items())[:count]:
        if name.startswith("trained") and find_spec("sklearn") is None:
            yield Measurement("reductions", name, WITHOUT, "ours", left_out="scikit-learn is not installed")
            continue
        say(name)
        yield from measure_case(name, make(), rounds)


def measure_case(name: str, problem: Problem, rounds: int) -> Iterator[Measurement]:
    """Yield the seconds of each choice of reductions, round by round, each round in a new order.

    Raises:
        KernelError: an answer is wrong; or a reduction has left something out, so that this is no network without
            structure.
    """
    network, samples = problem
    with ready(runs.THREADS, THREADS) as where:
        inferences = {mode: infer(network, samples, reductions=mode) for mode in (WITHOUT, *MODES)}
        results = {mode: inference.compute(**where) for mode, inference in inferences.items()}
        for mode, result in results.items():
            _check(mode, result, problem)
        taken = _rounds({mode: partial(each.compute, **where) for mode, each in inferences.items()}, rounds)
    for mode, seconds in taken.items():
        for kind, column in zip((CLOCK, PROCESSORS), zip(*seconds, strict=True), strict=True):
            yield Measurement(
                "reductions",
                name,
                mode,
                "ours",
                rounds=column,
                formulation=kind,
                threads=THREADS,
                work=samples.shape[0] * network.nnz,
                work_unit="edges",
                counted=counted(inferences[mode], results[mode]) if kind == CLOCK else {},
                parameters={"samples": samples.shape[0], "edges": network.nnz, "layers": len(network)},
            )


def _check(mode: str, result: Result, problem: Problem) -> None:
    network, samples = problem
    off = mismatch(result.outputs[:_CHECKED], reference_outputs(network, samples[:_CHECKED]))
    if not off <= TOLERANCE:
        raise KernelError(f"{mode}: the answer is off by {off:.1e}, expected at most {TOLERANCE:.0e}")
    if mode == "dynamic" and result.multiply_adds < _LEAST_DONE * result.edges:
        raise KernelError(f"reductions leave out all but {result.multiply_adds / result.edges:.0%} of the work")


def _rounds(runs: Mapping[str, Callable[[], Result]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds of each run, on the clock and of processors, round by round."""
    taken: dict[str, list[tuple[float, float]]] = {mode: [] for mode in runs}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for mode in rng.permutation(list(runs)):
            rest()
            worked, started = time.process_time(), time.perf_counter()
            runs[mode]()
            taken[mode].append((time.perf_counter() - started, time.process_time() - worked))
    return taken


def tables(report: Report) -> Sequence[Table]:
    """Return what reductions cost, as a part of the time without them."""
    found = {(each.case, each.contender, each.formulation): each.rounds for each in report.of("reductions")}
    rows = [["", f"{WITHOUT}, seconds", *(f"{mode}, {kind}" for mode in MODES for kind in (CLOCK, PROCESSORS))]]
    for case in dict.fromkeys(case for case, _, _ in found):
        if (case, WITHOUT, CLOCK) not in found:
            continue  # it was left out
        cells = [case, f"{summary(found[case, WITHOUT, CLOCK]).median:.3f}"]
        for mode in MODES:
            cells += [_cost(found[case, mode, kind], found[case, WITHOUT, kind]) for kind in (CLOCK, PROCESSORS)]
        rows.append(cells)
    return [Table("What reductions cost where nothing can be left out", rows)]


def _cost(taken: Sequence[float], without: Sequence[float]) -> str:
    slower = summary(ratios(taken, without))
    text = f"{slower.median - 1:+.1%} ({slower.low - 1:+.1%} to {slower.high - 1:+.1%})"
    return f"{text}, open" if slower.low <= 1 <= slower.high else text


REDUCTIONS = Suite(
    "reductions",
    "Reductions",
    "Networks of which nothing can be left out, from rows to outputs, on two threads, without reductions, with the "
    "dynamic ones, and with all that are exact. Shown is by how much longer a run with them takes: median of the "
    "ratios within rounds, from the 10th to the 90th percentile; *open* means that rounds disagree on whether it is "
    "longer. "
    "*Of processors* is what all threads of the process worked, without what other processes made it wait.",
    measure,
    tables,
)
