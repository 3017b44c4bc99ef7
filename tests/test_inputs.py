import numpy as np
import pytest
import scipy.sparse

from taskgraph_dnn.errors import InputError
from taskgraph_dnn.inputs import checked_rows, row_slice

ROWS = np.array([[0, 1.5, 0], [0, 0, 0], [2, 0, 3]], np.float32)


@pytest.mark.parametrize(
    "form", ["csr_array", "csr_matrix", "csc_array", "coo_array", "coo_matrix", "lil_matrix", "dia_array"]
)
def test_any_sparse_form_becomes_csr(form):
    checked = checked_rows(getattr(scipy.sparse, form)(ROWS), 3)
    assert isinstance(checked, scipy.sparse.csr_array)
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked.toarray(), ROWS)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.float16, np.float32, np.float64])
def test_any_real_type_becomes_float32(dtype):
    for rows in (ROWS.astype(dtype), scipy.sparse.csr_array(ROWS.astype(np.float64))):
        assert checked_rows(rows, 3).dtype == np.float32
    np.testing.assert_array_equal(checked_rows(ROWS.astype(dtype), 3), ROWS.astype(dtype))


def test_lists_are_arrays():
    np.testing.assert_array_equal(checked_rows([[1, 2], [3, 4]], 2), [[1, 2], [3, 4]])


def test_checked_rows_are_not_copied():
    csr = scipy.sparse.csr_array(ROWS)
    assert checked_rows(ROWS, 3) is ROWS
    assert np.shares_memory(checked_rows(csr, 3).data, csr.data)


def test_duplicates_are_summed_and_the_caller_keeps_his():
    rows = scipy.sparse.csr_array((np.ones(3, np.float32), [1, 1, 0], [0, 3]), shape=(1, 2))
    np.testing.assert_array_equal(checked_rows(rows, 2).toarray(), [[1, 2]])
    assert rows.nnz == 3
    np.testing.assert_array_equal(rows.indices, [1, 1, 0])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_named_by_sample_and_input(sparse, value):
    rows = ROWS.copy()
    rows[2, 0] = value
    with pytest.raises(InputError, match=rf"sample 12, input 0 is {value}, expected a finite float32"):
        checked_rows(scipy.sparse.csr_array(rows) if sparse else rows, 3, first_sample=10)


def test_a_float64_beyond_float32_is_refused():
    with pytest.raises(InputError, match="sample 0, input 1 is inf"), np.errstate(over="ignore"):
        checked_rows(np.array([[0, 1e300]]), 2)


@pytest.mark.parametrize("rows", [ROWS, scipy.sparse.csr_array(ROWS)])
def test_width_must_be_the_networks(rows):
    with pytest.raises(InputError, match="3 values wide, but the network has 5 inputs"):
        checked_rows(rows, 5)


@pytest.mark.parametrize("rows", [np.zeros(3), np.zeros((1, 2, 3)), scipy.sparse.coo_array([1, 0, 2])])
def test_samples_have_two_dimensions(rows):
    with pytest.raises(InputError, match="expected 2 dimensions"):
        checked_rows(rows, 3)


@pytest.mark.parametrize(
    "rows", [np.array([["a", "b"]]), np.ones((1, 2), complex), scipy.sparse.csr_array(np.ones((1, 2), complex))]
)
def test_other_types_are_refused(rows):
    with pytest.raises(InputError, match="expected real numbers"):
        checked_rows(rows, 2)


def test_an_index_out_of_range_is_refused_and_kills_nothing():
    rows = scipy.sparse.csr_array(ROWS)
    rows.indices = np.array([7, 0, 2], np.int32)
    with pytest.raises(InputError, match="no valid CSR matrix"):
        checked_rows(rows, 3)


@pytest.mark.parametrize("form", ["coo", "lil"])
def test_an_index_out_of_range_in_other_formats(form):
    rows = scipy.sparse.csr_array(ROWS).asformat(form)
    if form == "coo":
        rows.coords[1][0] = 10**7
    else:
        rows.rows[0] = [10**7]
    with pytest.raises(InputError, match=f"no valid {form.upper()} matrix"):
        checked_rows(rows, 3)


@pytest.mark.parametrize(("first", "stop"), [(0, 3), (1, 2), (2, 3), (1, 1), (0, 0)])
def test_row_slice_is_a_view(first, stop):
    csr = scipy.sparse.csr_array(ROWS)
    np.testing.assert_array_equal(row_slice(csr, first, stop).toarray(), ROWS[first:stop])
    np.testing.assert_array_equal(row_slice(ROWS, first, stop), ROWS[first:stop])
    if stop > 1 and first < 3 and stop > first:
        part = row_slice(csr, first, stop)
        assert part.nnz == 0 or np.shares_memory(part.data, csr.data)
