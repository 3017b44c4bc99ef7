import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from taskgraph_dnn.activations import ALIGNMENT, Activations, aligned_empty, fill_tiles, to_csr


def tiles(rows, lanes):
    values = aligned_empty((-(-rows.shape[0] // lanes), rows.shape[1], lanes), np.float32)
    values[...] = 7
    fill_tiles(values, rows)
    return values


@given(
    samples=st.integers(0, 40), neurons=st.integers(1, 9), lanes=st.sampled_from([1, 3, 16]), seed=st.integers(0, 99)
)
def test_rows_survive_the_round_trip_through_tiles(samples, neurons, lanes, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 2, (samples, neurons)).astype(np.float32)
    for given_rows in (rows, scipy.sparse.csr_array(rows), np.asfortranarray(rows), rows[:, ::-1][:, ::-1]):
        values = tiles(given_rows, lanes)
        assert not values.transpose(0, 2, 1).reshape(-1, neurons)[samples:].any()
        back = to_csr(values, np.arange(samples))
        assert back.dtype == np.float32
        assert back.has_canonical_format
        np.testing.assert_array_equal(back.toarray(), rows)


def test_one_neuron_of_a_tile_lies_side_by_side():
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    values = tiles(rows, lanes=2)
    np.testing.assert_array_equal(values[1, 2], rows[2:4, 2])
    assert values.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_begin_on_a_cache_line(dtype):
    blocks = [aligned_empty((1, n, 16), dtype) for n in range(1, 50)]
    assert all(block.ctypes.data % ALIGNMENT == 0 for block in blocks)
    assert {block.dtype for block in blocks} == {np.dtype(dtype)}


def test_padding_is_not_read():
    rows = to_csr(np.ones((1, 2, 4), np.float32), np.arange(3))
    assert rows.shape == (3, 2)
    assert rows.nnz == 6


def test_places_are_counted_through_the_tiles():
    rows = np.arange(1, 19, dtype=np.float32).reshape(6, 3)
    np.testing.assert_array_equal(to_csr(tiles(rows, lanes=4), np.array([1, 3, 4])).toarray(), rows[[1, 3, 4]])
    assert to_csr(tiles(rows, lanes=4), np.arange(0)).shape == (0, 3)


def test_nan_is_an_output():
    assert to_csr(np.full((1, 1, 1), np.nan, np.float32), np.arange(1)).nnz == 1


def test_size_counts_the_values():
    block = Activations(np.zeros((10, 100, 16), np.float32), np.arange(160), np.ones(160, np.int64))
    assert block.nbytes == 64_000
    assert 64_000 + 2 * 160 * 8 <= block.__sizeof__() < 67_000
    from dask.sizeof import sizeof

    assert sizeof(block) == pytest.approx(66_560, rel=0.01)
