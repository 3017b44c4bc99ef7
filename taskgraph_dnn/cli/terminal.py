"""The terminal: tables on standard output; progress bars on standard error, if that is a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from taskgraph_dnn.io import Progress


def show(table: Table) -> None:
    """Print a table; what is in it is text, whatever brackets it holds."""
    Console(markup=False, highlight=False).print(table)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Yield `report(done, total)`, which moves a bar; the bar goes away when the context is left."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None  # noqa: ARG005
        return
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
