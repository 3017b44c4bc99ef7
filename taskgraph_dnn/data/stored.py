"""Samples in files: what is known of them without reading their rows, and the parts of them that tasks read.

A client holds names, row counts and versions of files. Rows are read by the task that needs them, wherever it runs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from dask.tokenize import tokenize

from taskgraph_dnn.data.files import look, reason
from taskgraph_dnn.errors import FileError, InputError, MissingDependencyError
from taskgraph_dnn.inputs import checked_rows, row_slice
from taskgraph_dnn.io.remote import Version

#: Into so many partitions at most are rows cut that a file can only give together: each reads all of them.
_MOST_CUTS = 4


class Wanted(NamedTuple):
    """What is to be read of each row: columns by name, in this order, or None for all; and how many the network takes.

    The latter is None where nobody knows. It is what is read where a format does not say how wide its rows are.
    """

    columns: tuple[str, ...] | None
    inputs: int | None


class Group(NamedTuple):
    """Rows of a file that are best read together: how many, and where they begin and end, as the format counts."""

    rows: int
    start: int
    stop: int = 0


@dataclass(frozen=True)
class StoredFile:
    """What a file says of itself.

    Attributes:
        url: where it is: a path or a URL.
        version: what changes with it.
        groups: its rows, from the first.
        columns: the names of those that are read; none where they have no names.
        width: values of a row.
        splits: whether any rows can be read without those around them.
    """

    url: str
    version: Version
    groups: tuple[Group, ...]
    columns: tuple[str, ...]
    width: int
    splits: bool = False

    @property
    def rows(self) -> int:
        """Rows of all groups."""
        return sum(group.rows for group in self.groups)


@dataclass(frozen=True)
class Format:
    """A kind of file that holds samples.

    Attributes:
        name: what people call it.
        suffixes: what the names of such files end in.
        look: `look(url, wanted)` returns what the file says of itself.
        read: `read(file, first, stop)` returns rows, numbered from the first group of `file`, as an array or
            CSR; what it raises becomes a `FileError` that names the file.
        whole: a file is best read once and as a whole.
    """

    name: str
    suffixes: tuple[str, ...]
    look: Callable[[str, Wanted], StoredFile]
    read: Callable[[StoredFile, int, int], Any]
    whole: bool = False


class Piece(NamedTuple):
    """Rows `first` to `stop` of a file, numbered from the first of its groups that are left in `file`."""

    file: StoredFile
    first: int
    stop: int


@dataclass(frozen=True)
class StoredPart:
    """Consecutive samples, to be read where they are needed; small.

    Attributes:
        format: of all files.
        pieces: of files, in their order.
        width: values of a row.
        first_sample: the number of the first of them in the whole batch.
        number, parts: which part this is, from 1, and of how many.
    """

    format: Format
    pieces: tuple[Piece, ...]
    width: int
    first_sample: int
    number: int
    parts: int

    @property
    def shape(self) -> tuple[int, int]:
        """Samples x values of each."""
        return sum(stop - first for _, first, stop in self.pieces), self.width

    @property
    def version(self) -> str:
        """What changes with the files that the samples are in."""
        return str(
            tokenize([(file.url, file.version, *rows) for file, *rows in self.pieces], ensure_deterministic=True)
        )

    def read(self) -> Any:
        """Return the samples: checked rows, CSR or dense float32.

        Raises:
            FileError: a file cannot be read, or is another one now; the message names it and the partition.
            InputError: a value is nan or infinite; the message names the file.
            MissingDependencyError: the format needs a package that is not installed.
        """
        return self.checked([self.rows(piece) for piece in self.pieces])

    def of_files(self, files: Sequence[Any]) -> Any:
        """Return the samples where somebody has read all rows of the files that they are in; raises as `read`."""
        return self.checked([row_slice(rows, *piece[1:]) for rows, piece in zip(files, self.pieces, strict=True)])

    def checked(self, rows: Sequence[Any]) -> Any:
        """Return the pieces' rows as one; raises as `read`."""
        checked, first = [], self.first_sample
        for piece, part in zip(self.pieces, rows, strict=True):
            try:
                checked.append(checked_rows(part, self.width, first, piece.stop - piece.first))
            except InputError as error:
                raise InputError(f"{piece.file.url}: {error}") from error
            first += piece.stop - piece.first
        return checked[0] if len(checked) == 1 else _stacked(checked)

    def rows(self, piece: Piece) -> Any:
        """Return the rows of a piece; raises as `read`."""
        file = piece.file
        try:
            found = look(file.url) if file.version else ()  # what stands for a folder, nobody can compare
            if found != file.version:
                raise OSError(f"the file has changed: it has {dict(found)}, but had {dict(file.version)}")
            return self.format.read(file, piece.first, piece.stop)
        except MissingDependencyError:
            raise
        except Exception as error:  # each library has errors of its own
            raise FileError(
                f"cannot read partition {self.number} of {self.parts}, samples from {self.first_sample:,} on, "
                f"of {file.url}: {reason(error)}"
            ) from error


def _stacked(rows: Sequence[Any]) -> Any:
    if any(map(scipy.sparse.issparse, rows)):
        return scipy.sparse.vstack(rows, format="csr")
    return np.vstack(rows)


@dataclass(frozen=True)
class StoredSamples:
    """Samples in files, none of which was read.

    Attributes:
        path: where they are, as it was given.
        format: of all files.
        wanted: what is read of each row.
        files: in their order.
    """

    path: str
    format: Format
    wanted: Wanted
    files: tuple[StoredFile, ...]
    shape: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        shape = sum(file.rows for file in self.files), self.files[0].width
        object.__setattr__(self, "shape", shape)

    def __dask_tokenize__(self) -> object:
        return type(self).__name__, self.format.name, self.wanted, repr(self.files)

    @property
    def identity(self) -> str:
        """What stays the same when a file is replaced by one of as many rows: one that was damaged, for example."""
        rows = [(file.url, file.rows) for file in self.files]
        return str(tokenize(self.format.name, self.wanted, self.shape, rows, ensure_deterministic=True))

    def bounds(self, size: int) -> tuple[tuple[int, int], ...]:
        """Return (first, stop) of partitions of up to about `size` samples, which end where groups of rows do.

        Groups that are much larger are cut all the same.
        """
        edges, filled = [0], 0
        for file in self.files:
            for group in file.groups:
                if filled + group.rows - edges[-1] > size and filled > edges[-1]:
                    edges.append(filled)
                cuts = -(-group.rows // size) if file.splits else min(_MOST_CUTS, -(-group.rows // size))
                edges += [filled + group.rows * cut // cuts for cut in range(1, cuts)]
                filled += group.rows
        return tuple(pairwise([*edges, filled])) if filled else ()

    def parts(self, bounds: Sequence[tuple[int, int]]) -> Iterator[StoredPart]:
        """Yield the parts from `first` to `stop` of each pair, which ascend."""
        ends = [0, *accumulate(group.rows for file in self.files for group in file.groups)]
        owners = [(file, group) for file in self.files for group in file.groups]
        for number, (first, stop) in enumerate(bounds, start=1):
            pieces: list[Piece] = []
            begin = int(np.searchsorted(ends, first, side="right")) - 1
            for place in range(begin, int(np.searchsorted(ends, stop, side="left"))):
                (file, group), start = owners[place], ends[place]
                _extend(pieces, file, group, max(first, start) - start, min(stop, ends[place + 1]) - start)
            yield StoredPart(self.format, tuple(pieces), self.shape[1], first, number, len(bounds))

    def array(self, bounds: Sequence[tuple[int, int]]) -> Any:
        """Return the samples as a Dask array, float32, with a chunk for each pair of `bounds`; blocks may be CSR."""
        import dask.array  # takes as long to import as all the rest

        if not bounds:
            return dask.array.zeros(self.shape, dtype=np.float32)
        name = f"samples-{tokenize(self, tuple(bounds), ensure_deterministic=True)}"
        graph: dict[Any, Any] = {}
        for number, part in enumerate(self.parts(bounds)):
            graph[name, number, 0] = (StoredPart.read, part)
            if self.format.whole:
                files = {(f"file-{name}", piece.file.url): piece.file for piece in part.pieces}
                graph |= {key: (StoredPart.rows, part, Piece(file, 0, file.rows)) for key, file in files.items()}
                graph[name, number, 0] = (StoredPart.of_files, part, list(files))
        chunks = tuple(stop - first for first, stop in bounds), (self.shape[1],)
        return dask.array.Array(graph, name, chunks, dtype=np.float32)


def _extend(pieces: list[Piece], file: StoredFile, group: Group, first: int, stop: int) -> None:
    """Add rows `first` to `stop` of a group to the pieces: to the last one, if that is of the same file."""
    if pieces and pieces[-1].file.url == file.url:
        before = pieces.pop()
        together = replace(file, groups=(*before.file.groups, group))
        pieces.append(Piece(together, before.first, before.file.rows + stop))
    elif stop > first:
        pieces.append(Piece(replace(file, groups=(group,)), first, stop))
