"""Runs suites, one after the other, and keeps every measurement as soon as it is there."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from taskgraph_dnn.benchmarks.fingerprint import machine, processor_seconds
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import Effort, Suite
from taskgraph_dnn.io.atomic import check_writable


def run_suites(suites: Sequence[Suite], effort: Effort, lines: Path | None, *, say: Callable[[str], None]) -> Report:
    """Measure everything that the suites have for an effort.

    Args:
        suites: what to run, in this order.
        effort: how much of it.
        lines: a file for the report. Until it is whole, `unfinished(lines)` gets a line for each measurement when it is
            there, so that a run that is broken off leaves what it has found, and the file as it was.
        say: told what is being measured.

    Raises:
        FileError: the file cannot be written; before anything is measured.
        KernelError: the answer of a contender is wrong.
    """
    start = time.perf_counter()
    missing = {peer: why for suite in suites for peer, why in suite.missing().items()}
    report = Report(datetime.now(UTC).isoformat(timespec="seconds"), effort.name, machine(), missing)
    measurements: list[Measurement] = []
    others: dict[str, float] = {}
    with _written(lines, say) as file:
        _append(file, report.head())
        for suite in suites:
            before = processor_seconds()
            for measurement in suite.measure(effort, _saying(say, suite.name, start)):
                measurements.append(measurement)
                _append(file, measurement.to_line())
            used, everything = processor_seconds() - before
            others[suite.name] = max(0.0, float(used / everything)) if everything else 0.0
            _append(file, json.dumps({"used_by_others": {suite.name: others[suite.name]}}))
    return Report(report.date, effort.name, report.machine, missing, tuple(measurements), others)


def unfinished(lines: Path) -> Path:
    """Return the file that holds the lines of a report as long as it is not whole."""
    return lines.with_name(f"{lines.name}.part")


def _saying(say: Callable[[str], None], suite: str, start: float) -> Callable[[str], None]:
    return lambda text: say(f"{time.perf_counter() - start:5.0f} s, {suite}: {text}")


@contextmanager
def _written(path: Path | None, say: Callable[[str], None]) -> Iterator[IO[str] | None]:
    if path is None:
        yield None
        return
    target = check_writable(path)
    draft = check_writable(unfinished(target))
    with draft.open("w", encoding="utf-8") as file:
        try:
            yield file
        except BaseException:
            say(f"broken off; what was measured until then: taskgraph-dnn bench show {draft}")
            raise
    draft.replace(target)


def _append(file: IO[str] | None, line: str) -> None:
    if file is not None:
        file.write(line + "\n")
        file.flush()
