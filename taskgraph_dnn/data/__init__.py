"""Samples by path or URL, one module a format: workers look at the files, and read rows when they are used."""

import os
from collections.abc import Sequence
from itertools import chain
from typing import Any

import dask

from taskgraph_dnn.arguments import whole_number
from taskgraph_dnn.data.csvs import CSV
from taskgraph_dnn.data.files import absolute, listed, name_of
from taskgraph_dnn.data.numpys import NUMPY
from taskgraph_dnn.data.parquet import PARQUET
from taskgraph_dnn.data.stored import Format, StoredFile, StoredPart, StoredSamples, Wanted
from taskgraph_dnn.data.texts import CHALLENGE, MATRIX_MARKET
from taskgraph_dnn.data.zarrs import ZARR
from taskgraph_dnn.errors import FileError, InputError, TaskgraphError

__all__ = ["StoredPart", "StoredSamples", "open_samples", "read_rows", "read_samples"]

FORMATS = (PARQUET, NUMPY, ZARR, CSV, CHALLENGE, MATRIX_MARKET)

_CHUNK_NBYTES = 2**26

#: Tasks that look at files; each of them costs as much as a small file does.
_MOST_LOOKS = 256


def read_samples(
    path: str | os.PathLike[str], *, columns: Sequence[str] | None = None, inputs: int | None = None
) -> Any:
    """Return samples in files as a Dask array, samples x inputs, float32: workers read its blocks when they are used.

    Args:
        path: a file, a folder of files, a pattern like `samples/*.parquet`, or a URL of these that fsspec knows, of
            Parquet, .npz, .npy, Zarr, CSV, the Graph Challenge's .tsv, or Matrix Market. Files are taken in the order
            of their names, numbers in these ascending.
        columns: names of columns, in the order of the network's inputs; None takes all, in the files' order.
        inputs: how many values a sample has: a .tsv file does not say.

    Returns:
        An array of chunks of up to about 64 MiB that end where the files' own groups of rows do, if that is possible.
        Blocks of .tsv, .mtx and sparse .npz files are CSR.

    Raises:
        FileError: there is no such file, or one cannot be read, or is in another format than the first.
        InputError: a column is missing, or files differ in their columns or width.
        MissingDependencyError: the format, or the URL, needs a package that is not installed.
    """
    samples = open_samples(path, columns=columns, inputs=inputs)
    return samples.array(samples.bounds(max(1, _CHUNK_NBYTES // (4 * max(1, samples.shape[1])))))


def read_rows(path: str | os.PathLike[str], inputs: int) -> Any:
    """Return all samples in files, CSR or dense float32, read now and here.

    Args:
        path: as of `read_samples`.
        inputs: values of a sample.

    Raises:
        FileError, MissingDependencyError: as of `read_samples`; or rows cannot be read.
        InputError: samples have another width, there are none, or a value is nan or infinite.
    """
    samples = open_samples(path, inputs=inputs)
    count, width = samples.shape
    if width != inputs:
        raise InputError(f"samples in {samples.path} are {width} values wide, but the network has {inputs} inputs")
    if not count:
        raise InputError(f"{samples.path} holds no samples, expected at least 1")
    (part,) = samples.parts([(0, count)])
    return part.read()


def open_samples(
    path: str | os.PathLike[str], *, columns: Sequence[str] | None = None, inputs: int | None = None
) -> StoredSamples:
    """Look at samples in files, on the workers of the active client or on threads; see `read_samples`."""
    wanted = _wanted(columns, inputs)
    where = os.fspath(path)
    found = _format(where)
    files = _looks(found, _urls(where, found), wanted)
    first = next((file for file in files if isinstance(file, StoredFile)), files[0])
    for number, file in enumerate(files, start=1):
        if isinstance(file, TaskgraphError):
            raise type(file)(f"file {number:,} of {len(files):,}: {file}" if len(files) > 1 else str(file))
        _require_alike(first, file)
    return StoredSamples(where, found, wanted, files)


def _wanted(columns: Sequence[str] | None, inputs: int | None) -> Wanted:
    if isinstance(columns, str):
        raise InputError(f"columns is {columns!r}, expected a list of names")
    if inputs is not None:
        whole_number("inputs", inputs, 1, InputError)
    return Wanted(None if columns is None else tuple(columns), inputs)


def _urls(where: str, found: Format) -> list[str]:
    """Return the files, all of which must be of this format."""
    if found is ZARR:
        return [absolute(where)]
    urls = listed(where)
    stranger = next((url for url in urls if not name_of(url).endswith(found.suffixes)), None)
    if stranger is not None:
        raise FileError(f"{where} holds {stranger} among files of {found.name}, expected files of one format")
    return urls


def _looks(found: Format, urls: Sequence[str], wanted: Wanted) -> tuple[Any, ...]:
    """Return what files say of themselves, or the error with which they do not."""
    each = -(-len(urls) // _MOST_LOOKS)
    bundles = [urls[first : first + each] for first in range(0, len(urls), each)]
    looks = dask.compute(*(dask.delayed(_all_looked, pure=False)(found, bundle, wanted) for bundle in bundles))
    return tuple(chain.from_iterable(looks))


def _all_looked(found: Format, urls: Sequence[str], wanted: Wanted) -> list[StoredFile | TaskgraphError]:
    return [_looked(found, url, wanted) for url in urls]


def _looked(found: Format, url: str, wanted: Wanted) -> StoredFile | TaskgraphError:
    try:
        return found.look(url, wanted)
    except TaskgraphError as error:
        return error
    except Exception as error:  # each library has errors of its own
        return FileError(f"cannot read {url} as {found.name}: {type(error).__name__}: {' '.join(str(error).split())}")


def _require_alike(first: StoredFile, file: StoredFile) -> None:
    if file.width != first.width:
        raise InputError(f"{file.url} has samples of {file.width} values, but {first.url} of {first.width}")
    for number, (name, expected) in enumerate(zip(file.columns, first.columns, strict=False)):
        if name != expected:
            raise InputError(f"{file.url} has column {name!r} at place {number}, but {first.url} has {expected!r}")


def _format(path: str) -> Format:
    """Return the format of files, by their names."""
    if any(part.lower().endswith(ZARR.suffixes) for part in path.rstrip("/").split("/")):
        return ZARR  # a Zarr array is a folder, and may be in another one
    for candidate in FORMATS:
        if name_of(path).endswith(candidate.suffixes):
            return candidate
    first = listed(path)[0]
    if name_of(first) != name_of(path):  # a folder or a pattern
        return _format(first)
    suffixes = ", ".join(suffix for candidate in FORMATS for suffix in candidate.suffixes)
    raise FileError(f"{path} is of no known format: expected a file, a folder or a pattern of {suffixes}")
