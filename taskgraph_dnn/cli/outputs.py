"""Where a result goes: tables on the terminal, and the files that options name."""

import json
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from taskgraph_dnn.checks import Check
from taskgraph_dnn.cli.terminal import show
from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io import write_categories
from taskgraph_dnn.io.atomic import check_writable, write_text
from taskgraph_dnn.record import check_record, write_report, write_trace
from taskgraph_dnn.report import check_table, layers_table, result_dict, result_table
from taskgraph_dnn.result import Result


@dataclass(frozen=True)
class Outputs:
    """The files that a result is written to, or None; they are named as their options are."""

    categories: Path | None
    json: Path | None
    trace: Path | None
    report: Path | None

    def check(self) -> None:
        """Check, before work, that these files can be written.

        Raises:
            FileError: one cannot, or two are the same.
        """
        files = [file for file in astuple(self) if file is not None]
        targets = [check_writable(file) for file in files]
        for number, target in enumerate(targets):
            if target in targets[:number]:
                raise FileError(f"cannot write two outputs to one file: {files[number]}")
        if self.trace is not None:
            check_record("trace", self.trace)
        if self.report is not None:
            check_record("report", self.report)

    def write(self, result: Result, checks: list[Check]) -> None:
        """Show a result and its checks as tables, and write it to the files.

        Raises:
            FileError: a file cannot be written.
        """
        if result.plan.reductions:
            show(layers_table(result))
        show(result_table(result))
        if checks:
            show(check_table(checks))
        if self.json is not None:
            write_text(self.json, json.dumps(result_dict(result, checks), indent=1) + "\n")
        if self.categories is not None:
            write_categories(result.categories, self.categories)
        if self.trace is not None:
            write_trace(result, self.trace)
        if self.report is not None:
            write_report(result, self.report, checks)


_OPTIONS = {
    "categories": "Write the categories, one a line, from 1.",
    "json": "Write result, plan and times to this file.",
    "trace": "Write what ran when to this file (JSON), for https://ui.perfetto.dev.",
    "report": "Write the run to this file as one HTML page: pictures, tables, tasks to search.",
}


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command that has a result the files it can be written to, as `outputs`."""

    @wraps(command)
    def with_outputs(**options: Any) -> Any:
        return command(outputs=Outputs(**{name: options.pop(f"{name}_file") for name in _OPTIONS}), **options)

    for name, text in _OPTIONS.items():
        option = click.option(f"--{name}", f"{name}_file", type=click.Path(path_type=Path), help=text)
        with_outputs = option(with_outputs)
    return with_outputs
