"""From `infer` to the result, on this process: against a dense float64 oracle, and as a Dask collection."""

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from dask.callbacks import Callback
from hypothesis import given, settings
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.errors import InputError, KernelError, PlanError
from taskgraph_dnn.events import subscribed
from taskgraph_dnn.graph import InferencePartitions
from taskgraph_dnn.inference import Inference
from taskgraph_dnn.kernels import load_kernel
from taskgraph_dnn.reference import reference_outputs
from tests.conftest import random_layer

KERNELS = ["auto", "tile", "ell", "csr", "quads", "push", "dense", "scipy"]


@pytest.fixture
def network(rng):
    """Rectangular layers, a dense first one, biases of both kinds, a cap, and an identity at the end."""
    return tg.Network(
        [
            random_layer(rng, 30, 20, density=1.0, cap=1.0),
            random_layer(rng, 20, 50, cap=1.0),
            random_layer(rng, 50, 50, bias=-0.05),
            random_layer(rng, 50, 10, activation="identity", bias=0.1),
        ]
    )


@pytest.fixture
def rows(rng):
    return scipy.sparse.random_array((100, 30), density=0.4, rng=rng, format="csr", dtype=np.float32)


def oracle(network, rows):
    """Dense float64, written for this test alone."""
    y = (rows.toarray() if scipy.sparse.issparse(rows) else np.asarray(rows)).astype(np.float64)
    for layer in network:
        y = y @ layer.weights.toarray().astype(np.float64) + layer.bias.astype(np.float64)
        if layer.activation == "relu":
            y = np.maximum(y, 0)
        if layer.cap is not None:
            y = np.minimum(y, layer.cap)
    return y


def equal(a, b):
    return a.shape == b.shape and (a != b).nnz == 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("strategy", ["hybrid", "data", "pipeline"])
@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize("partitions", [1, 3, 16, "auto"])
def test_against_the_oracle(network, rows, kernel, strategy, scheduler, partitions):
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-7}):
        inference = tg.infer(network, rows, partitions=partitions, kernel=kernel, strategy=strategy)
    result = inference.compute(scheduler=scheduler)
    np.testing.assert_allclose(result.outputs.toarray(), oracle(network, rows), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(result.categories, np.flatnonzero(oracle(network, rows).any(axis=1)))


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    samples=st.integers(0, 40),
    partitions=st.integers(1, 50),
    kernel=st.sampled_from(KERNELS),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_random_networks(sizes, samples, partitions, kernel, seed):
    rng = np.random.default_rng(seed)
    network = tg.Network([random_layer(rng, a, b, cap=2.0) for a, b in itertools.pairwise(sizes)])
    rows = scipy.sparse.random_array((samples, sizes[0]), density=0.5, rng=rng, format="csr")
    result = tg.infer(network, rows, partitions=partitions, kernel=kernel).compute(scheduler="synchronous")
    np.testing.assert_allclose(result.outputs.toarray(), oracle(network, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_samples_bits_do_not_depend_on_the_cut(network, rows, kernel):
    whole = tg.infer(network, rows, partitions=1, kernel=kernel, strategy="data").compute().outputs
    for partitions in (2, 7, 100):
        with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
            assert equal(tg.infer(network, rows, partitions=partitions, kernel=kernel).compute().outputs, whole)
    order = np.random.default_rng(1).permutation(100)
    shuffled = tg.infer(network, rows[order], partitions=3, kernel=kernel).compute().outputs
    assert equal(shuffled, whole[order])


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_samples_bits_do_not_depend_on_the_tiles(network, rows, kernel):
    inference = tg.infer(network, rows, partitions=2, kernel=kernel)
    expected = inference.compute().outputs
    for lanes, tiles_at_once in itertools.product((16, 32), (1, 2, 100)):
        plan = replace(inference.plan, lanes=lanes, tiles_at_once=tiles_at_once)
        cut = InferencePartitions(network, inference.expr.inputs, plan, None, (), f"{lanes} {tiles_at_once}", 0, 0)
        assert equal(Inference(cut).compute().outputs, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_float64(network, rows, kernel):
    result = tg.infer(network, rows, partitions=3, kernel=kernel, dtype=np.float64).compute()
    assert (result.outputs.dtype, result.plan.dtype) == (np.float64, "float64")
    np.testing.assert_allclose(result.outputs.toarray(), oracle(network, rows), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("activation", ["leaky_relu", "sigmoid", "tanh", "softmax"])
def test_activations_reach_the_result(rng, rows, activation):
    last = random_layer(rng, 20, 7, activation=activation)
    network = tg.Network([random_layer(rng, rows.shape[1], 20, activation="tanh"), last])
    result = tg.infer(network, rows, partitions=3).compute()
    np.testing.assert_allclose(result.outputs.toarray(), reference_outputs(network, rows), rtol=1e-5, atol=1e-6)


def test_every_form_of_input_gives_the_same(network, rows):
    expected = tg.infer(network, rows).compute().outputs
    dense = rows.toarray()
    forms = [
        scipy.sparse.csr_matrix(rows),
        rows.tocsc(),
        rows.tocoo(),
        dense,
        dense.astype(np.float64),
        np.asfortranarray(dense),
        np.repeat(dense, 2, axis=1)[:, ::2],
        da.from_array(dense, chunks=(33, 30)),
        da.from_array(dense, chunks=(40, 7)),
        da.from_array(dense, chunks=(50, 30)).map_blocks(scipy.sparse.csr_array),
    ]
    for form in forms:
        assert equal(tg.infer(network, form).compute().outputs, expected)


def test_row_chunks_of_a_dask_array_are_the_partitions(network, rows):
    array = da.from_array(rows.toarray(), chunks=((10, 0, 60, 30), 30))
    inference = tg.infer(network, array)
    assert inference.plan.partitions == ((0, 10), (10, 10), (10, 70), (70, 100))
    assert equal(inference.compute().outputs, tg.infer(network, rows).compute().outputs)
    for partitions in range(1, 12):
        asked = tg.infer(network, array, partitions=partitions)
        assert asked.plan.partitions == tg.infer(network, rows, partitions=partitions).plan.partitions
    assert equal(asked.compute().outputs, tg.infer(network, rows).compute().outputs)


def test_a_positive_bias_revives_dead_samples():
    network = tg.Network([tg.Layer(np.eye(3), bias=-5), tg.Layer(np.eye(3), bias=[0, 2, 0], cap=1.0)])
    result = tg.infer(network, np.ones((4, 3))).compute()
    np.testing.assert_array_equal(result.categories, [0, 1, 2, 3])
    np.testing.assert_array_equal(result.outputs.toarray(), [[0, 1, 0]] * 4)


def test_categories_are_sorted_int64_from_0():
    network = tg.Network([tg.Layer(np.eye(2), bias=-1)])
    result = tg.infer(network, np.array([[0, 0], [3, 0], [1, 1], [0, 2]]), partitions=3).compute()
    assert result.categories.dtype == np.int64
    assert result.categories.tolist() == [1, 3]
    assert isinstance(result.outputs, scipy.sparse.csr_array)
    assert result.outputs.dtype == np.float32


@pytest.mark.parametrize("empty", [np.zeros((0, 30)), scipy.sparse.csr_array((0, 30)), da.zeros((0, 30))])
def test_no_samples_give_an_empty_result(network, empty):
    result = tg.infer(network, empty).compute()
    assert result.outputs.shape == (0, 10)
    assert result.categories.size == 0
    assert result.edges_per_second == 0
    assert "0 samples" in repr(result)


# Times and events.


def test_seconds_and_rate(network, rows):
    inference = tg.infer(tg.Network(network.layers, read_seconds=2.5), rows, partitions=2)
    result = inference.compute()
    assert result.seconds.read == 2.5
    assert result.seconds.prepare > 0
    starts, ends = [e.start for e in result.events], [e.end for e in result.events]
    prepared = sum(e.prepare_seconds for e in result.events)
    assert max(ends) - min(starts) - prepared <= result.seconds.infer <= max(ends) - min(starts)
    assert result.seconds.infer > 0
    assert result.edges == 100 * network.nnz
    assert result.edges_per_second == result.edges / result.seconds.infer
    assert "read 2.5 s, prepare" in str(result.seconds)


def test_no_tasks_last_no_time(network):
    result = tg.infer(network, np.empty((0, network.inputs), np.float32)).compute()
    assert result.planned_tasks == result.true_tasks == (0, 0)


def test_reading_is_counted_with_the_network_and_the_samples(network, rows):
    rows.read_seconds = 0.25
    assert tg.infer(tg.Network(network.layers, read_seconds=2.5), rows).compute().seconds.read == 2.75


def test_events_say_what_a_task_did(network, rows):
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        result = tg.infer(network, rows, partitions=2, reductions="none").compute()
    assert [e.multiply_adds for e in result.events[:4]] == [50 * layer.nnz for layer in network]
    assert [e.nbytes for e in result.events[:3]] == [4 * 64 * layer.outputs for layer in network.layers[:3]]
    assert {e.samples for e in result.events} == {50}
    first = reference_outputs(network.head(1), rows[:50])
    assert [result.events[0].alive, result.events[3].alive] == [
        np.count_nonzero(first.any(axis=1)),
        np.count_nonzero(result.categories < 50),
    ]
    assert all(e.end - e.start >= e.seconds >= 0 for e in result.events)
    assert result.true_tasks.longest == max(e.seconds for e in result.events)
    assert result.true_tasks.median == np.median([e.seconds for e in result.events])
    assert result.planned_tasks.longest == result.plan.longest_task_seconds > result.planned_tasks.median
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        assert {e.run for e in result.events} == {tg.infer(network, rows, partitions=2, reductions="none").token}


def test_a_subscriber_that_fails_does_not_break_the_run(network, rows, caplog):
    def fail(event):
        raise BrokenPipeError

    with subscribed(fail):
        tg.infer(network, rows).compute()
    assert "a subscriber to task events failed" in caplog.text


def test_a_task_leaves_what_it_was_given_alone(network, rows):
    """Dask may hand the result of a task to another one, or to the same again after a failure."""
    from taskgraph_dnn.flow import Span
    from taskgraph_dnn.reductions.names import DYNAMIC
    from taskgraph_dnn.spans import run_span

    def span(first, stop):
        return Span("run", 0, 0, first, stop, ("scipy",) * (stop - first), 16, 2, "float32", DYNAMIC)

    square = tg.Network([tg.Layer(np.eye(30), bias=0.5)] * 6)
    given = run_span(rows, square, span(0, 1))
    before = given.activations.values.copy()
    first = run_span(given, square, span(1, 6))
    np.testing.assert_array_equal(given.activations.values, before)
    assert equal(first.outputs, run_span(given, square, span(1, 6)).outputs)


def test_each_layer_of_each_partition_is_done_once(network, rows):
    seen = []
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        inference = tg.infer(network, rows, partitions=3, reductions="none")
    with subscribed(seen.append):
        result = inference.compute()
    done = [(e.partition, layer) for e in result.events for layer in range(e.first_layer, e.last_layer + 1)]
    assert sorted(done) == [(p, layer) for p in range(3) for layer in range(1, 5)]
    assert done == sorted(done)
    assert sorted(map(repr, seen)) == sorted(map(repr, result.events))
    assert len(result.events) == inference.plan.tasks
    assert result.multiply_adds == result.edges
    tg.infer(network, rows).compute()
    assert len(seen) == len(result.events)


def test_a_layer_is_packed_once(network, rows, monkeypatch):
    from taskgraph_dnn import spans
    from taskgraph_dnn.kernels import load_kernel

    scipy_kernel, packed = load_kernel("scipy"), []

    def pack(layer, dtype):
        packed.append((layer, threading.get_ident()))
        time.sleep(0.05)  # long enough for the other threads to want it too
        return scipy_kernel.pack(layer, dtype)

    counting = replace(scipy_kernel, pack=pack)
    monkeypatch.setattr(spans, "load_kernel", lambda name: counting)
    result = tg.infer(network, rows, partitions=8, kernel="scipy").compute(num_workers=8)
    assert result.seconds.prepare >= sum(event.prepare_seconds for event in result.events) >= 4 * 0.05
    assert result.seconds.infer < result.seconds.prepare
    assert len(packed) == len({id(layer) for layer, _ in packed}) == 4


# Dask's collection protocol.


def test_it_is_a_dask_collection(network, rows):
    inference = tg.infer(network, rows, partitions=3)
    assert dask.is_dask_collection(inference)
    assert repr(inference) == "Inference(100 samples, 4 layers, 3 partitions)"
    keys = inference.__dask_keys__()
    assert len(keys) == 3
    assert set(keys) <= set(inference.__dask_graph__())
    from dask._expr import Expr
    from dask.highlevelgraph import HighLevelGraph

    assert isinstance(inference.expr, Expr)
    assert not isinstance(inference.__dask_graph__(), HighLevelGraph)


def test_nothing_runs_before_compute(network, rows):
    seen = []
    with subscribed(seen.append):
        inference = tg.infer(network, rows)
        repr(inference), str(inference.plan), inference.__dask_graph__()
    assert not seen


def test_equal_inputs_give_equal_keys(network, rows):
    def keys(n, x, **options):
        return tg.infer(n, x, **options).__dask_keys__()

    twin = tg.Network([tg.Layer(y.weights, bias=y.bias, activation=y.activation, cap=y.cap) for y in network])
    assert keys(network, rows) == keys(twin, rows.copy())
    array = da.from_array(rows.toarray(), chunks=(40, 30))
    assert keys(network, array) == keys(twin, da.from_array(rows.toarray(), chunks=(40, 30)))
    other = rows.copy()
    other.data[0] += 1
    different = [
        keys(network, rows),
        keys(network, other),
        keys(network.head(3), rows),
        keys(network, rows, partitions=5),
        keys(network, rows, kernel="scipy"),
        keys(network, array),
    ]
    assert len({k[0][0] for k in different}) == len(different)
    assert dask.tokenize.tokenize(tg.infer(network, rows)) == dask.tokenize.tokenize(tg.infer(twin, rows))


def test_two_collections_compute_at_once(network, rows):
    a, b = tg.infer(network, rows, partitions=2), tg.infer(network.head(2), rows)
    first, second = dask.compute(a, b)
    assert equal(first.outputs, a.compute().outputs)
    assert equal(second.outputs, b.compute().outputs)
    nested = dask.compute({"both": [a, b]})[0]["both"]
    assert equal(nested[1].outputs, second.outputs)


def test_persist_runs_once(network, rows):
    seen = []
    with subscribed(seen.append):
        persisted = tg.infer(network, rows, partitions=3).persist()
        ran = len(seen)
        result = persisted.compute()
    assert ran == len(seen) == 3
    assert isinstance(persisted, tg.Inference)
    assert equal(result.outputs, tg.infer(network, rows).compute().outputs)
    (again,) = dask.persist(persisted)
    assert equal(again.compute().outputs, result.outputs)


def test_dask_optimize_and_graph_manipulation(network, rows):
    from dask.graph_manipulation import wait_on  # clone and bind do not know tasks of today's specification

    expected = tg.infer(network, rows).compute().outputs
    for samples in (rows, da.from_array(rows.toarray(), chunks=(30, 30))):
        inference = tg.infer(network, samples)
        (optimized,) = dask.optimize(inference)
        assert equal(optimized.compute().outputs, expected)
        assert equal(wait_on(inference).compute().outputs, expected)


def test_empty_inferences_stay_apart(network):
    empty = np.zeros((0, 30))
    a, b = tg.infer(network, empty).persist(), tg.infer(network.head(2), empty).persist()
    assert [result.outputs.shape for result in dask.compute(a, b)] == [(0, 10), (0, 50)]


def test_it_works_inside_other_dask_graphs(network, rows):
    counted = dask.delayed(lambda result: len(result.categories))(tg.infer(network, rows))
    assert counted.compute() == 100


def test_it_pickles(network, rows):
    inference = pickle.loads(pickle.dumps(tg.infer(network, rows, partitions=2)))
    assert inference.__dask_keys__() == tg.infer(network, rows, partitions=2).__dask_keys__()
    assert equal(inference.compute().outputs, tg.infer(network, rows).compute().outputs)


def test_process_scheduler_of_dask(network, rows):
    result = tg.infer(network, rows, partitions=2).compute(scheduler="processes", num_workers=2)
    assert equal(result.outputs, tg.infer(network, rows).compute().outputs)


def test_settings_come_from_dasks_configuration(network, rows):
    with dask.config.set({"taskgraph-dnn.kernel": "scipy", "taskgraph-dnn.partitions": 5}):
        plan = tg.infer(network, rows).plan
    assert plan.layers[0].kernel == "scipy"
    assert len(plan.partitions) == 5
    with dask.config.set(num_workers=7):
        assert tg.infer(network, rows).plan.threads == 7


# Bad input, before any task is made.


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel": "cuda"}, KernelError, "unknown kernel 'cuda', expected one of auto, tile, ell, csr"),
        ({"strategy": "zigzag"}, PlanError, "unknown strategy 'zigzag', expected one of hybrid, data, pipeline"),
        ({"partitions": 0}, PlanError, "partitions is 0, expected a whole number of at least 1"),
        ({"partitions": -1}, PlanError, "partitions is -1"),
        ({"partitions": "some"}, PlanError, "partitions is 'some'"),
    ],
)
def test_wrong_options(network, rows, options, error, message):
    with pytest.raises(error, match=message):
        tg.infer(network, rows, **options)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.ones((2, 31)), "samples are 31 values wide, but the network has 30 inputs"),
        (scipy.sparse.csr_array((2, 29)), "samples are 29 values wide, but the network has 30 inputs"),
        (da.ones((2, 31)), "samples are 31 values wide, but the network has 30 inputs"),
        (da.ones(30), r"samples are a Array of shape \(30,\), expected a 2-D Dask array"),
        (da.ones((2, 30), dtype=complex), "samples are of type complex128, expected real numbers"),
        (da.ones((2, 30), dtype="U1"), "samples are of type <U1, expected real numbers"),
        (dask.delayed(np.ones)((2, 30)), "samples are a Delayed, expected a 2-D Dask array"),
        (np.ones(30), "expected 2 dimensions"),
        (np.full((1, 30), np.nan), "sample 0, input 0 is nan"),
    ],
)
def test_wrong_samples(network, samples, message):
    with pytest.raises(InputError, match=message):
        tg.infer(network, samples)


def test_unknown_chunks_are_refused(network):
    array = da.ones((10, 30), chunks=(5, 30))
    with pytest.raises(InputError, match="chunks of unknown size"):
        tg.infer(network, array[array[:, 0] > 0])


def test_a_block_of_fewer_rows_than_declared_is_refused(network):
    array = da.map_blocks(lambda block: block[:5], da.ones((20, 30), chunks=(10, 30)), dtype=float)
    with pytest.raises(InputError, match="the block that begins at sample 1?0 has 5 rows, expected 10"):
        tg.infer(network, array).compute()


def test_a_wrong_block_of_a_dask_array_names_the_sample(network, rows):
    dense = rows.toarray()
    dense[77, 3] = np.inf
    with pytest.raises(InputError, match="sample 77, input 3 is inf"):
        tg.infer(network, da.from_array(dense, chunks=(20, 30))).compute()


def test_something_else_than_a_network_is_refused(rows):
    with pytest.raises(InputError, match="network is a list, expected a Network"):
        tg.infer([np.eye(3)], rows)


ARRAY_EXPRESSIONS = """
import dask
dask.config.set({"array.query-planning": True})
import dask.array as da, numpy as np, taskgraph_dnn as tg
rows = np.random.default_rng(0).random((100, 30), dtype=np.float32)
array = lambda: da.from_array(rows, chunks=(30, 10)) * 2
assert hasattr(array(), "expr")
network = tg.Network([tg.Layer(np.eye(30), bias=-0.1)])
inference, expected = tg.infer(network, array()), tg.infer(network, 2 * rows).compute().outputs
assert inference.__dask_keys__() == tg.infer(network, array()).__dask_keys__()
for found in (inference, inference.persist(), tg.infer(network, array(), partitions=7)):
    assert (found.compute().outputs != expected).nnz == 0
assert (dask.compute(inference, array().sum())[0].outputs != expected).nnz == 0
"""


def test_dask_arrays_that_are_expressions():
    # In a process of its own: Dask chooses the kind of array when it is imported.
    subprocess.run([sys.executable, "-W", "error", "-c", ARRAY_EXPRESSIONS], check=True)


def test_an_interrupted_run_ends_at_the_next_layer(monkeypatch):
    """Python waits for its threads at exit: a task must not go on through all its layers."""
    computed, still = [], threading.Event()

    def run(packed, inputs, outputs, alive):
        computed.append(1)
        if len(computed) == 3:
            time.sleep(0.5)  # the main thread is to wait by now: CPython misses a signal that comes just before it does
            os.kill(os.getpid(), signal.SIGINT)
            still.wait(10)  # until the interrupt has reached `compute`
        outputs[...], alive[...] = inputs, True

    slow = replace(load_kernel("scipy"), name="slow", pack=lambda layer, dtype: layer, run=run)
    monkeypatch.setattr("taskgraph_dnn.spans.load_kernel", lambda name: slow)
    layers = tg.Network([tg.Layer(np.eye(4), bias=0.5)] * 100)
    inference = tg.infer(layers, np.ones((8, 4)), partitions=1, strategy="data", reductions="none", kernel="scipy")
    with pytest.raises(KeyboardInterrupt):
        inference.compute(scheduler="threads")
    still.set()
    for _ in range(100):
        time.sleep(0.01)
    assert len(computed) == 3
    assert len(inference.compute(scheduler="threads").categories) == 8  # another try is not given up
    assert len(computed) == 103


def test_a_run_on_threads_has_no_task_but_the_plans(network, rng):
    """Partitions are joined by whoever waits for them; `dask.compute` has a task for that."""
    inference = tg.infer(network, rng.random((90, 30), np.float32), partitions=3, strategy="data")
    ran = []
    with Callback(pretask=lambda key, graph, state: ran.append(key)):
        result = inference.compute()
        assert len(ran) == len(set(ran)) == inference.plan.tasks == len(result.events) == 3
        assert_same_outputs(dask.compute(inference)[0], result)
    assert len(ran) == 2 * inference.plan.tasks + 1


def test_the_joined_outputs_are_in_order_as_they_say(network, rng):
    """Nobody has to look through all of them to sort them."""
    distinct = tg.infer(network, rng.random((90, 30), np.float32), partitions=4).compute().distinct
    arrays = distinct.data, distinct.indices, distinct.indptr
    assert distinct.has_sorted_indices
    assert scipy.sparse.csr_array(arrays, shape=distinct.shape).has_canonical_format


def assert_same_outputs(found, expected):
    np.testing.assert_array_equal(found.outputs.toarray(), expected.outputs.toarray())
