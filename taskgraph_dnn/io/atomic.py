"""Files and folders that appear whole or not at all.

Work goes to a draft beside the target, which takes the target's name only when everything is written and on disk. A
crash, a full disk or an error leaves what was there before.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taskgraph_dnn.errors import FileFormatError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a draft, to be written as a file; it becomes `path` at the end, or is removed on failure.

    Raises:
        FileFormatError: `path` exists and is no regular file, or the folder that should hold it does not exist.
    """
    target = Path(path).absolute()
    if target.exists() and not target.is_file():
        raise FileFormatError(f"cannot write {path}: it exists and is no regular file")
    draft = _draft(target)
    try:
        yield draft
        _flush(draft)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a draft folder, to be filled with files; it becomes `path` at the end, or is removed on failure.

    Raises:
        FileFormatError: `path` exists and is no empty folder, or the folder that should hold it does not exist.
    """
    target = Path(path).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileFormatError(f"cannot write {path}: it exists and is no empty folder")
    draft = _draft(target)
    try:
        draft.mkdir()
        yield draft
        for file in draft.iterdir():
            _flush(file)
        if target.exists():
            target.rmdir()  # not every system renames onto an empty folder
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _draft(target: Path) -> Path:
    if not target.parent.is_dir():
        raise FileFormatError(f"cannot write {target}: there is no folder {target.parent}")
    # The name keeps its end: some writers choose the format, or add a suffix, by it.
    return target.with_name(f".draft-{secrets.token_hex(4)}-{target.name}")


def _flush(file: Path) -> None:
    # Without this, a rename can reach the disk before the bytes do.
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
