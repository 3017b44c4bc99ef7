"""`bench`: the benchmarks, what changed between two runs of them, and the page that is made of one."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from taskgraph_dnn.benchmarks.harness import run_suites
from taskgraph_dnn.benchmarks.report.compare import compare as compared
from taskgraph_dnn.benchmarks.report.compare import comparison_notes, comparison_tables
from taskgraph_dnn.benchmarks.report.page import write_page
from taskgraph_dnn.benchmarks.report.records import ALWAYS, Report, read_report
from taskgraph_dnn.benchmarks.suite import EFFORTS, Suite, Table
from taskgraph_dnn.benchmarks.suites import SUITES
from taskgraph_dnn.io.atomic import check_writable, write_text
from taskgraph_dnn.words import counted

_PATH = click.Path(path_type=Path)
_PIPE_COLUMNS = 240

#: A part of the processors, used by others, that is told.
_NOTEWORTHY = 0.02


def _named(_context: click.Context, _option: click.Parameter, names: str | None) -> list[Suite]:
    asked = list(SUITES) if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in asked if name not in SUITES]
    if unknown:
        raise click.BadParameter(f"unknown suite {unknown[0]!r}, expected some of {', '.join(SUITES)}")
    return [suite for name, suite in SUITES.items() if name in {ALWAYS, *asked}]


@click.group(invoke_without_command=True)
@click.option("--suites", callback=_named, metavar="SUITE,...", help="Run these, and the ceilings.  [default: all]")
@click.option("--effort", type=click.Choice(list(EFFORTS)), default="short", show_default=True, help="How much is run.")
@click.option("--output", type=_PATH, help="Write all measurements to this file, a line of JSON each, as they come.")
@click.pass_context
def bench(context: click.Context, suites: list[Suite], effort: str, output: Path | None) -> None:
    """Time this package beside other libraries, and both beside what the machine can do.

    Nothing else should run meanwhile. Without a subcommand, it runs the benchmarks.
    """
    if context.invoked_subcommand is not None:
        return
    report = run_suites(suites, EFFORTS[effort], output, say=lambda text: click.echo(text, err=True))
    _show_report(report, suites)


@bench.command()
@click.argument("report", type=_PATH)
def show(report: Path) -> None:
    """Show the tables of REPORT again, also of a run that was broken off."""
    found = read_report(report)
    _show_report(found, [suite for suite in SUITES.values() if found.has(suite.name)])
    for name, count in found.unfinished().items():
        click.echo(f"{name} was broken off after {counted(count, 'measurement')}: there is more to it")


@bench.command()
@click.argument("before", type=_PATH)
@click.argument("after", type=_PATH)
@click.option(
    "--counted", "strictly", is_flag=True, help="Exit with status 1 where AFTER counts more work than BEFORE, or none."
)
def compare(before: Path, after: Path, strictly: bool) -> None:
    """Show what changed from the report BEFORE to the report AFTER: counted work, and times beyond the noise."""
    found = compared(read_report(before), read_report(after))
    for table in comparison_tables(found):
        show_table(table)
    for note in comparison_notes(found):
        click.echo(note)
    worse = found.worse_counts
    if strictly and worse:
        click.echo(f"counted work is worse, {len(worse):,} times, first {worse[0]}", err=True)
        raise click.exceptions.Exit(1)


@bench.command()
@click.argument("report", type=_PATH)
@click.argument("later", type=_PATH)
def renew(report: Path, later: Path) -> None:
    """Put the suites of the report LATER in place of those of REPORT, which must be of the same machine and effort.

    The page tells when, and with which code, they were measured.
    """
    write_text(report, read_report(report).with_suites_of(read_report(later)).lines())


@bench.command()
@click.argument("report", type=_PATH)
@click.argument("page", type=_PATH)
def page(report: Path, page: Path) -> None:
    """Make PAGE of REPORT, and its plots in the folder beside it that is named like it.

    In that folder, reasons.yaml may say why a peer is ahead.
    """
    check_writable(page)
    for note in write_page(read_report(report), report, page):
        click.echo(note, err=True)


def _show_report(report: Report, suites: Sequence[Suite]) -> None:
    for suite in suites:
        for table in suite.tables(report):
            show_table(table)
    for name, part in report.used_by_others.items():
        if part > _NOTEWORTHY:
            click.echo(f"{name}: other processes used {part:.0%} of the processors meanwhile")
    for peer, why in report.missing.items():
        click.echo(f"{peer} is missing: {why}")


def show_table(table: Table) -> None:
    """Print a table of a suite; on a terminal that is too narrow for it, in parts that begin with the same column."""
    terminal = Console()
    width = terminal.width if terminal.is_terminal else _PIPE_COLUMNS
    console = Console(width=width, markup=False, highlight=False)
    widths = [max(len(row[column]) for row in table.rows) + 3 for column in range(len(table.rows[0]))]
    for number, columns in enumerate(_parts(widths, width)):
        shown = Shown(title=None if number else Text(table.title), title_justify="left")
        for column in columns:
            narrow = column > 0 and widths[column] < width // 2
            right = table.has_numbers(column)
            shown.add_column(Text(table.rows[0][column]), justify="right" if right else "left", no_wrap=narrow)
        for row in table.rows[1:]:
            shown.add_row(*(_cell(row[column]) for column in columns))
        console.print(shown)


def _cell(text: str) -> Text:
    return Text(text.strip("*"), "bold" if text.startswith("*") else "")


def _parts(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Yield which columns are printed side by side; the first one, in half of the room at most, begins each part."""
    part, used = [0], 1 + min(widths[0], room // 2)
    for column, width in enumerate(widths[1:], start=1):
        if len(part) > 1 and used + width > room:
            yield part
            part, used = [0], 1 + min(widths[0], room // 2)
        part.append(column)
        used += width
    yield part
