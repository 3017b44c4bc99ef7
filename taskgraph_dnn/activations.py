"""The block that travels on the graph's edges: one partition's activations, and which samples they are.

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
        by_sample = self.values.transpose(0, 2, 1)
        tile, lane, neuron = np.nonzero(by_sample)
        sample = tile * lanes + lane
        held = sample < self.samples
        data = by_sample[tile, lane, neuron]
        counts = np.bincount(sample[held], minlength=self.samples)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        return scipy.sparse.csr_array((data[held], neuron[held], indptr), shape=(self.samples, neurons))
