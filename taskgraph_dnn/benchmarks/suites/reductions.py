"""What reductions cost where there is nothing to leave out: networks without structure, with and without them.

A part of a percent is to be seen on machines whose other users cost tens of percents. So the seconds that processors
worked for this process are counted beside those on the clock: somebody else's work is not among them.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec

from taskgraph_dnn.benchmarks import runs
from taskgraph_dnn.benchmarks.cases.networks import Problem, pruned_network, random_network, trained_network
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.runs import counted, ready, right_outputs, side_by_side
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table
from taskgraph_dnn.benchmarks.timing import THREADS, ratios, summary
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.inference import infer

#: Without reductions, which others are compared with; and these.
WITHOUT, MODES = "none", ("dynamic", "exact")

#: How seconds are counted, and which part of a run has them.
CLOCK, PROCESSORS = "on the clock", "of processors"
_PARTS = {CLOCK: "wall", PROCESSORS: "processors"}

#: At least this part of the work must be done, or the network has structure.
_LEAST_DONE = 0.99

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
        taken = side_by_side(inferences, where, rounds, right_outputs(network, samples))
    done = taken["dynamic"].result
    if done.multiply_adds < _LEAST_DONE * done.edges:
        raise KernelError(f"reductions leave out all but {done.multiply_adds / done.edges:.0%} of the work")
    for mode, found in taken.items():
        columns = found.columns()
        for kind, part in _PARTS.items():
            yield Measurement(
                "reductions",
                name,
                mode,
                "ours",
                rounds=tuple(columns[part]),
                formulation=kind,
                threads=THREADS,
                work=samples.shape[0] * network.nnz,
                work_unit="edges",
                counted=counted(found.inference, found.result) if kind == CLOCK else {},
                parameters={"samples": samples.shape[0], "edges": network.nnz, "layers": len(network)},
            )


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
