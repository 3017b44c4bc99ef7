"""Looking at samples and moving them: compiled and in plain numpy, against loops over samples written for this test."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskgraph_dnn.activations import fill_tiles, to_csr
from taskgraph_dnn.kernels import moves

#: Whether the compiled code runs, or plain numpy.
WAYS = [True, False] if moves.compiles() else [False]


@pytest.fixture(params=WAYS, ids=lambda compiled: "compiled" if compiled else "numpy")
def way(request, monkeypatch):
    monkeypatch.setattr(moves, "compiles", lambda: request.param)


def tiles_of(rows, lanes, dtype=np.float32):
    """Tiles of these samples, with nan in the lanes beyond: nobody may look there."""
    values = np.full((-(-len(rows) // lanes), rows.shape[1], lanes), np.nan, dtype)
    for place, row in enumerate(rows):
        values[place // lanes, :, place % lanes] = row
    return values


def rows_of(values, places):
    lanes = values.shape[2]
    return np.array([values[place // lanes, :, place % lanes] for place in places]).reshape(-1, values.shape[1])


shapes = {
    "samples": st.integers(1, 70),
    "neurons": st.integers(1, 9),
    "lanes": st.sampled_from([4, 16, 32]),
    "dtype": st.sampled_from([np.float32, np.float64]),
    "compiled": st.sampled_from(WAYS),
    "seed": st.integers(0, 2**32 - 1),
}


def drawn(seed, samples, neurons, dtype):
    rng = np.random.default_rng(seed)
    return rng, rng.integers(-1, 3, (samples, neurons)).astype(dtype)


@given(**shapes, at=st.integers(0, 20))
@settings(max_examples=150)
def test_samples_are_moved_elsewhere(samples, neurons, lanes, dtype, compiled, seed, at):
    rng, rows = drawn(seed, samples, neurons, dtype)
    values = tiles_of(rows, lanes, dtype)
    places = np.flatnonzero(rng.random(samples) < rng.random())
    into = np.full((-(-(at + samples) // lanes), neurons, lanes), 7, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "compiles", lambda: compiled)
        moves.move(values, places, into, at)
    np.testing.assert_array_equal(rows_of(into, np.arange(at, at + places.size)), rows[places])
    np.testing.assert_array_equal(rows_of(into, np.arange(at)), 7)
    np.testing.assert_array_equal(rows_of(values, np.arange(samples)), rows)


@given(**shapes)
@settings(max_examples=150)
def test_samples_move_to_earlier_places_of_the_same_tiles(samples, neurons, lanes, dtype, compiled, seed):
    rng, rows = drawn(seed, samples, neurons, dtype)
    values = tiles_of(rows, lanes, dtype)
    places = np.flatnonzero(rng.random(samples) < rng.random())
    at = rng.integers(0, places[0] + 1) if places.size else 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "compiles", lambda: compiled)
        moves.move(values, places, values, at)
    np.testing.assert_array_equal(rows_of(values, np.arange(at, at + places.size)), rows[places])
    np.testing.assert_array_equal(rows_of(values, np.arange(at)), rows[:at])


def test_whole_tiles_move_at_once(way):
    rows = np.arange(40 * 3, dtype=np.float32).reshape(40, 3)
    values, into = tiles_of(rows, 16), np.zeros((4, 3, 16), np.float32)
    moves.move(values, np.arange(16, 37), into, 16)
    np.testing.assert_array_equal(rows_of(into, np.arange(16, 37)), rows[16:37])
    moves.move(values, np.arange(16, 37), values, 0)
    np.testing.assert_array_equal(rows_of(values, np.arange(21)), rows[16:37])


@given(**shapes, threshold=st.sampled_from([-1.0, 0.0, 1.0, 2.0, 3.0, np.inf]))
@settings(max_examples=150)
def test_equal_samples_have_equal_hashes_and_saturation_is_seen(
    samples, neurons, lanes, dtype, compiled, seed, threshold
):
    _, rows = drawn(seed, samples, neurons, dtype)
    values = tiles_of(rows, lanes, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "compiles", lambda: compiled)
        hashes, above = moves.look(values, samples, threshold)
    np.testing.assert_array_equal(above, (rows >= threshold).all(axis=1))
    _, which = np.unique(rows, axis=0, return_inverse=True)
    of_row = dict(zip(which.ravel(), hashes, strict=True))
    assert all(of_row[row] == value for row, value in zip(which.ravel(), hashes, strict=True))
    assert len(set(of_row.values())) == len(of_row)  # 64 bits: different rows have different sums


def test_both_ways_hash_alike(rng):
    values = tiles_of(rng.standard_normal((50, 13)), 16)
    found = []
    for compiled in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(moves, "compiles", lambda compiled=compiled: compiled)
            found.append(moves.look(values, 50, 0.0)[0])
    np.testing.assert_array_equal(found[0], found[-1])


def test_a_hash_sees_every_bit_and_where_it_is(way):
    """Also -0.0 for 0.0, nan for another nan, and two neurons that change places."""
    nans = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    rows = np.array([[0, 0], [-0.0, 0], [0, -0.0], [1, 2], [2, 1], [nans[0], 0], [nans[1], 0]], np.float32)
    hashes, _ = moves.look(tiles_of(rows, 16), len(rows), 0.0)
    assert len(set(hashes)) == len(rows)


def test_nan_is_never_saturated(way):
    rows = np.full((3, 5), 9, np.float32)
    rows[1, 4], rows[2, 0] = np.nan, np.inf
    _, above = moves.look(tiles_of(rows, 16), 3, 9.0)
    assert above.tolist() == [True, False, True]


@given(**shapes)
@settings(max_examples=150)
def test_pairs_are_compared_bit_by_bit(samples, neurons, lanes, dtype, compiled, seed):
    rng, rows = drawn(seed, samples, neurons, dtype)
    rows[rng.random(rows.shape) < 0.05] = -0.0
    others = rows[rng.permutation(samples)]
    places, other_places = rng.integers(0, samples, (2, 40))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "compiles", lambda: compiled)
        same = moves.equal(tiles_of(rows, lanes, dtype), places, tiles_of(others, lanes, dtype), other_places)
    expected = [rows[a].tobytes() == others[b].tobytes() for a, b in zip(places, other_places, strict=True)]
    assert same.tolist() == expected


def test_equal_nans_are_equal(way):
    values = tiles_of(np.full((2, 3), np.nan, np.float32), 16)
    assert moves.equal(values, np.array([0]), values, np.array([1])).tolist() == [True]


def test_nothing_to_move(way):
    values = np.ones((1, 2, 4), np.float32)
    moves.move(values, np.arange(0), values, 0)
    assert moves.equal(values, np.arange(0), values, np.arange(0)).size == 0


def test_rows_of_moved_samples_are_the_rows_that_were_filled_in(way, rng):
    rows = rng.integers(0, 3, (100, 8)).astype(np.float32)
    values, into = np.empty((7, 8, 16), np.float32), np.empty((7, 8, 16), np.float32)
    fill_tiles(values, rows)
    places = np.flatnonzero(rows[:, 0] > 0)
    moves.move(values, places, into, 3)
    np.testing.assert_array_equal(to_csr(into, np.arange(3, 3 + places.size)).toarray(), rows[places])


@given(**shapes)
@settings(deadline=None)
def test_nonzero_rows_are_the_samples_values(samples, neurons, lanes, dtype, compiled, seed):
    rng = np.random.default_rng(seed)
    rows = rng.choice(np.array([0, -0.0, 1, np.nan, np.inf, 1e-42], dtype), (samples, neurons))
    places = np.flatnonzero(rng.random(samples) < 0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "compiles", lambda: compiled)
        part = moves.nonzero_rows(tiles_of(rows, lanes, dtype), places)
        found = moves.joined([part], neurons, dtype)
        twice = moves.joined([part, part], neurons, dtype)
        taken = moves.joined([part], neurons, dtype, take=True)
    np.testing.assert_array_equal(twice.toarray(), np.concatenate([rows[places]] * 2))
    assert found.dtype == dtype
    assert found.has_canonical_format
    assert found.nnz == np.count_nonzero(rows[places])
    np.testing.assert_array_equal(found.toarray(), rows[places])
    np.testing.assert_array_equal(taken.toarray(), rows[places])
    assert not np.shares_memory(found.data, part.data)
    filled = part.data.base is None or 2 * part.data.nbytes >= part.data.base.nbytes
    assert np.shares_memory(taken.data, part.data) == (filled and part.data.size > 0)
    assert taken.data.base is None or taken.data.base.nbytes <= 2 * taken.data.nbytes


@given(**shapes | {"neurons": st.integers(1, 70)}, strided=st.booleans())
@settings(deadline=None)
def test_tiles_are_filled_with_rows(samples, neurons, lanes, dtype, compiled, seed, strided):
    rows = np.random.default_rng(seed).random((samples, 2 * neurons), dtype)
    rows = rows[:, ::2] if strided else np.ascontiguousarray(rows[:, :neurons])
    values = np.full((-(-samples // lanes), neurons, lanes), np.nan, dtype)
    expected = np.empty_like(values)
    fill_tiles(expected, rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moves, "compiles", lambda: compiled)
        moves.fill(values, rows)
    np.testing.assert_array_equal(values, expected)


def test_no_rows_are_joined(way):
    rows = moves.joined([], 5, np.float64)
    assert rows.shape == (0, 5)
    assert rows.dtype == np.float64
