"""Arrays in a safetensors file: written as they come, each content once, and used where they lie."""

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from taskgraph_dnn.errors import FileError

_DTYPES: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "I64": np.dtype("<i8"), "F32": np.dtype("<f4")}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_DATA_ALIGNMENT = 64  # bytes, a cache line: where the first tensor starts

#: What the safetensors library accepts.
_MOST_HEADER_NBYTES = 100_000_000

#: Up to so many bytes of tensors, these are moved so that the header has no room to spare.
_MOVED_NBYTES = 2**26


class Tensors:
    """The arrays of an open file: views of its bytes, which the system reads when they are used.

    Attributes:
        path: the file.
        metadata: the texts that the header holds besides.
        sound: what a reader has checked of them and need not check again; empty at first.
    """

    def __init__(
        self, path: Path, content: mmap.mmap, start: int, table: dict[str, Any], metadata: dict[str, str]
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
        return cls(path, content, start, table, table.pop("__metadata__", {}))

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

    def get(self, name: str, dtype: np.dtype[Any], size: int) -> NDArray[Any]:
        """Return the view of a tensor of this type and size; see `check`."""
        self.check(name, dtype, size)
        if self._content.size() < len(self._content):  # reading beyond the end of a mapped file kills the process
            raise FileError(
                f"{self.path} has {self._content.size():,} bytes, but had {len(self._content):,} when it was opened: "
                "a file in use is to be replaced by renaming, not written over"
            )
        # The mapping itself is the array's base: scipy copies an array that is a small part of another one.
        return np.ndarray(size, dtype, self._content, self._start + self._table[name]["data_offsets"][0])

    def read_ahead(self, names: Iterable[str]) -> None:
        """Ask the system to read these tensors."""
        self._advise(names, "MADV_WILLNEED")

    def release(self, names: Iterable[str]) -> None:
        """Let these tensors go out of this process's memory; they come back when they are used."""
        self._advise(names, "MADV_DONTNEED")

    def _advise(self, names: Iterable[str], advice: str) -> None:
        if not hasattr(mmap, advice):  # not every system takes advice
            return
        for name in names:
            first, stop = (self._start + offset for offset in self._table[name]["data_offsets"])
            first -= first % mmap.PAGESIZE
            if first < stop:
                self._content.madvise(getattr(mmap, advice), first, stop - first)


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
        return Tensors(self._path, content, self._room, dict(self._table), {})

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
