"""Input rows: whatever users hold, as checked CSR or dense float32, samples x inputs."""

from typing import Any

import numpy as np
import scipy.sparse

from taskgraph_dnn.errors import InputError
from taskgraph_dnn.matrices import first_not_finite, float32_matrix, real_matrix


def checked_rows(rows: Any, inputs: int, first_sample: int = 0, samples: int | None = None) -> Any:
    """Return `rows` as a float32 CSR array (if sparse) or a float32 2-D array, without a copy where it is one already.

    Args:
        rows: samples x inputs, any scipy sparse matrix or array, or what numpy takes for a 2-D array.
        inputs: neurons of the network's input.
        first_sample: number of the first row in the whole batch, for messages.
        samples: how many rows there must be; None takes any number.

    Raises:
        InputError: the rows have another width than the network, are not as many as expected, are no real numbers, or
            one is nan or infinite.
    """
    try:
        rows = real_matrix(rows)
    except ValueError as error:
        raise InputError(f"samples {error}") from error
    if rows.shape[1] != inputs:
        raise InputError(f"samples are {rows.shape[1]} values wide, but the network has {inputs} inputs")
    if samples not in (None, rows.shape[0]):
        raise InputError(f"the block that begins at sample {first_sample} has {rows.shape[0]} rows, expected {samples}")
    checked = _float32(rows)
    wrong = first_not_finite(checked)
    if wrong is not None:
        sample, column, value = wrong
        raise InputError(f"sample {first_sample + sample}, input {column} is {value}, expected a finite float32")
    return checked


def density(rows: Any) -> float:
    """Return which part of checked rows is stored: 1 of an array."""
    if not scipy.sparse.issparse(rows):
        return 1.0
    return float(rows.nnz / max(1, rows.shape[0] * rows.shape[1]))


def row_slice(rows: Any, first: int, stop: int) -> Any:
    """Return rows first to stop (stop excluded) of a CSR array or an array as a view of its numbers."""
    if not scipy.sparse.issparse(rows):
        return rows[first:stop]
    start, end = rows.indptr[first], rows.indptr[stop]
    indptr = rows.indptr[first : stop + 1] - start
    part = scipy.sparse.csr_array((stop - first, rows.shape[1]), dtype=rows.dtype)
    # Given to the constructor, arrays that are a small part of others would be copied.
    part.data, part.indices, part.indptr = rows.data[start:end], rows.indices[start:end], indptr
    return part


def _float32(rows: Any) -> Any:
    if not scipy.sparse.issparse(rows):
        with np.errstate(over="ignore"):
            return rows.astype(np.float32, copy=False)
    return float32_matrix(rows, scipy.sparse.csr_array)
