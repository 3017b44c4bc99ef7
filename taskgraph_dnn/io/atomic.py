"""Files and folders that appear whole or not at all.

Work goes to a draft beside the target, which takes the target's name only when everything is written and on disk. A
crash, a full disk or an error leaves what was there before. The draft of a process that was killed is removed by the
next one that writes the same target on the same machine.
"""

import glob
import hashlib
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from taskgraph_dnn.errors import FileError

#: What the names of drafts begin with.
DRAFT = ".draft-"

#: This machine, in the names of drafts: a process number says nothing on another one that shares the folder.
_HERE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Return where `path` leads (links followed), if a file can be written there; call it before long work.

    Raises:
        FileError: it leads to something that is no regular file, or to a folder that is not there or cannot be written.
    """
    given, target = Path(path).absolute(), Path(path).resolve()
    # Behind a name in /dev or /proc, such as /dev/stdout, may be a regular file that somebody else has open.
    if (target.exists() and not target.is_file()) or given.parts[1:2] in (("dev",), ("proc",)):
        raise FileError(f"cannot write {path}: it exists and is no regular file")
    _check_folder(path, target.parent)
    return target


def check_new_folder(path: str | os.PathLike[str]) -> Path:
    """Return where `path` leads, if a folder can be made there.

    Raises:
        FileError: it leads to something that is no empty folder, or to where no folder can be made.
    """
    target = Path(path).resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileError(f"cannot write {path}: it exists and is no empty folder")
    _check_folder(path, target.parent)
    return target


def free_nbytes(folder: Path) -> int:
    """Return the bytes that are free on the disk of a folder, which need not be there yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(folder: Path, nbytes: int, what: str) -> None:
    """Check that the disk of a folder, which need not be there yet, has room for about so many bytes more.

    Raises:
        FileError: it has not.
    """
    free = free_nbytes(folder)
    if nbytes > free:
        raise FileError(f"cannot write {what}: {nbytes:,} bytes more are needed, but {folder} has {free:,} free")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a draft, to be written as a file; it becomes `path` at the end, or is removed on failure.

    Raises:
        FileError: see `check_writable`; or writing failed, because the disk is full, for example.
    """
    target = check_writable(path)
    draft = _draft(target)
    with _failures_named(path):
        try:
            yield draft
            flush(draft)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, UTF-8, that appears whole or not at all.

    Raises:
        FileError: see `atomic_path`.
    """
    with atomic_path(path) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a draft folder, to be filled with files; it becomes `path` at the end, or is removed on failure.

    Raises:
        FileError: see `check_new_folder`; or writing failed.
    """
    target = check_new_folder(path)
    draft = _draft(target)
    with _failures_named(path):
        try:
            draft.mkdir()
            yield draft
            for file in draft.iterdir():
                flush(file)
            if target.exists():
                target.rmdir()  # not every system renames onto an empty folder
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder, for this user alone, that is removed at the end, or by the next caller if this one is killed.

    Raises:
        OSError: it cannot be made.
    """
    folder = _draft(parent / "taskgraph-dnn")
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_folder(path: str | os.PathLike[str], folder: Path) -> None:
    if not folder.is_dir():
        raise FileError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise FileError(f"cannot write {path}: no permission to write in {folder}")


@contextmanager
def _failures_named(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot write {path}: {error}") from error


def _draft(target: Path) -> Path:
    _remove_abandoned(target)
    # The name keeps its end: some writers choose the format, or add a suffix, by it.
    return target.with_name(f"{DRAFT}{_HERE}-{os.getpid()}-{secrets.token_hex(4)}-{target.name}")


def _remove_abandoned(target: Path) -> None:
    """Remove the target's drafts of processes of this machine that are no more."""
    for draft in target.parent.glob(f"{DRAFT}{_HERE}-*-{glob.escape(target.name)}"):
        process = re.fullmatch(
            rf"{re.escape(DRAFT)}{_HERE}-([0-9]+)-[0-9a-f]{{8}}-{re.escape(target.name)}", draft.name
        )
        if process is None or psutil.pid_exists(int(process[1])):
            continue
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            with suppress(OSError):
                draft.unlink()


def flush(file: Path) -> None:
    """Have a file's bytes on disk when this returns."""
    # Without this, a rename can reach the disk before the bytes do.
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
