"""The block that travels on the graph's edges: one partition's activations.

Samples are grouped in tiles of `lanes`. Within a tile the layout is feature-major, so one neuron's values for all the
tile's samples lie side by side and a kernel works on whole vectors of samples:

    values[tile, neuron, lane]      sample number tile * lanes + lane of the partition

Lanes of the last tile that hold no sample are padding; kernels compute them, nobody reads them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Activations:
    """One partition's activations.

    Attributes:
        values: float32, tiles x neurons x lanes.
        samples: how many samples they are; slots beyond are padding.
    """

    values: Values
    samples: int

    @property
    def neurons(self) -> int:
        """Neurons of the layer that made them."""
        return int(self.values.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the values, padding included."""
        return self.values.nbytes

    def __sizeof__(self) -> int:
        return self.nbytes + 100

    @classmethod
    def from_rows(cls, rows: Any, lanes: int) -> "Activations":
        """Return the tiles of `rows`: samples x neurons, a CSR matrix or an array."""
        samples, neurons = rows.shape
        tiles = -(-samples // lanes)
        values = np.zeros((tiles, neurons, lanes), np.float32)
        if scipy.sparse.issparse(rows):
            sample = np.repeat(np.arange(samples), np.diff(rows.indptr))
            values[sample // lanes, rows.indices, sample % lanes] = rows.data
        else:
            for tile in range(tiles):
                part = rows[tile * lanes : (tile + 1) * lanes]
                values[tile, :, : len(part)] = part.T
        return cls(values, samples)

    def to_csr(self) -> scipy.sparse.csr_array:
        """Return the nonzero values as CSR, samples x neurons, float32."""
        _, neurons, lanes = self.values.shape
        counts = np.count_nonzero(self.values, axis=1).ravel()[: self.samples]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        indices = np.empty(indptr[-1], np.int32 if max(neurons, indptr[-1]) < 2**31 else np.int64)
        data = np.empty(indptr[-1], np.float32)
        for tile, first in enumerate(range(0, self.samples, lanes)):
            stop = min(first + lanes, self.samples)
            by_sample = self.values[tile, :, : stop - first].T
            nonzero = np.nonzero(by_sample)
            indices[indptr[first] : indptr[stop]] = nonzero[1]
            data[indptr[first] : indptr[stop]] = by_sample[nonzero]
        return scipy.sparse.csr_array((data, indices, indptr.astype(indices.dtype)), shape=(self.samples, neurons))
