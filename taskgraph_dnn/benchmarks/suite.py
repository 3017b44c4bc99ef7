"""What a benchmark is made of: a suite measures cases, as many as an effort allows, and makes tables of them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from taskgraph_dnn.benchmarks.report.records import Measurement, Report


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        name: "smoke" (two minutes in all; its counts are compared, its times say little), "short" (ten minutes) or
            "all" (an hour and more).
        rounds: how often each contender of a case is timed, in turn with the others.
        seconds: a measurement repeats short work until it lasts about so long.
    """

    name: str
    rounds: int
    seconds: float

    def pick(self, smoke: Any, short: Any, everything: Any) -> Any:
        """Return what is for this effort."""
        return {"smoke": smoke, "short": short, "all": everything}[self.name]


EFFORTS = {
    effort.name: effort for effort in (Effort("smoke", 2, 0.01), Effort("short", 5, 0.03), Effort("all", 7, 0.05))
}


#: Units of seconds and of bytes, the largest first.
_SCALES = {
    "seconds": ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")),
    "bytes": ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "bytes")),
}


def amount(value: float, unit: str) -> str:
    """Return a cell for seconds, bytes, or a number of something else, with three digits or more."""
    if unit not in _SCALES:
        return _digits(value)
    scale, short = next((each for each in _SCALES[unit] if value >= each[0]), _SCALES[unit][-1])
    return f"{_digits(value / scale)} {short}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


@dataclass(frozen=True)
class Table:
    """A table of a suite.

    Attributes:
        title: what it shows.
        rows: cells; the first row says what the columns are. A cell in asterisks is the best of its row.
    """

    title: str
    rows: Sequence[Sequence[str]]

    def has_numbers(self, column: int) -> bool:
        """Return whether the cells of a column stand to the right, as numbers do."""
        cells = [row[column].lstrip("*<-") for row in self.rows[1:]]
        return all(cell[:1].isdigit() for cell in cells if cell) and any(cells)


@dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
        name: what it is asked for by.
        title: of its part of the page.
        about: what is timed, against what, and how to read the columns; paragraphs of Markdown.
        measure: `measure(effort, say)` yields measurements, those of a case together; it tells `say` what it does.
        tables: `tables(report)` returns what the report has of this suite as tables.
        missing: returns the peers of this suite that cannot be used here, and why.
    """

    name: str
    title: str
    about: str
    measure: Callable[[Effort, Callable[[str], None]], Iterator[Measurement]]
    tables: Callable[[Report], Sequence[Table]]
    missing: Callable[[], dict[str, str]] = dict
