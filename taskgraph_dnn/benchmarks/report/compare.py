"""What changed between two runs: counted work to the last one, times beyond the noise.

A time has changed if the rounds of the two runs differ by a rank test, and their medians by `LEAST`. The test is the
exact one of Mann and Whitney (On a test of whether one of two random variables is stochastically larger than the other,
1947), as in Go's benchstat: times are not normal, and it needs no more than their order. With 5 rounds in each run it
takes all of one above all of the other to come below `CHANCE`, which two equal programs do in 0.8 % of all cases; so a
comparison says how many false alarms to expect of it. It sees the rounds of one process only: what is drawn once for a
process, such as where its memory lies, is in both runs once (Kalibera and Jones, Rigorous benchmarking in reasonable
time, 2013). Hence `LEAST`; and hence peers and ceilings are compared as well. Their code is the same in both runs, so
how many of them seem to have changed is what this rule takes for a change where there is none.

Machines differ, and so does one machine from hour to hour. Ceilings tell by how much: a time has changed only if it
did by more than those of all ceilings have.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scipy.stats import mannwhitneyu

from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import Table, amount
from taskgraph_dnn.benchmarks.timing import LEAST_ROUNDS, summary
from taskgraph_dnn.words import counted

#: Rounds differ where those of equal programs would do so with less than this probability.
CHANCE = 0.01

#: By this part medians must differ.
LEAST = 0.05

#: Kinds of contenders whose code is the same in both runs.
OTHERS = ("peer", "ceiling")

Pair = tuple[Measurement, Measurement]
Pairs = Sequence[Pair]


@dataclass(frozen=True)
class Count:
    """Counted work that is another one than before, or None where it was not counted."""

    measurement: Measurement
    what: str
    before: float | None
    after: float | None

    def __str__(self) -> str:
        before, after = map(_number, self.values)
        return f"{_name(self.measurement)}: {self.what} {before}, then {after}"

    @property
    def values(self) -> tuple[float | None, float | None]:
        """Before and after."""
        return self.before, self.after

    @property
    def is_worse(self) -> bool:
        """Whether it is more, or is not counted any more."""
        return self.before is not None and (self.after is None or self.after > self.before)


@dataclass(frozen=True)
class Change:
    """A measurement that changed beyond the noise: its median is `ratio` of what it was."""

    before: Measurement
    after: Measurement
    ratio: float

    @property
    def verdict(self) -> str:
        """What that is called."""
        less, more = ("faster", "slower") if self.before.unit == "seconds" else ("less", "more")
        return more if self.ratio > 1 else less


@dataclass(frozen=True)
class Comparison:
    """What changed between two runs.

    Attributes:
        machine: what of the fingerprint differs, and how.
        drift: the least and the most that the medians of ceilings are of what they were.
        pairs: measurements of the same in both runs.
        compared: those with enough rounds of the same work.
        changes: those that changed beyond the noise, the largest change first.
        counts: counted work that changed.
        other_ways: pairs of other formulations than before, whatever else changed.
        other_work: pairs that did not do the same work on as many threads, and whose times are not compared.
        lost: measurements of the first run only.
        new: measurements of the second run only.
    """

    machine: Mapping[str, tuple[Any, Any]]
    drift: tuple[float, float]
    pairs: Pairs
    compared: Pairs
    changes: Sequence[Change]
    counts: Sequence[Count]
    other_ways: Pairs
    other_work: Pairs
    lost: Sequence[Measurement]
    new: Sequence[Measurement]

    @property
    def worse_counts(self) -> list[Count]:
        """Counted work that is more, or not counted any more."""
        ours = [each for each in self.lost if each.kind != "peer"]  # which need not be installed
        gone = [Count(each, what, value, None) for each in ours for what, value in each.counted.items()]
        return [count for count in [*self.counts, *gone] if count.is_worse]


def compare(before: Report, after: Report) -> Comparison:
    """Return what changed from one run to another."""
    pairs, lost, new = _paired(before.measurements, after.measurements)
    same = [pair for pair in pairs if _work(pair[0]) == _work(pair[1])]
    timed = [pair for pair in same if min(len(each.rounds) for each in pair) >= LEAST_ROUNDS]
    drift = _drift([pair for pair in timed if pair[0].kind == "ceiling"])
    found = [Change(*pair, ratio) for pair in timed if (ratio := _changed(pair, drift)) is not None]
    return Comparison(
        machine={
            name: (before.machine.get(name), after.machine.get(name))
            for name in {**before.machine, **after.machine}
            if before.machine.get(name) != after.machine.get(name)
        },
        drift=drift,
        pairs=pairs,
        compared=timed,
        changes=sorted(found, key=lambda change: -max(change.ratio, 1 / change.ratio)),
        counts=[count for pair in pairs for count in _counts(*pair)],
        other_ways=[pair for pair in pairs if pair[0].formulation != pair[1].formulation],
        other_work=[pair for pair in pairs if pair not in same],
        lost=lost,
        new=new,
    )


def _paired(
    before: Sequence[Measurement], after: Sequence[Measurement]
) -> tuple[list[Pair], list[Measurement], list[Measurement]]:
    """Return pairs of equal keys, and what is left.

    What is done in another way since is still the same measurement; so is what uses all threads of another machine.
    """
    pairs: list[Pair] = []
    lost, new = list(before), list(after)
    for key in _KEYS:
        firsts, seconds = _alone(before, key), _alone(after, key)
        found = [(first, seconds[name]) for name, first in firsts.items() if name in seconds]
        pairs += [pair for pair in found if _has(lost, pair[0]) and _has(new, pair[1])]
        lost = [each for each in lost if not _has([first for first, _ in pairs], each)]
        new = [each for each in new if not _has([second for _, second in pairs], each)]
    return pairs, lost, new


def _has(measurements: Sequence[Measurement], one: Measurement) -> bool:
    return any(each is one for each in measurements)


#: What makes two measurements a pair, if no other ones have it: from the narrowest to the widest.
_KEYS: Sequence[Callable[[Measurement], tuple[Any, ...]]] = (
    lambda each: each.key,
    lambda each: (each.suite, each.case, each.contender, each.threads, each.kind),
    lambda each: (each.suite, each.case, each.contender, each.formulation, each.kind),
)


def _alone(measurements: Sequence[Measurement], key: Any) -> dict[tuple[Any, ...], Measurement]:
    """Return the measurements whose key no other one has, by it."""
    found: dict[tuple[Any, ...], list[Measurement]] = {}
    for each in measurements:
        found.setdefault(key(each), []).append(each)
    return {name: each for name, (each, *others) in found.items() if not others}


def _work(each: Measurement) -> tuple[Any, ...]:
    return each.unit, each.threads, each.work, each.work_unit, dict(each.parameters)


def _ratio(before: Measurement, after: Measurement) -> float:
    return median(after.rounds) / median(before.rounds)


def _changed(pair: Pair, drift: tuple[float, float] = (1.0, 1.0)) -> float | None:
    """Return what the median is of what it was, if it changed beyond the noise and the drift of the machine."""
    before, after = pair
    ratio = _ratio(before, after)
    least, most = drift if before.unit == "seconds" else (1.0, 1.0)
    explained = min(max(ratio, least), most)
    if least * (1 - LEAST) < ratio < most * (1 + LEAST):
        return None
    expected = [explained * each for each in before.rounds]
    chance = mannwhitneyu(expected, after.rounds).pvalue  # exact, as long as no rounds are equal
    return ratio if chance <= CHANCE else None


def _drift(ceilings: Pairs) -> tuple[float, float]:
    ratios = [_changed(pair) or 1.0 for pair in ceilings]
    return (min(ratios), max(ratios)) if ratios else (1.0, 1.0)


def _counts(before: Measurement, after: Measurement) -> list[Count]:
    return [
        Count(after, what, before.counted.get(what), after.counted.get(what))
        for what in {**before.counted, **after.counted}
        if before.counted.get(what) != after.counted.get(what)
    ]


def comparison_tables(found: Comparison) -> list[Table]:
    """Return counted work that changed, and what changed beyond the noise; a table without rows is left out."""
    counts = [[_name(each.measurement), each.what, *map(_number, each.values)] for each in found.counts]
    tables = [Table("Counted work that changed", [["", "counted", "before", "after"], *counts])]
    ours = [each for each in found.changes if each.before.kind not in OTHERS]
    others = [each for each in found.changes if each.before.kind in OTHERS]
    for title, changes in (("Changed beyond the noise", ours), ("Peers and ceilings, whose code is the same", others)):
        rows = [[_name(each.after), *_spreads(each), f"{each.ratio:.2f}", each.verdict] for each in changes]
        tables.append(Table(title, [["", "before", "after", "after / before", ""], *rows]))
    return [table for table in tables if len(table.rows) > 1]


def _name(each: Measurement) -> str:
    return f"{each.suite}: {each.case}, {each.contender}, threads: {each.threads}"


def _number(value: float | None) -> str:
    return "not counted" if value is None else f"{value:,.12g}"


def _spreads(change: Change) -> list[str]:
    unit = change.before.unit
    found = [summary(each.rounds) for each in (change.before, change.after)]
    return [f"{amount(s.median, unit)} ({amount(s.low, unit)} to {amount(s.high, unit)})" for s in found]


def comparison_notes(found: Comparison) -> list[str]:
    """Return what to know to read the tables, a line each."""
    notes = [f"{name}: {first}, then {second}" for name, (first, second) in _differing(found.machine)]
    notes += _notes_of_times(found)
    counts = sum(len(before.counted.keys() & after.counted.keys()) for before, after in found.pairs)
    notes.append(f"{counted(counts, 'count')} compared, {len(found.counts):,} changed.")
    notes += [f"{_name(after)}: was {before.formulation}, is {after.formulation}" for before, after in found.other_ways]
    if found.other_work:
        others = counted(len(found.other_work), "measurement")
        notes.append(f"{others} of other work than before, or on other threads: times not compared.")
    for title, alone in (("no more", found.lost), ("new", found.new)):
        notes += [f"{title}: {_name(each)}, {each.formulation}" for each in alone]
    return notes


def _notes_of_times(found: Comparison) -> Iterator[str]:
    if not found.compared:
        yield f"No times compared: that takes the same work, and {LEAST_ROUNDS} rounds, in both."
        return
    if found.drift != (1.0, 1.0):
        least, most = found.drift
        yield (
            f"Ceilings took {least:.2f} to {most:.2f} times what they took before: seconds have changed where they did "
            "by more than that."
        )
    changed = [change.before.kind in OTHERS for change in found.changes]
    others = sum(before.kind in OTHERS for before, _ in found.compared)
    yield (
        f"{counted(len(found.compared), 'measurement')} compared, {len(changed):,} changed; of {others:,} of peers and "
        f"ceilings {sum(changed):,}. By chance alone, up to {CHANCE * len(found.compared):.1f} would."
    )


def _differing(machine: Mapping[str, tuple[Any, Any]]) -> list[tuple[str, tuple[Any, Any]]]:
    """Return what differs, of values with names only those that do."""
    found: list[tuple[str, tuple[Any, Any]]] = []
    for name, (first, second) in machine.items():
        if isinstance(first, dict) and isinstance(second, dict):
            names = [each for each in {**first, **second} if first.get(each) != second.get(each)]
            found += [(f"{name}, {each}", (first.get(each), second.get(each))) for each in names]
        else:
            found.append((name, (first, second)))
    return found
