"""Labels and largest outputs, against plain loops."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn import scores as scores_module
from taskgraph_dnn.errors import InputError
from taskgraph_dnn.scores import Scores


def made(outputs):
    """Scores whose rows and columns were folded, as runs fold them, of these dense outputs."""
    outputs = np.asarray(outputs, np.float32).reshape(-1, np.shape(outputs)[-1])
    columns, places = np.unique(outputs, axis=1, return_inverse=True)
    kept = np.flatnonzero(columns.any(axis=0) | (np.arange(columns.shape[1]) == 0))  # a network has an output
    place_of = np.full(columns.shape[1], -1, np.int32)
    place_of[kept] = np.arange(len(kept))
    distinct, rows = np.unique(columns[:, kept], axis=0, return_inverse=True)
    rows = np.where(outputs.any(axis=1), rows, -1)
    return Scores(scipy.sparse.csr_array(distinct), rows, place_of[places])


def ranked(row):
    return sorted(range(len(row)), key=lambda number: (-row[number], number))


tables = st.integers(1, 6).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0]), min_size=width, max_size=width),
        min_size=1,
        max_size=9,
    )
)


@given(outputs=tables)
def test_labels_are_the_lowest_of_the_largest_outputs(outputs):
    assert made(outputs).labels.tolist() == [ranked(row)[0] if any(row) else -1 for row in outputs]


@given(outputs=tables, data=st.data())
def test_the_largest_outputs_come_in_order_and_of_equal_ones_the_lowest(outputs, data):
    k = data.draw(st.integers(1, len(outputs[0])))
    values, indices = made(outputs).top(k)
    assert indices.tolist() == [ranked(row)[:k] for row in outputs]
    assert values.tolist() == [[row[number] for number in ranked(row)[:k]] for row in outputs]


@given(outputs=tables)
def test_dense_outputs_are_the_sparse_ones(outputs):
    scores = made(outputs)
    np.testing.assert_array_equal(scores.dense(), np.asarray(outputs, np.float32))
    np.testing.assert_array_equal(scores.outputs.toarray(), scores.dense())


def test_a_few_rows_are_made_dense_at_a_time(rng, monkeypatch):
    monkeypatch.setattr(scores_module, "_AT_ONCE", 10)
    outputs = rng.integers(-2, 3, (50, 4)).astype(np.float32)
    scores, widest = made(outputs), []
    dense_rows = Scores._dense_rows
    monkeypatch.setattr(Scores, "_dense_rows", lambda self: (widest.append(len(d)) or d for d in dense_rows(self)))
    np.testing.assert_array_equal(scores.dense(), outputs)
    assert max(widest) == 2


def test_nan_is_no_label_and_the_least_of_outputs():
    scores = Scores(scipy.sparse.csr_array(np.array([[np.nan, -1.0, 2.0]])), np.array([0]), None)
    assert scores.labels.tolist() == [-1]
    values, indices = scores.top(3)
    assert indices.tolist() == [[2, 1, 0]]
    np.testing.assert_array_equal(values, [[2.0, -1.0, np.nan]])


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "k is 0, expected a whole number of at least 1"),
        (4, "k is 4, but the network has 3 outputs"),
        (1.5, "k is 1.5"),
    ],
)
def test_a_wrong_number_of_largest_outputs_is_refused(k, message):
    with pytest.raises(InputError, match=message):
        made([[1, 2, 3]]).top(k)


def test_a_result_has_them(rng):
    network = tg.Network([tg.Layer(rng.standard_normal((6, 5)), activation="identity")])
    rows = np.vstack([rng.standard_normal((20, 6)), np.zeros((1, 6))]).astype(np.float32)
    result = tg.infer(network, rows, partitions=3).compute()
    dense = rows @ network[0].weights.toarray()
    assert result.labels.tolist() == [*dense[:20].argmax(axis=1).tolist(), -1]
    np.testing.assert_allclose(result.top(2).values[:20], -np.sort(-dense[:20], axis=1)[:, :2], rtol=1e-5)
    assert tg.infer(network, rows[:0]).compute().labels.shape == (0,)
