"""Networks whose layers read several earlier ones: what they are, how they are run, drawn and kept."""

import json
import pickle
from itertools import pairwise

import dask
import dask.array as da
import networkx
import numpy as np
import pytest
import safetensors
import scipy.sparse
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn import sizing
from taskgraph_dnn.config import settings
from taskgraph_dnn.dump import make_view, write_graph
from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.layer import with_addition
from taskgraph_dnn.machine import Cache
from taskgraph_dnn.network import NETWORK_INPUT
from taskgraph_dnn.plan import make_plan
from taskgraph_dnn.reductions.certificates import certify
from taskgraph_dnn.reductions.static import STATIC, reduce_network, reduced_layers
from taskgraph_dnn.reference import mismatch, reference_outputs
from taskgraph_dnn.spare import SPARE
from taskgraph_dnn.wiring import Layout, Wiring
from tests.conftest import random_layer
from tests.test_checkpoints import FINE, resumed_equals
from tests.test_plan import peak_nbytes
from tests.test_reductions import CHOICES, assert_accounted, assert_same, run, scattered

INPUT = NETWORK_INPUT


def wired(rng, sources, widths, *, last="identity", **given):
    """A network of random layers with these sources; widths are the input's and then the layers'."""
    layers = []
    for number, read in enumerate(sources):
        inputs = sum(widths[source + 1] for source in read)
        kind = given | ({"activation": last} if number + 1 == len(sources) else {})
        layers.append(random_layer(rng, inputs, widths[number + 1], **kind))
    return tg.Network(layers, sources)


def residual(rng, blocks=4, width=24):
    """Blocks of two layers each, around which their input is added."""
    layers, sources = [random_layer(rng, 20, width)], [(INPUT,)]
    for _ in range(blocks):
        here = len(layers) - 1
        inner, outer = (random_layer(rng, width, width, density=0.1) for _ in range(2))
        layers += [inner, with_addition(outer, width)]
        sources += [(here,), (here + 1, here)]
    return tg.Network([*layers, random_layer(rng, width, 10)], [*sources, (len(layers) - 1,)])


def nested(rng):
    """Additions within additions: layer 6 adds what layer 1 gave, and what layers 3 and 5 add lies between."""
    plain = [random_layer(rng, 20, 20) for _ in range(7)]
    layers = [*plain[:2], with_addition(plain[2], 20), plain[3], with_addition(plain[4], 20)]
    layers += [with_addition(plain[5], 20), plain[6]]
    return tg.Network(layers, [(INPUT,), (0,), (1, 0), (2,), (3, 2), (4, 0), (5,)])


def branches(rng):
    """Layers side by side, joined; twice, with other widths."""
    sources = [(INPUT,), (0,), (0,), (0,), (1, 2, 3), (4,), (4,), (6, 5), (7,)]
    return wired(rng, sources, [20, 16, 5, 30, 1, 12, 40, 7, 16, 10])


def densely(rng):
    """Each layer reads all before it, and the input."""
    sources = [tuple(range(INPUT, number)) for number in range(8)]
    return wired(rng, sources, [20, 6, 6, 6, 6, 6, 6, 6, 10])


def u_net(rng):
    """Narrower and narrower, and wider again beside what was there before."""
    sources = [(INPUT,), (0,), (1,), (2,), (3, 2), (4, 1), (5, 0), (6,)]
    return wired(rng, sources, [20, 32, 16, 8, 4, 8, 16, 32, 10])


def around_all(rng):
    """The last layer reads the input, too: nothing can be handed on before."""
    return wired(rng, [(INPUT,), (0,), (1,), (2,), (3, INPUT)], [20, 24, 24, 24, 24, 10])


def twice(rng):
    """Sources named twice, the input first of all."""
    return wired(rng, [(INPUT, INPUT), (0, 0), (1,), (2, 1, 2), (3, 3)], [20, 12, 12, 12, 12, 10])


def once(rng):
    """One layer, which reads the input three times."""
    return wired(rng, [(INPUT, INPUT, INPUT)], [20, 10])


def saturating(rng):
    """What is added goes to the cap; a chain of equal layers follows, in which nothing changes any more."""
    up = tg.Layer(rng.random((20, 20)), cap=1.0)
    layers = [up, up, with_addition(up, 20), *[up] * 8, with_addition(up, 20), *[up] * 3]
    return tg.Network(layers, [(INPUT,), (0,), (1, 0), *((n,) for n in range(2, 10)), (10, 9), (11,), (12,), (13,)])


def dying(rng):
    """Samples die on the way, for good: the last layer keeps zeros, too."""
    layers = [random_layer(rng, 20, 20, bias=0.0)]
    sources = [(INPUT,)]
    for here in range(0, 16, 2):
        down = tg.Layer(np.eye(20) * 0.6, bias=-0.05)
        layers += [down, with_addition(tg.Layer(np.eye(20) * 0.3, bias=-0.1), 20)]
        sources += [(here,), (here + 1, here)]
        layers[-1] = tg.Layer(layers[-1].weights * 0.6, bias=-0.1)
    return tg.Network(layers, sources)


GRAPHS = [residual, nested, branches, densely, u_net, around_all, twice, once, saturating, dying]


@pytest.fixture
def rows(rng):
    return scattered(rng, 150, 20)


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as local:
        yield local.scheduler_address


# What they are.


def test_a_residual_block_is_what_the_formula_says(rng):
    weights = [rng.standard_normal((6, 6)).astype(np.float32) for _ in range(3)]
    plain = [tg.Layer(w, bias=0.1 * n) for n, w in enumerate(weights)]
    network = tg.Network([plain[0], plain[1], with_addition(plain[2], 6)], [(INPUT,), (0,), (1, 0)])
    x = rng.random((9, 6))
    s = np.maximum(x @ weights[0].astype(float), 0)
    y = np.maximum(s @ weights[1].astype(float) + plain[1].bias, 0)
    expected = np.maximum(y @ weights[2].astype(float) + plain[2].bias.astype(float) + s, 0)
    np.testing.assert_allclose(reference_outputs(network, x), expected, rtol=1e-12, atol=1e-12)


def test_sources_are_read_side_by_side_in_their_order(rng):
    first, second = random_layer(rng, 5, 3), random_layer(rng, 3, 4)
    w = rng.standard_normal((4 + 5 + 3, 2)).astype(np.float32)
    network = tg.Network([first, second, tg.Layer(w, activation="identity")], [(INPUT,), (0,), (1, INPUT, 0)])
    x = rng.random((7, 5))
    a = reference_outputs(tg.Network([first]), x)
    b = reference_outputs(tg.Network([second]), a)
    expected = b @ w[:4].astype(float) + x @ w[4:9].astype(float) + a @ w[9:].astype(float)
    np.testing.assert_allclose(reference_outputs(network, x), expected, rtol=1e-12, atol=1e-12)


def test_an_addition_keeps_all_else_of_a_layer(rng):
    layer = random_layer(rng, 4, 3, activation="leaky_relu", negative_slope=0.3, cap=2.0)
    added = with_addition(layer, 3)
    assert (added.shape, added.activation, added.negative_slope, added.cap) == ((7, 3), "leaky_relu", 0.3, 2.0)
    np.testing.assert_array_equal(added.bias, layer.bias)
    np.testing.assert_array_equal(added.weights.toarray(), np.vstack([layer.weights.toarray(), np.eye(3)]))


def test_an_addition_has_the_layers_width(rng):
    with pytest.raises(NetworkError, match="4 values are to be added to a layer of 3 outputs"):
        with_addition(random_layer(rng, 4, 3), 4)


def test_sources_of_a_chain_may_be_said(rng):
    layers = [random_layer(rng, 4, 4) for _ in range(3)]
    plain, told = tg.Network(layers), tg.Network(layers, [[INPUT], [0], [1]])
    assert told.digest == plain.digest
    assert told.wiring == plain.wiring
    assert told.wiring.is_chain


def test_the_digest_tells_wirings_apart(rng):
    layers = [random_layer(rng, 4, 4), random_layer(rng, 4, 4), random_layer(rng, 8, 4)]
    networks = [tg.Network(layers, [(INPUT,), (first,), last]) for first in (0, INPUT) for last in ((1, 0), (0, 1))]
    assert len({network.digest for network in networks}) == 4
    assert tg.Network(layers, [(INPUT,), (0,), (1, 0)]).digest == networks[0].digest


def test_a_graph_survives_pickling(rng):
    network = residual(rng)
    again = pickle.loads(pickle.dumps(network))
    assert (again.digest, again.wiring) == (network.digest, network.wiring)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (3, "sources are 3, expected some for each layer"),
        ([(INPUT,), (0,)], "sources are given for 2 layers, but the network has 3"),
        ([(INPUT,), 0, (1,)], "layer 2 has the sources 0, expected numbers of layers"),
        ([(INPUT,), (0.5,), (1,)], r"layer 2 has the sources \(0.5,\), expected numbers of layers"),
        ([(INPUT,), (0,), ()], "layer 3 has no sources, expected at least one"),
        ([(0,), (0,), (1,)], r"layer 1 has the source 0, expected -1 \(the network's input\) to -1"),
        ([(INPUT,), (2,), (1,)], "layer 2 has the source 2, expected -1 .* to 0 "),
        ([(INPUT,), (-2,), (1,)], "layer 2 has the source -2, expected -1 .* to 0 "),
        ([(INPUT,), (0,), (0, 7)], "layer 3 has the source 7, expected -1 .* to 1 "),
        ([(INPUT,), (0,), (0,)], "layer 2 is read by no other, and only the last one, layer 3, may be so"),
        ([(INPUT,), (0,), (1, 0)], r"layer 3 has 4 inputs, but layer 2 and layer 1 have 4 \+ 4 outputs"),
        ([(INPUT, INPUT), (0,), (1,)], r"layer 2 has 4 inputs, but layer 1 has 5 outputs"),
        ([(INPUT,) * 3, (0,), (1,)], r"layer 1 has 4 inputs, but .* have 1 \+ 1 \+ 1 outputs"),
        ([(INPUT,), (0,), (INPUT, 1)], r"layer 3 has 4 inputs, but the network's input and layer 2 have 4 \+ 4"),
    ],
)
def test_bad_sources_are_named(rng, sources, message):
    first = 5 if sources == [(INPUT, INPUT), (0,), (1,)] else 4
    layers = [random_layer(rng, 4, first), random_layer(rng, 4, 4), random_layer(rng, 4, 4)]
    with pytest.raises(NetworkError, match=message):
        tg.Network(layers, sources)


def test_softmax_is_for_the_last_layer_of_a_graph_only(rng):
    layers = [random_layer(rng, 4, 4, activation="softmax"), random_layer(rng, 4, 4), random_layer(rng, 8, 4)]
    with pytest.raises(NetworkError, match="layer 1 has softmax, which only the last layer can have"):
        tg.Network(layers, [(INPUT,), (INPUT,), (0, 1)])


def test_a_graph_ends_early_where_nothing_is_left_over(rng):
    network = branches(rng)
    assert network.head(2).wiring.sources == ((INPUT,), (0,))
    assert network.head(5).wiring.sources == network.wiring.sources[:5]
    assert network.head(5).digest == tg.Network(network.layers[:5], network.wiring.sources[:5]).digest
    with pytest.raises(NetworkError, match="no network ends after layer 4: only later layers read layer 2"):
        network.head(4)


# Where they can be cut, and where their values lie.


def wirings():
    """Any wiring of up to ten layers, all of which are read."""

    def complete(sources):
        wiring = Wiring(sources)
        while (unread := wiring.unread()) is not None:
            wiring = Wiring((*wiring.sources[:-1], (*wiring.sources[-1], unread)))
        return wiring

    layer = lambda number: st.lists(st.integers(INPUT, number - 1), min_size=1, max_size=3).map(tuple)  # noqa: E731
    return st.integers(1, 10).flatmap(lambda n: st.tuples(*map(layer, range(n)))).map(complete)


@given(wirings())
def test_joints_are_where_one_output_is_all_that_is_read_later(wiring):
    layers = len(wiring.sources)
    for boundary in range(layers + 1):
        later = {source for read in wiring.sources[boundary:] for source in read if source < boundary}
        assert (boundary in wiring.joints) == (later <= {boundary - 1})
    assert [first for first, _ in wiring.segments] == list(wiring.joints[:-1])


@given(wirings(), st.data())
def test_no_buffer_is_filled_while_somebody_needs_what_it_holds(wiring, data):
    widths = [data.draw(st.integers(1, 9)) for _ in wiring.sources]
    shapes = [(sum(5 if s == INPUT else widths[s] for s in read), widths[n]) for n, read in enumerate(wiring.sources)]
    layout = Layout.of(wiring, shapes)
    held = {}
    for layer, read in enumerate(wiring.sources):
        assert all(held[layout.outputs[source]] == source for source in read if source != INPUT)
        filled = [buffer for buffer in (layout.joined[layer], layout.outputs[layer]) if buffer is not None]
        needed = {source for later in wiring.sources[layer + 1 :] for source in later} | set(read)
        assert len(set(filled)) == len(filled)
        assert not any(held.get(buffer) in needed for buffer in filled)
        held |= dict.fromkeys(filled, None) | {layout.outputs[layer]: layer}
        assert (layout.joined[layer] is None) == (len(read) == 1)
    assert layout.width(0, len(widths)) >= max(widths)


def test_a_chain_has_two_buffers_and_is_cut_anywhere():
    wiring = Wiring.chain(6)
    assert wiring.joints == tuple(range(7))
    assert all(wiring.is_link(layer) for layer in range(6))
    layout = Layout.of(wiring, [(a, b) for a, b in pairwise([3, 9, 2, 8, 4, 7, 5])])
    assert layout.outputs == (0, 1, 0, 1, 0, 1)
    assert layout.joined == (None,) * 6
    assert layout.width(0, 6) == 9 + 5
    assert layout.width(1, 3) == 2 + 8


def test_joints_of_the_graphs(rng):
    joints = {make.__name__: make(rng).wiring.joints for make in GRAPHS}
    assert joints["residual"] == (0, 1, 3, 5, 7, 9, 10)
    assert joints["nested"] == (0, 1, 6, 7)
    assert joints["branches"] == (0, 1, 5, 8, 9)
    assert joints["u_net"] == (0, 1, 7, 8)
    assert joints["densely"] == (0, 8)
    assert joints["around_all"] == (0, 5)
    assert joints["twice"] == (0, 1, 2, 4, 5)
    assert joints["once"] == (0, 1)


# How they are run.


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("kernel", ["auto", "csr", "quads", "tile", "ell", "push", "scipy", "dense"])
def test_every_kernel_agrees_with_the_oracle(make, kernel, rng, rows):
    network = make(rng)
    result = run(network, rows, "dynamic", kernel=kernel, partitions=3)
    assert mismatch(result.outputs, reference_outputs(network, rows)) < 1e-5
    assert_accounted(result, network)


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_bit_depends_on_how_a_graph_is_run(make, dtype, rng, rows):
    network = make(rng)
    expected = run(network, rows, "none", kernel="csr", dtype=dtype, strategy="data", partitions=1)
    assert mismatch(expected.outputs, reference_outputs(network, rows)) < (1e-5 if dtype == "float32" else 1e-12)
    array = da.from_array(rows, chunks=(40, 7))
    for samples in (rows, scipy.sparse.csr_array(rows), array):
        for strategy in ("hybrid", "data", "pipeline"):
            for partitions in (1, 3, 16):
                for reductions in ("none", "dynamic"):
                    how = {"strategy": strategy, "partitions": partitions, "kernel": "csr", "dtype": dtype}
                    assert_same(run(network, samples, reductions, **how), expected)
    assert_same(run(network, rows, "dynamic", kernel="csr", dtype=dtype, scheduler="threads"), expected)
    assert SPARE.lent_nbytes == 0


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("kernel", ["auto", "push"])
def test_no_bit_of_a_graph_depends_on_reductions_or_tiles(make, kernel, rng, rows, eager):
    network = make(rng)
    expected = run(network, rows, "none", kernel=kernel, partitions=1)
    cuts = [{"lanes": lanes, "tiles_at_once": tiles} for lanes, tiles in ((16, 1), (32, 2), (16, 100))]
    for number, reductions in enumerate(CHOICES):
        result = run(network, rows, reductions, kernel=kernel, partitions=7, **cuts[number % 3])
        assert_same(result, expected)
        assert_accounted(result, network)
        assert [counts.alive for counts in result.layers] == [counts.alive for counts in expected.layers], reductions


@given(wirings(), st.integers(0, 2**32 - 1))
def test_any_wiring_agrees_with_the_oracle(wiring, seed):
    rng = np.random.default_rng(seed)
    network = wired(rng, wiring.sources, [4, *rng.integers(1, 9, len(wiring.sources))], density=0.6)
    rows = scattered(rng, 40, 4)
    expected = run(network, rows, "none", kernel="scipy", strategy="data", partitions=1)
    assert mismatch(expected.outputs, reference_outputs(network, rows)) < 1e-5
    assert_same(run(network, rows, "dynamic", kernel="scipy", partitions=3, lanes=16, tiles_at_once=1), expected)


@pytest.mark.parametrize("make", [residual, u_net, twice, saturating])
@pytest.mark.parametrize("strategy", ["hybrid", "pipeline"])
def test_graphs_on_a_cluster(make, strategy, rng, rows, cluster):
    network = make(rng)
    expected = run(network, rows, "none", kernel="csr")
    with Client(cluster, set_as_default=True) as client:
        assert_same(run(network, rows, "dynamic", kernel="csr", strategy=strategy, scheduler=client), expected)
        exact = run(network, rows, "exact", kernel="csr", strategy=strategy, scheduler=client)
        assert mismatch(exact.outputs, reference_outputs(network, rows)) < 1e-5


@pytest.mark.parametrize("make", [residual, u_net, twice, dying])
@pytest.mark.parametrize("reductions", ["none", "exact"])
def test_a_graph_that_was_cut_off_goes_on(make, reductions, rng, rows, tmp_path):
    network = make(rng)
    options = {"partitions": 3, "kernel": "csr", "reductions": reductions}
    with dask.config.set(FINE):
        tasks = 3 * len(tg.infer(network, rows, **options).plan.spans)
        for done in range(0, tasks, 2):
            assert resumed_equals(network, rows, tmp_path / str(done), done, **options)


def test_a_checkpoint_is_of_one_wiring(rng, rows, tmp_path):
    layers = [random_layer(rng, 20, 4), random_layer(rng, 4, 4), random_layer(rng, 8, 4)]
    one, other = (tg.Network(layers, [(INPUT,), (0,), last]) for last in ((1, 0), (0, 1)))
    tg.infer(one, rows, checkpoint=tmp_path / "kept").compute(scheduler="threads")
    with pytest.raises(tg.CheckpointError, match="checkpoint of another run, with network"):
        tg.infer(other, rows, checkpoint=tmp_path / "kept", resume=True)


def test_a_layer_that_reads_the_input_later_finds_it_whatever_it_came_as(rng):
    """The first layer's kernel reads rows, and a later one tiles of the same input."""
    network = around_all(rng)
    sparse = scipy.sparse.csr_array(scattered(rng, 150, 20, 0.05))
    inference = tg.infer(network, sparse, kernel="push", reductions="none")
    first, *others = (layer.kernel for layer in inference.plan.layers)
    assert first == "push"
    assert "push" not in others
    assert mismatch(inference.compute().outputs, reference_outputs(network, sparse)) < 1e-5


def test_rows_of_the_input_are_for_a_layer_that_reads_them_once(rng, rows):
    plan = tg.infer(twice(rng), rows, kernel="push").plan
    assert "push" not in {layer.kernel for layer in plan.layers}
    assert plan.inputs == 20


# How they are planned.


def planned(network, samples=1000, threads=2, **changes):
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        chosen = settings(**{"kernel": "csr", "reductions": "none"} | changes)
        return make_plan(network, samples, chosen, threads=threads)


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("strategy", ["hybrid", "data", "pipeline"])
def test_spans_end_at_joints_only(make, strategy, rng):
    network = make(rng)
    plan = planned(network, strategy=strategy)
    edges = [0, *(stop for _, stop in plan.spans)]
    assert list(plan.spans) == list(pairwise(edges))
    assert edges[-1] == len(network)
    assert set(edges) <= set(network.wiring.joints)
    assert strategy != "hybrid" or edges == list(network.wiring.joints)
    assert [layer.sources for layer in plan.layers] == list(network.wiring.sources)


def test_a_plan_says_what_is_read_and_where_spans_can_end(rng):
    lines = str(planned(around_all(rng))).splitlines()
    assert "joints      after 1 of 5 layers: elsewhere no span ends, earlier ones are read again" in lines
    assert lines[-6].split()[:4] == ["layers", "reads", "inputs", "outputs"]
    assert lines[-1].split()[:5] == ["5", "4,", "input", "44", "10"]
    assert " reads " not in str(planned(tg.radixnet(64, 30)))
    assert "joints" not in str(planned(tg.radixnet(64, 30)))


@pytest.mark.parametrize("make", [residual, densely, u_net])
@pytest.mark.parametrize("strategy", ["hybrid", "data"])
def test_a_graphs_task_needs_no_more_than_planned(make, strategy, rng, monkeypatch):
    monkeypatch.setattr(sizing, "last_cache", lambda: Cache(2**24, cores=2))
    small = make(rng)
    widths = [100 * small.width(source) for source in range(INPUT, len(small))]
    network = wired(rng, small.wiring.sources, widths, density=1e-4, bias=-1, last="relu")
    rows = np.zeros((1024, network.inputs), np.float32)
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        inference = tg.infer(network, rows, partitions=1, kernel="csr", strategy=strategy, reductions="none")
    given = rows.nbytes if strategy == "data" or len(inference.plan.spans) == 1 else 0
    # A block's rows of the result come on top.
    assert 0.5 < (given + peak_nbytes(inference)) / inference.plan.largest_task_nbytes < 1.2


# What is left out.


def test_the_dead_are_dropped_at_joints(rng, rows):
    network = dying(rng)
    result = run(network, rows, "dead-samples", kernel="csr", partitions=1, lanes=16, tiles_at_once=1)
    counts = result.layers
    assert counts[-1].alive < counts[0].alive == 150
    assert counts[-1].distinct < counts[0].distinct
    assert result.multiply_adds < result.edges
    assert certify(network).dead == tuple(k in network.wiring.joints for k in range(len(network) + 1))


def test_equal_samples_are_carried_once(rng, rows, eager):
    network = residual(rng)
    result = run(network, np.repeat(rows[:10], 20, axis=0), "duplicate-samples", kernel="csr", partitions=1)
    assert {counts.distinct for counts in result.layers} == {10}
    assert result.layers[0].alive == 200


def test_saturated_samples_pass_chains_within_a_graph(rng, eager):
    network = saturating(rng)
    rows = rng.random((100, 20)).astype(np.float32)
    result = run(network, rows, "fixed-point", kernel="csr", partitions=1)
    assert_same(result, run(network, rows, "none", kernel="csr"))
    assert sum(counts.done for counts in result.layers[4:10]) == 0  # the chain behind the first addition
    assert all(counts.done > 0 for counts in result.layers[:3])


def test_nothing_is_proved_of_layers_that_read_several(rng):
    network = saturating(rng)
    proved = certify(network)
    links = [network.wiring.is_link(layer) for layer in range(len(network))]
    assert links == [True, False, False, *[True] * 7, False, False, *[True] * 3]
    assert [bool(np.isfinite(threshold)) for threshold in proved.thresholds[1:-1]] == links[1:]
    assert (proved.settled[3], proved.settled[12]) == (10, 15)  # where the chains end
    assert proved.tied[:-1] == (0, 0, 0, 6, 5, 4, 3, 2, 1, 0, 0, 0, 2, 1, 0)


def redundant(rng, sources, widths):
    """Layers of few weights, so that outputs are equal, always 0 or unread; all sums are exact."""
    layers = []
    for number, read in enumerate(sources):
        shape = sum(widths[source + 1] for source in read), widths[number + 1]
        weights = rng.choice([-1.0, 0.0, 0.5], shape, p=[0.3, 0.5, 0.2])[:, rng.integers(0, shape[1], shape[1])]
        layers.append(tg.Layer(weights, bias=rng.choice([-0.5, 0.0, 0.0, 0.25], shape[1]), cap=4.0))
    return tg.Network(layers, sources)


@given(wirings(), st.sampled_from([STATIC, *((name,) for name in STATIC)]), st.integers(0, 2**32 - 1))
def test_the_reduced_graph_has_the_same_answer(wiring, names, seed):
    rng = np.random.default_rng(seed)
    network = redundant(rng, wiring.sources, [6, *rng.integers(1, 9, len(wiring.sources))])
    rows = rng.integers(0, 4, (30, 6))
    items = list(reduced_layers(network, names))
    folds_inputs = len(items) > len(network)
    smaller = tg.Network([y.layer for y in items], (wiring.folded() if folds_inputs else wiring).sources)
    found, places = reference_outputs(smaller, rows), items[-1].places
    np.testing.assert_array_equal(np.where(places >= 0, found[:, places], 0), reference_outputs(network, rows))
    assert smaller.nnz <= network.nnz + folds_inputs * network.inputs
    assert mismatch(run(network, rows, ",".join(names), kernel="scipy").outputs, reference_outputs(network, rows)) == 0


@pytest.mark.parametrize("make", GRAPHS)
def test_exact_runs_of_graphs_agree_with_the_oracle(make, rng, rows):
    network = redundant(rng, make(rng).wiring.sources, [40] * (1 + len(make(rng))))
    rows = np.repeat(rows, 2, axis=1)
    result = run(network, rows, "exact", partitions=3, dtype="float64")
    assert mismatch(result.outputs, reference_outputs(network, rows)) < 1e-12
    assert sum(layer.nnz for layer in result.plan.layers) < 0.9 * network.nnz
    assert dict(result.plan.notes)["unused-neurons"].endswith("edges are left")
    assert_accounted(result, network)


def test_what_two_layers_read_is_read_if_either_does():
    """The first output is read by the one, the second by the other, the third by nobody, the last two are equal."""
    first = tg.Layer([[1, 2, 3, 4, 4]], bias=0.5)
    left, right = tg.Layer([[1], [0], [0], [1], [0]]), tg.Layer([[0], [1], [0], [0], [1]])
    network = tg.Network([first, left, right, tg.Layer([[1], [1]])], [(INPUT,), (0,), (0,), (1, 2)])
    items = list(reduced_layers(network, STATIC))
    assert items[0].places.tolist() == [0, 1, -1, 2, 2]
    assert items[1].layer.weights.toarray().tolist() == [[1], [0], [1]]
    assert items[2].layer.weights.toarray().tolist() == [[0], [1], [1]]


def test_equal_inputs_are_added_up_only_for_a_layer_that_alone_reads_them(rng):
    weights = np.repeat(rng.choice([-1.0, 1.0], (5, 8)), 4, axis=0)
    first, more, last = tg.Layer(weights), tg.Layer(np.eye(8)), tg.Layer(rng.choice([-1.0, 1.0], (16, 3)))
    alone = tg.Network([first, more, last], [(INPUT,), (0,), (1, 0)])
    again = tg.Network([first, tg.Layer(np.ones((28, 8))), last], [(INPUT,), (0, INPUT), (1, 0)])
    assert [len(list(reduced_layers(network, STATIC))) - len(network) for network in (alone, again)] == [1, 0]
    rows = rng.integers(0, 3, (50, 20))
    result = run(alone, rows, "exact")
    assert result.plan.folds_inputs
    assert [layer.sources for layer in result.plan.layers] == [(INPUT,), (0,), (1,), (2, 1)]
    assert mismatch(result.outputs, reference_outputs(alone, rows)) == 0


@pytest.mark.parametrize("make", [residual, u_net, around_all])
def test_a_reduced_graph_is_kept_beside_it(make, rng, tmp_path):
    network = redundant(rng, make(rng).wiring.sources, [40] * (1 + len(make(rng))))
    tg.write_packed(network, tmp_path / "graph.safetensors")
    packed = tg.read_packed(tmp_path / "graph.safetensors", verify=True)
    in_memory = reduce_network(network, STATIC)
    assert packed.reduced.network.digest == in_memory.network.digest
    assert packed.reduced.network.source.open().wiring == in_memory.network.wiring
    rows = rng.integers(0, 4, (50, 40))
    assert mismatch(run(packed, rows, "exact").outputs, reference_outputs(network, rows)) < 1e-5
    for layers in range(1, len(network)):
        if network.wiring.head(layers).unread() is None:
            head = tg.read_packed(tmp_path / "graph.safetensors", layers)
            assert mismatch(run(head, rows, "exact").outputs, reference_outputs(network.head(layers), rows)) < 1e-5


def test_few_samples_of_many_partitions_are_merged_in_a_graph(rng, rows):
    network = dying(rng)
    expected = run(network, rows, "none", kernel="csr")
    result = run(network, rows, "dynamic", kernel="csr", partitions=10)
    assert result.plan.merged == 1
    assert any(event.partition == 10 for event in result.events)
    assert_same(result, expected)


# How they are drawn.


def expected_edges(network, partitions):
    name = lambda source: "input" if source == INPUT else f"layer {source + 1}"  # noqa: E731
    pairs = {(name(s), name(n)) for n, read in enumerate(network.wiring.sources) for s in read}
    pairs.add((name(len(network) - 1), "output"))
    return {(f"{a}, {p}", f"{b}, {p}") for p in range(partitions) for a, b in pairs}


@pytest.mark.parametrize("make", GRAPHS)
def test_the_logical_graph_has_an_edge_for_each_source(make, rng, rows):
    network = make(rng)
    view = make_view(tg.infer(network, rows, partitions=2, reductions="none").plan, "logical")
    assert set(view.edges) == expected_edges(network, 2)
    assert len(view.edges) == len(set(view.edges))


def test_every_format_has_the_edges_of_a_graph(rng, rows, tmp_path):
    network = branches(rng)
    plan = tg.infer(network, rows, partitions=2, reductions="none").plan
    expected = expected_edges(network, 2)
    files = {suffix: tmp_path / f"graph{suffix}" for suffix in (".json", ".graphml", ".dot", ".mmd", ".svg", ".html")}
    for file in files.values():
        write_graph(plan, file, view="logical", layout="grid" if file.suffix == ".svg" else "auto")
    found = networkx.node_link_graph(json.loads(files[".json"].read_text()), edges="edges")
    assert set(found.edges) == expected
    assert set(networkx.read_graphml(files[".graphml"]).edges) == expected
    for suffix, arrow in ((".dot", "->"), (".mmd", "-->"), (".svg", 'class="edge"')):
        assert files[suffix].read_text().count(arrow) == len(expected), suffix
    page = files[".html"].read_text()
    graph = json.JSONDecoder().raw_decode(page, page.index('{"title":'))[0]
    names = [node[0] for node in graph["nodes"]]
    assert {(names[a], names[b]) for a, b in graph["edges"]} == expected


def test_the_tasks_of_a_graph_are_its_spans(rng, rows):
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        inference = tg.infer(residual(rng), rows, partitions=2, reductions="none")
    token, stops = inference.token, [1, 3, 5, 7, 9, 10]
    keys = {key[1:] for key in inference.__dask_graph__() if key[0] == f"layers-{token}"}
    assert keys == {(stop, partition) for stop in stops for partition in range(2)}
    view = make_view(inference.plan, "tasks")
    assert len(view.edges) == 2 * (len(stops) + 1)


# How they are kept.


@pytest.mark.parametrize("make", GRAPHS)
def test_a_packed_graph_is_the_same_graph(make, rng, rows, tmp_path):
    network = make(rng)
    tg.write_packed(network, tmp_path / "graph.safetensors")
    packed = tg.read_packed(tmp_path / "graph.safetensors", verify=True)
    assert (packed.digest, packed.wiring) == (network.digest, network.wiring)
    assert packed.source.open() is packed
    assert_same(run(packed, rows, "dynamic", kernel="csr"), run(network, rows, "none", kernel="csr"))


def test_the_head_of_a_packed_graph(rng, rows, tmp_path):
    network = residual(rng)
    tg.write_packed(network, tmp_path / "graph.safetensors")
    head = tg.read_packed(tmp_path / "graph.safetensors", 5)
    assert head.digest == network.head(5).digest == head.source.open().digest
    assert mismatch(tg.infer(head, rows).compute().outputs, reference_outputs(network.head(5), rows)) < 1e-5
    tg.write_packed(branches(rng), tmp_path / "branches.safetensors")
    with pytest.raises(FileError, match="branches.*: no network ends after layer 3: only later layers read layer 2"):
        tg.read_packed(tmp_path / "branches.safetensors", 3)


def test_files_of_chains_say_nothing_of_sources(rng, tmp_path):
    chain, graph = tg.radixnet(64, 6), residual(rng)
    for name, network in (("chain", chain), ("graph", graph)):
        tg.write_packed(network, tmp_path / f"{name}.safetensors")
    assert "sources" not in _metadata(tmp_path / "chain.safetensors")["layers"]
    described = json.loads(_metadata(tmp_path / "graph.safetensors")["layers"])
    assert [layer.get("sources") for layer in described[:4]] == [None, None, [1, 0], None]


def _metadata(path):
    with safetensors.safe_open(path, "numpy") as file:
        return file.metadata()


@pytest.mark.parametrize("sources", ["12", [0.5], [[0]], 7])
def test_damaged_sources_of_a_file_are_refused(sources, rng, tmp_path):
    from taskgraph_dnn.io.described import described_layers, seal

    tg.write_packed(residual(rng), tmp_path / "graph.safetensors")
    metadata = _metadata(tmp_path / "graph.safetensors")
    layers = json.loads(metadata["layers"])
    layers[2]["sources"] = sources
    metadata["layers"] = json.dumps(layers)
    with pytest.raises(FileError, match="was changed: it has the seal"):
        described_layers(tmp_path, metadata)
    with pytest.raises(FileError, match="does not describe its layers"):
        described_layers(tmp_path, metadata | {"seal": seal(metadata)})


@pytest.mark.parametrize("write", [tg.write_challenge_network, tg.write_matrix_market])
def test_formats_that_hold_layers_alone_refuse_a_graph(write, rng, tmp_path):
    layers = [tg.Layer(np.eye(4))] * 2
    network = tg.Network(layers, [(INPUT,), (0,)])
    write(network, tmp_path / "chain")
    added = tg.Network([*layers, with_addition(layers[0], 4)], [(INPUT,), (0,), (1, 0)])
    with pytest.raises(NetworkError, match="layer 3 reads layer 2 and layer 1, not just layer 2, which .* cannot hold"):
        write(added, tmp_path / "graph")
    assert not (tmp_path / "graph").exists()
