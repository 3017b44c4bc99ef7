"""`timeline`: a picture of a run, from its trace."""

from pathlib import Path

import click

from taskgraph_dnn.record import check_record, draw_trace

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("trace", type=_PATH)
@click.argument("output", type=_PATH)
def timeline(trace: Path, output: Path) -> None:
    """Draw a run to OUTPUT (SVG) from the TRACE that `run --trace` wrote: a row a thread, a bar a task."""
    check_record("timeline", output)
    draw_trace(trace, output)
