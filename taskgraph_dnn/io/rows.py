"""Rows of input in files, for the time of a run: processes of one machine map them, and nobody sends them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from taskgraph_dnn.errors import FileError
from taskgraph_dnn.inputs import row_slice

_SPARSE = "data", "indices", "indptr"
_DENSE = ("rows",)


@dataclass(frozen=True)
class SharedRows:
    """Checked rows, samples x inputs, in the files of a folder.

    Attributes:
        folder: that nobody else writes to.
        names: of the files, without their suffix.
        shape: of the rows.
    """

    folder: str
    names: tuple[str, ...]
    shape: tuple[int, int]

    def part(self, first: int, stop: int) -> Any:
        """Return rows `first` to `stop`, mapped into memory.

        Raises:
            FileError: the files are gone, or damaged.
        """
        try:
            # "c": Kernels' compiled code knows arrays that can be written, and nobody does.
            arrays = [np.asarray(np.load(_file(self.folder, name), mmap_mode="c")) for name in self.names]
        except (OSError, ValueError) as error:
            raise FileError(f"cannot read the rows of input in {self.folder}: {error}") from error
        if self.names == _DENSE:
            return row_slice(arrays[0], first, stop)
        rows = scipy.sparse.csr_array(self.shape, dtype=arrays[0].dtype)
        rows.data, rows.indices, rows.indptr = arrays
        return row_slice(rows, first, stop)


def write_rows(rows: Any, folder: Path) -> SharedRows:
    """Write checked rows, CSR or dense, into a folder.

    Raises:
        OSError: they cannot be written.
    """
    names = _SPARSE if scipy.sparse.issparse(rows) else _DENSE
    for name in names:
        np.save(_file(folder, name), getattr(rows, name) if names == _SPARSE else rows, allow_pickle=False)
    return SharedRows(str(folder.absolute()), names, rows.shape)


def _file(folder: str | Path, name: str) -> Path:
    return Path(folder) / f"{name}.npy"
