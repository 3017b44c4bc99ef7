"""Traces: tasks in the Trace Event Format, which Perfetto and Chrome's tracing page show and others read, too."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import taskgraph_dnn
from taskgraph_dnn.errors import FileError
from taskgraph_dnn.record.slices import Slice, by_track, held
from taskgraph_dnn.result import Result

_PROGRAM = "taskgraph-dnn"

#: Fields of a task that an event has outside of its `args`.
_ELSEWHERE = ("name", "process", "start", "end")


def about(result: Result) -> dict[str, Any]:
    """Return what a trace says of the whole run, plain values."""
    plan = result.plan
    began = min((event.start for event in result.events), default=0.0)
    return {
        "program": _PROGRAM,
        "version": taskgraph_dnn.__version__,
        "began": datetime.fromtimestamp(began).astimezone().isoformat(),
        "samples": result.samples,
        "layers": plan.depth,
        "edges": plan.edges,
        "strategy": plan.strategy,
        "reductions": list(plan.reductions),
        "read_seconds": result.seconds.read,
        "prepare_seconds": result.seconds.prepare,
        "infer_seconds": result.seconds.infer,
    }


def render(tasks: Sequence[Slice], about: dict[str, Any]) -> str:
    """Return the trace as JSON, one event a line: tracks, tasks, and the bytes that wait between tasks."""
    lines = [json.dumps(event) for event in _events(tasks)]
    head = f'{{"displayTimeUnit": "ms",\n"otherData": {json.dumps(about)},\n"traceEvents": [\n'
    return head + ",\n".join(lines) + "\n]}\n"


def read(path: str | os.PathLike[str]) -> tuple[Slice, ...]:
    """Return the tasks of a trace that `render` made.

    Raises:
        FileError: the file cannot be read, or holds no such trace.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if found["otherData"]["program"] != _PROGRAM:
            raise ValueError(found["otherData"]["program"])
        events = found["traceEvents"]
        processes = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
        return tuple(_task(event, processes) for event in events if event["ph"] == "X")
    except OSError as error:
        raise FileError(f"{path}: cannot read the trace: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"  # `repr` of some errors holds the whole file
        raise FileError(f"{path}: found no trace that `{_PROGRAM} run --trace` wrote: {problem}") from error


def _events(tasks: Sequence[Slice]) -> Iterator[dict[str, Any]]:
    tracks = by_track(tasks)
    # Perfetto takes a thread with its process's number for that process's main thread: no number comes twice.
    numbers = {name: number for number, name in enumerate([*dict.fromkeys(p for p, _ in tracks), *tracks], start=1)}
    for process, number in numbers.items():
        if isinstance(process, str):
            yield _named("process_name", {"name": process}, pid=number)
    for track in tracks:
        yield _named("thread_name", {"name": f"thread {track[1]}"}, pid=numbers[track[0]], tid=numbers[track])
    for task in tasks:
        times = {"ts": task.start / 1000, "dur": (task.end - task.start) / 1000}  # microseconds
        place = {"pid": numbers[task.process], "tid": numbers[task.track]}
        args = {name: value for name, value in vars(task).items() if name not in _ELSEWHERE}
        yield {"name": task.name, "cat": "task", "ph": "X", **times, **place, "args": args}
    for end, nbytes in held(tasks):
        yield {"name": "bytes between tasks", "ph": "C", "ts": end / 1000, "pid": 1, "args": {"bytes": nbytes}}


def _named(name: str, args: dict[str, Any], **track: int) -> dict[str, Any]:
    return {"name": name, "ph": "M", "ts": 0, **track, "args": args}


def _task(event: dict[str, Any], processes: dict[int, str]) -> Slice:
    start = round(event["ts"] * 1000)
    end = start + round(event["dur"] * 1000)
    task = Slice(name=event["name"], process=processes[event["pid"]], start=start, end=end, **event["args"])
    for field in fields(task):
        value, kinds = getattr(task, field.name), (int, float) if field.type is float else (field.type,)
        if type(value) not in kinds:
            raise TypeError(f"{field.name} is {value!r}")
    return task
