"""Samples in a Zarr array of two dimensions, samples x inputs. Chunks are what is read together."""

from typing import Any

import numpy as np

from taskgraph_dnn.data.stored import Format, Group, StoredFile, Wanted
from taskgraph_dnn.errors import FileError, InputError, MissingDependencyError


def open_zarr(url: str) -> Any:
    """Return a Zarr array.

    Raises:
        FileError: there is none, or a group of several.
        MissingDependencyError: zarr is not installed.
    """
    zarr = import_zarr()
    try:
        found = zarr.open(url, mode="r")
    except Exception as error:  # its stores have errors of their own
        raise FileError(f"cannot open {url} as Zarr: {error}") from error
    if isinstance(found, zarr.Group):
        names = sorted(name for name, _ in found.arrays())
        if len(names) != 1:
            raise FileError(
                f"{url} is a group of {', '.join(names) or 'nothing'}, expected an array: name it, {url}/NAME"
            )
        return found[names[0]]
    return found


def import_zarr() -> Any:
    """Return the package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise MissingDependencyError.of("Zarr", "zarr", "zarr") from error
    return zarr


def _look(url: str, wanted: Wanted) -> StoredFile:
    if wanted.columns is not None:
        raise InputError(f"{url}: columns of an array have no names, but {', '.join(wanted.columns)} are wanted")
    array = open_zarr(url)
    if array.ndim != 2 or np.dtype(array.dtype).kind not in "fiub":
        raise FileError(f"{url} holds {array.dtype} of shape {array.shape}, expected numbers, samples x inputs")
    samples, width = array.shape
    step = max(1, (getattr(array, "shards", None) or array.chunks)[0])
    groups = tuple(Group(min(step, samples - first), first) for first in range(0, samples, step))
    return StoredFile(url, (), groups, (), width)


def _read(file: StoredFile, first: int, stop: int) -> Any:
    start = file.groups[0].start
    return np.asarray(open_zarr(file.url)[start + first : start + stop])


ZARR = Format("Zarr", (".zarr",), _look, _read)
