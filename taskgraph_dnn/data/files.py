"""Files of samples, by path or URL: which there are, how they are opened, and what tells one version from another."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dask.utils import natural_sort_key

from taskgraph_dnn.errors import FileError, MissingDependencyError
from taskgraph_dnn.io.remote import Version, file_system

_TELLING = ("size", "ETag", "mtime", "LastModified", "Last-Modified", "created", "generation")
_HIDDEN = (".", "_")


def listed(path: str) -> list[str]:
    """Return the files that a path, a URL or a pattern stands for: those of a folder, or itself; numbers ascend.

    Files whose names begin with a dot or an underscore are no samples, and are left out of folders.

    Raises:
        FileError: there are none, or nobody knows such URLs.
        MissingDependencyError: the URL needs a package that is not installed.
    """
    try:
        files, place = file_system(path)
        if any(sign in place for sign in ("*" if _is_http(path) else "*?[")):
            found = [name for name in files.glob(place) if _visible(name)]
        elif files.info(place).get("type") == "directory":  # isdir() may get all of a file behind HTTP
            found = [name for name in files.ls(place, detail=False) if _visible(name) and files.isfile(name)]
        else:
            return [absolute(path)]
    except MissingDependencyError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise FileError(f"cannot find samples at {path}: {reason(error)}") from error
    if not found:
        raise FileError(f"{path}: there is no file of samples (a pattern with ** finds those in folders of folders)")
    paths = _are_here(files)
    return sorted((name if paths else str(files.unstrip_protocol(name)) for name in found), key=natural_sort_key)


def _are_here(files: Any) -> bool:
    """Return whether the files of a file system have paths on this machine."""
    from fsspec.implementations.local import LocalFileSystem  # see `file_system`

    return isinstance(files, LocalFileSystem)


def path_here(path: str) -> Path | None:
    """Return a path, or that of a file:// URL; None for other URLs."""
    scheme, separator, _ = path.partition("://")
    if not separator:
        return Path(path)
    return Path(file_system(path)[1]) if scheme in ("file", "local") else None


def absolute(path: str) -> str:
    """Return a URL as it is, and a path from the root on: workers may be in another folder."""
    return path if "://" in path else str(file_system(path)[1])


def look(url: str) -> Version:
    """Return what tells a version of a file from another one; nothing, of a folder.

    Raises:
        OSError: it is not there.
        MissingDependencyError: the URL needs a package that is not installed.
    """
    files, place = file_system(url)
    files.invalidate_cache()
    known = files.info(place)
    if known.get("type") == "directory":
        return ()
    return tuple((name, str(known[name])) for name in _TELLING if known.get(name) is not None)


@contextmanager
def opened(url: str) -> Iterator[BinaryIO]:
    """Open a file for reading, anywhere in it; what is compressed is read from its start for that."""
    files, place = file_system(url)
    with files.open(place, "rb", compression="gzip" if name_of(url).endswith(".gz") else None) as stream:
        yield stream


@contextmanager
def local(url: str) -> Iterator[Path]:
    """Yield the path of a file: its own, or that of a copy, for readers that know paths only."""
    files, place = file_system(url)
    if _are_here(files):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="taskgraph-dnn-") as folder:
        copy = Path(folder) / place.rsplit("/", 1)[-1]
        files.get_file(place, str(copy))
        yield copy


def reason(error: BaseException) -> str:
    """Return what an error says, in one line."""
    said = " ".join(str(error).split()) or "no reason given"
    return said if isinstance(error, FileError) else f"{type(error).__name__}: {said}"


def name_of(url: str) -> str:
    """Return the last part of a path or URL, in small letters, without what may be asked of a server."""
    if _is_http(url):
        url = url.partition("?")[0]
    return url.rstrip("/").rsplit("/", 1)[-1].lower()


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _visible(name: str) -> bool:
    return not name.rstrip("/").rsplit("/", 1)[-1].startswith(_HIDDEN)
