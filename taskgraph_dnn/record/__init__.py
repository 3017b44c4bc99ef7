"""A run on record: what its tasks did and when, as a trace, a timeline and a page, made of the events of its result."""

import os
from collections.abc import Sequence
from pathlib import Path

from taskgraph_dnn.checks import Check
from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io.atomic import check_writable, write_text
from taskgraph_dnn.result import Result

__all__ = ["check_record", "draw_trace", "write_report", "write_timeline", "write_trace"]

_SUFFIXES = {"trace": ".json", "timeline": ".svg", "report": ".html"}


def check_record(kind: str, path: str | os.PathLike[str]) -> None:
    """Check that a "trace", a "timeline" or a "report" can be written to a file; call it before long work.

    Raises:
        FileError: the file cannot be written, or its name does not say what will be in it.
    """
    check_writable(path)
    target, suffix = Path(path), _SUFFIXES[kind]
    if target.suffix.lower() != suffix:
        raise FileError(f"cannot write a {kind} as {target.name!r}, expected a name that ends in {suffix}")


def write_trace(result: Result, path: str | os.PathLike[str]) -> Path:
    """Write the tasks of a run as a trace for https://ui.perfetto.dev or chrome://tracing, and return where.

    Raises:
        FileError: see `check_record`.
    """
    from taskgraph_dnn.record import trace
    from taskgraph_dnn.record.slices import slices

    return _written("trace", path, trace.render(slices(result), trace.about(result)))


def write_timeline(result: Result, path: str | os.PathLike[str]) -> Path:
    """Write the tasks of a run as an SVG picture, a row for each thread of each worker, and return where.

    Raises:
        FileError: see `check_record`.
    """
    from taskgraph_dnn.record import timeline
    from taskgraph_dnn.record.slices import slices

    return _written("timeline", path, timeline.render(slices(result)))


def draw_trace(trace_path: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Write the picture of `write_timeline` from a trace that `write_trace` wrote, and return where.

    Raises:
        FileError: the trace cannot be read, or is none of ours; or see `check_record`.
    """
    from taskgraph_dnn.record import timeline, trace

    return _written("timeline", path, timeline.render(trace.read(trace_path)))


def write_report(result: Result, path: str | os.PathLike[str], checks: Sequence[Check] = ()) -> Path:
    """Write a run as one HTML page, which needs nothing else, and return where.

    Args:
        result: of the run.
        path: the file.
        checks: of the answer, to be shown too.

    Raises:
        FileError: see `check_record`.
    """
    from taskgraph_dnn.record import page

    return _written("report", path, page.render(result, checks))


def _written(kind: str, path: str | os.PathLike[str], text: str) -> Path:
    check_record(kind, path)
    write_text(path, text)
    return Path(path)
