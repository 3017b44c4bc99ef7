"""The oracle: by hand, by dense numpy, and on the official data."""

import gzip
import math

import numpy as np
import pytest
import scipy.sparse

import taskgraph_dnn as tg
from taskgraph_dnn import challenge
from taskgraph_dnn.errors import InputError
from taskgraph_dnn.reference import mismatch, reference_outputs
from tests.conftest import random_layer
from tests.test_synthetic_radixnet import official_layers


def by_hand():
    """Two inputs, three outputs, one output: relu capped at 4, then identity."""
    return tg.Network(
        [
            tg.Layer([[1, -1, 2], [0, 1, 2]], bias=[0, -1, 0.5], cap=4),
            tg.Layer([[1], [2], [-1]], bias=0.25, activation="identity"),
        ]
    )


def test_by_hand():
    rows = [[1, 0], [0, 3], [-2, 1], [0, 0]]
    np.testing.assert_array_equal(
        reference_outputs(by_hand().head(1), rows), [[1, 0, 2.5], [0, 2, 4], [0, 2, 0], [0, 0, 0.5]]
    )
    outputs = reference_outputs(by_hand(), rows)
    np.testing.assert_array_equal(outputs, [[-1.25], [0.25], [4.25], [-0.25]])
    assert outputs.dtype == np.float64


def test_identity_can_have_a_cap():
    network = tg.Network([tg.Layer([[1.0]], activation="identity", cap=2)])
    np.testing.assert_array_equal(reference_outputs(network, [[-9], [1], [3]]), [[-9], [1], [2]])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"activation": "leaky_relu"}, [[-0.02, 3]]),
        ({"activation": "leaky_relu", "negative_slope": 0.5, "cap": 2}, [[-1, 2]]),
        ({"activation": "sigmoid"}, [[1 / (1 + math.exp(2)), 1 / (1 + math.exp(-3))]]),
        ({"activation": "tanh", "cap": 0.5}, [[math.tanh(-2), 0.5]]),
        ({"activation": "softmax"}, [[1 / (1 + math.exp(5)), 1 / (1 + math.exp(-5))]]),
    ],
)
def test_every_activation(given, expected):
    network = tg.Network([tg.Layer(np.eye(2)), tg.Layer([[-1, 0], [0, 2]], bias=[-1, -1], **given)])
    np.testing.assert_allclose(reference_outputs(network, [[1, 2]]), expected, rtol=1e-14)


def test_softmax_goes_over_the_outputs_of_each_sample(rng):
    network = tg.Network([tg.Layer(rng.standard_normal((5, 4)), activation="softmax")])
    rows = rng.standard_normal((6, 5))
    outputs = reference_outputs(network, rows)
    np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(reference_outputs(network, rows[2:3]), outputs[2:3], rtol=1e-14)


def test_all_is_done_in_float64():
    network = tg.Network([tg.Layer([[1.0], [1.0]], activation="identity")])
    assert reference_outputs(network, [[1.0, 1e-12]])[0, 0] == 1 + 1e-12
    weight = np.float32(0.1)
    assert reference_outputs(tg.Network([tg.Layer([[weight]], bias=weight)]), [[1]])[0, 0] == 2 * np.float64(weight)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "dia", "lil"])
@pytest.mark.parametrize("container", ["array", "matrix"])
def test_takes_every_kind_of_sparse_rows(rng, form, container):
    network = tg.Network([random_layer(rng, 6, 5), random_layer(rng, 5, 3, cap=0.5)])
    dense = rng.normal(size=(7, 6)) * (rng.random((7, 6)) < 0.4)
    rows = getattr(scipy.sparse, f"{form}_{container}")(dense)
    np.testing.assert_array_equal(reference_outputs(network, rows), reference_outputs(network, dense))


def test_equals_dense_numpy(rng):
    network = tg.Network(
        [random_layer(rng, 20, 30, cap=1.5), random_layer(rng, 30, 10, activation="identity"), random_layer(rng, 10, 4)]
    )
    rows = rng.normal(size=(50, 20))
    expected = rows
    for layer in network:
        expected = expected @ layer.weights.toarray().astype(float) + layer.bias.astype(float)
        if layer.activation == "relu":
            expected = expected.clip(min=0)
        if layer.cap is not None:
            expected = expected.clip(max=layer.cap)
    np.testing.assert_allclose(reference_outputs(network, rows), expected, rtol=1e-12, atol=1e-12)


def test_nan_passes_through_and_reaches_connected_outputs_only():
    network = tg.Network([tg.Layer([[1, 0], [1, 1]], cap=5)])
    np.testing.assert_array_equal(reference_outputs(network, [[np.nan, 1], [1, np.inf]]), [[np.nan, 1], [5, 5]])


def test_rows_are_not_changed():
    rows = np.array([[1.0, -2.0]])
    reference_outputs(by_hand(), rows)
    np.testing.assert_array_equal(rows, [[1.0, -2.0]])


def test_no_rows():
    assert reference_outputs(by_hand(), np.zeros((0, 2))).shape == (0, 1)


@pytest.mark.parametrize("rows", [np.ones((4, 3)), np.ones(2), scipy.sparse.csr_array((4, 3))], ids=["3", "1-d", "csr"])
def test_refuses_rows_that_do_not_fit(rows):
    with pytest.raises(InputError, match="expected samples x 2 inputs"):
        reference_outputs(by_hand(), rows)


def test_official_categories(official_data):
    folder = official_data / "graph-challenge"
    layers = [tg.Layer(w, bias=challenge.bias(1024), cap=challenge.CAP) for w in official_layers(official_data)]
    with gzip.open(folder / "sparse-images-1024-first1200.tsv.gz") as file:
        images, pixels = np.loadtxt(file, usecols=(0, 1), dtype=np.int64, unpack=True)
    rows = scipy.sparse.csr_array((np.ones(images.size), (images - 1, pixels - 1)), shape=(1200, 1024))
    truth = np.loadtxt(folder / "neuron1024-l120-categories.tsv", dtype=np.int64)
    categories = np.flatnonzero(reference_outputs(tg.Network(layers), rows).any(axis=1))
    assert (categories + 1).tolist() == truth[truth <= 1200].tolist()


@pytest.mark.parametrize(
    ("outputs", "reference", "expected"),
    [
        ([[1.0, 2.0]], [[1.0, 2.0]], 0.0),
        ([[0.25]], [[0.0]], 0.25),  # absolute up to 1
        ([[90.0, 1.0]], [[100.0, 1.0]], 0.1),  # relative above
        ([[-90.0]], [[-100.0]], 0.1),
        ([[np.nan, np.inf]], [[np.nan, np.inf]], 0.0),
        ([[np.nan]], [[1.0]], np.inf),
        ([[1.0]], [[np.nan]], np.inf),
        ([[np.inf]], [[32.0]], np.inf),
        ([[32.0]], [[np.inf]], np.inf),
        ([[-np.inf]], [[np.inf]], np.inf),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0.0),
        (scipy.sparse.csr_array([[0.0, 3.0]]), [[0.0, 2.0]], 0.5),
    ],
)
def test_mismatch(outputs, reference, expected):
    assert mismatch(outputs, np.asarray(reference)) == pytest.approx(expected)


def test_mismatch_refuses_other_shapes():
    with pytest.raises(InputError, match=r"outputs have shape \(2, 1\), but the reference has shape \(1, 2\)"):
        mismatch(np.zeros((2, 1)), np.zeros((1, 2)))
