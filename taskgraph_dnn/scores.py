"""What a network says of samples: its outputs, kept as they were computed, and what people ask of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.arguments import whole_number
from taskgraph_dnn.errors import InputError

_AT_ONCE = 2**22  # numbers of dense outputs


class Top(NamedTuple):
    """The largest outputs of each sample, the largest first: values, and the outputs' numbers; samples x k each."""

    values: NDArray[Any]
    indices: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Scores:
    """Outputs of samples.

    Attributes:
        distinct: the last layer's activations as they were computed: one row for equal samples, one column for equal
            neurons; CSR.
        rows: for each sample its row of `distinct`, or -1 where all its outputs are zero.
        places: for each output its column of `distinct`, or -1 where it is always zero; None where the two agree.
    """

    distinct: scipy.sparse.csr_array
    rows: NDArray[np.int64]
    places: NDArray[np.int32] | None

    @property
    def samples(self) -> int:
        """Samples of the batch."""
        return len(self.rows)

    @property
    def width(self) -> int:
        """Outputs of a sample."""
        return int(self.distinct.shape[1]) if self.places is None else len(self.places)

    @cached_property
    def outputs(self) -> scipy.sparse.csr_array:
        """The last layer's activations, CSR, samples x outputs, of the plan's dtype; made at first use."""
        wide = self.distinct if self.places is None else _unfolded(self.distinct, self.places)
        rows = wide
        if not np.array_equal(self.rows, np.arange(wide.shape[0])):  # else nothing was left out, and this may be much
            none = scipy.sparse.csr_array((1, wide.shape[1]), dtype=wide.dtype)  # row -1
            rows = scipy.sparse.vstack([wide, none], format="csr")[self.rows]
        rows.sort_indices()
        return rows

    @cached_property
    def categories(self) -> NDArray[np.int64]:
        """Numbers, from 0 and ascending, of the samples that have a nonzero output (the challenge's answer)."""
        nonzero = np.append(np.diff(self.distinct.indptr) > 0, False)
        return np.flatnonzero(nonzero[self.rows]).astype(np.int64)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """For each sample the number, from 0, of its largest output, the lowest one where several are equal.

        It is -1 where all outputs are zero, which says as little as none, and where one is nan.
        """
        return self._of_each(_labels)

    def top(self, k: int) -> Top:
        """Return the `k` largest outputs of each sample, the largest first, of equal ones the lowest; nan is the least.

        Raises:
            InputError: `k` is not from 1 to the number of outputs.
        """
        if whole_number("k", k, 1, InputError) > self.width:
            raise InputError(f"k is {k}, but the network has {self.width} outputs")
        indices = self._of_each(lambda dense: _largest(dense, k))
        values = self._of_each(lambda dense: np.take_along_axis(dense, _largest(dense, k), axis=1))
        return Top(values, indices)

    def dense(self) -> NDArray[Any]:
        """Return the outputs as an array, samples x outputs."""
        return self._of_each(lambda dense: dense)

    def _of_each(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
        """Return for each sample what a function makes of dense outputs, row by row."""
        return np.concatenate([function(dense) for dense in self._dense_rows()])[self.rows]

    def _dense_rows(self) -> Iterator[NDArray[Any]]:
        """Yield the distinct outputs, a few rows at a time, and at last a row of zeros, which is row -1."""
        step = max(1, _AT_ONCE // max(1, self.width))
        for first in range(0, self.distinct.shape[0], step):
            dense = self.distinct[first : first + step].toarray()
            if self.places is not None:
                dense = np.where(self.places >= 0, dense[:, np.maximum(self.places, 0)], dense.dtype.type(0))
            yield dense
        yield np.zeros((1, self.width), self.distinct.dtype)


def _labels(dense: NDArray[Any]) -> NDArray[np.int64]:
    return np.where(dense.any(axis=1) & ~np.isnan(dense).any(axis=1), dense.argmax(axis=1), -1)


def _largest(dense: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Return the numbers of the `k` largest of each row, in order, without sorting all of them."""
    falling = np.where(np.isnan(dense), np.inf, -dense)
    last = np.partition(falling, k - 1, axis=1)[:, k - 1 : k]  # the largest that is taken
    above, tied = falling < last, falling == last
    taken = above | (tied & (np.cumsum(tied, axis=1) <= k - np.count_nonzero(above, axis=1)[:, None]))
    indices = np.nonzero(taken)[1].reshape(len(dense), k)
    order = np.argsort(np.take_along_axis(falling, indices, axis=1), axis=1, kind="stable")
    return np.take_along_axis(indices, order, axis=1)


def _unfolded(distinct: scipy.sparse.csr_array, places: NDArray[np.int32]) -> scipy.sparse.csr_array:
    """Return the matrix with column `places[n]` at n, and zeros where that is -1."""
    (outputs,) = np.nonzero(places >= 0)
    shape = distinct.shape[1], len(places)
    spread = scipy.sparse.csr_array((np.ones(outputs.size, distinct.dtype), (places[outputs], outputs)), shape=shape)
    return distinct @ spread
