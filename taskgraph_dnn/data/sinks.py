"""Files that predictions are written to: workers write parts, each a file, and these become the file that was named."""

import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.data.zarrs import import_zarr
from taskgraph_dnn.errors import FileError, MissingDependencyError

#: What is said of some samples, by name: an array of samples, or of samples x something.
Table = Mapping[str, NDArray[Any]]

_CHUNK_NBYTES = 2**24


@dataclass(frozen=True)
class Sink:
    """A kind of file that predictions are written to.

    Attributes:
        suffix: what the names of such files end in.
        part_suffix: what those of its parts end in.
        require: raises MissingDependencyError where a package is not installed.
        write: `write(path, table)` writes a part.
        join: `join(parts, path)` makes the file of all parts, in their order, of which there is at least one.
    """

    suffix: str
    part_suffix: str
    require: Callable[[], object]
    write: Callable[[Path, Table], None]
    join: Callable[[Sequence[Path], Path], None]


def sink_of(path: Path) -> Sink:
    """Return what writes such a file, by its name.

    Raises:
        FileError: nothing does.
        MissingDependencyError: a package is missing.
    """
    for sink in SINKS:
        if path.name.endswith(sink.suffix):
            sink.require()
            return sink
    raise FileError(f"{path} is of no known format, expected a name in {', '.join(sink.suffix for sink in SINKS)}")


def _columns(table: Table) -> dict[str, NDArray[Any]]:
    """Return a table as columns: `label`, `output_0`, `output_1`, ..., in place of `labels` and `outputs`."""
    columns = {}
    for name, array in table.items():
        singular = {"indices": "index"}.get(name, name.removesuffix("s"))
        if array.ndim == 1:
            columns[singular] = array
        else:
            columns |= {f"{singular}_{number}": array[:, number] for number in range(array.shape[1])}
    return columns


def _arrow_table(table: Table) -> Any:
    pyarrow = _pyarrow()
    return pyarrow.table({name: np.ascontiguousarray(column) for name, column in _columns(table).items()})


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError.of("writing Parquet and CSV", "pyarrow", "io") from error
    return pyarrow


def _write_parquet(path: Path, table: Table) -> None:
    _pyarrow().parquet.write_table(_arrow_table(table), path)


def _join_parquet(parts: Sequence[Path], path: Path) -> None:
    """Make a folder of the parts: every reader of Parquet takes such a folder for one table."""
    path.mkdir()
    for part in parts:
        try:
            (path / part.name).hardlink_to(part)
        except OSError:  # not every file system has links
            shutil.copyfile(part, path / part.name)


def _write_csv(path: Path, table: Table) -> None:
    pyarrow, columns = _pyarrow(), _arrow_table(table)
    with path.open("wb") as stream:
        stream.write(f"{','.join(columns.column_names)}\n".encode())  # which pyarrow would put in quotes
        pyarrow.csv.write_csv(columns, stream, pyarrow.csv.WriteOptions(include_header=False))


def _join_csv(parts: Sequence[Path], path: Path) -> None:
    with path.open("wb") as joined:
        for number, part in enumerate(parts):
            with part.open("rb") as stream:
                header = stream.readline()
                joined.write(b"" if number else header)
                shutil.copyfileobj(stream, joined)


def _write_npz(path: Path, table: Table) -> None:
    with path.open("wb") as stream:
        arrays: dict[str, Any] = dict(table)
        np.savez(stream, **arrays)


def _join_npz(parts: Sequence[Path], path: Path) -> None:
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name, (shape, dtype) in _shapes(parts).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, about)
                for part in parts:
                    member.write(np.ascontiguousarray(np.load(part)[name]).data)


def _join_zarr(parts: Sequence[Path], path: Path) -> None:
    group = import_zarr().open_group(str(path), mode="w")
    for name, (shape, dtype) in _shapes(parts).items():
        row = max(1, int(np.prod(shape[1:])) * dtype.itemsize)
        chunks = max(1, min(shape[0], _CHUNK_NBYTES // row)), *(max(1, size) for size in shape[1:])
        array, first = group.create_array(name, shape=shape, chunks=chunks, dtype=dtype), 0
        for part in parts:
            values = np.load(part)[name]
            array[first : first + len(values)] = values
            first += len(values)


def _shapes(parts: Sequence[Path]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape and type of each array that is in parts, all of them together."""
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for part in parts:
        with np.load(part) as arrays:
            for name, array in arrays.items():
                rows = shapes[name][0][0] if name in shapes else 0
                shapes[name] = (rows + len(array), *array.shape[1:]), array.dtype
    return shapes


SINKS = (
    Sink(".parquet", ".parquet", _pyarrow, _write_parquet, _join_parquet),
    Sink(".csv", ".csv", _pyarrow, _write_csv, _join_csv),
    Sink(".npz", ".npz", tuple, _write_npz, _join_npz),
    Sink(".zarr", ".npz", import_zarr, _write_npz, _join_zarr),
)
