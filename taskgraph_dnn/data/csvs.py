"""Samples in CSV files: a line a sample, with commas between its values; a first line of names may precede them.

Files are read in blocks of lines. Nobody knows how many lines a block has before it was looked at, on a worker.
"""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from taskgraph_dnn.data.files import look, opened
from taskgraph_dnn.data.stored import Format, Group, StoredFile, Wanted
from taskgraph_dnn.data.tables import chosen_columns, rows_of
from taskgraph_dnn.errors import FileError, MissingDependencyError

_BLOCK_NBYTES = 2**24


def _look(url: str, wanted: Wanted) -> StoredFile:
    version = look(url)
    with opened(url) as stream:
        names, start = _header(url, stream)
        groups = tuple(_groups(stream, start))
    columns = chosen_columns(url, names, wanted)
    return StoredFile(url, version, groups, columns, len(columns))


def _header(url: str, stream: BinaryIO) -> tuple[list[str], int]:
    """Return the columns' names, or their numbers where they have none, and where the first sample begins."""
    line = stream.readline()
    fields = [field.strip().strip('"') for field in line.decode("utf-8-sig").rstrip("\r\n").split(",")]
    if not line.strip():
        raise FileError(f"{url}: the first line is empty, expected values or names with commas between them")
    if all(map(_is_number, fields)):
        return [str(number) for number in range(len(fields))], 0
    return fields, len(line)


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _groups(stream: BinaryIO, start: int) -> Iterator[Group]:
    """Yield blocks of whole lines: how many, and the bytes that they take."""
    stream.seek(start)
    while block := stream.read(_BLOCK_NBYTES):
        block += stream.readline()
        yield Group(block.count(b"\n") + (not block.endswith(b"\n")), start, start + len(block))
        start += len(block)


def _read(file: StoredFile, first: int, stop: int) -> Any:
    with opened(file.url) as stream:
        names, _ = _header(file.url, stream)
        blocks = (_block(stream, group, names, file.columns) for group in file.groups)
        return rows_of(blocks, file.columns, first, stop)


def _block(stream: BinaryIO, group: Group, names: list[str], columns: tuple[str, ...]) -> Any:
    stream.seek(group.start)
    table = _parsed(stream.read(group.stop - group.start), names, columns)
    if table.num_rows != group.rows:
        raise FileError(f"bytes {group.start:,} to {group.stop:,} hold {table.num_rows:,} samples, not {group.rows:,}")
    return table


def _parsed(content: bytes, names: list[str], columns: tuple[str, ...]) -> Any:
    arrow = _pyarrow()
    return arrow.csv.read_csv(
        io.BytesIO(content),
        arrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=max(2**20, len(content))),
        arrow.csv.ParseOptions(ignore_empty_lines=False),
        arrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, arrow.float32()), include_columns=columns, null_values=[]
        ),
    )


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.csv
    except ImportError as error:
        raise MissingDependencyError.of("CSV", "pyarrow", "io") from error
    return pyarrow


CSV = Format("CSV", (".csv", ".csv.gz"), _look, _read)
