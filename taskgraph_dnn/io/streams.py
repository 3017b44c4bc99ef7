"""Bytes out of files, in order and in bounded memory: compression, blocks of lines, archives, threads."""

import gzip
import os
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from taskgraph_dnn.errors import FileError

#: Called with the layers done so far and all layers; None where their number is not known before the end.
Progress = Callable[[int, int | None], None]


def _libraries() -> tuple[Any, Any]:
    """Return what reads compressed files, and its zlib: isal's, three times as fast, where they are installed."""
    try:
        from isal import igzip, isal_zlib
    except ImportError:
        return gzip, zlib
    return igzip, isal_zlib


_gzip, _zlib = _libraries()

#: What reading a compressed file raises where it is damaged, or cannot be read at all.
UNREADABLE: tuple[Any, ...] = (OSError, EOFError, zlib.error, _zlib.error)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

#: Small enough that the first is parsed while the next ones are decompressed, even of a small file.
_BLOCK_BYTES = 2**20

_ARCHIVE_BUFFER_BYTES = 2**18

#: That parse, and pack, beside the one that reads.
THREADS = min(4, os.cpu_count() or 1)


def open_compressed(path: Path) -> BufferedIOBase:
    """Open a file for reading what is compressed in it; it, and its reader, may raise what is `UNREADABLE`."""
    stream: BufferedIOBase = _gzip.open(path)
    return stream


@contextmanager
def open_input(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file for reading, decompressed if its name ends in `.gz`.

    Raises:
        FileError: the file cannot be read, now or later in the context.
    """
    try:
        with open_compressed(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield stream
    except UNREADABLE as error:
        raise FileError(f"cannot read {path}: {error}") from error


@contextmanager
def open_output(path: Path) -> Iterator[BufferedIOBase]:
    """Open a file for writing, compressed if its name ends in `.gz`; equal content gives equal bytes."""
    with path.open("wb") as stream:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as compressed:
                yield compressed
        else:
            yield stream


def read_bytes(path: Path) -> bytes:
    """Return all of a file, decompressed if its name ends in `.gz`."""
    with open_input(path) as stream:
        return stream.read()


def line_blocks(stream: BufferedIOBase, nbytes: int = _BLOCK_BYTES) -> Iterator[tuple[int, bytes]]:
    """Yield the stream in blocks of whole lines and about `nbytes`, each with the number of its first line, from 1."""
    line, rest = 1, b""
    while chunk := stream.read(nbytes):
        lines, newline, tail = chunk.rpartition(b"\n")
        if newline:
            block = b"".join((rest, lines, newline))
            yield line, block
            line += block.count(b"\n")
            rest = tail
        else:
            rest += chunk
    if rest:
        yield line, rest


def archive_files(path: Path, wanted: Callable[[str], object]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Read a compressed tar archive once, from start to end; yield those files whose bare name is `wanted`.

    Nothing is written to disk. An archive that holds a link, a device, an absolute name or `..` anywhere is refused,
    because no archive of a network needs one.

    Raises:
        FileError: the archive is damaged, cut off, or refused.
    """
    try:
        with open_compressed(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_ARCHIVE_BUFFER_BYTES) as archive:
                for member in archive:
                    name = _checked_name(path, member)
                    if member.isreg() and wanted(name.name):
                        content = archive.extractfile(member)
                        assert content is not None  # it is a regular file
                        yield name, content.read()
            while stream.read(_ARCHIVE_BUFFER_BYTES):  # gzip compares its checksum at the very end
                pass
            # tarfile takes the end of the stream for the end of the archive, which is a block of zeros.
            if stream.tell() < archive.offset + tarfile.BLOCKSIZE:
                raise EOFError("the end of the archive is missing")
    except (*UNREADABLE, tarfile.TarError) as error:
        raise FileError(f"cannot read {path} as a .tar.gz archive: {error}") from error


def _checked_name(path: Path, member: tarfile.TarInfo) -> PurePosixPath:
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise FileError(f"{path}: member {member.name!r} is neither a file nor a folder")
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise FileError(f"{path}: member {member.name!r} points out of the archive")
    return name


def map_ahead(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield `function(item)` for each item, in order, computed by a few threads.

    Items are taken only a few ahead of the results that were asked for, so that memory stays bounded.
    """
    pool = ThreadPoolExecutor(THREADS)
    pending: deque[Future[_Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 2 * THREADS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
