"""Samples in Parquet files: a row a sample, a column a value. Row groups are what is read together."""

from typing import Any

import numpy as np

from taskgraph_dnn.data.files import look, opened
from taskgraph_dnn.data.stored import Format, Group, StoredFile, Wanted
from taskgraph_dnn.data.tables import chosen_columns, rows_of
from taskgraph_dnn.errors import FileError, MissingDependencyError


def _look(url: str, wanted: Wanted) -> StoredFile:
    version = look(url)
    with opened(url) as stream:
        file = _pyarrow().ParquetFile(stream)
        schema, metadata = file.schema_arrow, file.metadata
        columns = chosen_columns(url, _features(schema), wanted)
        for name in columns:
            kind = schema.field(name).type.to_pandas_dtype()
            if np.dtype(kind).kind not in "fiub":
                raise FileError(f"{url}: column {name!r} holds {schema.field(name).type}, expected numbers")
        groups = tuple(Group(metadata.row_group(number).num_rows, number) for number in range(metadata.num_row_groups))
    return StoredFile(url, version, groups, columns, len(columns))


def _read(file: StoredFile, first: int, stop: int) -> Any:
    with opened(file.url) as stream:
        source = _pyarrow().ParquetFile(stream, pre_buffer=True)
        groups = (source.read_row_group(g.start, list(file.columns), use_threads=False) for g in file.groups)
        return rows_of(groups, file.columns, first, stop)


def _features(schema: Any) -> tuple[str, ...]:
    """Return the columns but for those that pandas keeps its index in."""
    index = (schema.pandas_metadata or {}).get("index_columns", ())
    return tuple(name for name in schema.names if name not in [kept for kept in index if isinstance(kept, str)])


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError.of("Parquet", "pyarrow", "io") from error
    return pyarrow.parquet


PARQUET = Format("Parquet", (".parquet", ".pq"), _look, _read)
