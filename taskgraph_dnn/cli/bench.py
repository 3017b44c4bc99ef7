"""`bench`: the benchmarks, what changed between two runs of them, and the page that is made of one."""

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from taskgraph_dnn.benchmarks.harness import run_suites
from taskgraph_dnn.benchmarks.suite import EFFORTS, Table
from taskgraph_dnn.benchmarks.suites import SUITES

_PATH = click.Path(path_type=Path)
_PIPE_COLUMNS = 240


def _named(_context: click.Context, _option: click.Parameter, names: str | None) -> list[str]:
    asked = list(SUITES) if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in asked if name not in SUITES]
    if unknown:
        raise click.BadParameter(f"unknown suite {unknown[0]!r}, expected some of {', '.join(SUITES)}")
    return asked


@click.group(invoke_without_command=True)
@click.option("--suites", callback=_named, metavar="SUITE,...", help="Run these.  [default: all]")
@click.option("--effort", type=click.Choice(list(EFFORTS)), default="short", show_default=True, help="How much is run.")
@click.option("--output", type=_PATH, help="Write all measurements to this file, a line of JSON each, as they come.")
@click.pass_context
def bench(context: click.Context, suites: list[str], effort: str, output: Path | None) -> None:
    """Time this package beside other libraries, and both beside what the machine can do.

    Nothing else should run meanwhile.
    """
    if context.invoked_subcommand is not None:
        return
    chosen = [SUITES[name] for name in suites]
    report = run_suites(chosen, EFFORTS[effort], output, say=lambda text: click.echo(text, err=True))
    for suite in chosen:
        for table in suite.tables(report):
            show_table(table)
    for peer, why in report.missing.items():
        click.echo(f"{peer} is missing: {why}")


def show_table(table: Table) -> None:
    """Print a table of a suite."""
    console = Console()
    shown = Shown(*table.rows[0], title=table.title)
    for row in table.rows[1:]:
        shown.add_row(*(Text(cell.strip("*"), "bold" if cell.startswith("*") else "") for cell in row))
    Console(width=None if console.is_terminal else _PIPE_COLUMNS).print(shown)
