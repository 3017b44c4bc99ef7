"""RadiX-Net networks: against the official network, and against what the construction promises."""

import re
import tarfile

import numpy as np
import pytest
import scipy.sparse

import taskgraph_dnn as tg
from taskgraph_dnn import challenge
from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.synthetic import radixnet, radixnet_layers


def official_layers(folder):
    """The 120 layers of the official network of 1,024 neurons, inputs x outputs."""
    layers = {}
    with tarfile.open(folder / "graph-challenge" / "neuron1024.tar.gz") as archive:
        for member in archive:
            if match := re.search(r"-l(\d+)\.tsv$", member.name):
                rows, columns, weights = np.loadtxt(archive.extractfile(member), dtype="i4,i4,f4", unpack=True)
                weights = scipy.sparse.coo_array((weights, (rows - 1, columns - 1)), shape=(1024, 1024))
                layers[int(match[1])] = weights.tocsc()
    return [layers[number] for number in sorted(layers)]


def edges(weights):
    return weights.toarray() != 0


def first_block(neurons):
    """The edges of the unpermuted layers, by the definition."""
    p = neurons // 16
    distance = (np.arange(neurons)[:, None] - np.arange(neurons)) % p
    return [np.isin(distance, (0, 2**m)) for m in range(int(np.log2(p)))]


def assert_block_permutes_inputs(block, unpermuted):
    """Each layer's edges are those of `unpermuted` with the rows, the inputs, in one order for the whole block."""
    kinds = {row.tobytes(): number for number, row in enumerate(unpermuted[0])}
    order = [kinds[row.tobytes()] for row in block[0]]  # rows equal in layer 0 are equal in all: any of them will do
    np.testing.assert_array_equal(np.bincount(order)[sorted(kinds.values())], len(order) // len(kinds))
    for permuted, layer in zip(block, unpermuted, strict=True):
        np.testing.assert_array_equal(permuted, layer[order])


def test_official_network_has_this_structure(official_data):
    official = official_layers(official_data)
    ours = radixnet(1024, 120)
    assert len(official) == len(ours) == 120
    for layer, expected in zip(ours[:6], official[:6], strict=True):
        assert tg.Layer(expected, bias=-0.3, cap=32.0).digest == layer.digest
    for number in range(6, 120, 6):
        assert_block_permutes_inputs([edges(w) for w in official[number : number + 6]], first_block(1024))
    for layer, expected in zip(ours, official, strict=True):
        np.testing.assert_array_equal(layer.weights.data, expected.data)
        assert distinct_outputs(layer.weights) == distinct_outputs(expected)


def distinct_outputs(weights):
    return len({column.tobytes() for column in edges(weights).T})


@pytest.mark.parametrize("neurons", [32, 64, 256, 1024])
def test_blocks_permute_the_inputs_of_the_first(neurons):
    expected = first_block(neurons)
    depth = len(expected)
    made = [edges(layer.weights) for layer in radixnet(neurons, 3 * depth)]
    for layer, by_definition in zip(made[:depth], expected, strict=True):
        np.testing.assert_array_equal(layer, by_definition)
    for first in (depth, 2 * depth):
        assert_block_permutes_inputs(made[first : first + depth], expected)


def test_each_block_has_its_own_permutation():
    network = radixnet(256, 16)
    digests = [network[number].digest for number in (0, 4, 8, 12)]
    assert len(set(digests)) == 4


@pytest.mark.parametrize("neurons", [32, 128, 1024])
def test_layers_are_valid_and_regular(neurons):
    for layer in radixnet(neurons, 14):
        assert layer.digest == tg.Layer(layer.weights, bias=layer.bias, cap=layer.cap).digest
        assert layer.weights.has_canonical_format
        assert layer.weights.dtype == np.float32
        assert (edges(layer.weights).sum(axis=0) == challenge.EDGES_PER_NEURON).all()
        assert (edges(layer.weights).sum(axis=1) == challenge.EDGES_PER_NEURON).all()


@pytest.mark.parametrize("neurons", [32, 64, 512])
def test_the_first_block_joins_all_inputs_to_all_outputs_by_equally_many_paths(neurons):
    depth = int(np.log2(neurons // 16))
    paths = np.eye(neurons)
    for layer in radixnet(neurons, depth, weight=1.0):
        paths = paths @ layer.weights.toarray()
    assert (paths == 16 ** (depth - 1)).all()


@pytest.mark.parametrize("shallow", [1, 6, 7, 20])
def test_a_deep_network_begins_with_the_shallow_one(shallow):
    assert radixnet(1024, 30, seed=3).head(shallow).digest == radixnet(1024, shallow, seed=3).digest


def test_layers_are_made_when_they_are_asked_for():
    layers = radixnet_layers(1024, 10**12, seed=3)
    assert [next(layers).digest for _ in range(8)] == [layer.digest for layer in radixnet(1024, 8, seed=3)]
    assert len(list(radixnet_layers(64, 5))) == 5
    with pytest.raises(NetworkError, match="layers"):
        radixnet_layers(64, 0)


def test_seed_changes_later_blocks_only():
    one, other = radixnet(1024, 12, seed=1), radixnet(1024, 12, seed=2)
    same = [a.digest == b.digest for a, b in zip(one, other, strict=True)]
    assert same == [True] * 6 + [False] * 6
    assert one.digest == radixnet(1024, 12, seed=1).digest


def test_parameters_are_the_challenges():
    for neurons, bias in zip(challenge.OFFICIAL_NEURONS, (-0.3, -0.35, -0.4, -0.45), strict=True):
        layer = radixnet(neurons, 1)[0]
        assert (layer.bias == np.float32(bias)).all()
        assert (layer.weights.data == 1 / 16).all()
        assert (layer.activation, layer.cap) == ("relu", 32.0)


def test_parameters_can_be_given():
    for layer in radixnet(64, 3, bias=0.0, cap=None, weight=-0.5):
        assert not layer.bias.any()
        assert layer.cap is None
        assert (layer.weights.data == -0.5).all()


def test_layers_share_all_but_their_wiring():
    first, *others = radixnet(256, 9)
    for layer in others:
        assert np.shares_memory(layer.weights.data, first.weights.data)
        assert np.shares_memory(layer.weights.indptr, first.weights.indptr)
        assert np.shares_memory(layer.bias, first.bias)
        assert not np.shares_memory(layer.weights.indices, first.weights.indices)
        assert layer.weights.indices.dtype == np.int32


def test_reports_progress_and_seconds():
    calls = []
    network = radixnet(64, 3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert network.read_seconds > 0
    assert network.source is None


@pytest.mark.parametrize("neurons", [48, 1000, 1023])
def test_refuses_sizes_that_are_no_power_of_two(neurons):
    with pytest.raises(NetworkError, match=rf"power of two of neurons a layer, got {neurons}$"):
        radixnet(neurons, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ({"neurons": n}, f"neurons is {n}, expected a whole number of at least 32")
            for n in (-1024, -1, 0, 1, 16, 31)
        ),
        ({"neurons": 64.0}, "neurons is 64.0, expected a whole number of at least 32"),
        ({"layers": 0}, "layers is 0, expected a whole number of at least 1"),
        ({"layers": -1}, "layers is -1, expected a whole number of at least 1"),
        ({"layers": 1.5}, "layers is 1.5, expected a whole number of at least 1"),
        ({"layers": "3"}, "layers is '3', expected a whole number"),
        ({"seed": None}, "seed is None, expected a whole number of at least 0"),
        ({"seed": -1}, "seed is -1, expected a whole number of at least 0"),
        ({"weight": 0.0}, "weight is 0.0, which is 0 in float32"),
        ({"weight": 1e-60}, "weight is 1e-60, which is 0 in float32"),
        ({"weight": np.nan}, "is nan, expected a finite float32"),
        ({"weight": 1e39}, "is inf, expected a finite float32"),
        ({"bias": np.inf}, "bias of output 0 is inf, expected a finite float32"),
        ({"cap": 0.0}, "cap is 0.0, expected a finite float32 above 0"),
    ],
)
def test_refuses_numbers_out_of_range(arguments, message):
    with pytest.raises(NetworkError, match=message):
        radixnet(**{"neurons": 64, "layers": 2} | arguments)
