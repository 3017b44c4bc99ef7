"""Who is ahead: ours against each peer in the same case, within rounds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import amount
from taskgraph_dnn.benchmarks.timing import Summary, fastest, rates, ratios, summary

#: What may come of a race.
VERDICTS = AHEAD, OPEN, BEHIND = "ahead", "open", "behind"


@dataclass(frozen=True)
class Race:
    """Ours and a peer in one case.

    Attributes:
        ours: what a user gets who asks for nothing, where the suite says which that is, else the fastest of ours.
        peer: the fastest formulation of the peer.
        times: how many times as fast ours is, within rounds.
    """

    ours: Measurement
    peer: Measurement
    times: Summary

    @property
    def verdict(self) -> str:
        """Whether ours is "ahead" or "behind", or that is "open", because rounds disagree."""
        if self.times.low <= 1 <= self.times.high:
            return OPEN
        return AHEAD if self.times.median > 1 else BEHIND

    @property
    def cell(self) -> str:
        """How many times as fast ours is, and the verdict."""
        return f"{ratio_cell(self.times)}, {self.verdict}"


def ratio_cell(times: Summary) -> str:
    """Return a cell of a ratio that was taken within rounds."""
    middle, low, high = (f"{each:,.{2 if each < 10 else 0}f}" for each in (times.median, times.low, times.high))
    return f"{middle} ({low} to {high})"


def within(found: Summary, most: float) -> str:
    """Return whether a goal of at most so much is "reached" or "missed", or that is "open", because rounds disagree."""
    if found.low <= most < found.high:
        return OPEN
    return "reached" if found.high <= most else "missed"


def peer_cells(report: Report, suite: str) -> Callable[[str, str], str]:
    """Return `cell(case, peer)`: its time, how many times as fast ours is, and who is ahead; or why there is none."""
    found = {(race.ours.case, race.peer.contender): race for race in races(report, suite)}
    left_out = {(each.case, each.contender): each.left_out for each in report.of(suite) if each.left_out}

    def cell(case: str, peer: str) -> str:
        if (case, peer) in found:
            race = found[case, peer]
            return f"{amount(summary(race.peer.rounds).median, race.peer.unit)}: {race.cell}"
        if (case, peer) in left_out:
            return f"left out: {left_out[case, peer]}"
        return "missing" if peer in report.missing else ""

    return cell


def races(report: Report, suite: str) -> list[Race]:
    """Return all races of a suite, case by case; cases without a peer have none. Less memory is faster, too."""
    cases: dict[tuple[str, str], list[Measurement]] = {}
    for each in report.of(suite):
        if each.rounds:
            cases.setdefault((each.case, each.unit), []).append(each)
    return [race for measurements in cases.values() for race in _case_races(measurements)]


def _case_races(measured: Sequence[Measurement]) -> list[Race]:
    ours = [each for each in measured if each.kind == "ours"]
    best = fastest([each for each in ours if each.details.get("default")] or ours)
    if best is None:
        return []
    peers: dict[str, list[Measurement]] = {}
    for each in measured:
        if each.kind == "peer" and each.work_unit == best.work_unit:
            peers.setdefault(each.contender, []).append(each)
    return [_race(best, peer) for group in peers.values() if (peer := fastest(group)) is not None]


def _race(ours: Measurement, peer: Measurement) -> Race:
    return Race(ours, peer, summary(ratios(rates(ours), rates(peer))))
