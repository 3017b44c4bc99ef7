"""Files behind a URL, read by ranges: when they are used, and before that where somebody asks for it.

All URLs of a process share one cache of `taskgraph-dnn.read-bytes`, and one thread that reads ahead.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import cache, partial
from queue import SimpleQueue
from typing import Any, NamedTuple

from taskgraph_dnn.config import task_bytes
from taskgraph_dnn.errors import MissingDependencyError

#: A range of a file: its first byte, and the one behind its last.
Range = tuple[int, int]

#: What changes with a file, by name, as far as its file system tells.
Version = tuple[tuple[str, str], ...]

_TELLING = ("size", "ETag", "mtime", "LastModified", "Last-Modified", "created", "generation")

#: The version of each URL that this process has seen last.
_seen: dict[str, Version] = {}


def seen_version(url: str) -> Version:
    """Return the version of a file that this process has seen last, which is now where it has not seen any.

    Raises:
        OSError: the file is not there.
        MissingDependencyError: the URL needs a package that is not installed.
    """
    return _seen.get(url) or RemoteFile(url).version


def file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, or a path, and what that is called there.

    Raises:
        OSError: nobody knows such URLs.
        MissingDependencyError: the URL needs a package that is not installed.
    """
    from fsspec.core import url_to_fs  # most runs need none of it, and asyncio comes with it

    try:
        files, path = url_to_fs(url)
    except ImportError as error:
        needed = f"{error} (for http and https: pip install 'taskgraph-dnn[http]')"
        raise MissingDependencyError(f"cannot read {url}: {needed}") from error
    except ValueError as error:  # an unknown protocol
        raise OSError(str(error)) from error
    return files, path


def reason(error: BaseException) -> str:
    """Return what a file system's error says, in one line."""
    cause = error.__cause__ or error  # fsspec says FileNotFoundError whatever stood in the way
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"


class RemoteFile:
    """The bytes of a file behind a URL. If the file changes, nothing more is read of it.

    Args:
        url: any that fsspec knows.

    Raises:
        OSError: the file is not there, or nobody knows how large it is.
        MissingDependencyError: the URL needs a package that is not installed.
    """

    def __init__(self, url: str) -> None:
        self._files, self._path = file_system(url)
        self.url, self.version = url, self._look()
        _seen[url] = self.version

    def __len__(self) -> int:
        return int(dict(self.version)["size"])

    def buffers(self, ranges: Sequence[Range]) -> list[tuple[bytes, int]]:
        """Return for each range bytes that hold it, and where it begins in them.

        Raises:
            OSError: they cannot be read, or the file has changed.
        """
        pieces = self._pieces(ranges)
        futures, missing = _CACHE.claim(pieces)
        self._read(missing)
        found = {piece.range: future.result() for piece, future in zip(pieces, futures, strict=True)}
        return [(found.get(wanted, b""), 0) for wanted in ranges]

    def read_ahead(self, ranges: Sequence[Range]) -> None:
        """Let the thread that reads ahead read these ranges, if there is room for them."""
        pieces = self._pieces(ranges)
        missing = _CACHE.claim_ahead(pieces)
        if missing:
            with _starting:  # `cache` alone would let every thread start one
                queue = _reading_ahead()
            queue.put(partial(self._read, missing))

    def release(self, ranges: Sequence[Range]) -> None:
        """Do nothing: what was used lately stays while there is room."""

    def _pieces(self, ranges: Sequence[Range]) -> list["_Piece"]:
        return [_Piece(self.url, self.version, wanted) for wanted in sorted(set(ranges)) if wanted[0] < wanted[1]]

    def _read(self, missing: "Claims") -> None:
        if not missing:
            return
        try:
            contents = self.fetch([piece.range for piece, _ in missing])
        except BaseException as error:
            _CACHE.forget(piece for piece, _ in missing)
            for _, future in missing:
                future.set_exception(error)
        else:
            for (_, future), content in zip(missing, contents, strict=True):
                future.set_result(content)

    def fetch(self, ranges: Sequence[Range]) -> list[bytes]:
        """Read ranges, none of them empty, now, past the cache; raises as `buffers` does."""
        starts, stops = map(list, zip(*ranges, strict=True))
        contents: list[Any]
        try:
            contents = self._files.cat_ranges([self._path] * len(ranges), starts, stops)
        except Exception as error:  # each file system has errors of its own
            contents = [error]
        version = self._look()  # only now: a change on the way is seen too
        if version != self.version:
            _seen[self.url] = version
            raise OSError(f"the file has changed: it has {_text(version)}, but had {_text(self.version)}")
        for (start, stop), content in zip(ranges, contents, strict=False):
            if isinstance(content, Exception):
                raise OSError(reason(content)) from content
            if len(content) != stop - start:
                raise OSError(f"bytes {start:,} to {stop:,} came as {len(content):,} bytes, expected {stop - start:,}")
        return contents

    def _look(self) -> Version:
        try:
            self._files.invalidate_cache(self._path)
            known = self._files.info(self._path)
        except Exception as error:
            raise OSError(reason(error)) from error
        if known.get("size") is None:
            raise OSError("its size is not known")
        return tuple((name, str(known[name])) for name in _TELLING if known.get(name) is not None)


def _text(version: Version) -> str:
    return ", ".join(f"{name} {value}" for name, value in version)


class _Piece(NamedTuple):
    """A range of a version of a file."""

    url: str
    version: Version
    range: Range

    @property
    def nbytes(self) -> int:
        return self.range[1] - self.range[0]


#: Pieces that somebody has to read, and where the bytes go.
Claims = list[tuple[_Piece, "Future[bytes]"]]


class _Cache:
    """Pieces of files that were read or are being read, from the one that was used longest ago."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Piece, Future[bytes]] = OrderedDict()
        self._ahead: set[_Piece] = set()  # those that were read ahead and not used yet
        self.nbytes = 0

    def claim(self, pieces: Sequence[_Piece]) -> tuple[list["Future[bytes]"], Claims]:
        """Return the bytes to come of each piece, and which of them the caller has to read."""
        with self._lock:
            missing = self._add(pieces)
            futures = [self._kept[piece] for piece in pieces]
            self._ahead.difference_update(pieces)
            self._shrink()
        return futures, missing

    def claim_ahead(self, pieces: Sequence[_Piece]) -> Claims:
        """Return which of these pieces to read ahead: none where that would take more than half of the room."""
        with self._lock:
            new = [piece for piece in pieces if piece not in self._kept]
            if 2 * sum(piece.nbytes for piece in (*self._ahead, *new)) > task_bytes("read-bytes"):
                return []
            missing = self._add(pieces)
            self._ahead.update(new)
            self._shrink()
        return missing

    def forget(self, pieces: Iterable[_Piece]) -> None:
        """Drop pieces that could not be read."""
        with self._lock:
            for piece in pieces:
                self._drop(piece)

    def _add(self, pieces: Sequence[_Piece]) -> Claims:
        missing: Claims = []
        for piece in pieces:
            if piece not in self._kept:
                self._kept[piece] = Future()
                self.nbytes += piece.nbytes
                missing.append((piece, self._kept[piece]))
            self._kept.move_to_end(piece)
        return missing

    def _shrink(self) -> None:
        limit = task_bytes("read-bytes")
        while self.nbytes > limit:
            self._drop(next(iter(self._kept)))

    def _drop(self, piece: _Piece) -> None:
        if self._kept.pop(piece, None) is not None:
            self.nbytes -= piece.nbytes
        self._ahead.discard(piece)


_CACHE = _Cache()


_starting = threading.Lock()


@cache
def _reading_ahead() -> "SimpleQueue[Callable[[], None]]":
    """Return the queue of the thread that reads ahead; it does not keep the process from ending."""
    queue: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def work() -> None:
        while True:
            queue.get()()

    threading.Thread(target=work, name="taskgraph-dnn read-ahead", daemon=True).start()
    return queue
