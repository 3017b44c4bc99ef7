"""Runs with and without reductions, from `infer` to the result: equal bits, less work, and all of it accounted for."""

from dataclasses import replace
from itertools import pairwise

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from distributed import Client

import taskgraph_dnn as tg
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.graph import InferencePartitions
from taskgraph_dnn.inference import Inference
from taskgraph_dnn.reductions.names import DYNAMIC, EXACT, chosen_reductions
from taskgraph_dnn.reductions.static import STATIC
from tests.conftest import random_layer

KERNELS = ["auto", "csr", "quads", "tile", "ell", "scipy", "dense"]
CHOICES = [*DYNAMIC, "dead-samples,merge-partitions", "duplicate-samples,fixed-point", "dynamic"]


def radixnet(rng):
    return tg.radixnet(64, 30, seed=1), tg.digit_images(samples=150, neurons=64, seed=1)


def capped(rng):
    """Negative weights, caps, no layer of the shape of the next one."""
    sizes = [30, 40, 25, 40, 40, 20]
    layers = [random_layer(rng, a, b, density=0.6, cap=1.5) for a, b in pairwise(sizes)]
    return tg.Network(layers), scattered(rng, 150, 30)


def reviving(rng):
    """Everything dies in the third layer, and lives again after the fifth; then most of it dies."""
    layers = [tg.Layer(rng.random((20, 20)), bias=-1 - 3 * (n == 2) * 20) for n in range(4)]
    layers += [tg.Layer(rng.random((20, 20)), bias=np.where(np.arange(20) == 7, 0.5, -0.1))]
    layers += [tg.Layer(rng.random((20, 20)), bias=-0.2) for _ in range(3)]
    return tg.Network(layers), scattered(rng, 150, 20)


def activated(rng):
    """One layer of each activation."""
    kinds = ["identity", "leaky_relu", "relu", "sigmoid", "tanh", "softmax"]
    return tg.Network([random_layer(rng, 25, 25, activation=kind) for kind in kinds]), scattered(rng, 100, 25)


def saturating(rng):
    """Living samples go to the cap, stay there, are thrown off it, and go back."""
    up, down = rng.random((24, 24)), rng.random((24, 24)) * 0.1
    layers = [tg.Layer(up, bias=-0.5 * (n < 3), cap=1.0) for n in range(6)]
    layers += [tg.Layer(down, bias=-0.3, cap=1.0)] * 2 + [tg.Layer(up, cap=1.0)] * 6
    return tg.Network(layers), scattered(rng, 200, 24, 0.1)


def contracting(rng):
    """One layer again and again: x / 2 + 1 comes to 2 and stays."""
    return tg.Network([tg.Layer(np.eye(16) / 2, bias=1)] * 40), scattered(rng, 100, 16)


def cycling(rng):
    """One layer again and again that swaps pairs of neurons, and turns triples: only equal ones are fixed points."""
    swapped = scipy.sparse.block_diag([np.eye(2)[::-1]] * 3 + [np.roll(np.eye(3), 1, axis=0)] * 2)
    rows = scattered(rng, 120, 12)
    rows[:40, 1::2] = rows[:40, 0:12:2]
    rows[20:60, 6:] = 3
    return tg.Network([tg.Layer(swapped, activation="identity")] * 25), rows


def repeated(rng):
    """Few different samples, many times."""
    layers = [random_layer(rng, 20, 20, density=0.7, cap=4.0) for _ in range(8)]
    return tg.Network(layers), scattered(rng, 7, 20)[rng.integers(0, 7, 200)]


def overflowing(rng):
    """Infinities arise, and nan where they meet; other samples stay as they are."""
    layers = [tg.Layer(random_layer(rng, 20, 20, density=0.5).weights * 1e13, activation="identity") for _ in range(4)]
    rows = scattered(rng, 100, 20)
    rows[::2] = 0
    return tg.Network([*layers, tg.Layer(np.eye(20)), tg.Layer(np.eye(20), cap=1.0)]), rows


NETWORKS = [radixnet, capped, reviving, activated, saturating, contracting, cycling, repeated, overflowing]


def scattered(rng, samples, inputs, density=0.4):
    return np.where(rng.random((samples, inputs)) < density, rng.random((samples, inputs)), 0).astype(np.float32)


def run(network, rows, reductions, *, lanes=None, tiles_at_once=None, scheduler="synchronous", seconds=1e-7, **options):
    """Compute with short spans, and with tiles and blocks of these sizes."""
    with dask.config.set({"taskgraph-dnn.task-seconds": seconds}):
        inference = tg.infer(network, rows, reductions=reductions, **options)
    plan = inference.plan
    if lanes is not None:
        plan = replace(plan, lanes=lanes, tiles_at_once=tiles_at_once, few=plan.few and lanes // 4)
        expr = InferencePartitions(network, inference.expr.inputs, plan, None, (), str((lanes, tiles_at_once)), 0, 0)
        inference = Inference(expr)
    return inference.compute(scheduler=scheduler)


def assert_same(result, expected):
    """Equal bits, nan included."""
    found, wanted = result.outputs, expected.outputs
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found.indptr, wanted.indptr)
    np.testing.assert_array_equal(found.indices, wanted.indices)
    assert found.data.tobytes() == wanted.data.tobytes()
    np.testing.assert_array_equal(result.categories, expected.categories)


def assert_accounted(result, network):
    """In every layer, what was done and what was left out is samples x edges; nobody is counted who is not there."""
    assert [counts.layer for counts in result.layers] == list(range(1, len(network) + 1))
    for counts, layer in zip(result.layers, network, strict=True):
        assert counts.done + counts.skipped == result.samples * layer.nnz
        assert min(counts.done, counts.skipped, counts.alive, counts.distinct) >= 0
        assert max(counts.alive, counts.distinct) <= result.samples
    assert result.multiply_adds == sum(counts.done for counts in result.layers) <= result.edges


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_bit_depends_on_reductions(make, kernel, rng, eager):
    network, rows = make(rng)
    expected = run(network, rows, "none", kernel=kernel, strategy="data", partitions=1)
    assert_accounted(expected, network)
    cuts = [
        {"partitions": 1, "strategy": "data"},
        {"partitions": 7, "lanes": 16, "tiles_at_once": 1},
        {"partitions": 2, "lanes": 32, "tiles_at_once": 2},
    ]
    for number, reductions in enumerate(["none", *CHOICES]):
        result = run(network, rows, reductions, kernel=kernel, **cuts[number % 3])
        assert_same(result, expected)
        assert_accounted(result, network)
        assert [counts.alive for counts in result.layers] == [counts.alive for counts in expected.layers], reductions


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_bit_depends_on_the_cut(make, dtype, rng, eager):
    network, rows = make(rng)
    expected = run(network, rows, "none", kernel="csr", dtype=dtype, partitions=1)
    for partitions in range(1, 8):
        for scheduler in ("synchronous", "threads"):
            result = run(
                network, rows, "dynamic", kernel="csr", dtype=dtype, partitions=partitions, scheduler=scheduler
            )
            assert_same(result, expected)
    for lanes, tiles_at_once in ((16, 1), (16, 3), (32, 1), (32, 100)):
        cut = {"lanes": lanes, "tiles_at_once": tiles_at_once, "partitions": 3}
        assert_same(run(network, rows, "dynamic", kernel="csr", dtype=dtype, **cut), expected)


@pytest.mark.parametrize("make", NETWORKS)
def test_no_bit_depends_on_where_it_runs(make, rng):
    """As users run it, nothing made easier: looking has to pay here."""
    network, rows = make(rng)
    expected = tg.infer(network, rows, reductions="none", kernel="csr").compute()
    array = da.from_array(rows.toarray() if scipy.sparse.issparse(rows) else rows, chunks=(40, 7))
    for samples in (rows, array):
        assert_same(tg.infer(network, samples, reductions="dynamic", kernel="csr").compute(), expected)
        assert_same(run(network, samples, "dynamic", kernel="csr", partitions=5), expected)


@pytest.mark.parametrize("make", [radixnet, saturating])
def test_on_processes_and_on_a_cluster(make, rng):
    network, rows = make(rng)
    expected = run(network, rows, "none")
    local = run(network, rows, "dynamic", partitions=5)
    assert_same(run(network, rows, "dynamic", partitions=5, scheduler="processes"), expected)
    with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0"):
        result = run(network, rows, "dynamic", partitions=5, scheduler=None)
    assert_same(result, expected)
    assert result.layers == local.layers


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("samples", [0, 1, 2, "zeros"])
def test_small_and_empty_batches(make, samples, rng, eager):
    network, rows = make(rng)
    rows = 0 * rows if samples == "zeros" else rows[:samples]
    expected = run(network, rows, "none")
    for reductions in CHOICES:
        result = run(network, rows, reductions, partitions=2)
        assert_same(result, expected)
        assert_accounted(result, network)


@pytest.mark.parametrize("make", NETWORKS)
def test_static_reductions_go_with_dynamic_ones(make, rng, eager):
    """Equal to a tolerance: sums of folded neurons are added in another order."""
    network, rows = make(rng)
    with np.errstate(all="ignore"):
        expected = run(network, rows, "none", dtype="float64").outputs.toarray()
        for reductions in ("exact", "duplicate-neurons", "unused-neurons,dead-samples"):
            found = run(network, rows, reductions, dtype="float64", partitions=3).outputs.toarray()
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)


# What is left out, and that it is counted right.


def layer_by_layer(network, rows):
    """The unreduced outputs after each layer, as rows of bytes, and which samples have any."""
    for layers in range(1, len(network) + 1):
        outputs = run(network.head(layers), rows, "none", kernel="csr", partitions=1).outputs.toarray()
        yield outputs, outputs.any(axis=1)


def test_counts_are_those_of_an_oracle(eager):
    """In one block every fold is found: what is carried after a layer is alive, and was distinct before it."""
    network, rows = tg.radixnet(64, 25, seed=2), tg.digit_images(samples=300, neurons=64, seed=2)
    one_block = {"lanes": 32, "tiles_at_once": 100, "partitions": 1, "kernel": "csr", "strategy": "data"}
    result = run(network, rows, "dead-samples,duplicate-samples", **one_block)
    dense = (rows.toarray() > 0).astype(np.float64)
    before, done = np.unique(rows.toarray(), axis=0, return_index=True)[1], []
    for counts, layer, (outputs, alive) in zip(result.layers, network, layer_by_layer(network, rows), strict=True):
        dense = np.clip(dense @ layer.weights.toarray() + layer.bias, 0, layer.cap)
        assert counts.alive == np.count_nonzero(alive) == np.count_nonzero(dense.any(axis=1))
        carried = before[alive[before]]
        assert counts.distinct == carried.size
        done.append(counts.done)
        before = carried[np.unique(outputs[carried], axis=0, return_index=True)[1]]
    assert before.size * network[0].nnz < done[0] <= 300 * network[0].nnz
    assert done[-1] < done[0] / 4
    assert before.size < np.count_nonzero(alive) < 300  # the oracle itself saw both dead and equal samples


def test_far_less_is_done_on_a_radixnet():
    """As users run it: half of the images die soon, and the others come to the cap."""
    network, rows = tg.radixnet(1024, 60, seed=1), tg.digit_images(samples=500, neurons=1024, seed=1)
    result = tg.infer(network, rows, reductions="dynamic").compute()
    assert_same(result, tg.infer(network, rows, reductions="none").compute())
    assert result.edges == 500 * network.nnz
    assert result.multiply_adds < result.edges / 4
    assert result.layers[-1].done == 0
    assert result.layers[-1].alive == len(result.categories)
    assert_accounted(result, network)


@pytest.mark.parametrize("reductions", ["dynamic", "none"])
def test_all_is_done_where_nothing_can_be_left_out(rng, reductions):
    """All samples stay alive and distinct."""
    layers = [random_layer(rng, 32, 32, density=0.8, activation="identity") for _ in range(40)]
    network = tg.Network([tg.Layer(0.2 * y.weights, bias=y.bias, activation="identity") for y in layers])
    rows = rng.random((333, 32), dtype=np.float32)
    result = run(network, rows, reductions, partitions=3)
    for counts, layer in zip(result.layers, network, strict=True):
        assert (counts.alive, counts.distinct) == (333, 333)
        assert (counts.done, counts.skipped) == (333 * layer.nnz, 0)
    assert result.multiply_adds == result.edges


def test_a_fixed_point_ends_the_work(rng, eager):
    network, rows = contracting(rng)
    result = run(network, rows, "fixed-point", partitions=1, strategy="data")
    done = [counts.done for counts in result.layers]
    assert done[0] == 100 * 16
    assert done[-1] == 0
    assert all(counts.alive == counts.distinct == 100 for counts in result.layers)


def test_equal_samples_are_folded_in_equal_layers_too(rng):
    """Looking for samples that repeat themselves leaves some of the budget for that."""
    weights = [rng.standard_normal((256, 256)) / 16 for _ in range(60)]
    rows = scattered(rng, 5, 256)[rng.integers(0, 5, 512)]
    for network in ([tg.Layer(weights[0], activation="tanh")] * 60, [tg.Layer(w, activation="tanh") for w in weights]):
        result = run(tg.Network(network), rows, "dynamic", kernel="csr", partitions=1, strategy="data")
        assert (result.layers[-1].alive, result.layers[-1].distinct) == (512, 5)
        assert result.multiply_adds < result.edges / 2


def test_a_cycle_is_no_fixed_point(rng, eager):
    """Of the pairs and triples that are swapped and turned, only the samples of equal ones settle."""
    network, rows = cycling(rng)
    result = run(network, rows, "fixed-point", partitions=1, strategy="data", lanes=16, tiles_at_once=1)
    equal_pairs = (rows[:, 0:6:2] == rows[:, 1:6:2]).all(axis=1)
    equal_triples = (rows[:, 6:].reshape(-1, 2, 3) == rows[:, 6::3, None]).all(axis=(1, 2))
    fixed = np.count_nonzero(equal_pairs & equal_triples)
    assert 0 < fixed < 60
    assert result.layers[-1].done >= (120 - fixed) * network[0].nnz
    assert result.layers[-1].done < 120 * network[0].nnz


def test_zeros_that_repeat_are_not_alive(eager):
    """Where dead samples are not dropped they come to a fixed point, too."""
    network = tg.Network([tg.Layer(np.eye(8), bias=-0.25)] * 12)
    rows = np.repeat([[1.0], [0.5]], 40, axis=0) * np.ones((1, 8))
    result = run(network, rows, "fixed-point", partitions=1, strategy="data")
    assert [counts.alive for counts in result.layers] == [80, 40, 40] + [0] * 9
    assert result.layers[-1].done == 0


def test_saturated_samples_wait_where_saturation_ends(rng, eager):
    network, rows = saturating(rng)
    result = run(network, rows, "fixed-point", partitions=1, strategy="data")
    done = [counts.done for counts in result.layers]
    assert done[5] < done[0] / 2
    assert done[6] == done[0]  # the layer that throws them off is computed for all
    assert_same(result, run(network, rows, "none"))


# Merged partitions.


def surviving(partitions, of_each=32, every=1):
    """A network and rows of as many partitions: one sample of each, or of every few, lasts, with a value of its own."""
    network = tg.Network([tg.Layer(np.eye(16), bias=-0.125)] * 12)
    rows = np.full((partitions * of_each, 16), 0.2, np.float32)
    rows[:: of_each * every] = 3 + np.arange(-(-partitions // every))[:, None] / 64
    return network, rows


@pytest.mark.parametrize("partitions", [2, 5, 63, 64, 65, 150])
@pytest.mark.parametrize("every", [1, 3])
def test_a_merged_partition_does_the_rest(partitions, every):
    network, rows = surviving(partitions, every=every)
    result = run(network, rows, "dynamic", partitions=partitions, lanes=32, tiles_at_once=8, seconds=1e-9)
    plan = result.plan
    assert plan.merged == -(-partitions // 64)
    assert len(plan.spans) > 2
    first, second = plan.spans[0][1], plan.spans[1][1]
    for event in result.events:
        if event.partition >= partitions:
            members = plan.members(event.partition - partitions)
            assert event.first_layer > first
            if event.first_layer > second:
                assert event.samples == event.alive == sum(member % every == 0 for member in members)
        elif event.first_layer > second:  # both kinds have died: what is left is with the merged ones
            assert (event.samples, event.multiply_adds) == (0, 0)
    merged = [e for e in result.events if e.partition >= partitions and e.last_layer == 12]
    assert len(merged) == plan.merged
    assert sum(event.alive for event in merged) == len(range(0, partitions, every))
    assert len(result.events) == plan.tasks
    expected = run(network, rows, "none", partitions=1)
    assert_same(result, expected)
    assert [counts.alive for counts in result.layers] == [counts.alive for counts in expected.layers]


def test_samples_that_come_later_join_the_merged_partition(rng):
    """Partitions get few at different layers; one never does."""
    network = tg.Network([tg.Layer(np.eye(16), bias=-0.25)] * 20)
    rows = np.concatenate([np.full((32, 16), 0.3 * p) + rng.random((32, 1)) / 8 for p in range(1, 8)]).astype(
        np.float32
    )
    rows[::32] = 6 + rng.random((7, 16))
    rows[-32:] = 9 + rng.random((32, 16))
    expected = run(network, rows, "none", partitions=1)
    for reductions in ("dynamic", "dead-samples,merge-partitions"):
        result = run(network, rows, reductions, partitions=7, lanes=32, tiles_at_once=1, seconds=1e-9)
        assert_same(result, expected)
        joined = [event.samples for event in result.events if event.partition == 7]
        assert (joined[0], joined[-1]) == (0, 6)
        assert len(set(joined)) > 3  # some die there
        own = {e.partition: e.samples for e in result.events if e.last_layer == 20}
        assert own == dict.fromkeys(range(6), 0) | {6: 32, 7: 6}
        assert [c.alive for c in result.layers] == [c.alive for c in expected.layers]


def test_equal_samples_of_other_partitions_are_folded_when_merged(eager):
    network, rows = surviving(40)
    rows[::32] = 3
    result = run(network, rows, "dynamic", partitions=40, lanes=32, tiles_at_once=8, seconds=1e-9)
    assert_same(result, run(network, rows, "none"))
    assert (result.layers[-1].alive, result.layers[-1].distinct) == (40, 1)
    assert result.distinct.shape[0] == 1


def test_partitions_of_a_dask_array_are_merged_too():
    network, rows = surviving(9)
    array = da.from_array(rows, chunks=((32,) * 4 + (0,) + (32,) * 5, 16))
    assert_same(run(network, array, "dynamic"), run(network, rows, "none"))


# Names, and what the plan says of them.


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("exact", EXACT),
        (" dynamic ", DYNAMIC),
        ("none", ()),
        ([], ()),
        ("fixed-point", ("fixed-point",)),
        ("fixed-point, dead-samples", ("dead-samples", "fixed-point")),
        ({"unused-neurons", "fixed-point"}, ("fixed-point", "unused-neurons")),
        (("dead-samples", "dead-samples"), ("dead-samples",)),
    ],
)
def test_reductions_have_names(value, names):
    assert chosen_reductions(value) == names
    assert (*DYNAMIC, *STATIC) == EXACT


@pytest.mark.parametrize("value", ["all", "", "dead_samples", ["dead-samples", "x"], [3], 7, 0.5, True, b"none"])
def test_unknown_reductions_are_refused_with_the_valid_ones(value, rng):
    network = tg.Network([random_layer(rng, 3, 3)])
    with pytest.raises(PlanError, match="expected exact, dynamic, none, or names among dead-samples, .*unused-neurons"):
        tg.infer(network, np.ones((2, 3)), reductions=value)
    with dask.config.set({"taskgraph-dnn.reductions": value}), pytest.raises(PlanError, match="expected exact"):
        tg.infer(network, np.ones((2, 3)))


def test_an_unknown_reduction_is_named():
    with pytest.raises(PlanError, match="unknown reduction 'dead-sample', expected exact"):
        chosen_reductions("fixed-point,dead-sample")


def test_reductions_come_from_dasks_configuration(rng):
    network = tg.radixnet(64, 10, seed=1)
    with dask.config.set({"taskgraph-dnn.reductions": "dead-samples"}):
        assert tg.infer(network, np.ones((2, 64))).plan.reductions == ("dead-samples",)
    assert set(tg.infer(network, np.ones((2, 64))).plan.reductions) == set(EXACT) - {"merge-partitions"}


def notes(network, reductions="dynamic", **options):
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        plan = tg.infer(network, np.ones((100, network.inputs)), reductions=reductions, **options).plan
    assert all(f"{name}: {note}" in str(plan) for name, note in plan.notes)
    assert plan.reductions == tuple(name for name, note in plan.notes if not note.startswith("off"))
    return dict(plan.notes)


def test_the_plan_says_what_each_reduction_finds(rng):
    assert notes(tg.radixnet(64, 10, seed=1), "dynamic", partitions=3) == dict.fromkeys(DYNAMIC, "on")
    assert notes(tg.radixnet(64, 10, seed=1), "none") == {}
    keeping, reviving = tg.Layer(np.eye(4), bias=-1), tg.Layer(2 * np.eye(4), bias=1)
    assert notes(tg.Network([keeping, reviving, keeping]))["dead-samples"] == "on after layer 2"
    found = notes(tg.Network([keeping, reviving]), partitions=1)
    assert found["dead-samples"] == "off: layer 2 does not keep a sample of zeros"
    assert found["fixed-point"] == "off: no layer is known to leave a sample as it is"
    assert found["merge-partitions"] == "off: there is only one partition"
    assert notes(tg.Network([keeping]), partitions=3)["merge-partitions"] == "off: there is only one span of layers"
    assert notes(tg.Network([keeping] * 3), "fixed-point") == {"fixed-point": "on"}


def test_reductions_are_part_of_the_name(rng):
    network, rows = capped(rng)
    tokens = {tg.infer(network, rows, reductions=reductions).token for reductions in ("none", *DYNAMIC[:3], "dynamic")}
    assert len(tokens) == 5


def test_a_run_in_float64_uses_no_weights_that_were_rounded():
    """The third layer's bias is such that the exact sum is just above 0, and the one of rounded weights is not."""
    weight = np.float64(np.float32(0.1))
    bias = np.float32(-40 * 4 * weight)
    layers = [tg.Layer(np.eye(4)), tg.Layer(np.ones((4, 40))), tg.Layer(np.full((40, 2), 0.1), bias=bias)]
    rows = np.ones((3, 4), np.float32)
    found = {name: tg.infer(tg.Network(layers), rows, dtype="float64", reductions=name) for name in ("none", "exact")}
    np.testing.assert_array_equal(found["exact"].compute().outputs.toarray(), found["none"].compute().outputs.toarray())
    assert found["exact"].compute().categories.tolist() == [0, 1, 2]
    assert "rounded" in dict(found["exact"].plan.notes)["duplicate-neurons"]
    assert "duplicate-neurons" in tg.infer(tg.Network(layers), rows).plan.reductions


@pytest.mark.parametrize("value", [["exact"], "none,dead-samples", "dynamic+fixed-point"])
def test_words_stand_alone(value):
    with pytest.raises(tg.PlanError, match="stands alone"):
        tg.infer(tg.Network([tg.Layer([[1]])]), [[1]], reductions=value)
