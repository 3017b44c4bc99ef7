"""Blocks of activations: how one partition's values lie in memory, between layers and between tasks.

Samples are grouped in tiles of `lanes`. Within a tile the layout is feature-major, so one neuron's values for all the
tile's samples lie side by side and a kernel works on whole vectors of samples:

    values[tile, neuron, lane]      sample number tile * lanes + lane of the partition

Lanes of the last tile that hold no sample are padding; kernels compute them, nobody reads them. Blocks that are made
here begin on a cache line; kernels take any address, for a block that came over the network may lie anywhere.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

#: float32 or float64, tiles x neurons x lanes.
Values = NDArray[Any]
#: tiles x lanes: has the sample any nonzero value.
Alive = NDArray[np.bool_]

#: Bytes of a cache line.
ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations of the samples of one partition that are still on their way.

    Attributes:
        values: tiles x neurons x lanes.
        samples: the samples' numbers in the batch, from the first lane of the first tile on; lanes beyond are padding.
        copies: of how many samples of the batch, whose activations are the same, each of them takes the place.
    """

    values: Values
    samples: NDArray[np.int64]
    copies: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """Bytes of the values, padding included."""
        return self.values.nbytes

    def copied(self) -> "Activations":
        """Return activations that do not keep a larger block in memory, of which these are a part."""
        values = aligned_empty(self.values.shape, self.values.dtype)
        values[...] = self.values
        return Activations(values, self.samples.copy(), self.copies.copy())

    def __sizeof__(self) -> int:
        return self.nbytes + self.samples.nbytes + self.copies.nbytes + 100


def aligned_empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an uninitialised array that begins on a cache line."""
    return aligned(np.empty(prod(shape) * np.dtype(dtype).itemsize + ALIGNMENT, np.uint8), shape, dtype)


def aligned(raw: NDArray[np.uint8], shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array that begins at the first cache line of `raw`, which must be so much larger; `raw` is its base."""
    start = -raw.ctypes.data % ALIGNMENT
    nbytes = prod(shape) * np.dtype(dtype).itemsize
    return np.asarray(raw[start : start + nbytes].view(dtype).reshape(shape))


def fill_tiles(values: Values, rows: Any) -> None:
    """Fill the tiles with `rows`: samples x neurons, a CSR array or an array; lanes beyond the samples become 0."""
    lanes = values.shape[2]
    if scipy.sparse.issparse(rows):
        values[...] = 0
        sample = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        values[sample // lanes, rows.indices, sample % lanes] = rows.data
        return
    for tile, first in zip(values, range(0, len(rows), lanes), strict=True):
        part = rows[first : first + lanes]
        tile[:, : len(part)] = part.T
        tile[:, len(part) :] = 0


def to_csr(values: Values, places: NDArray[np.int64]) -> scipy.sparse.csr_array:
    """Return the nonzero values of some samples as CSR, samples x neurons.

    Args:
        values: tiles x neurons x lanes.
        places: where the samples are: tile x lanes + lane.
    """
    _, neurons, lanes = values.shape
    rows = values[places // lanes, :, places % lanes]
    indptr = np.concatenate([[0], np.cumsum(np.count_nonzero(rows, axis=1))])
    dtype = np.int32 if max(neurons, indptr[-1]) < 2**31 else np.int64
    nonzero = np.nonzero(rows)
    arrays = rows[nonzero], nonzero[1].astype(dtype), indptr.astype(dtype)
    return scipy.sparse.csr_array(arrays, shape=(len(places), neurons))
