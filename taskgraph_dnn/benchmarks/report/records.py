"""What a benchmark keeps: a measurement is a line of JSON with all its rounds, a report is a run and its machine."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from taskgraph_dnn.errors import FileError, InputError

#: What the first line of a report says it is; a later version reads what an earlier one wrote, or refuses.
FORMAT, VERSION = "taskgraph-dnn benchmarks", 1

#: The suite that is a part of every run: what the machine can do at most.
ALWAYS = "ceilings"


@dataclass(frozen=True)
class Measurement:
    """What one contender took in one case, round by round.

    Attributes:
        suite: the benchmark.
        case: the work, called the same in every run.
        contender: what did it.
        kind: "ours", "peer", "ceiling" (what the machine can do at most) or "model" (computed, not timed).
        formulation: in which way it was done.
        threads: with how many threads.
        unit: of the rounds: "seconds" or "bytes".
        rounds: one number for each round; those of contenders of one case were taken in turn, and belong together.
            None where it was left out.
        left_out: why there are no rounds.
        work: what was done in a round.
        work_unit: what that is: "multiply-adds", "edges", "bytes", "samples" ...
        counted: what was counted while it ran: multiply-adds that were done, tasks, bytes sent ... On one machine it is
            the same in every run of the same code.
        parameters: numbers of the case: neurons, layers, samples, partitions ...
        details: other plain values, which the suite's own tables show.
    """

    suite: str
    case: str
    contender: str
    kind: str
    rounds: tuple[float, ...] = ()
    unit: str = "seconds"
    formulation: str = ""
    threads: int = 1
    work: float = 0.0
    work_unit: str = ""
    left_out: str = ""
    counted: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What it is a measurement of: equal in two runs if they can be compared."""
        return self.suite, self.case, self.contender, self.formulation, self.threads

    def to_line(self) -> str:
        """Return it as a line of JSON, without what it leaves at the default."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in ((), "", {}, 0.0)})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Measurement":
        """Return the measurement that `to_line` has written; what it is not is refused by a TypeError."""
        rounds = values.get("rounds", ())
        if not all(isinstance(each, int | float) and math.isfinite(each) for each in rounds):
            raise TypeError(f"rounds are {rounds!r}, not numbers")
        return cls(**{**values, "rounds": tuple(rounds)})


@dataclass(frozen=True)
class Report:
    """All of a run.

    Attributes:
        date: of the run, as ISO 8601.
        effort: how much was measured, by the name of an `Effort`.
        machine: as of `fingerprint.machine`.
        missing: peers that are not installed, and why they cannot be used.
        measurements: in the order in which they were taken.
        used_by_others: for each suite that was finished, the part of the machine's processors that other processes used
            meanwhile.
        again: for each suite that was measured again, after the others: the "date", and the "code".
    """

    date: str
    effort: str
    machine: Mapping[str, Any]
    missing: Mapping[str, str]
    measurements: tuple[Measurement, ...] = ()
    used_by_others: Mapping[str, float] = field(default_factory=dict)
    again: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def of(self, suite: str) -> tuple[Measurement, ...]:
        """Return the measurements of one suite."""
        return tuple(each for each in self.measurements if each.suite == suite)

    def has(self, suite: str) -> bool:
        """Return whether it was measured, or begun at least."""
        return suite in self.used_by_others or bool(self.of(suite))

    def unfinished(self) -> dict[str, int]:
        """Return how many measurements there are of each suite that was broken off."""
        return Counter(each.suite for each in self.measurements if each.suite not in self.used_by_others)

    def head(self) -> str:
        """Return the first line of its file."""
        described = {name: getattr(self, name) for name in ("date", "effort", "machine", "missing")}
        return json.dumps({"format": FORMAT, "version": VERSION, **described})

    def lines(self) -> str:
        """Return the file: what was run where, then a line for each measurement, and last what others used."""
        measured = [each.to_line() for each in self.measurements]
        ends = [{"used_by_others": self.used_by_others}, *([{"again": self.again}] if self.again else [])]
        return "\n".join([self.head(), *measured, *map(json.dumps, ends)]) + "\n"

    def with_suites_of(self, later: "Report") -> "Report":
        """Return this report with the suites of a later one in place of its own; its ceilings stay.

        Raises:
            InputError: they are of other machines, libraries or efforts, or a suite of the later one was broken off.
        """
        pools = "thread_pools"  # those of libraries that a run's suites have loaded
        for name in {**self.machine, **later.machine, "effort": ""}.keys() - {"code", pools}:
            mine, other = (r.effort if name == "effort" else r.machine.get(name) for r in (self, later))
            if mine != other:
                raise InputError(f"reports of different runs cannot be joined: {name} is {mine!r}, then {other!r}")
        if broken := ", ".join(later.unfinished()):
            raise InputError(f"{broken} was broken off in the later report")
        new = {name: used for name, used in later.used_by_others.items() if name != ALWAYS}
        suites = dict.fromkeys(each.suite for each in (*self.measurements, *later.measurements))
        loaded = [pool for report in (self, later) for pool in report.machine.get(pools, ())]
        return replace(
            self,
            missing={**self.missing, **later.missing},
            machine={**self.machine, pools: [pool for n, pool in enumerate(loaded) if pool not in loaded[:n]]},
            measurements=tuple(each for name in suites for each in (later if name in new else self).of(name)),
            used_by_others={**self.used_by_others, **new},
            again={**self.again, **{name: {"date": later.date, "code": later.machine["code"]} for name in new}},
        )


def read_report(path: Path) -> Report:
    """Read a report, also of a run that was broken off: it lacks the last lines, and may end within one.

    Contenders of a case are written together, so one that ends within a line lacks some of its last case: that is left
    out.

    Raises:
        FileError: it cannot be read, or a line is no part of a report; the error names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path} cannot be read: {error}") from error
    lines = text[: text.rfind("\n") + 1].splitlines()
    found = [_line(path, number, line) for number, line in enumerate(lines, start=1)]
    if not found or found[0].get("format") != FORMAT:
        raise FileError(f"{path} line 1: no report of benchmarks, expected the format {FORMAT!r}")
    if found[0].get("version") != VERSION:
        raise FileError(f"{path} line 1: a report of version {found[0].get('version')}, expected {VERSION}")
    others: dict[str, float] = {}
    again: dict[str, Mapping[str, str]] = {}
    measurements = []
    for number, values in enumerate(found[1:], start=2):
        if "used_by_others" in values or "again" in values:
            others.update(values.get("used_by_others", {}))
            again.update(values.get("again", {}))
            continue
        try:
            measurements.append(Measurement.of(values))
        except TypeError as error:
            known = ", ".join(each.name for each in fields(Measurement))
            raise FileError(f"{path} line {number}: {error}, expected {known}") from error
    head = {name: found[0].get(name) for name in ("date", "effort", "machine", "missing")}
    if None in head.values():
        raise FileError(f"{path} line 1: a report without {', '.join(n for n, v in head.items() if v is None)}")
    if not text.endswith("\n") and measurements:
        last = measurements[-1]
        measurements = [each for each in measurements if (each.suite, each.case) != (last.suite, last.case)]
    return Report(**head, measurements=tuple(measurements), used_by_others=others, again=again)  # type: ignore[arg-type]


def _line(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise FileError(f"{path} line {number}: no JSON: {error}") from error
    if not isinstance(values, dict):
        raise FileError(f"{path} line {number}: a {type(values).__name__}, expected an object")
    return values
