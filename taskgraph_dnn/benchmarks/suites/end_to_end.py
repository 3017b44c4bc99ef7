"""Whole networks, from rows in memory to categories or outputs: this package beside every peer."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from taskgraph_dnn.benchmarks.cases.networks import Problem, pruned_network, random_network, trained_network
from taskgraph_dnn.benchmarks.peers.networks import PEERS, Work, fastest_way, our_contender
from taskgraph_dnn.benchmarks.report.races import peer_cells, races
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.runs import THREADS as ON_THREADS
from taskgraph_dnn.benchmarks.runs import ready
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table, amount
from taskgraph_dnn.benchmarks.timing import THREADS, fastest, measured, rates, summary
from taskgraph_dnn.config import settings
from taskgraph_dnn.synthetic import digit_images, radixnet

_NAME = "end-to-end"

#: Reductions that ours runs with.
_MODES = ("none", "dynamic", "exact")

#: So that counts do not depend on the machine, where they are compared.
_SMOKE_PARTITIONS = 4


@dataclass(frozen=True)
class Case:
    """A network.

    Attributes:
        name: what it is called.
        make: `make(samples)` draws the network and its samples.
        samples: how many, for each effort; 0 where it is not measured.
        categories: whether categories are asked for, else outputs.
        needs: a package that drawing it needs.
    """

    name: str
    make: Callable[[int], Problem]
    samples: tuple[int, int, int]
    categories: bool = False
    needs: str = "numpy"


def _challenge(neurons: int, layers: int, samples: int) -> Problem:
    return radixnet(neurons, layers), digit_images(samples, neurons)


def _challenge_case(neurons: int, layers: int, *samples: int) -> Case:
    name = f"RadiX-Net {neurons:,} x {layers:,}"
    return Case(name, partial(_challenge, neurons, layers), samples, categories=True)  # type: ignore[arg-type]


def _pruned_case(widths: tuple[int, ...], sparsity: int, *samples: int) -> Case:
    name = f"{'-'.join(map(str, widths))}, {sparsity}% sparse"
    make = partial(pruned_network, widths=widths, density=1 - sparsity / 100)
    return Case(name, make, samples)  # type: ignore[arg-type]


_WIDE = 784, 4096, 4096, 10

CASES = (
    _challenge_case(1024, 120, 256, 256, 1024),
    _challenge_case(1024, 120, 0, 0, 8192),
    _challenge_case(1024, 1920, 0, 0, 128),
    _challenge_case(4096, 120, 0, 128, 512),
    _challenge_case(16384, 120, 0, 0, 128),
    Case("random, 1,024 x 40", lambda samples: random_network(1024, 40, 32, samples), (0, 256, 4096)),
    Case("random, 16,384 x 6", lambda samples: random_network(16384, 6, 32, samples), (0, 0, 2048)),
    _pruned_case((784, 300, 100, 10), 90, 2048, 60_000, 60_000),
    _pruned_case(_WIDE, 90, 0, 512, 2048),
    _pruned_case(_WIDE, 95, 0, 0, 2048),
    _pruned_case(_WIDE, 99, 0, 0, 2048),
    Case("trained, 64-512-512-512-10, 90% sparse", trained_network, (0, 0, 60_000), needs="sklearn"),
    _pruned_case((1024,) * 5, 50, 0, 512, 4096),
)


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield what each network takes, here and in peers."""
    for case in CASES:
        samples = effort.pick(*case.samples)
        name = f"{case.name}, {samples:,} samples"
        if samples and find_spec(case.needs) is None:
            yield Measurement(_NAME, name, "exact", "ours", left_out=f"{case.needs} is not installed")
        elif samples:
            yield from measure_case(name, Work.of(case.make(samples), categories=case.categories), effort, say)


def measure_case(name: str, work: Work, effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield what a network takes, here and in each peer's fastest way.

    Raises:
        KernelError: an answer is wrong.
    """
    network, most_seconds = work.network, effort.pick(0.5, 1.0, 3.0)
    parameters = {"samples": work.samples, "edges": network.nnz, "layers": len(network), "inputs": network.inputs}
    options: dict[str, Any] = effort.pick({"partitions": _SMOKE_PARTITIONS}, {}, {})
    with ThreadPoolExecutor(THREADS) as pool, ready(ON_THREADS, THREADS) as where:
        contenders = [our_contender(work, mode, THREADS, where, **options) for mode in _MODES]
        for peer in PEERS:
            if peer.problem() is None:
                say(f"{name}: {peer.name}")
                found, why = fastest_way(peer, work, THREADS, pool, most_seconds)
                if found is None:
                    yield Measurement(_NAME, name, peer.name, "peer", left_out=why, parameters=parameters)
                else:
                    contenders.append(found)
        say(f"{name}: side by side")
        for each in measured(_NAME, name, contenders, effort, parameters):
            yield replace(each, details={"default": each.kind == "ours" and each.contender == settings().reductions})


def missing() -> dict[str, str]:
    """Return the peers that cannot be used here, and why."""
    problems = {peer.name: peer.problem() for peer in PEERS}
    return {name: why for name, why in problems.items() if why is not None}


def tables(report: Report) -> Sequence[Table]:
    """Return who is ahead in each network, and what everybody took."""
    return [Table("Ours beside each peer", _beside(report)), Table("All contenders", _all(report))]


def _beside(report: Report) -> list[list[str]]:
    cell = peer_cells(report, _NAME)
    bare = {each.case: each for each in report.of(_NAME) if each.contender == "none" and each.rounds}
    sgemm = fastest([each for each in report.of("ceilings") if each.contender == "sgemm"])
    rows = [["network", "ours", "1e9 edges a second", "none, of sgemm", *(peer.name for peer in PEERS)]]
    for case, ours in {race.ours.case: race.ours for race in races(report, _NAME)}.items():
        seconds = summary(ours.rounds).median
        cells = [case, amount(seconds, ours.unit), f"{ours.work / seconds / 1e9:,.1f}"]
        cells.append(f"{_rate(bare[case]) / _rate(sgemm):.0%}" if sgemm and case in bare else "")
        rows.append(cells + [cell(case, peer.name) for peer in PEERS])
    return rows


def _rate(each: Measurement) -> float:
    return summary(rates(each)).median


def _all(report: Report) -> list[list[str]]:
    rows = [["network", "contender", "formulation", "seconds, median", "10th to 90th percentile", "1e9 edges a second"]]
    for each in report.of(_NAME):
        cells = [each.case, each.contender]
        if each.left_out:
            rows.append([*cells, f"left out: {each.left_out}", "", "", ""])
            continue
        taken = summary(each.rounds)
        spread = f"{amount(taken.low, each.unit)} to {amount(taken.high, each.unit)}"
        rows.append([*cells, each.formulation, amount(taken.median, each.unit), spread])
        rows[-1].append(f"{each.work / taken.median / 1e9:,.1f}")
    return rows


END_TO_END = Suite(
    _NAME,
    "End to end",
    "Whole networks, from rows in memory to categories (RadiX-Net, of the Graph Challenge) or to outputs (the others), "
    "on two threads. Weights are prepared before, as each likes them; everything else is timed. Each peer runs in the "
    "fastest of its formulations, found on a part of the samples, and all answers are compared with a float64 "
    "reference first.\n\n"
    "*Ours* is this package as it comes, with all reductions that are exact. A peer's cell has its seconds, and how "
    "many times as fast ours is: the median of the ratios within rounds, and the 10th to the 90th percentile. *Open* "
    "means that the spread is wider than the claim: rounds disagree on who is ahead. Edges are those of the whole "
    "network, whatever was left out, or computed in vain. *None, of sgemm* is the rate without reductions, as a part "
    "of what the machine multiplies at most.",
    measure,
    tables,
    missing,
)
