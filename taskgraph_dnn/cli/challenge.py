"""`challenge`: the configurations of the Graph Challenge, run, verified and compared."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import psutil
from rich.console import Console
from rich.table import Table
from rich.text import Text

from taskgraph_dnn import challenge as official
from taskgraph_dnn import executors
from taskgraph_dnn.benchmarks.challenge.files import Size, require_room
from taskgraph_dnn.benchmarks.challenge.rows import Row, run_size
from taskgraph_dnn.benchmarks.challenge.runs import Effort
from taskgraph_dnn.benchmarks.challenge.tables import challenge_table, markdown, narrow_tables, notes
from taskgraph_dnn.cli.fetch import cache_folder
from taskgraph_dnn.cli.job import count_images, job_options
from taskgraph_dnn.cli.terminal import progress
from taskgraph_dnn.config import Job
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.io.atomic import check_writable, free_nbytes, write_text
from taskgraph_dnn.reductions.names import WORDS, chosen_reductions

_ALL = "all"
_LEAST_NEURONS = 64
_PIPE_COLUMNS = 240
_PATH = click.Path(path_type=Path)
_SECONDS = click.FloatRange(0.0)


@click.command()
@click.option("--neurons", default=_ALL, show_default=True, help="Widths of the networks, with commas between them.")
@click.option("--layers", default=_ALL, show_default=True, help="Depths of the networks, with commas between them.")
@job_options(("samples", "seed", "scheduler"))
@click.option(
    "--reductions",
    default=",".join(reversed(WORDS)),
    show_default=True,
    help="A row for each: a word, or names with + between them.",
)
@click.option("--data", type=_PATH, help="Folder where networks and images are kept.  [default: that of `fetch`]")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="How often each row is run.")
@click.option(
    "--none-seconds",
    type=click.FloatRange(0.0, min_open=True),
    default=60.0,
    show_default=True,
    help="Rows without reductions that take longer are run on fewer images.",
)
@click.option(
    "--check-seconds",
    type=_SECONDS,
    default=60.0,
    show_default=True,
    help="How long the reference of a configuration goes on beyond the first 40 layers.",
)
@click.option("--json", "json_file", type=_PATH, help="Write the rows to this file.")
@click.option("--markdown", "markdown_file", type=_PATH, help="Write the table to this file.")
def challenge(
    job: Job,
    neurons: str,
    layers: str,
    reductions: str,
    data: Path | None,
    repeats: int,
    none_seconds: float,
    check_seconds: float,
    json_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Run configurations of the Graph Challenge, and verify and compare them.

    Networks and images are the official ones where `fetch` has put them, and else made from --seed. They are packed
    once, and kept. Rows are written as they are done. The exit status is 1 where an answer is wrong.
    """
    choices = _choices(reductions)
    sizes = _sizes(_widths(neurons), depths := _depths(layers), job, data)
    outputs = _Outputs(json_file, markdown_file)
    require_room(sizes)
    _say_needs(sizes)
    with outputs.shown(), executors.connected(job.scheduler) as where:
        for size in sizes:
            for row in run_size(
                size,
                depths,
                choices,
                Effort(repeats, none_seconds, check_seconds),
                scheduler=job.scheduler,
                where=where,
                stage=progress,
                say=_say,
            ):
                outputs.add(row)
    if not all(row.verified for row in outputs.rows):
        raise click.exceptions.Exit(1)


class _Outputs:
    """The rows so far: each is said and saved when it is done, and all are shown at the end, whatever ends the run."""

    def __init__(self, json_file: Path | None, markdown_file: Path | None) -> None:
        for path in (json_file, markdown_file):
            if path is not None:
                check_writable(path)
        self.rows: list[Row] = []
        self._json_file, self._markdown_file = json_file, markdown_file

    def add(self, row: Row) -> None:
        self.rows.append(row)
        head, cells = challenge_table([row])
        _say(", ".join(f"{name} {cell}" for name, cell in zip(head[2:10], cells[2:10], strict=True)))
        if self._json_file is not None:
            write_text(self._json_file, json.dumps([row.to_dict() for row in self.rows], indent=1) + "\n")
        if self._markdown_file is not None:
            write_text(self._markdown_file, markdown(self.rows, "taskgraph-dnn challenge"))

    @contextmanager
    def shown(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self.rows:
                _show(self.rows)


def _table(cells: list[list[str]]) -> Table:
    head, *body = cells
    table = Table(*head)
    for row in body:
        table.add_row(*(Text(cell, "bold red" if cell == "NO" else "") for cell in row))
    return table


def _show(rows: Sequence[Row]) -> None:
    console = Console()
    whole = _table(challenge_table(rows))
    if not console.is_terminal:
        Console(width=_PIPE_COLUMNS).print(whole)
    elif console.measure(whole).maximum <= console.width:
        console.print(whole)
    else:
        for part in narrow_tables(rows):
            console.print(_table(part))
    for note in notes(rows):
        click.echo(note.replace("*", ""))


def _say(text: str) -> None:
    click.echo(text, err=True)


def _say_needs(sizes: Sequence[Size]) -> None:
    memory = psutil.virtual_memory().available
    for size in sizes:
        disk = f"{_gib(size.missing_nbytes)} to write in {size.folder} ({_gib(free_nbytes(size.folder))} free)"
        _say(f"{size.neurons:,} neurons: {disk}, about {_gib(size.memory_nbytes)} of memory ({_gib(memory)} available)")


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 / 10 else f"{nbytes / 2**20:.1f} MiB"


def _choices(text: str) -> dict[str, tuple[str, ...]]:
    """Return the names of reductions by what each row is called."""
    return {name: chosen_reductions(name.replace("+", ",")) for name in (part.strip() for part in text.split(","))}


def _sizes(widths: list[int], depths: list[int], job: Job, data: Path | None) -> list[Size]:
    folder, samples = data or cache_folder(None), count_images(job)
    if samples < 1:
        raise PlanError(f"samples is {samples}, expected at least 1")
    sources = tuple(dict.fromkeys((folder, cache_folder(None))))
    return [Size(neurons, max(depths), samples, job.seed, folder, sources) for neurons in widths]


def _widths(text: str) -> list[int]:
    found = _numbers("neurons", text, official.OFFICIAL_NEURONS)
    for neurons in found:
        # Both a RadiX-Net, which wants a power of two, and a square image.
        if neurons < _LEAST_NEURONS or neurons & (neurons - 1) or math.isqrt(neurons) ** 2 != neurons:
            raise PlanError(
                f"neurons is {neurons}, expected {_listed(official.OFFICIAL_NEURONS)} (or another power of 4)"
            )
    return found


def _depths(text: str) -> list[int]:
    found = _numbers("layers", text, official.OFFICIAL_LAYERS)
    if found[0] < 1:
        raise PlanError(
            f"layers is {found[0]}, expected {_listed(official.OFFICIAL_LAYERS)} (or another number above 0)"
        )
    return found


def _numbers(name: str, text: str, known: tuple[int, ...]) -> list[int]:
    """Return numbers with commas between them, ascending, each once."""
    if text.strip() == _ALL:
        return list(known)
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdigit()):
            raise PlanError(
                f'{name} has {part!r}, expected "{_ALL}", or some of {_listed(known)} with commas between them'
            )
    return sorted({int(part) for part in parts})


def _listed(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
