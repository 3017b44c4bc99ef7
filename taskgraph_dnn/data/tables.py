"""What tables have in common: columns with names, of which some are wanted."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.data.stored import Wanted
from taskgraph_dnn.errors import InputError

_SHOWN = 8


def chosen_columns(url: str, names: Sequence[str], wanted: Wanted) -> tuple[str, ...]:
    """Return the columns that are wanted, in that order: all, where nobody said which.

    Raises:
        InputError: one is not there, or two of those that are read have one name.
    """
    columns = tuple(names) if wanted.columns is None else wanted.columns
    missing = [name for name in columns if name not in names]
    if missing:
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        raise InputError(
            f"{url} has no column {missing[0]!r} ({len(missing)} of {len(columns)} are missing), but {shown}"
        )
    twice = next((name for name in columns if list(names).count(name) > 1 or columns.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{url}: column {twice!r} comes twice, expected names that differ")
    return columns


def rows_of(tables: Iterable[Any], columns: Sequence[str], first: int, stop: int) -> NDArray[np.float32]:
    """Return rows `first` to `stop` of pyarrow's tables, or batches, one behind the other; each is there for a moment.

    Columns are looked up by name: readers give them in the file's order.
    """
    # Column by column: tiles are filled from that as fast as from rows, and it is how tables have it.
    values, done = np.empty((len(columns), stop - first), np.float32), 0
    for table in tables:
        start, end = max(0, first - done), min(table.num_rows, stop - done)  # of this table's rows
        if start < end:
            into = values[:, done + start - first : done + end - first]
            _copy(table.slice(start, end - start), columns, into)
        done += table.num_rows
        if done >= stop:
            break
    return values.T


def _copy(table: Any, columns: Sequence[str], into: NDArray[np.float32]) -> None:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused with its place
        for place, name in enumerate(columns):
            into[place] = table.column(name).to_numpy(zero_copy_only=False)
