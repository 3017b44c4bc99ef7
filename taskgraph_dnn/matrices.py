"""What every matrix that comes from outside goes through: its structure is checked before scipy may trust it.

The functions raise `ValueError` with a short fact; the caller adds the place and makes it an error of the package.
"""

from typing import Any

import numpy as np
import scipy.sparse


def real_matrix(matrix: Any) -> Any:
    """Return a sound 2-D matrix of real numbers: a scipy sparse one (CSR, CSC, BSR or COO), or an array.

    scipy converts and multiplies without looking at indices, and the process dies, or reads what is not its own, where
    one is out of range. Compressed formats check themselves; all others are looked at as COO.

    Raises:
        ValueError: it is none.
    """
    sparse = scipy.sparse.issparse(matrix)
    if not sparse:
        matrix = np.asarray(matrix)
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"are of type {matrix.dtype}, expected real numbers")
    if matrix.ndim != 2:
        raise ValueError(f"have shape {matrix.shape}, expected 2 dimensions")
    if not sparse:
        return matrix
    try:
        if hasattr(matrix, "check_format"):
            matrix.check_format(full_check=True)
            return matrix
        coo = matrix.tocoo()
        # A new one, because coordinates are checked when they are given.
        return scipy.sparse.coo_array((coo.data, coo.coords), shape=coo.shape)
    except (ValueError, IndexError) as error:
        raise ValueError(f"are no valid {matrix.format.upper()} matrix: {error}") from error


def float32_matrix(matrix: Any, form: type[Any]) -> Any:
    """Return a matrix in `form`, `csr_array` or `csc_array`, as float32, indices sorted and duplicates summed.

    Nothing is copied where it is all that already.
    """
    if matrix.dtype != np.float32:
        matrix = matrix.astype(np.float64)  # small integers would overflow when duplicates are summed
    compressed = form(matrix if scipy.sparse.issparse(matrix) else scipy.sparse.coo_array(matrix))
    if not compressed.has_canonical_format:
        compressed = compressed.copy()  # it may share the caller's arrays
        compressed.sum_duplicates()
    with np.errstate(over="ignore"):  # an overflow gives inf, which is for the caller to find
        return compressed.astype(np.float32, copy=False)


def sparse_nbytes(matrix: Any) -> int:
    """Return the bytes of a CSR or CSC matrix's arrays."""
    return int(matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes)


def first_not_finite(matrix: Any) -> tuple[int, int, Any] | None:
    """Return row, column and value of the first number that is nan or infinite, or None.

    Args:
        matrix: CSR, CSC, or an array of 2 dimensions.
    """
    if not scipy.sparse.issparse(matrix):
        wrong = ~np.isfinite(matrix)
        if not wrong.any():
            return None
        row, column = (int(index) for index in np.argwhere(wrong)[0])
        return row, column, matrix[row, column]
    finite = np.isfinite(matrix.data)
    if finite.all():
        return None
    place = int(np.flatnonzero(~finite)[0])
    major, minor = int(np.searchsorted(matrix.indptr, place, side="right")) - 1, int(matrix.indices[place])
    row, column = (major, minor) if matrix.format == "csr" else (minor, major)
    return row, column, matrix.data[place]
