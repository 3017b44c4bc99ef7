"""What the commands of benchmarks share: the files that a report goes to, and errors of one line."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from taskgraph_dnn.errors import TaskgraphError
from taskgraph_dnn.io.atomic import check_writable, write_text

_OUTPUT = click.Path(path_type=Path)


def reporting(command: Callable[..., tuple[dict[str, Any], str]]) -> Callable[..., None]:
    """Give a command --json and --markdown, checked before it runs, for the report and the page that it returns."""

    @click.option("--json", "json_file", type=_OUTPUT, help="Write all numbers to this file.")
    @click.option("--markdown", "markdown_file", type=_OUTPUT, help="Write the page to this file.")
    @wraps(command)
    def reported(json_file: Path | None, markdown_file: Path | None, **options: Any) -> None:
        try:
            for path in (json_file, markdown_file):
                if path is not None:
                    check_writable(path)
            report, page = command(**options)
            if json_file is not None:
                write_text(json_file, json.dumps(report, indent=1) + "\n")
            if markdown_file is not None:
                write_text(markdown_file, page)
        except TaskgraphError as error:
            raise click.ClickException(str(error)) from error

    return reported
