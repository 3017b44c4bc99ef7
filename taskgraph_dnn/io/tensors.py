"""Arrays in a safetensors file: written as they come, each content once, and used where they lie.

A file of this machine is mapped; one behind a URL is read by ranges (`remote`).
"""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io.remote import Range, RemoteFile

_DTYPES: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "F32": np.dtype("<f4")}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_DATA_ALIGNMENT = 64  # bytes, a cache line: where the first tensor starts

#: What the safetensors library accepts.
_MOST_HEADER_NBYTES = 100_000_000

#: Up to so many bytes of tensors, these are moved so that the header has no room to spare.
_MOVED_NBYTES = 2**26

#: Where a file is: its path, or its URL.
Place = Path | str

#: A tensor's name, type and size.
Part = tuple[str, np.dtype[Any], int]


class Content(Protocol):
    """The bytes of a file."""

    def __len__(self) -> int: ...

    def buffers(self, ranges: Sequence[Range]) -> Sequence[tuple[Any, int]]:
        """Return for each range a buffer that holds it, and where it begins there; or raise OSError."""

    def read_ahead(self, ranges: Sequence[Range]) -> None:
        """Have these ranges read, because they are used soon."""

    def release(self, ranges: Sequence[Range]) -> None:
        """Let go of these ranges; they come back when they are used."""


class MappedFile:
    """The bytes of a file of this machine, which the system reads when they are used."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content

    def __len__(self) -> int:
        return len(self._content)

    def buffers(self, ranges: Sequence[Range]) -> list[tuple[Any, int]]:
        """Return the mapping for each range; raises OSError where the file was cut short."""
        if self._content.size() < len(self):  # reading beyond the end of a mapped file kills the process
            raise OSError(
                f"the file has {self._content.size():,} bytes, but had {len(self):,} when it was opened: "
                "a file in use is to be replaced by renaming, not written over"
            )
        # The mapping itself is an array's base: scipy copies an array that is a small part of another one.
        return [(self._content, first) for first, _ in ranges]

    def read_ahead(self, ranges: Sequence[Range]) -> None:
        """Ask the system to read these ranges."""
        self._advise(ranges, "MADV_WILLNEED")

    def release(self, ranges: Sequence[Range]) -> None:
        """Let these ranges go out of this process's memory."""
        self._advise(ranges, "MADV_DONTNEED")

    def _advise(self, ranges: Sequence[Range], advice: str) -> None:
        if not hasattr(mmap, advice):  # not every system takes advice
            return
        for first, stop in ranges:
            page = first - first % mmap.PAGESIZE
            if page < stop:
                self._content.madvise(getattr(mmap, advice), page, stop - page)


class Tensors:
    """The arrays of an open file: views of its bytes, which are read when they are used.

    Attributes:
        path: the file, or its URL.
        metadata: the texts that the header holds besides.
        sound: what a reader has checked of them and need not check again; empty at first.
    """

    def __init__(
        self, path: Place, content: Content, start: int, table: dict[str, Any], metadata: dict[str, str]
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.sound: set[tuple[str, bool]] = set()
        self._content, self._start, self._table = content, start, table

    @classmethod
    def open(cls, path: Path) -> "Tensors":
        """Open a file.

        Raises:
            FileError: it cannot be read, or its header does not fit its size.
        """
        try:
            with safe_open(path, framework="numpy"):  # checks the header, and that the tensors fill the file exactly
                pass
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (SafetensorError, OSError) as error:
            raise FileError(f"cannot read {path} as a safetensors file: {error}") from error
        start = 8 + struct.unpack("<Q", content[:8])[0]
        table = json.loads(content[8:start])
        return cls(path, MappedFile(content), start, table, table.pop("__metadata__", {}))

    @classmethod
    def open_url(cls, url: str) -> "Tensors":
        """Open a file behind a URL; its header is read at once.

        Raises:
            FileError: it cannot be read, or is no safetensors file.
            MissingDependencyError: the URL needs a package that is not installed.
        """
        try:
            file = RemoteFile(url)
            (nbytes,) = struct.unpack("<Q", *file.fetch([(0, 8)]))
            if not 0 < nbytes <= min(len(file) - 8, _MOST_HEADER_NBYTES):
                raise ValueError(f"it has {len(file):,} bytes, and a header of {nbytes:,}")
            table, metadata = _header(*file.fetch([(8, 8 + nbytes)]))
        except (OSError, ValueError, RecursionError) as error:
            raise FileError(f"cannot read {url} as a safetensors file: {error}") from error
        return cls(url, file, 8 + nbytes, table, metadata)

    def check(self, name: str, dtype: np.dtype[Any], size: int) -> None:
        """Check that there is a tensor of this name, type and size.

        Raises:
            FileError: there is none, or it is another.
        """
        tensor = self._table.get(name)
        if tensor is None:
            raise FileError(f"{self.path}: tensor {name} is missing")
        if (tensor["dtype"], tensor["shape"]) != (_DTYPE_NAMES[dtype], [size]):
            found = f"{tensor['dtype']} of shape {tensor['shape']}"
            raise FileError(f"{self.path}: tensor {name} is {found}, expected {_DTYPE_NAMES[dtype]} of shape {[size]}")
        first, stop = tensor["data_offsets"]
        if not 0 <= first <= stop <= len(self._content) - self._start or stop - first != size * dtype.itemsize:
            raise FileError(f"{self.path}: tensor {name} takes bytes {first:,} to {stop:,}, which cannot be")

    def get(self, parts: Sequence[Part], place: str) -> list[NDArray[Any]]:
        """Return views of tensors of these types and sizes.

        Raises:
            FileError: see `check`; or they cannot be read, which says what `place` is.
        """
        for part in parts:
            self.check(*part)
        try:
            buffers = self._content.buffers(self._ranges(name for name, _, _ in parts))
        except OSError as error:
            raise FileError(f"cannot read {place}: {error}") from error
        return [np.ndarray(size, dtype, *at) for (_, dtype, size), at in zip(parts, buffers, strict=True)]

    def read_ahead(self, names: Iterable[str]) -> None:
        """Have these tensors read, because they are used soon."""
        self._content.read_ahead(self._ranges(names))

    def release(self, names: Iterable[str]) -> None:
        """Let these tensors go out of this process's memory; they come back when they are used."""
        self._content.release(self._ranges(names))

    def _ranges(self, names: Iterable[str]) -> list[Range]:
        offsets = (self._table[name]["data_offsets"] for name in names)
        return [(self._start + first, self._start + stop) for first, stop in offsets]


def _header(text: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a header says of the tensors, and its other texts; raises ValueError where it is no header."""
    table = json.loads(text)
    metadata = table.pop("__metadata__", {}) if isinstance(table, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its header is no table of tensors")
    for name, tensor in table.items():
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)):
            raise ValueError(f"its header does not say where tensor {name} is")
        if not {"dtype", "shape"} <= tensor.keys():
            raise ValueError(f"its header does not say what tensor {name} is")
    return table, metadata


class TensorWriter:
    """A safetensors file in the making. Its header comes last, so that no unfinished file looks like a whole one."""

    def __init__(self, stream: BinaryIO, path: Path, room: int) -> None:
        self._stream, self._path = stream, path
        self._room = -(-room // _DATA_ALIGNMENT) * _DATA_ALIGNMENT  # bytes kept for the header
        self._table: dict[str, Any] = {}
        self._stored: dict[bytes, str] = {}
        self._end = 0
        stream.seek(self._room)

    @classmethod
    @contextmanager
    def open(cls, path: Path, room: int) -> Iterator["TensorWriter"]:
        """Yield the writer of a new file, with about `room` bytes for its header; more, or less, costs time."""
        with path.open("w+b") as stream:
            yield cls(stream, path, room)

    @property
    def mark(self) -> tuple[int, int]:
        """How many tensors, and bytes of them, are written so far."""
        return len(self._table), self._end

    def put(self, name: str, array: NDArray[Any], digest: bytes) -> str:
        """Write a tensor, unless its content is there already; return the name that it is stored under.

        Args:
            name: its name.
            array: of one dimension.
            digest: `content_digest(array)`.
        """
        if digest not in self._stored:
            if self._end % array.itemsize:  # the format allows no gaps
                self._write(f"padding.{len(self._table)}", np.zeros(-self._end % array.itemsize, np.uint8), "U8")
            self._write(name, array, _DTYPE_NAMES[array.dtype])
            self._stored[digest] = name
        return self._stored[digest]

    def _write(self, name: str, array: NDArray[Any], dtype: str) -> None:
        self._stream.write(array.data)
        end = self._end + array.nbytes
        self._table[name] = {"dtype": dtype, "shape": [array.size], "data_offsets": [self._end, end]}
        self._end = end

    def drop(self, mark: tuple[int, int]) -> None:
        """Take back all tensors written since `mark` was this."""
        count, self._end = mark
        self._table = dict(islice(self._table.items(), count))
        self._stored = {digest: name for digest, name in self._stored.items() if name in self._table}
        self._stream.seek(self._room + self._end)
        self._stream.truncate()

    def tensors(self) -> Tensors:
        """Return what is written so far."""
        self._stream.flush()
        content = mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ)
        return Tensors(self._path, MappedFile(content), self._room, dict(self._table), {})

    def finish(self, metadata: dict[str, str]) -> None:
        """Write the header; views of what was written are not valid any more.

        Raises:
            FileError: the header is too large for the format.
        """
        text = json.dumps({"__metadata__": metadata} | self._table, separators=(",", ":")).encode()
        if len(text) > _MOST_HEADER_NBYTES:
            raise FileError(
                f"the descriptions of all layers take {len(text):,} bytes, but no safetensors file holds more than "
                f"{_MOST_HEADER_NBYTES:,}"
            )
        needed = -(-(8 + len(text)) // _DATA_ALIGNMENT) * _DATA_ALIGNMENT
        if needed > self._room or self._end <= _MOVED_NBYTES:
            self._move(needed)
        self._stream.seek(0)
        self._stream.write(struct.pack("<Q", self._room - 8) + text.ljust(self._room - 8))

    def _move(self, room: int) -> None:
        """Move all tensors to where they lie with another room for the header."""
        self._stream.flush()
        file = self._stream.fileno()
        os.ftruncate(file, max(room, self._room) + self._end)
        if self._end:
            with mmap.mmap(file, 0) as content:
                content.move(room, self._room, self._end)
        os.ftruncate(file, room + self._end)
        self._room = room


def content_digest(array: NDArray[Any]) -> bytes:
    """Return the SHA-256 of an array's type and numbers."""
    hashed = hashlib.sha256(array.dtype.str.encode())
    hashed.update(array.data)
    return hashed.digest()
