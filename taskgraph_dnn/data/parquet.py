"""Samples in Parquet files: a row a sample, a column a value. Row groups are what is read together.

A row group may be much larger than a partition, so its pages are decoded some rows at a time.
"""

from collections.abc import Iterator
from typing import Any

from taskgraph_dnn.data.files import look, opened
from taskgraph_dnn.data.stored import Format, Group, StoredFile, Wanted
from taskgraph_dnn.data.tables import chosen_columns, rows_of
from taskgraph_dnn.errors import FileError, MissingDependencyError

_BATCH_NBYTES = 2**24


def _look(url: str, wanted: Wanted) -> StoredFile:
    version = look(url)
    with opened(url) as stream:
        file = _pyarrow().parquet.ParquetFile(stream)
        schema, metadata = file.schema_arrow, file.metadata
        columns = chosen_columns(url, _features(schema), wanted)
        for name in columns:
            if not _is_number(schema.field(name).type):
                raise FileError(f"{url}: column {name!r} holds {schema.field(name).type}, expected numbers")
        groups = tuple(Group(metadata.row_group(number).num_rows, number) for number in range(metadata.num_row_groups))
    return StoredFile(url, version, groups, columns, len(columns))


def _read(file: StoredFile, first: int, stop: int) -> Any:
    with opened(file.url) as stream:
        return rows_of(_batches(file, stream), file.columns, first, stop)


def _batches(file: StoredFile, stream: Any) -> Iterator[Any]:
    # What is here is read column by column; each request to somewhere else takes its time, so there are few.
    source = _pyarrow().parquet.ParquetFile(stream, pre_buffer="://" in file.url)
    size = max(1, _BATCH_NBYTES // (4 * max(1, file.width)))
    yield from source.iter_batches(size, [group.start for group in file.groups], file.columns, use_threads=False)


def _is_number(kind: Any) -> bool:
    types = _pyarrow().types
    return bool(types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind))


def _features(schema: Any) -> tuple[str, ...]:
    """Return the columns but for those that pandas keeps its index in."""
    index = (schema.pandas_metadata or {}).get("index_columns", ())
    return tuple(name for name in schema.names if name not in [kept for kept in index if isinstance(kept, str)])


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError.of("Parquet", "pyarrow", "io") from error
    return pyarrow


PARQUET = Format("Parquet", (".parquet", ".pq"), _look, _read)
