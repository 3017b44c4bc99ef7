"""Samples in numpy's files: an array in .npy; in .npz one array, or one called x, or a CSR matrix of scipy's.

Any rows can be read without the others, except from compressed files and from arrays in Fortran's order.
"""

import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import scipy.sparse

from taskgraph_dnn.data.files import look, name_of, opened
from taskgraph_dnn.data.stored import Format, Group, StoredFile, Wanted
from taskgraph_dnn.errors import FileError, InputError

#: What scipy writes of a sparse matrix, in each format; and of one in CSR.
_ANY_SPARSE = {"data", "shape", "format"}
_SPARSE = {*_ANY_SPARSE, "indices", "indptr"}
_LOCAL_HEADER = struct.Struct("<26xHH")
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class _Array(NamedTuple):
    """An array in a stream, of which nothing was read but its header, and where its numbers begin."""

    stream: Any
    start: int
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, stream: Any, start: int = 0) -> "_Array":
        stream.seek(start)
        version = np.lib.format.read_magic(stream)
        if version not in _NPY_HEADERS:
            raise FileError(f"an array is of version {version} of numpy's format, expected 1.0 or 2.0")
        shape, fortran, dtype = _NPY_HEADERS[version](stream)
        return cls(stream, stream.tell(), shape, fortran and len(shape) > 1, dtype)

    def rows(self, first: int, stop: int) -> Any:
        """Return entries `first` to `stop` of the first dimension."""
        if self.dtype.hasobject:
            raise FileError("an array holds objects, expected numbers")
        if self.fortran:
            return self._numbers(0, int(np.prod(self.shape))).reshape(self.shape, order="F")[first:stop]
        size = int(np.prod(self.shape[1:], dtype=np.int64))
        return self._numbers(first * size, stop * size).reshape(stop - first, *self.shape[1:])

    def all(self) -> Any:
        return self.rows(0, self.shape[0]) if self.shape else self._numbers(0, 1)[0]

    def _numbers(self, first: int, stop: int) -> Any:
        self.stream.seek(self.start + first * self.dtype.itemsize)
        nbytes = (stop - first) * self.dtype.itemsize
        content = self.stream.read(nbytes)
        if len(content) != nbytes:
            raise FileError(f"it is cut off: {len(content):,} of {nbytes:,} bytes are there")
        return np.frombuffer(content, self.dtype)


@contextmanager
def _arrays(url: str) -> Iterator[tuple[dict[str, _Array], bool]]:
    """Yield the arrays of a file, by name, and whether any of their rows can be read by themselves."""
    with opened(url) as stream:
        if name_of(url).endswith(".npy"):
            array = _Array.of(stream)
            yield {"x": array}, not array.fortran
            return
        with zipfile.ZipFile(stream) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            arrays = {name: _member(archive, stream, member) for name, member in members.items()}
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in members.values())
            yield arrays, stored and not any(array.fortran for array in arrays.values())


def _member(archive: zipfile.ZipFile, stream: BinaryIO, member: zipfile.ZipInfo) -> _Array:
    if member.compress_type != zipfile.ZIP_STORED:
        return _Array.of(archive.open(member))
    stream.seek(member.header_offset)  # where the archive only says where the member's own header begins
    skipped = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
    return _Array.of(stream, stream.tell() + sum(skipped))


def _look(url: str, wanted: Wanted) -> StoredFile:
    if wanted.columns is not None:
        raise InputError(f"{url}: columns of an array have no names, but {', '.join(wanted.columns)} are wanted")
    version = look(url)
    with _arrays(url) as (arrays, splits):
        sparse = arrays.keys() >= _ANY_SPARSE
        if sparse:
            kind = str(arrays["format"].all().astype(str))
            if kind != "csr":
                raise FileError(f"{url} holds a matrix in the format {kind}, expected csr: save matrix.tocsr()")
        shape = tuple(arrays["shape"].all().tolist()) if sparse else _dense(url, arrays).shape
        if len(shape) != 2:
            raise FileError(f"{url} holds an array of shape {shape}, expected 2 dimensions, samples x inputs")
    return StoredFile(url, version, (Group(shape[0], 0),), (), shape[1], splits)


def _dense(url: str, arrays: dict[str, _Array]) -> _Array:
    if "x" not in arrays and len(arrays) != 1:
        raise FileError(f"{url} holds the arrays {', '.join(sorted(arrays))}, expected one, or one called x")
    return arrays["x"] if "x" in arrays else next(iter(arrays.values()))


def _read(file: StoredFile, first: int, stop: int) -> Any:
    with _arrays(file.url) as (arrays, _):
        if not arrays.keys() >= _SPARSE:
            return _dense(file.url, arrays).rows(first, stop)
        starts = arrays["indptr"].rows(first, stop + 1)
        data, indices = (arrays[name].rows(int(starts[0]), int(starts[-1])) for name in ("data", "indices"))
        return scipy.sparse.csr_array((data, indices, starts - starts[0]), shape=(stop - first, file.width))


NUMPY = Format("numpy", (".npz", ".npy"), _look, _read)
