"""Who is ahead: ours against each peer in the same case, within rounds."""

from collections.abc import Sequence
from dataclasses import dataclass

from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.timing import Summary, fastest, rates, ratios, summary


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
            return "open"
        return "ahead" if self.times.median > 1 else "behind"


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
