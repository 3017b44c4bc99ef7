"""Text tables of three columns, `row<TAB>column<TAB>value`, numbered from 1, as the Graph Challenge publishes them.

pyarrow parses a block in bulk and the checks are bulk checks too. Only when one fails does a slow scan, in plain
Python, look for the line to blame.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.errors import FileError, MissingDependencyError
from taskgraph_dnn.network import index_dtype

# pyarrow strips blanks, reads 0x10 as a hexadecimal number, ends lines at a bare carriage return, and skips a byte
# order mark (which starts with 0xEF). A valid table holds none of these bytes.
_REFUSED_BYTES = (b" ", b"x", b"X", b"\r", b"\xef")
_INTEGER = re.compile(r"0*[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LINES_AT_ONCE = 2**20


@dataclass(frozen=True)
class Column:
    """A column of numbers from 1 to `limit`: what it is called, and what the limit is."""

    name: str
    limit: int
    note: str = ""

    def __str__(self) -> str:
        return f"1 to {self.limit}{self.note and f' ({self.note})'}"


@dataclass(frozen=True)
class Table:
    """What a file should hold: its name for messages, and the first two columns."""

    place: str
    row: Column
    column: Column


class Triples(NamedTuple):
    """Row numbers and column numbers, from 0, and values: three arrays of one length."""

    rows: NDArray[Any]
    columns: NDArray[Any]
    values: NDArray[np.float32]


def parse_tsv(block: bytes, table: Table, line: int = 1) -> Triples:
    """Parse whole lines (or none), the first of which is line `line` of the file.

    Raises:
        FileError: a line is not a row, a column and a finite float32 value, or the last line has no end.
        MissingDependencyError: pyarrow is not installed.
    """
    if not block:
        return Triples(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
    if b"\r" in block:  # a search for one byte is ten times as fast as one for two
        block = block.replace(b"\r\n", b"\n")
    try:
        return _parse(block, table)
    except ValueError as error:
        fault = _first_fault(block, table, line) or f"{table.place}: {error}"
        raise FileError(fault) from error


def _parse(block: bytes, table: Table) -> Triples:
    arrow, csv = _pyarrow()
    if not block.endswith(b"\n") or any(refused in block for refused in _REFUSED_BYTES):
        raise ValueError("not a table of plain numbers")
    integer = arrow.from_numpy_dtype(index_dtype((table.row.limit, table.column.limit), 0))
    types = {"row": integer, "column": integer, "value": arrow.float32()}
    parsed = csv.read_csv(
        arrow.py_buffer(block),
        csv.ReadOptions(column_names=list(types), use_threads=False),
        csv.ParseOptions(delimiter="\t", quote_char=False, ignore_empty_lines=False),
        csv.ConvertOptions(column_types=types, null_values=[], check_utf8=False),
    )
    # `to_numpy` would import pandas, where that is installed: 0.2 s.
    arrays: list[NDArray[Any]] = [np.from_dlpack(column.combine_chunks()) for column in parsed.columns]
    rows, columns, values = arrays
    for numbers, column in ((rows, table.row), (columns, table.column)):
        if numbers.min() < 1 or numbers.max() > column.limit:
            raise ValueError(f"{column.name} out of range")
    if not np.isfinite(values).all():
        raise ValueError("value is not finite")
    return Triples(rows - 1, columns - 1, values)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.csv
    except ImportError as error:
        raise MissingDependencyError.of("reading TSV", "pyarrow", "io") from error
    return pyarrow, pyarrow.csv


def _first_fault(block: bytes, table: Table, line: int) -> str | None:
    for number, text in enumerate(io.BytesIO(block), start=line):
        fault = _fault(text.decode(errors="replace"), table)
        if fault:
            return f"{table.place} line {number}: {fault}"
    return None


def _fault(text: str, table: Table) -> str | None:
    if text == "\n":
        return "the line is empty"
    if not text.endswith("\n"):
        return f"the file is cut off after {text[-40:]!r}, expected a newline at its end"
    fields = text[:-1].split("\t")
    if len(fields) != 3:
        return f"expected 3 fields, {table.row.name}, {table.column.name} and value, got {len(fields)}"
    for field, column in zip(fields, (table.row, table.column), strict=False):
        if not _INTEGER.fullmatch(field):
            return f"{column.name} is {field[:40]!r}, expected {column}"
        if not 1 <= int(field) <= column.limit:
            return f"{column.name} is {int(field)}, expected {column}"
    if not _is_finite(fields[2]):
        return f"value is {fields[2][:40]!r}, expected a finite float32 number"
    return None


def _is_finite(field: str) -> bool:
    with np.errstate(over="ignore"):
        return bool(_NUMBER.fullmatch(field)) and bool(np.isfinite(np.float32(float(field))))


def to_csr(triples: Triples, shape: tuple[int, int], table: Table) -> scipy.sparse.csr_array:
    """Return the matrix of these triples, rows x columns, with sorted columns and without stored zeros.

    Raises:
        FileError: a row and column come twice.
    """
    rows, columns, values = triples
    dtype = index_dtype(shape, values.size)
    if _is_sorted(rows, columns):
        indptr = np.searchsorted(rows, np.arange(shape[0] + 1, dtype=rows.dtype)).astype(dtype)
        csr = scipy.sparse.csr_array((values, columns.astype(dtype, copy=False), indptr), shape=shape)
        csr.has_canonical_format = True
    else:
        csr = scipy.sparse.coo_array((values, (rows, columns)), shape=shape).tocsr()
    if csr.nnz < values.size:
        raise FileError(_duplicate(triples, table))
    if not csr.data.all():
        csr = csr.copy()  # parsed arrays are read-only
        csr.eliminate_zeros()
    return csr


def _is_sorted(rows: NDArray[Any], columns: NDArray[Any]) -> bool:
    row_rises = rows[1:] > rows[:-1]
    column_rises = (rows[1:] == rows[:-1]) & (columns[1:] > columns[:-1])
    return bool((row_rises | column_rises).all())


def _duplicate(triples: Triples, table: Table) -> str:
    rows, columns, _ = triples
    order = np.lexsort((columns, rows))  # stable: of equal pairs, the earlier line comes first
    pairs = rows[order].astype(np.int64), columns[order].astype(np.int64)
    again = np.flatnonzero((np.diff(pairs[0]) == 0) & (np.diff(pairs[1]) == 0))
    second = again[np.argmin(order[again + 1])]
    earlier, later = order[second], order[second + 1]
    return f"{table.place} line {later + 1}: the same {table.row.name} and {table.column.name} as line {earlier + 1}"


def format_tsv(triples: Triples, short: str, exact: str) -> Iterator[bytes]:
    """Yield the table's text in large pieces.

    Args:
        triples: what to write, numbered from 0.
        short: the values' printf format.
        exact: the format for those values that `short` rounds; 9 digits tell any two float32 numbers apart.
    """
    for start in range(0, triples.values.size, _LINES_AT_ONCE):
        rows, columns, values = (array[start : start + _LINES_AT_ONCE] for array in triples)
        distinct, which = np.unique(values, return_inverse=True)
        texts = [_format(value, short, exact) for value in distinct.tolist()]
        lines = zip((rows + 1).tolist(), (columns + 1).tolist(), (texts[i] for i in which.tolist()), strict=True)
        yield "".join(map("%d\t%d\t%s\n".__mod__, lines)).encode()


def _format(value: float, short: str, exact: str) -> str:
    text = short % value
    return text if float(text) == value else exact % value
