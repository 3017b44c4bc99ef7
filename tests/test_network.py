"""Layers and networks: what they accept, what they refuse and with which words, and that they stay as they are."""

import dataclasses
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import dask
import numpy as np
import pytest
import scipy.sparse
from dask.tokenize import tokenize
from hypothesis import given
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.activation_functions import ACTIVATIONS
from taskgraph_dnn.errors import FileError, NetworkError, TaskgraphError
from taskgraph_dnn.network import NETWORK_INPUT, index_dtype, network_digest
from tests.conftest import random_layer

DENSE = np.array([[0.0, 2.0, 0.0], [1.5, 0.0, -3.0]])


def csc(data, indices, indptr, shape=(2, 2)):
    """A CSC array as given: scipy checks the arrays' sizes only."""
    return scipy.sparse.csc_array((np.array(data, dtype=np.float32), indices, indptr), shape=shape)


def same_weights(layer, dense):
    weights = layer.weights
    return (
        weights.format == "csc"
        and weights.dtype == np.float32
        and weights.indices.dtype == weights.indptr.dtype == np.int32
        and weights.has_canonical_format
        and 0 not in weights.data
        and np.array_equal(weights.toarray(), np.asarray(dense, dtype=np.float32))
    )


# Layer: what it accepts


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "dia", "bsr", "lil", "dok"])
@pytest.mark.parametrize("container", ["array", "matrix"])
@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float32, np.float64])
def test_layer_takes_every_sparse_format(form, container, dtype):
    weights = getattr(scipy.sparse, f"{form}_{container}")(DENSE.astype(dtype))
    assert same_weights(tg.Layer(weights), DENSE.astype(dtype))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_layer_takes_arrays(dtype):
    assert same_weights(tg.Layer(DENSE.astype(dtype)), DENSE.astype(dtype))
    assert same_weights(tg.Layer(DENSE.astype(dtype).T), DENSE.astype(dtype).T)


def test_layer_takes_lists():
    assert same_weights(tg.Layer([[0, 1], [2, 3]], bias=[1, 2]), [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    ("bias", "expected"), [(0, [0, 0, 0]), (-0.5, [-0.5] * 3), ([1, 2, 3], [1, 2, 3]), (True, [1] * 3)]
)
def test_bias_is_one_number_or_one_for_each_output(bias, expected):
    layer = tg.Layer(DENSE, bias=bias)
    assert layer.bias.dtype == np.float32
    assert layer.bias.tolist() == expected


def test_layer_describes_itself():
    layer = tg.Layer(DENSE, cap=32)
    assert (layer.inputs, layer.outputs, layer.nnz) == (2, 3, 3)
    assert layer.nbytes == 3 * 4 + 3 * 4 + 4 * 4 + 3 * 4
    assert repr(layer) == "Layer(2 x 3, nnz=3, relu, cap=32)"
    assert repr(tg.Layer(DENSE, activation="identity")) == "Layer(2 x 3, nnz=3, identity)"
    leaky = tg.Layer(DENSE, activation="leaky_relu", cap=1)
    assert repr(leaky) == "Layer(2 x 3, nnz=3, leaky_relu, negative_slope=0.01, cap=1)"
    assert isinstance(layer.cap, float)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, 0.01),
        (0, 0.0),
        (-0.0, 0.0),
        (1, 1.0),
        (np.float32(0.25), 0.25),
        (Fraction(1, 8), 0.125),
        (-1e-60, 0.0),  # 0 in float32
        (1 + 1e-9, 1.0),
    ],
)
def test_leaky_relu_has_a_slope(given, kept):
    slope = tg.Layer(DENSE, activation="leaky_relu", negative_slope=given).negative_slope
    assert type(slope) is float
    assert str(slope) == str(kept)


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS) - {"leaky_relu"}))
def test_others_have_no_slope(activation):
    assert tg.Layer(DENSE, activation=activation).negative_slope is None
    message = f"negative_slope is 0.01, but {activation} has none, only leaky_relu"
    with pytest.raises(NetworkError, match=message):
        tg.Layer(DENSE, activation=activation, negative_slope=0.01)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_can_have_a_cap(activation):
    layer = tg.Layer(DENSE, activation=activation, cap=1)
    assert (layer.activation, layer.cap) == (activation, 1.0)


def test_layer_without_edges():
    layer = tg.Layer(scipy.sparse.csr_array((4, 3)), bias=1)
    assert same_weights(layer, np.zeros((4, 3)))
    assert layer.nnz == 0
    assert len(layer.digest) == 64


# Layer: canonical form


def test_duplicates_are_summed_and_zeros_dropped():
    summed = csc([1, 2, 5, -5, 0, 4], [1, 1, 0, 0, 1, 0], [0, 3, 6])
    coo = scipy.sparse.coo_array(([1, 2, 5, -5, 0, 4], ([1, 1, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1])), shape=(2, 2))
    assert same_weights(tg.Layer(summed), [[5, -1], [3, 0]])
    assert same_weights(tg.Layer(coo), [[5, -1], [3, 0]])
    assert tg.Layer(csc([3, -3], [1, 1], [0, 2, 2])).nnz == 0


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_duplicates_of_small_integers_do_not_overflow(dtype):
    coo = scipy.sparse.coo_array((np.array([100, 100], dtype), ([0, 0], [0, 0])), shape=(1, 1))
    assert tg.Layer(coo).weights.toarray() == 200


def test_row_numbers_are_sorted():
    layer = tg.Layer(csc([1, 2], [1, 0], [0, 2, 2]))
    assert layer.weights.indices.tolist() == [0, 1]
    assert layer.weights.data.tolist() == [2, 1]


def test_a_wrong_claim_of_canonical_form_is_not_believed():
    weights = csc([1, 2, 3], [1, 1, 0], [0, 3, 3])
    weights.has_canonical_format = True
    assert same_weights(tg.Layer(weights), [[3, 0], [3, 0]])


def test_values_too_small_for_float32_are_dropped():
    assert tg.Layer([[1e-60, 1.0]]).nnz == 1


def test_the_callers_arrays_are_neither_kept_nor_changed():
    weights, bias = csc([1, 2, 0], [1, 0, 1], [0, 2, 3]), np.ones(2, dtype=np.float32)
    layer = tg.Layer(weights, bias=bias)
    weights.data[:], bias[:] = 7, 7
    assert weights.indices.tolist() == [1, 0, 1]
    assert same_weights(layer, [[2, 0], [1, 0]])
    assert layer.bias.tolist() == [1, 1]


# Layer: what it refuses


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), r"weights have shape \(3,\), expected 2 dimensions"),
        (np.ones((2, 2, 2)), r"weights have shape \(2, 2, 2\)"),
        (3.0, r"weights have shape \(\)"),
        (np.ones((0, 3)), r"weights have shape \(0, 3\), expected inputs x outputs, at least 1 x 1"),
        ([[1, 2], [3]], "weights .*inhomogeneous"),
        (scipy.sparse.csr_array((3, 0)), r"weights have shape \(3, 0\)"),
        (scipy.sparse.coo_array(np.ones(3)), r"weights have shape \(3,\)"),
        (np.ones((1, 1)) * 1j, "weights are of type complex128, expected real numbers"),
        (scipy.sparse.csr_array(np.ones((1, 1)) * 1j), "weights are of type complex128, expected real numbers"),
        ([["a"]], "weights are of type <U1, expected real numbers"),
        (None, "weights are of type object, expected real numbers"),
        ([[0, 1], [0, np.nan]], "weight of input 1, output 1 is nan, expected a finite float32"),
        ([[0, -np.inf], [0, 0]], "weight of input 0, output 1 is -inf, expected a finite float32"),
        ([[0, 0], [1e39, 0]], "weight of input 1, output 0 is inf, expected a finite float32"),
        (csc([1, np.nan], [1, 0], [0, 1, 2]), "weight of input 0, output 1 is nan"),
        (csc([3e38, 3e38], [1, 1], [0, 0, 2]), "weight of input 1, output 1 is inf"),
        (csc([np.inf, -np.inf], [1, 1], [0, 2, 2]), "weight of input 1, output 0 is nan"),
    ],
)
def test_layer_refuses_weights(weights, message):
    with pytest.raises(NetworkError, match=message):
        tg.Layer(weights)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ([1, 2], r"bias has shape \(2,\), expected one number or one for each of 3 outputs"),
        ([[1, 2, 3]], r"bias has shape \(1, 3\)"),
        ([], r"bias has shape \(0,\)"),
        ("x", "bias is of type <U1, expected real numbers"),
        (1j, "bias is of type complex128, expected real numbers"),
        (None, "bias is of type object, expected real numbers"),
        ([[1], [2, 3]], "bias is no array"),
        (np.nan, "bias of output 0 is nan, expected a finite float32"),
        ([0, 1e39, 0], "bias of output 1 is inf, expected a finite float32"),
        ([0, 0, -np.inf], "bias of output 2 is -inf, expected a finite float32"),
    ],
)
def test_layer_refuses_a_bias(bias, message):
    with pytest.raises(NetworkError, match=message):
        tg.Layer(DENSE, bias=bias)


@pytest.mark.parametrize("activation", ["elu", "ReLU", "", None, ["relu"], 1])
def test_layer_refuses_an_activation(activation):
    with pytest.raises(NetworkError) as caught:
        tg.Layer(DENSE, activation=activation)
    names = "relu, identity, leaky_relu, sigmoid, tanh, softmax"
    assert str(caught.value) == f"unknown activation {activation!r}, expected one of {names}"


@pytest.mark.parametrize("slope", [-0.01, 1.01, np.nan, np.inf, -np.inf, 10**400, "0.1", True, [0.1], 1j])
def test_layer_refuses_a_slope(slope):
    with pytest.raises(NetworkError) as caught:
        tg.Layer(DENSE, activation="leaky_relu", negative_slope=slope)
    assert str(caught.value) == f"negative_slope is {slope!r}, expected a number from 0 to 1"


@pytest.mark.parametrize("cap", [0, -1.0, np.nan, np.inf, -np.inf, 1e300, 1e-60, 10**400, "x", "1", True, [1.0]])
def test_layer_refuses_a_cap(cap):
    with pytest.raises(NetworkError) as caught:
        tg.Layer(DENSE, cap=cap)
    assert str(caught.value) == f"cap is {cap!r}, expected a finite float32 above 0, or None"


def test_errors_are_of_this_package():
    with pytest.raises(TaskgraphError):
        tg.Layer(None)


@pytest.mark.parametrize("form", ["csr", "csc", "bsr", "coo", "lil"])
def test_structure_out_of_range_is_refused(form):
    # In a process of its own: where such an index is followed, the process dies.
    arrays = {"coo": ["coords[0]", "coords[1]"], "lil": ["rows[1]"]}.get(form, ["indices", "indptr"])
    code = f"""
import numpy as np, scipy.sparse, taskgraph_dnn as tg
for array in {arrays}:
    for value in [10**7, -(10**7), -1]:
        weights = scipy.sparse.{form}_array(np.eye(6))
        exec("weights." + array + "[0 if array == 'rows[1]' else 2] = value")
        try:
            tg.Layer(weights)
        except tg.TaskgraphError as error:
            print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"weights are no valid {form.upper()} matrix: ") == 3 * len(arrays)


# Layer: frozen, digest, pickle


@pytest.fixture
def layer(rng):
    return random_layer(rng, 20, 10, cap=4.0)


@pytest.mark.parametrize("name", ["weights", "bias", "nnz", *(field.name for field in dataclasses.fields(tg.Layer))])
def test_layer_cannot_be_assigned_to(layer, name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(layer, name, None)


@pytest.mark.parametrize("array", ["weights.data", "weights.indices", "weights.indptr", "bias"])
def test_arrays_are_read_only(layer, array):
    numbers = layer
    for name in array.split("."):
        numbers = getattr(numbers, name)
    with pytest.raises(ValueError, match="read-only"):
        numbers[0] = 1


def parts(layer):
    w = layer.weights
    return {
        "shape": w.shape,
        "indptr": w.indptr,
        "indices": w.indices,
        "data": w.data,
        "bias": layer.bias,
        "activation": layer.activation,
        "negative_slope": layer.negative_slope,
        "cap": layer.cap,
    }


def test_from_csc_arrays_copies_nothing(layer):
    again = tg.Layer.from_csc_arrays(**parts(layer))
    assert again.digest == layer.digest
    assert again.weights.has_canonical_format
    for name in ("data", "indices", "indptr"):
        assert np.shares_memory(getattr(again.weights, name), getattr(layer.weights, name))
    assert again.bias is layer.bias
    assert tg.Layer.from_csc_arrays(**parts(layer), digest="known").digest == "known"


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"activation": "elu"}, "unknown activation 'elu'"),
        ({"negative_slope": 0.1}, "negative_slope is 0.1, but relu has none"),
        ({"activation": "leaky_relu", "negative_slope": 2}, "negative_slope is 2, expected a number from 0 to 1"),
        ({"cap": -1.0}, "cap is -1.0"),
    ],
)
def test_from_csc_arrays_checks_the_activation(layer, part, message):
    with pytest.raises(NetworkError, match=message):
        tg.Layer.from_csc_arrays(**parts(layer) | part)


def test_equal_layers_have_equal_digests(layer):
    dense = layer.weights.toarray()
    given = {"bias": layer.bias, "cap": 4.0}
    for weights in (dense, scipy.sparse.csr_array(dense), scipy.sparse.coo_matrix(dense.astype(np.float64))):
        assert tg.Layer(weights, **given).digest == layer.digest
    assert len(layer.digest) == 64


@pytest.mark.parametrize("part", ["weight", "edge", "shape", "bias", "activation", "cap", "no cap"])
def test_every_part_changes_the_digest(layer, part):
    dense, given = layer.weights.toarray(), {"bias": layer.bias, "cap": 4.0, "activation": "relu"}
    row, column = np.argwhere(dense)[0]
    match part:
        case "weight":
            dense[row, column] *= 2
        case "edge":
            dense[row, column] = 0
        case "shape":
            dense = np.vstack([dense, np.zeros((1, 10), dtype=np.float32)])
        case "bias":
            given["bias"] = np.append(layer.bias[:-1], np.float32(9))
        case "activation":
            given["activation"] = "identity"
        case "cap":
            given["cap"] = 5.0
        case "no cap":
            given["cap"] = None
    assert tg.Layer(dense, **given).digest != layer.digest


def test_slopes_and_activations_have_digests_of_their_own(layer):
    digests = {tg.Layer(layer.weights, activation=activation).digest for activation in ACTIVATIONS}
    for slope in (0.0, np.nextafter(0.01, 1), 0.5):
        digests.add(tg.Layer(layer.weights, activation="leaky_relu", negative_slope=slope).digest)
    assert len(digests) == len(ACTIVATIONS) + 3
    given, default = (tg.Layer(layer.weights, activation="leaky_relu", negative_slope=s) for s in (0.01, None))
    assert given.digest == default.digest


def test_digests_stay_what_they_were():
    """Packed files of older versions hold them."""
    weights = [[1.0, 0.0], [-2.0, 3.0]]
    relu, identity = tg.Layer(weights, bias=0.5, cap=32), tg.Layer(weights, activation="identity")
    assert relu.digest == "66f2be22619f5d01bf53526e64cfeb94db03e37090aea2c358294397dec4faec"
    assert identity.digest == "bb8e86c320e27b22134a1ecdb300df7b85db9de0c0500859adbae4f7904bf7e9"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_survives_pickling(activation):
    layer = tg.Layer(DENSE, activation=activation)
    again = pickle.loads(pickle.dumps(layer))
    assert (again.activation, again.negative_slope, again.cap) == (activation, layer.negative_slope, None)
    assert again.digest == layer.digest


@pytest.mark.parametrize("digest_first", [False, True])
def test_layer_survives_pickling(layer, digest_first):
    if digest_first:
        assert layer.digest
    again = pickle.loads(pickle.dumps(layer))
    assert again.digest == layer.digest
    assert (again.activation, again.cap) == (layer.activation, layer.cap)
    assert same_weights(again, layer.weights.toarray())
    np.testing.assert_array_equal(again.bias, layer.bias)
    for array in (again.bias, again.weights.data, again.weights.indices, again.weights.indptr):
        assert not array.flags.writeable


# Layer: stored, and what is known of it


class Shelf:
    """Where a stored layer's arrays are: it keeps count of what is asked of it."""

    def __init__(self, layer):
        self.layer, self.calls = layer, []

    def load(self):
        time.sleep(0.01)  # long enough for other threads to ask, too
        self.calls.append("load")
        return self.layer.weights, self.layer.bias

    def lazily(self, **options):
        given = {"activation": self.layer.activation, "cap": self.layer.cap, "digest": self.layer.digest} | options
        calls = {name: lambda name=name: self.calls.append(name) for name in ("read_ahead", "release")}
        return tg.Layer.lazily(self.layer.shape, self.layer.nnz, self.load, **given, **calls)


def test_a_stored_layer_is_described_without_loading(layer):
    shelf = Shelf(layer)
    stored = shelf.lazily(facts={"known": 3})
    network = tg.Network([stored, tg.Layer(np.eye(10))])
    for name in ("shape", "inputs", "outputs", "nnz", "nbytes", "activation", "negative_slope", "cap", "digest"):
        assert getattr(stored, name) == getattr(layer, name)
    assert repr(stored) == repr(layer)
    assert tokenize(stored) == tokenize(layer)
    assert stored.fact("known", lambda: pytest.fail("it is known")) == 3
    assert network.nbytes > layer.nbytes
    assert network.head(1).digest
    assert shelf.calls == []


def test_a_stored_layer_is_loaded_once_by_any_number_of_threads(layer):
    shelf = Shelf(layer)
    stored = shelf.lazily()
    with ThreadPoolExecutor(8) as pool:
        weights = list(pool.map(lambda _: stored.weights, range(8)))
    assert all(one is weights[0] for one in weights)
    assert same_weights(stored, layer.weights.toarray())
    assert stored.bias is layer.bias
    assert shelf.calls == ["load"]


def test_a_released_layer_is_loaded_again(layer):
    shelf = Shelf(layer)
    stored = shelf.lazily()
    stored.read_ahead()
    assert stored.bias.size
    stored.release()
    assert stored.bias.size
    assert shelf.calls == ["read_ahead", "load", "release", "load"]


@pytest.mark.parametrize("task_seconds", [1e-9, 10])
def test_layers_are_read_ahead_but_not_too_far(task_seconds):
    """Tasks of one layer among thousands must not each look at all of them."""
    calls = []

    def stored(number):
        layer = tg.Layer(np.eye(4) * (number + 1))

        def load():
            calls.append("load")
            return layer.weights, layer.bias

        return tg.Layer.lazily(
            layer.shape,
            layer.nnz,
            load,
            activation="relu",
            cap=None,
            digest=layer.digest,
            read_ahead=lambda: calls.append(number),
        )

    network = tg.Network(stored(number) for number in range(100))
    with dask.config.set({"taskgraph-dnn.task-seconds": task_seconds}):
        inference = tg.infer(network, np.ones((8, 4)), partitions=1, kernel="csr", reductions="none")
    inference.compute(scheduler="synchronous")
    asked = {place: number for place, number in enumerate(calls) if number != "load"}
    assert set(asked.values()) == set(range(1, 100))
    assert all(number < calls[:place].count("load") + 64 for place, number in asked.items())


def test_a_layer_in_memory_stays_there(layer):
    weights = layer.weights
    layer.read_ahead()
    layer.release()
    assert layer.weights is weights


def test_a_failed_load_is_tried_again(layer):
    shelf, failures = Shelf(layer), [FileError("not now")]

    def load():
        if failures:
            raise failures.pop()
        return shelf.load()

    stored = tg.Layer.lazily(layer.shape, layer.nnz, load, activation="relu", cap=4.0, digest=layer.digest)
    with pytest.raises(FileError, match="not now"):
        stored.weights  # noqa: B018
    assert same_weights(stored, layer.weights.toarray())


def test_a_stored_layer_checks_its_activation(layer):
    with pytest.raises(NetworkError, match="unknown activation 'elu'"):
        Shelf(layer).lazily(activation="elu")


def test_a_stored_layer_survives_pickling(layer):
    shelf = Shelf(layer)
    again = pickle.loads(pickle.dumps(shelf.lazily(facts={"known": 3})))
    assert again.digest == layer.digest
    assert again.facts == {"known": 3}
    assert same_weights(again, layer.weights.toarray())
    assert shelf.calls == ["load"]
    again.release()
    assert not again.bias.flags.writeable


def test_arrays_of_a_stored_layer_are_read_only(layer):
    writeable = layer.weights.copy(), layer.bias.copy()
    stored = tg.Layer.lazily(
        layer.shape, layer.nnz, lambda: writeable, activation="relu", cap=None, digest=layer.digest
    )
    for array in (stored.weights.data, stored.weights.indices, stored.weights.indptr, stored.bias):
        assert not array.flags.writeable


def test_a_fact_is_found_once(layer):
    found = []
    with ThreadPoolExecutor(8) as pool:
        facts = list(pool.map(lambda _: layer.fact("a", lambda: found.append(1) or [1, 2]), range(8)))
    assert found == [1]
    assert facts == [[1, 2]] * 8
    assert layer.facts == {"a": [1, 2]}


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_nbytes_are_those_of_the_arrays(inputs, outputs, density):
    layer = random_layer(np.random.default_rng(0), inputs, outputs, density=density)
    w = layer.weights
    assert layer.nbytes == w.data.nbytes + w.indices.nbytes + w.indptr.nbytes + layer.bias.nbytes


def test_index_dtype():
    assert index_dtype((5, 2**31 - 1), 7) is np.int32
    assert index_dtype((5, 2**31), 7) is np.int64
    assert index_dtype((5, 5), 2**31) is np.int64


# Network


@pytest.fixture
def network(rng):
    return tg.Network([random_layer(rng, 6, 5), random_layer(rng, 5, 7, cap=1.0), random_layer(rng, 7, 2)])


def rebuilt(network):
    """An equal network that shares nothing with this one."""
    return tg.Network(
        tg.Layer(layer.weights, bias=layer.bias, activation=layer.activation, cap=layer.cap) for layer in network
    )


def test_network_describes_itself(network):
    assert len(network) == len(list(network)) == 3
    assert (network.inputs, network.outputs) == (6, 2)
    assert network.nnz == sum(layer.nnz for layer in network)
    assert network.nbytes == sum(layer.nbytes for layer in network)
    assert network[1] is network.layers[1]
    assert network[-1] is network.layers[2]
    assert repr(network) == f"Network(3 layers, 6 inputs, 2 outputs, nnz={network.nnz})"
    assert (network.source, network.read_seconds, network.reduced) == (None, 0.0, None)


def test_network_is_a_chain(network):
    assert [network.sources(number) for number in range(3)] == [(NETWORK_INPUT,), (0,), (1,)]


@pytest.mark.parametrize("layers", [None, 3, tg.Layer(np.eye(2))])
def test_network_refuses_what_is_no_sequence(layers):
    with pytest.raises(NetworkError, match=f"a network is made of layers, got a {type(layers).__name__}"):
        tg.Network(layers)


def test_network_refuses_no_layers():
    with pytest.raises(NetworkError, match="at least one layer, got none"):
        tg.Network([])


def test_network_refuses_what_is_no_layer(layer):
    with pytest.raises(NetworkError, match="layer 2 is a ndarray, expected a Layer"):
        tg.Network([layer, np.eye(10)])


def test_network_refuses_neighbours_that_do_not_fit():
    layers = [tg.Layer(np.ones(shape)) for shape in ((2, 3), (3, 4), (5, 2))]
    with pytest.raises(NetworkError, match="layer 3 has 5 inputs, but layer 2 has 4 outputs"):
        tg.Network(layers)


def test_softmax_is_for_the_last_layer_only():
    relu, softmax = tg.Layer(np.eye(2)), tg.Layer(np.eye(2), activation="softmax")
    assert tg.Network([softmax])[0] is softmax
    network = tg.Network([relu, relu, softmax])
    assert [layer.activation for layer in network.head(2)] == ["relu", "relu"]
    assert network.head(3) is network
    with pytest.raises(NetworkError, match="layer 2 has softmax, which only the last layer can have"):
        tg.Network([relu, softmax, relu])
    with pytest.raises(NetworkError, match="layer 1 has softmax, which only the last layer can have"):
        tg.Network([softmax, softmax])


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(tg.Network)])
def test_network_cannot_be_assigned_to(network, name):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(network, name, None)


def test_layers_are_a_tuple_of_what_was_given(rng):
    layers = [random_layer(rng, 3, 3), random_layer(rng, 3, 3)]
    network = tg.Network(iter(layers))
    layers.pop()
    assert isinstance(network.layers, tuple)
    assert len(network) == 2


def test_head(network):
    network = tg.Network(network, read_seconds=1.5)
    for layers in (1, 2):
        head = network.head(layers)
        assert head.layers == network.layers[:layers]
        assert head.read_seconds == 1.5
        assert head.digest != network.digest
    assert network.head(3) is network


@pytest.mark.parametrize("layers", [-1, 0, 4])
def test_head_refuses_other_lengths(network, layers):
    with pytest.raises(NetworkError, match=f"cannot take {layers} layers of a network that has 3"):
        network.head(layers)


def test_equal_networks_have_equal_digests_and_tokens(network):
    again = rebuilt(network)
    assert again.digest == network.digest == network_digest(layer.digest for layer in network)
    assert tokenize(again) == tokenize(network)
    assert tokenize(again[0]) == tokenize(network[0])


def test_other_networks_have_other_digests_and_tokens(network):
    others = [
        network.head(2),
        tg.Network([*network.layers[:2], tg.Layer(network[2].weights, bias=9)]),
        tg.Network([*network, tg.Layer(np.eye(2))]),
    ]
    assert len({network.digest, *(other.digest for other in others)}) == 4
    assert len({tokenize(network), *(tokenize(other) for other in others)}) == 4


def test_layer_order_changes_the_digest(rng):
    one, other = random_layer(rng, 4, 4), random_layer(rng, 4, 4)
    assert tg.Network([one, other]).digest != tg.Network([other, one]).digest


def test_layer_and_network_of_it_have_different_tokens(layer):
    assert tokenize(layer) != tokenize(tg.Network([layer]))


def test_network_survives_pickling(network):
    again = pickle.loads(pickle.dumps(network))
    assert again.digest == network.digest
    assert again.head(1).digest == network.head(1).digest
    assert repr(again) == repr(network)


class Stored:
    """A source that knows the digest, as a file does."""

    digest = "as stored"

    def open(self):
        raise AssertionError("not asked for")

    def head(self, layers, digest):
        return layers, digest


def test_source_gives_the_digest(network):
    stored = tg.Network(network, source=Stored(), read_seconds=2.0)
    assert stored.digest == "as stored"
    assert stored.read_seconds == 2.0
    assert stored.head(3) is stored
    assert stored.head(2).source == (2, network.head(2).digest)


class Halves:
    """What reductions made of a network: it remembers which head was asked for."""

    def head(self, layers):
        return None if layers == 1 else ("head", layers)


def test_a_head_has_the_head_of_the_reduction(network):
    reduced = tg.Network(network, reduced=Halves())
    assert reduced.head(2).reduced == ("head", 2)
    assert reduced.head(1).reduced is None
    assert reduced.head(3) is reduced
    assert network.head(2).reduced is None
