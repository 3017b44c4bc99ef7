"""Static reductions: the reduced network answers as the original does, and is as small as it can be told to be."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.layer import Layer
from taskgraph_dnn.reductions import folding
from taskgraph_dnn.reductions.bounds import Bounds, output_bounds
from taskgraph_dnn.reductions.folding import Columns, first_equals
from taskgraph_dnn.reductions.static import STATIC, WORTHWHILE, Reduced, reduce_network, reduced_layers
from taskgraph_dnn.reference import mismatch, reference_outputs
from tests.conftest import random_layer

FOLD, DROP = STATIC
CHOICES = [STATIC, (FOLD,), (DROP,)]

#: Activations that keep numbers of few bits exact, so that not even the last bit may differ; and the smooth ones.
EXACT = [("relu", None), ("identity", None), ("leaky_relu", 0.5), ("leaky_relu", 0.0)]
SMOOTH = [("sigmoid", None), ("tanh", None)]


def reduced(network, names=STATIC) -> Reduced:
    """What `reduce_network` returns, also where it is not worth having."""
    items = list(reduced_layers(network, names))
    folds_inputs = len(items) > len(network)
    earlier = [None if item.unread else item.places for item in items[folds_inputs:]]
    return Reduced(tg.Network(item.layer for item in items), items[-1].places, names, folds_inputs, earlier)


def unfolded(values, places):
    return np.where(places >= 0, values[:, places], 0)


def assert_same_answers(network, names, rows, exactly=False):
    """Also of the networks that end earlier; returns how many of these there are."""
    whole, heads = reduced(network, names), 0
    for layers in range(1, len(network) + 1):
        head = whole.head(layers)
        if head is None:
            continue
        heads += 1
        expected = reference_outputs(network.head(layers), rows)
        smaller = reference_outputs(head.network, rows)
        found = unfolded(smaller, head.places)
        assert found.shape == expected.shape
        assert (mismatch(found, expected) == 0) if exactly else (mismatch(found, expected) <= 1e-5)
        if exactly:
            assert np.array_equal(smaller.any(axis=1), expected.any(axis=1))
    for item in reduced_layers(network, names):
        assert item.places.dtype == np.int32
        assert item.places.max() < item.layer.outputs
        assert_canonical(item.layer)
    return heads


def assert_canonical(layer):
    """What a layer that is made of arrays promises, because nobody checks it again."""
    again = Layer(
        layer.weights.tocoo(),
        bias=layer.bias,
        activation=layer.activation,
        negative_slope=layer.negative_slope,
        cap=layer.cap,
    )
    assert again.digest == layer.digest


# Networks with what is looked for


def planted_layer(rng, inputs, outputs, activation, slope, cap):
    """Weights and biases of few bits; outputs that repeat, cannot be active or have no edge; inputs nobody reads."""
    kinds = rng.integers(-8, 9, (inputs, outputs)) / 8 * (rng.random((inputs, outputs)) < rng.choice([0.2, 0.6, 1]))
    weights, bias = kinds, rng.integers(-4, 5, outputs) / 4
    like = rng.integers(0, outputs, outputs)
    repeats = rng.random(outputs) < 0.5
    weights[:, repeats], bias[repeats] = kinds[:, like[repeats]], bias[like[repeats]]
    never = rng.random(outputs) < 0.2
    weights[:, never], bias[never] = -abs(weights[:, never]), -abs(bias[never])
    weights[rng.random(inputs) < rng.choice([0, 0.3, 1], p=[0.5, 0.4, 0.1])] = 0
    same = rng.random(inputs) < 0.3
    weights[same] = weights[rng.integers(inputs)]
    return Layer(weights, bias=bias, activation=activation, negative_slope=slope, cap=cap)


@st.composite
def planted(draw, activations):
    widths = draw(st.lists(st.integers(1, 12), min_size=2, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layers = []
    for inputs, outputs in pairwise(widths):
        activation, slope = draw(st.sampled_from(activations))
        cap = draw(st.sampled_from([None, None, 1.0, 32.0]))
        layers.append(planted_layer(rng, inputs, outputs, activation, slope, cap))
    return tg.Network(layers), rng.integers(-8, 9, (9, widths[0])) / 4


@pytest.mark.parametrize("names", CHOICES, ids=str)
@given(planted(EXACT))
@settings(max_examples=300)
def test_same_answers_to_the_bit_where_numbers_are_exact(names, case):
    network, rows = case
    assert assert_same_answers(network, names, rows, exactly=True)


@pytest.mark.parametrize("names", CHOICES, ids=str)
@given(planted([*EXACT, *SMOOTH]))
@settings(max_examples=200)
def test_same_answers_of_every_activation(names, case):
    network, rows = case
    assert assert_same_answers(network, names, rows)


@given(planted(EXACT))
@settings(max_examples=200)
def test_each_reduction_does_its_own_only(case):
    network, _ = case
    for item in reduced_layers(network, [FOLD]):
        assert item.unread == 0
        assert item.places.min() >= 0
    for item in reduced_layers(network, [DROP]):
        kept = item.places[item.places >= 0]
        assert len(np.unique(kept)) == len(kept)
    for item, layer in zip(reduced_layers(network, []), network, strict=True):
        assert item.layer is layer


@given(planted(EXACT))
@settings(max_examples=100)
def test_a_reduced_network_has_nothing_left_to_fold(case):
    network, _ = case
    for item in reduced_layers(network, [FOLD]):
        columns = item.layer.weights.toarray().T
        distinct = {(column.tobytes(), bias.tobytes()) for column, bias in zip(columns, item.layer.bias, strict=True)}
        assert len(distinct) == item.layer.outputs


@pytest.mark.parametrize("names", CHOICES, ids=str)
@pytest.mark.parametrize(("neurons", "layers"), [(64, 7), (256, 13), (1024, 18)])
def test_radixnet(rng, names, neurons, layers):
    network = tg.radixnet(neurons, layers, seed=3)
    rows = (rng.random((20, neurons)) < 0.3).astype(np.float32)
    assert assert_same_answers(network, names, rows) == layers


def test_radixnet_folds_sixteen_to_one():
    network = tg.radixnet(1024, 20)
    found = reduce_network(network, STATIC)
    assert found is not None
    assert found.folds_inputs
    assert [layer.outputs for layer in found.network][:6] == [64] * 6
    assert found.network[1].nnz == 128  # within a block two folded inputs an output are left
    assert np.array_equal(found.places, np.tile(np.arange(64), 16))
    # A later block permutes the inputs, so its first layer reads up to 32 places.
    assert 128 < found.network[7].nnz <= 2048


def test_random_weights_are_left_alone(rng):
    network = tg.Network([random_layer(rng, 50, 60), random_layer(rng, 60, 40), random_layer(rng, 40, 10)])
    assert reduce_network(network, [FOLD]) is None
    for item, layer in zip(reduced_layers(network, [FOLD]), network, strict=True):
        assert item.layer is layer
        assert np.array_equal(item.places, np.arange(layer.outputs))


def test_what_is_not_worth_having_is_none():
    weights = np.eye(20)
    weights[0, 1], weights[1, 1] = 1, 0  # outputs 0 and 1 are one: 1 edge in 20
    network = tg.Network([tg.Layer(weights, bias=-1.0)])
    assert reduced(network).network.nnz == 19 > WORTHWHILE * 20
    assert reduce_network(network, STATIC) is None
    assert reduce_network(network, []) is None
    assert reduce_network(network, ["dead-samples"]) is None


# Folding


def test_one_bit_makes_a_difference():
    weights = np.full((3, 4), 0.1, dtype=np.float32)
    weights[1, 2] = np.nextafter(weights[1, 2], np.float32(1))
    bias = np.full(4, 0.3, dtype=np.float32)
    bias[3] = np.nextafter(bias[3], np.float32(1))
    network = tg.Network([tg.Layer(weights, bias=bias), tg.Layer(np.eye(4))])
    (first, _) = reduced_layers(network, [FOLD])
    assert first.places.tolist() == [0, 0, 1, 2]


def test_no_collision_of_hashes_passes(monkeypatch):
    """Every hash is the same, and each output is still itself."""
    monkeypatch.setattr(folding, "_hashes", lambda columns: np.zeros(columns.outputs, dtype=np.uint64))
    weights = np.array([[1, 1, 2, 1, 0, 1, 0], [0, 0, 0, 0, 1, 3, 0]])
    layer = tg.Layer(weights, bias=[0, 0, 0, 5, 0, 0, 0])
    assert first_equals(Columns.of(layer)).tolist() == [0, 0, 2, 3, 4, 5, 6]


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=200)
def test_first_equals_against_the_plain_way(seed, inputs, outputs):
    rng = np.random.default_rng(seed)
    weights = rng.integers(-1, 2, (inputs, outputs)) * (rng.random((inputs, outputs)) < 3 / inputs)
    layer = tg.Layer(weights, bias=rng.integers(0, 2, outputs))
    seen = {}
    expected = [seen.setdefault((weights[:, j].tobytes(), layer.bias[j]), j) for j in range(outputs)]
    assert first_equals(Columns.of(layer)).tolist() == expected


def test_edges_are_summed_and_cancel():
    first = tg.Layer([[1, 1, 1, 2]], activation="identity")
    second = tg.Layer([[0.5, 1], [0.25, -1], [0.25, 0], [0, 3]], activation="identity")
    found = reduced(tg.Network([first, second]), [FOLD])
    assert found.network[0].weights.toarray().tolist() == [[1, 2]]
    assert found.network[1].weights.toarray().tolist() == [[1, 0], [0, 3]]
    assert found.network[1].nnz == 2  # 1 - 1 is no edge
    assert found.places.tolist() == [0, 1]


def test_a_fold_makes_the_next_one_possible():
    """Outputs 0 and 1 of the second layer differ until the first is folded; then the third can be."""
    first = tg.Layer([[1, 1, 2]])
    second = tg.Layer([[1, 0, 1], [0, 1, 0], [0, 0, 1]], bias=1)
    third = tg.Layer([[3, 0], [0, 3], [1, 1]])
    found = reduced(tg.Network([first, second, third]), [FOLD])
    assert [layer.outputs for layer in found.network] == [2, 2, 1]
    assert found.places.tolist() == [0, 0]


def test_sums_beyond_float32_are_not_made():
    big = tg.Network([tg.Layer([[1, 1, 2]]), tg.Layer([[3e38], [3e38], [1]])])
    found = reduced(big, [FOLD])
    assert [layer.outputs for layer in found.network] == [3, 1]
    assert np.isfinite(found.network[1].weights.data).all()
    fine = tg.Network([tg.Layer([[1, 1, 2]]), tg.Layer([[1e38], [1e38], [1]])])
    assert [layer.outputs for layer in reduced(fine, [FOLD]).network] == [2, 1]


@pytest.mark.parametrize("names", CHOICES, ids=str)
def test_softmax_counts_every_output(rng, names):
    """Its outputs stay as many as they are; the layers before are reduced."""
    hidden = tg.Layer(np.tile(rng.random((6, 3)), 4), bias=np.tile([0.1, -0.2, 0.3], 4))
    last = tg.Layer(np.repeat(np.vstack([-rng.random((12, 2))]), 3, axis=1), bias=-1, activation="softmax")
    network = tg.Network([hidden, last])
    found = reduced(network, names)
    assert found.network[-1].outputs == 6
    assert found.network[0].outputs == (3 if FOLD in names else 12)
    rows = rng.standard_normal((9, 6))
    assert mismatch(
        unfolded(reference_outputs(found.network, rows), found.places), reference_outputs(network, rows)
    ) < (1e-6)


def test_softmax_is_never_called_zero():
    """Output 0 is the least of both at either end of all intervals, and one half in between."""
    hidden = tg.Layer(np.eye(2), cap=1000)
    last = tg.Layer(np.eye(2), bias=[-1000, 0], activation="softmax")
    network = tg.Network([hidden, last])
    found = reduced(network, [DROP])
    assert found.places.tolist() == [0, 1]
    assert reference_outputs(found.network, [[1000, 0]]).tolist() == [[0.5, 0.5]]


# The network's input


def test_equal_inputs_are_summed_first(rng):
    weights = rng.integers(1, 9, (3, 7))[[0, 1, 2, 0, 1, 2, 0, 1]]
    network = tg.Network([tg.Layer(weights)])
    found = reduced(network, [FOLD])
    assert found.folds_inputs
    fold, first = found.network
    assert (fold.activation, fold.cap, fold.bias.any()) == ("identity", None, False)
    assert fold.weights.toarray().argmax(axis=1).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert fold.nnz == 8
    assert np.array_equal(first.weights.toarray(), weights[:3])
    assert assert_same_answers(network, [FOLD], rng.integers(-4, 5, (5, 8)), exactly=True)


def test_inputs_are_folded_only_if_they_are_halved_and_edges_do_not_grow(rng):
    five_of_eight = rng.integers(1, 9, (5, 30))[[0, 1, 2, 3, 4, 0, 1, 2]]
    assert not reduced(tg.Network([tg.Layer(five_of_eight)]), [FOLD]).folds_inputs
    read_once = tg.Layer(np.repeat(np.eye(4), 2, axis=0))  # 8 edges; 12 with the fold
    assert not reduced(tg.Network([read_once]), [FOLD]).folds_inputs


def test_unread_inputs(rng):
    weights = rng.integers(1, 9, (9, 30)).astype(float)
    weights[[0, 2, 4, 6, 8]] = 0
    network = tg.Network([tg.Layer(weights)])
    (fold, _) = reduced_layers(network, [DROP])
    assert fold.places.tolist() == [-1, 0, -1, 1, -1, 2, -1, 3, -1]
    assert fold.unread == 5
    assert assert_same_answers(network, [DROP], rng.integers(-4, 5, (5, 9)), exactly=True)
    weights[[2, 4]] = rng.integers(1, 9, (2, 30))
    assert not reduced(tg.Network([tg.Layer(weights)]), [DROP]).folds_inputs


# Neurons that are always 0


def test_never_active():
    """Relu gives no negative value, so neither a negative weight nor a bias of 0 can lift a sum above 0."""
    first = tg.Layer([[1, -1, 2]])
    second = tg.Layer([[-1, 0, 1], [-2, 0, 0], [0, 0, -1]], bias=[0, -1, 0])
    (_, item) = reduced_layers(tg.Network([first, second]), [DROP])
    assert item.places.tolist() == [-1, -1, 0]
    assert item.unread == 0


@pytest.mark.parametrize(("bias", "kept"), [(-63.9, 1), (-64.1, 0)])
def test_never_active_because_of_a_cap(bias, kept):
    network = tg.Network([tg.Layer([[1, -1]], cap=32), tg.Layer([[1, 0], [1, 1]], bias=[bias, 0])])
    (_, item) = reduced_layers(network, [DROP])
    assert item.places.tolist() == ([0, 1] if kept else [-1, 0])


def test_what_is_always_zero_makes_more_of_it():
    """Output 1 of the second layer reads nothing but a zero, and so on."""
    first = tg.Layer([[1, -1]])
    second = tg.Layer([[1, -1], [1, -1]], bias=0)
    third = tg.Layer([[1, 0], [5, 5]], bias=0)
    (_, _, item) = reduced_layers(tg.Network([first, second, third]), [DROP])
    assert item.places.tolist() == [0, -1]
    assert item.layer.inputs == 1


@pytest.mark.parametrize(
    ("activation", "slope", "dropped"),
    [
        ("relu", None, [0, 1, 2]),
        ("leaky_relu", 0.0, [0, 1, 2]),
        ("leaky_relu", 0.1, [0]),
        ("identity", None, [0]),
        ("tanh", None, [0]),
        ("sigmoid", None, []),
        ("softmax", None, []),
    ],
)
def test_constant_outputs(activation, slope, dropped):
    """No edges and a bias of 0; no edges and a negative bias; a negative edge after relu; a positive bias."""
    first = tg.Layer([[1.0]])
    second = tg.Layer([[0, 0, -1, 0]], bias=[0, -1, -1, 1], activation=activation, negative_slope=slope)
    (_, item) = reduced_layers(tg.Network([first, second]), [DROP])
    assert np.flatnonzero(item.places < 0).tolist() == dropped


def test_nothing_is_known_of_the_input():
    network = tg.Network([tg.Layer([[-1, 1]], bias=-1e9)])
    (item,) = reduced_layers(network, [DROP])
    assert item.places.tolist() == [0, 1]


def test_signs_pass_through_layers_that_keep_them(rng):
    """After tanh an output is within 1, after sigmoid from 0 to 1, after identity where its sum is."""
    for activation, low in [("tanh", -1), ("sigmoid", 0)]:
        first = random_layer(rng, 3, 2, density=1, activation=activation)
        middle = tg.Layer(np.eye(2), bias=2, activation="identity")  # from 2 + low to 3
        last = tg.Layer([[-1, -1, 1, 1], [0, 0, 0, 0]], bias=[1.99 + low, 2.01 + low, -2.99, -3.01])
        (*_, item) = reduced_layers(tg.Network([first, middle, last]), [DROP])
        assert item.places.tolist() == [-1, 0, 1, -1], activation


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(-2, 8))
@settings(max_examples=300)
def test_bounds_hold_for_float32_sums_in_any_order(seed, terms, ulps):
    """A bias that takes away the sum of all others, nearly: what is called always 0 is never above 0."""
    rng = np.random.default_rng(seed)
    weights = rng.random((terms, 1), dtype=np.float32)
    bias = -weights.sum(dtype=np.float64).astype(np.float32)
    for _ in range(abs(ulps)):
        bias = np.nextafter(bias, np.float32(-np.inf if ulps > 0 else 0))
    layer = tg.Layer(weights, bias=bias)
    ones = Bounds(np.zeros(terms), np.ones(terms))
    found = output_bounds(Columns.of(layer), ones, layer)
    values = np.append(weights, bias)
    largest = max(np.add.accumulate(rng.permutation(values))[-1] for _ in range(20))
    assert largest <= found.high[0]


def test_bounds_that_float32_needs_are_not_far_off():
    """Else nothing would ever be called always 0."""
    layer = tg.Layer(np.full((100, 2), 0.1), bias=[-10.001, -9.999])
    found = output_bounds(Columns.of(layer), Bounds(np.zeros(100), np.ones(100)), layer)
    assert found.high[0] == 0 < found.high[1] < 0.002


def test_no_bound_on_more_terms_than_float32_can_count():
    terms = 2**23
    columns = Columns(
        np.array([0, terms]), np.zeros(terms, np.int32), np.ones(terms, np.float32), np.full(1, -1e30, "f4")
    )
    layer = tg.Layer([[1]])
    assert output_bounds(columns, Bounds(np.zeros(1), np.ones(1)), layer).high.tolist() == [np.inf]


def test_bounds_go_outward():
    """By more than float32 rounds; zero stays, because relu's zero is exact; what float32 may flush becomes zero."""
    values = np.array([-np.inf, -2.0, -1e-39, 0.0, 1e-39, 2.0, np.inf])
    low, high = Bounds(values[:-1], values[1:]).outward()
    assert low[0] == -np.inf
    assert np.float32(low[1]) < -2
    assert low[2] < -1e-39
    assert low[3:5].tolist() == [0, 0]
    assert np.float32(low[5]) < 2 < np.float32(high[4])
    assert np.float32(high[0]) > -2
    assert high[1:3].tolist() == [0, 0]
    assert high[3] > 1e-39
    assert high[5] == np.inf


def test_bounds_never_become_nan(rng):
    """Unbounded inputs, and numbers that multiply beyond float64."""
    layers = [tg.Layer(np.full((2, 2), sign * 3e38), activation="identity") for sign in [1, -1] * 6]
    bounds = Bounds(np.array([-1.0, 5.0]), np.array([1.0, 5.0]))
    for layer in layers:
        bounds = output_bounds(Columns.of(layer), bounds, layer).outward()
        assert (bounds.low <= bounds.high).all()
        assert output_bounds(Columns.of(layer), Bounds.unknown(2), layer).high.tolist() == [np.inf, np.inf]


# Neurons that nobody reads


def test_unread_neurons_and_who_alone_fed_them(rng):
    """Output 2 of the second layer has no reader, so neither has output 1 of the first."""
    first = tg.Layer([[1, 1], [0, 2]], bias=1)
    second = tg.Layer([[1, 2, 0], [0, 0, 1]], bias=1)
    third = tg.Layer([[1, 1], [1, 2], [0, 0]])
    network = tg.Network([first, second, third])
    items = list(reduced_layers(network, [DROP]))
    assert [item.places.tolist() for item in items] == [[0, -1], [0, 1, -1], [0, 1]]
    assert [item.unread for item in items] == [1, 1, 0]
    assert [item.layer.shape for item in items] == [(2, 1), (1, 2), (2, 2)]
    assert assert_same_answers(network, [DROP], rng.integers(-4, 5, (9, 2)), exactly=True) == 1
    found = reduced(network, [DROP])
    assert found.head(1) is found.head(2) is None
    assert found.head(3) is found


def test_the_last_layers_outputs_are_all_read():
    (item,) = reduced_layers(tg.Network([tg.Layer([[1, 0]], bias=1)]), [DROP])
    assert item.places.tolist() == [0, 1]


def test_unread_and_zero_is_not_missing():
    """Unread outputs that are always 0 keep nobody from ending the network here."""
    network = tg.Network([tg.Layer([[1, 0]], bias=[0, -1]), tg.Layer([[1], [0]])])
    (first, _) = reduced_layers(network, [DROP])
    assert first.places.tolist() == [0, -1]
    assert first.unread == 0
    head = reduced(network, [DROP]).head(1)
    assert head is not None
    assert len(head.network) == 1
    assert head.places.tolist() == [0, -1]


def test_head_of_what_is_folded(rng):
    network = tg.radixnet(256, 10)
    found = reduce_network(network, STATIC)
    head = found.head(4)
    assert (len(head.network), len(head.earlier), head.folds_inputs, head.names) == (5, 4, True, STATIC)
    assert head.head(5) is None
    rows = rng.random((5, 256)).astype(np.float32)
    values = unfolded(reference_outputs(head.head(2).network, rows), head.head(2).places)
    assert mismatch(values, reference_outputs(network.head(2), rows)) <= 1e-5


# The edges of the house


@pytest.mark.parametrize("names", CHOICES, ids=str)
@pytest.mark.parametrize(("activation", "slope"), [*EXACT, *SMOOTH])
def test_layers_without_edges(names, activation, slope):
    kind = {"activation": activation, "negative_slope": slope}
    empty = scipy.sparse.csc_array((3, 4))
    network = tg.Network(
        [
            tg.Layer(np.ones((2, 3)), **kind),
            tg.Layer(empty, bias=[-1, 0, 1, 1], **kind),
            tg.Layer(np.ones((4, 2)), **kind),
            tg.Layer(np.ones((2, 1)), **kind),
        ]
    )
    assert assert_same_answers(network, names, [[1, 2], [-3, 4]])
    assert all(item.layer.outputs for item in reduced_layers(network, names))


@pytest.mark.parametrize("names", CHOICES, ids=str)
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_networks_that_are_always_zero(names, layers):
    network = tg.Network([tg.Layer(scipy.sparse.csc_array((4, 4)), bias=-1)] * layers)
    assert assert_same_answers(network, names, np.eye(4), exactly=True)
    if DROP in names:
        item = list(reduced_layers(network, names))[-1]
        assert item.places.tolist() == [-1] * 4
        assert (item.layer.outputs, item.layer.nnz, item.unread) == (1, 0, 0)


@pytest.mark.parametrize("names", CHOICES, ids=str)
def test_a_last_layer_that_is_always_zero_stays_so_whatever_its_activation_makes_of_zero(names):
    network = tg.Network([tg.Layer(np.eye(4)), tg.Layer(-np.eye(4), bias=-1000, activation="sigmoid")])
    assert assert_same_answers(network, names, np.eye(4), exactly=True)


@pytest.mark.parametrize("names", CHOICES, ids=str)
def test_single_neurons(names):
    network = tg.Network([tg.Layer([[2]], bias=1), tg.Layer([[-1]], bias=3), tg.Layer([[4]])])
    assert assert_same_answers(network, names, [[0], [1], [5], [-7]], exactly=True) == 3


# Streaming


def test_layers_come_and_go_one_at_a_time():
    """Stored layers are loaded twice, once in each direction, and released before the next one is loaded."""
    made = tg.radixnet(128, 6)
    loaded, most, loads = set(), 0, []

    def stored(number, layer):
        def load():
            nonlocal most
            loads.append(number)
            loaded.add(number)
            most = max(most, len(loaded))
            return layer.weights.copy(), layer.bias.copy()

        return Layer.lazily(
            layer.shape,
            layer.nnz,
            load,
            activation=layer.activation,
            cap=layer.cap,
            digest=layer.digest,
            release=lambda: loaded.discard(number),
        )

    lazy = tg.Network([stored(number, layer) for number, layer in enumerate(made)])
    found = [item.layer.digest for item in reduced_layers(lazy, STATIC)]
    assert found == [item.layer.digest for item in reduced_layers(made, STATIC)]
    assert most == 1
    assert not loaded
    assert loads == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5]


# The real thing


def test_official_network(official_data):
    """Sixteen outputs share their inputs in most layers of the 1,024 x 120 network, thirty-two in some."""
    folder = official_data / "graph-challenge"
    network = tg.read_challenge_network(folder / "neuron1024.tar.gz", neurons=1024, layers=120)
    images = tg.read_challenge_images(folder / "sparse-images-1024-first1200.tsv.gz", neurons=1024)
    truth = tg.read_categories(folder / "neuron1024-l120-categories.tsv")
    found = reduce_network(network, STATIC)
    assert found is not None
    assert {layer.outputs for layer in found.network} <= {32, 64}
    assert found.network.nnz < network.nnz / 16
    outputs = reference_outputs(found.network, images)
    assert np.flatnonzero(outputs.any(axis=1)).tolist() == truth[truth < 1200].tolist()
    assert mismatch(unfolded(outputs, found.places), reference_outputs(network, images)) <= 1e-5
