import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from taskgraph_dnn.activations import Activations


@given(
    samples=st.integers(0, 40), neurons=st.integers(1, 9), lanes=st.sampled_from([1, 3, 16]), seed=st.integers(0, 99)
)
def test_rows_survive_the_round_trip_through_tiles(samples, neurons, lanes, seed):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 2, (samples, neurons)).astype(np.float32)
    for given_rows in (rows, scipy.sparse.csr_array(rows)):
        block = Activations.from_rows(given_rows, lanes)
        assert block.values.shape == (-(-samples // lanes), neurons, lanes)
        back = block.to_csr()
        assert back.dtype == np.float32
        assert back.has_canonical_format
        np.testing.assert_array_equal(back.toarray(), rows)


def test_one_neuron_of_a_tile_lies_side_by_side():
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    block = Activations.from_rows(rows, lanes=2)
    np.testing.assert_array_equal(block.values[1, 2], rows[2:4, 2])
    assert block.values.flags.c_contiguous


def test_padding_is_not_read():
    block = Activations(np.ones((1, 2, 4), np.float32), samples=3)
    assert block.to_csr().shape == (3, 2)
    assert block.to_csr().nnz == 6


def test_nan_is_an_output():
    block = Activations(np.full((1, 1, 1), np.nan, np.float32), samples=1)
    assert block.to_csr().nnz == 1


def test_size_counts_the_values():
    block = Activations(np.zeros((10, 100, 16), np.float32), samples=160)
    assert block.nbytes == 64_000
    assert block.neurons == 100
    assert 64_000 <= block.__sizeof__() < 65_000
    from dask.sizeof import sizeof

    assert sizeof(block) == pytest.approx(64_000, rel=0.01)
