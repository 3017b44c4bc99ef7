"""One file over HTTP, into a file of this machine that appears whole or not at all.

A file arrives as `NAME.part`; `NAME.part.json` says which version of the remote file its bytes are of, so that a later
run can go on where one was cut off. It becomes `NAME` only when all of it is there and was accepted, so a file under
its own name is whole. The process that downloads holds a lock on the partial file.
"""

import hashlib
import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from io import FileIO
from pathlib import Path

from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io.atomic import check_writable, require_space, write_text
from taskgraph_dnn.io.streams import Progress

#: Seconds to wait before the next connection, each time that the last one brought nothing new.
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)

#: Opens one stage of the work under a title, and gives what reports its progress; `cli.terminal.progress` is one.
Stage = Callable[[str], AbstractContextManager[Progress]]

_SILENCE_SECONDS = 60.0
_CHUNK_BYTES, _MIB = 2**20, 2**20
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)")
_MD5_TAG = re.compile(r'"([0-9a-f]{32})"')


@dataclass(frozen=True)
class Fetched:
    """A whole file: where it is, its bytes, and whether it was downloaded just now."""

    path: Path
    nbytes: int
    fresh: bool


@contextmanager
def quiet(title: str) -> Iterator[Progress]:  # noqa: ARG001
    """The stage that shows nothing."""
    yield lambda done, total: None  # noqa: ARG005


def download(
    url: str,
    target: Path,
    check: Callable[[Path, Progress], None],
    *,
    sha256: str | None = None,
    pauses: Sequence[float] = PAUSES,
    stage: Stage = quiet,
) -> Fetched:
    """Download a file, or what is missing of it; one that is there already stays as it is.

    Args:
        url: http or https.
        target: the file; its folder is made if need be.
        check: called with the file, not yet under its name, and a progress report; raises `FileError` to refuse it.
        sha256: what the SHA-256 must be, in hexadecimal; None where nobody knows. The MD5 that S3 gives, if it gives
            one, is compared anyway.
        pauses: seconds to wait before each new connection, while these bring nothing new.
        stage: shows progress, first in MiB, then as `check` reports it.

    Raises:
        FileError: the server does not give the file, or not all of it; the disk has no space for it; the folder cannot
            be written; another process is downloading it; or it is not what it should be, and then it is removed.
    """
    _require_http(url)
    if target.is_file():
        _compare_digest(target, "sha256", sha256)
        return Fetched(target, target.stat().st_size, fresh=False)
    with _failures_named(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        check_writable(target)
        with _opened(_part_path(target), url) as part:
            with stage(f"{target.name}, MiB") as report:
                _receive_all(part, pauses, report)
            with stage(f"check {target.name}") as report:
                _accept(part, check, sha256, report)
            part.become(target)
    return Fetched(target, part.size, fresh=True)


def missing_bytes(url: str, target: Path) -> int:
    """Return how many bytes of a file are not there yet; 0 where the server does not tell its size.

    Raises:
        FileError: the address is none of http or https.
    """
    _require_http(url)
    if target.is_file():
        return 0
    part = _part_path(target)
    return max(0, _remote_bytes(url) - (part.stat().st_size if part.is_file() else 0))


def _require_http(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise FileError(f"cannot download {url}: expected an address that begins with http:// or https://")


def _part_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _remote_bytes(url: str) -> int:
    try:
        with urllib.request.urlopen(_request(url, method="HEAD"), timeout=_SILENCE_SECONDS) as response:
            return int(response.headers.get("Content-Length", 0))
    except urllib.error.HTTPError as error:
        error.close()
    except (OSError, http.client.HTTPException, ValueError):
        pass
    return 0  # downloading will say what is wrong


def _request(url: str, method: str = "GET", **headers: str) -> urllib.request.Request:
    # A file that the server compresses for the way would have another size and other ranges.
    sent = {"User-Agent": "taskgraph-dnn", "Accept-Encoding": "identity"} | headers
    return urllib.request.Request(url, headers=sent, method=method)


@dataclass(frozen=True)
class _Version:
    """Which version of which remote file; None for what the server does not tell."""

    url: str
    etag: str | None
    modified: str | None
    md5: str | None
    nbytes: int | None

    @property
    def validator(self) -> str | None:
        """What a server compares before it sends the rest of a file; a weak tag does not promise equal bytes."""
        return self.modified if self.etag is None or self.etag.startswith("W/") else self.etag

    def may_be(self, other: "_Version") -> bool:
        """Whether nothing that both versions tell differs."""
        mine, others = asdict(self), asdict(other)
        return all(None in (mine[name], others[name]) or mine[name] == others[name] for name in mine)


class _Part:
    """The bytes of a file so far, and the version that they are of."""

    def __init__(self, path: Path, stream: FileIO, url: str) -> None:
        self.path, self.url = path, url
        self._stream = stream
        self._note = path.with_name(f"{path.name}.json")
        self.size = stream.seek(0, os.SEEK_END)
        self.version = self._remembered()
        if self.version is None or self.size > (self.version.nbytes or self.size):
            self.begin(None)

    def _remembered(self) -> _Version | None:
        try:
            version = _Version(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return version if version.url == self.url and version.validator is not None else None

    @property
    def complete(self) -> bool:
        return self.version is not None and self.size == self.version.nbytes

    def begin(self, version: _Version | None) -> None:
        """Forget all bytes; the next ones are of this version."""
        self._stream.truncate(0)  # first, or a crash could leave bytes of one version with the name of another
        self.size = 0
        self.know(version)

    def know(self, version: _Version | None) -> None:
        self.version = version
        if version is None:
            self._note.unlink(missing_ok=True)
        else:
            write_text(self._note, json.dumps(asdict(version)) + "\n")

    def append(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:  # unbuffered: what was received before the disk was full is on it, and counted
            written = self._stream.write(rest)
            self.size += written
            rest = rest[written:]

    def flush(self) -> None:
        os.fsync(self._stream.fileno())  # without this, a rename can reach the disk before the bytes do

    def become(self, target: Path) -> None:
        self.path.replace(target)
        self._note.unlink(missing_ok=True)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _lock(stream: FileIO, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on Windows, where a file that somebody writes can be neither renamed nor removed
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileError(f"{path}: another process is downloading this file; wait until it has ended") from error


@contextmanager
def _opened(path: Path, url: str) -> Iterator[_Part]:
    with path.open("ab", buffering=0) as stream:
        _lock(stream, path)
        # Between opening and locking, the process that had the lock may have renamed or removed the file.
        if not (path.exists() and os.path.samestat(path.stat(), os.fstat(stream.fileno()))):
            raise FileError(f"{path}: another process has just ended with this file; try again")
        part = _Part(path, stream, url)
        try:
            yield part
        finally:
            if not os.fstat(stream.fileno()).st_size:
                part.remove()


@contextmanager
def _failures_named(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot write {target}: {error}") from error


class _BrokenError(Exception):
    """A connection failed in a way that another one may not."""


class _UnreachableError(_BrokenError):
    """There was no connection at all."""


def _receive_all(part: _Part, pauses: Sequence[float], report: Progress) -> None:
    """Receive what is missing, over as many connections as it takes while they bring something."""
    most, waits, reached = part.size, iter(pauses), False
    while not part.complete:
        reason = "the server closed the connection"
        try:
            _receive(part, report)
        except _BrokenError as error:
            reason = str(error)
            if isinstance(error, _UnreachableError) and not reached:
                waits = iter(())  # no network at all, or a wrong address: waiting would not help
        reached = True
        if part.size > most:
            most, waits = part.size, iter(pauses)
        if not part.complete:
            pause = next(waits, None)
            if pause is None:
                raise FileError(f"{part.url}: {reason}; {_what_is_there(part)}")
            time.sleep(pause)
    part.flush()


def _what_is_there(part: _Part) -> str:
    if part.version is None or not part.size:
        return "nothing of it is there"
    total = "unknown" if part.version.nbytes is None else f"{part.version.nbytes:,}"
    there = f"{part.size:,} of {total} bytes are in {part.path}"
    if part.version.validator is None:
        return f"{there}, but the server does not tell versions apart, so the same command begins again"
    return f"{there}, and the same command goes on from there"


def _receive(part: _Part, report: Progress) -> None:
    """Receive bytes over one connection, until it ends."""
    with _connected(part) as response:
        version, start = _version(part.url, response)
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            part.begin(version)
        elif part.version is None or start != part.size or not version.may_be(part.version):
            part.begin(None)
            raise _BrokenError("the file has changed on the server")
        assert part.version is not None
        if part.version.nbytes is None and version.nbytes is not None:
            part.know(replace(part.version, nbytes=version.nbytes))
        total = part.version.nbytes
        if total is not None:
            require_space(part.path.parent, total - part.size, part.url)
        for chunk in _chunks(response):
            part.append(chunk)
            report(part.size // _MIB, None if total is None else -(-total // _MIB))
    if total is None:  # the end of such an answer is marked, or nobody can tell
        part.know(replace(part.version, nbytes=part.size))


@contextmanager
def _connected(part: _Part) -> Iterator[http.client.HTTPResponse]:
    headers = {}
    if part.size and part.version is not None and part.version.validator is not None:
        headers = {"Range": f"bytes={part.size}-", "If-Range": part.version.validator}
    try:
        response = urllib.request.urlopen(_request(part.url, **headers), timeout=_SILENCE_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.begin(None)
            elif error.code not in _TRY_AGAIN:
                raise FileError(f"{part.url}: the server says {error.code} {error.reason}") from error
            raise _BrokenError(f"the server says {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _UnreachableError(f"cannot reach the server: {getattr(error, 'reason', error)}") from error
    with response:
        yield response


def _version(url: str, response: http.client.HTTPResponse) -> tuple[_Version, int]:
    """Return the version of the whole file that a response is of, and with which byte it begins."""
    headers = response.headers
    length, start = headers.get("Content-Length"), 0
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        start, length = (int(found[1]), found[2]) if found else (-1, None)
    nbytes = int(length) if length is not None and length.isdecimal() else None
    etag = headers.get("ETag")
    # Only of S3 is it known that such a tag is the MD5, and there only without a key of the owner's.
    plain = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
    md5 = _MD5_TAG.fullmatch(etag) if etag and plain and headers.get("Server") == "AmazonS3" else None
    return _Version(url, etag, headers.get("Last-Modified"), md5 and md5[1], nbytes), start


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read1(_CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(f"the connection broke: {error or type(error).__name__}") from error


def _accept(part: _Part, check: Callable[[Path, Progress], None], sha256: str | None, report: Progress) -> None:
    assert part.version is not None  # the part is complete
    try:
        _compare_digest(part.path, "sha256", sha256)
        _compare_digest(part.path, "md5", part.version.md5)
        check(part.path, report)
    except FileError as error:
        part.remove()
        raise FileError(f"{error}; it is removed, and the same command downloads it again") from error


def _compare_digest(path: Path, algorithm: str, expected: str | None) -> None:
    if expected is None:
        return
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if found != expected.lower():
        raise FileError(f"{path} has the {algorithm} {found}, expected {expected.lower()}")
