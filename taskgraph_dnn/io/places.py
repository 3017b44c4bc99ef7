"""A folder, or a URL, as a place for files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from taskgraph_dnn.errors import FileError, TaskgraphError
from taskgraph_dnn.io.atomic import DRAFT, atomic_path
from taskgraph_dnn.io.remote import file_system, reason


class Place:
    """A place for files; it need not be there yet.

    Args:
        where: a folder, or a URL that fsspec knows.

    Attributes:
        name: the folder's absolute path, or the URL: the same place for any process that sees it.

    Raises:
        FileError: nobody knows such URLs.
        MissingDependencyError: the URL needs a package that is not installed.
    """

    def __init__(self, where: str | os.PathLike[str]) -> None:
        from fsspec.implementations.local import LocalFileSystem  # see `file_system`

        given = os.fspath(where)
        try:
            self._files, path = file_system(given)
        except OSError as error:
            raise FileError(f"cannot reach {given}: {error}") from error
        self._path = path.rstrip("/") or path
        self._local = isinstance(self._files, LocalFileSystem)
        self.name = self._path if self._local else given.rstrip("/")

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            FileError: it cannot be made.
        """
        with self._failures("make", self.name):
            self._files.makedirs(self._path, exist_ok=True)

    def names(self) -> set[str]:
        """Return the names of all that is there; of nothing, where there is no such place.

        Raises:
            FileError: it cannot be listed.
        """
        with self._failures("list", self.name):
            self._files.invalidate_cache(self._path)
            try:
                paths = self._files.ls(self._path, detail=False)
            except FileNotFoundError:
                return set()
        paths = [path.rstrip("/") for path in paths]
        return {path.rsplit("/", 1)[-1] for path in paths if path != self._path or self._files.isfile(path)}

    def holds(self, name: str) -> bool:
        """Return whether a file is there now.

        Raises:
            FileError: nobody can say.
        """
        with self._failures("look for", self.at(name)):
            self._files.invalidate_cache(self._path)
            try:
                self._files.info(self._at(name))
            except FileNotFoundError:
                return False
        return True

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileError: it is not there, or cannot be read.
        """
        with self._failures("read", self.at(name)):
            content: bytes = self._files.cat_file(self._at(name))
        return content

    def write(self, name: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write a file, which appears whole, in place of one of that name, or not at all.

        Raises:
            FileError: it cannot be written: the disk is full, for example.
        """
        if self._local:
            with atomic_path(self._at(name)) as draft, draft.open("wb") as file:
                file.writelines(parts)
            return
        draft_path = self._at(f"{DRAFT}{secrets.token_hex(8)}-{name}")
        with self._failures("write", self.at(name)):
            try:
                with self._files.open(draft_path, "wb") as file:
                    for part in parts:
                        file.write(part)
                self._files.mv(draft_path, self._at(name))
            except BaseException:
                with suppress(Exception):
                    self._files.rm_file(draft_path)
                raise

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            FileError: it cannot be removed.
        """
        with self._failures("remove", self.at(name)), suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    def at(self, name: str) -> str:
        """Return where a file is, for people."""
        return f"{self.name}/{name}"

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    @contextmanager
    def _failures(self, doing: str, what: str) -> Iterator[None]:
        try:
            yield
        except TaskgraphError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise FileError(f"cannot {doing} {what}: {reason(error)}") from error
