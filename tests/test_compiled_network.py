"""Networks as plain functions: the bits of `infer`, from any thread, for any number of samples."""

import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import scipy.sparse

import taskgraph_dnn as tg
from taskgraph_dnn.errors import InputError, KernelError, PlanError
from taskgraph_dnn.spare import SPARE
from tests.conftest import random_layer
from tests.test_inference import oracle

KERNELS = ["tile", "ell", "csr", "quads", "push", "dense", "scipy"]


@pytest.fixture
def network(rng):
    layers = [
        random_layer(rng, 30, 40),
        random_layer(rng, 40, 40, cap=1.0),
        random_layer(rng, 40, 7, activation="identity"),
    ]
    return tg.Network(layers)


@pytest.fixture
def rows(rng):
    return rng.random((100, 30), dtype=np.float32)


def dense(network, rows, **options):
    return tg.infer(network, rows, **options).compute(scheduler="synchronous").outputs.toarray()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("batch", [1, 64])
def test_bits_are_those_of_infer(network, rows, kernel, batch):
    model = tg.compile(network, batch=batch, kernel=kernel)
    assert kernel in {layer.kernel for layer in model.plan.layers}
    for count in (1, 5, 64, 100):
        np.testing.assert_array_equal(model(rows[:count]), dense(network, rows[:count], kernel=kernel))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_against_the_oracle(network, rows, dtype):
    model = tg.compile(network, batch=8, dtype=dtype)
    assert (model.inputs, model.outputs) == (30, 7)
    found = model(rows)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, oracle(network, rows), rtol=1e-5, atol=1e-5)


def test_one_sample_may_come_as_a_vector_and_several_as_any_matrix(network, rows):
    model = tg.compile(network)
    np.testing.assert_array_equal(model(rows[0]), model(rows[:1])[0])
    np.testing.assert_array_equal(model(scipy.sparse.csr_array(rows)), model(rows))
    np.testing.assert_array_equal(model(rows.astype(np.float64)), model(rows))
    np.testing.assert_array_equal(model(rows.tolist()), model(rows))
    assert model(rows[:0]).shape == (0, 7)


def test_an_answer_is_the_callers_own(network, rows):
    model = tg.compile(network, batch=4)
    first = model(rows[:4])
    kept = first.copy()
    model(rows[4:8])
    np.testing.assert_array_equal(first, kept)


def test_a_reduced_network_gives_all_outputs(rng, rows):
    weights = rng.standard_normal((30, 3))
    first = tg.Layer(np.hstack([weights, weights, np.zeros((30, 2))]), bias=[0.1] * 6 + [-1.0] * 2)
    last = tg.Layer(np.eye(8))
    network = tg.Network([first, last])
    model = tg.compile(network, reductions="exact")
    assert model.plan.layers[0].outputs < 8
    assert model.outputs == 8
    np.testing.assert_allclose(model(rows), oracle(network, rows), rtol=1e-5, atol=1e-5)


def test_a_network_that_is_a_graph(rng, rows):
    layers = [random_layer(rng, 30, 20), random_layer(rng, 20, 20), random_layer(rng, 50, 6)]
    network = tg.Network(layers, [(-1,), (0,), (1, -1)])
    expected = dense(network, rows, kernel="csr")
    for _ in range(2):
        np.testing.assert_array_equal(tg.compile(network, batch=16, kernel="csr")(rows), expected)


def test_many_threads_may_call_it(network, rows):
    model, wrong = tg.compile(network, batch=16, kernel="csr"), []
    expected = [model(rows[first : first + 10]) for first in range(90)]
    barrier = threading.Barrier(6)

    def call(offset):
        barrier.wait(30)
        for turn in range(200):
            first = (7 * turn + offset) % 90
            if not np.array_equal(model(rows[first : first + 10]), expected[first]):
                wrong.append(first)

    threads = [threading.Thread(target=call, args=(13 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong


def test_runs_of_infer_at_the_same_time_leave_its_buffers_alone(network, rows):
    model = tg.compile(network, batch=100, kernel="csr")
    expected = model(rows)
    running = threading.Thread(target=lambda: [dense(network, rows, partitions=4) for _ in range(20)])
    running.start()
    found = []
    while running.is_alive():
        found.append(np.array_equal(model(rows), expected))
    running.join(60)
    assert all(found)


def test_nothing_is_made_anew_in_a_call(network, rows, monkeypatch):
    model = tg.compile(network, batch=32, kernel="csr")
    expected = [model(rows[:count]) for count in (32, 31, 20, 16)]
    monkeypatch.setattr("taskgraph_dnn.segments.Passage.through", lambda *_: pytest.fail("calls are not written down"))
    for answer in expected:
        np.testing.assert_array_equal(model(rows[: len(answer)]), answer)


def test_batches_of_all_sizes_share_the_buffers_of_the_largest(network, rows, monkeypatch):
    lent, borrow = [], SPARE.borrow
    monkeypatch.setattr(SPARE, "borrow", lambda shape, dtype: lent.append(shape) or borrow(shape, dtype))
    model = tg.compile(network, batch=100, kernel="csr")
    made = len(lent)
    assert made
    for count in range(1, 101):
        np.testing.assert_array_equal(model(rows[:count])[-1], model(rows[count - 1]))
    assert len(lent) == made


def test_a_copy_in_another_process_gives_the_same(network, rows):
    model = tg.compile(network, batch=10, kernel="csr")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(rows), model(rows))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(model, rows).result(timeout=120), model(rows))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_it_can_be_called_after_a_fork(network, rows):
    model = tg.compile(network, batch=10, kernel="csr")
    expected = model(rows)
    child = os.fork()
    if not child:
        same = False
        try:
            same = np.array_equal(model(rows), expected)
        finally:
            os._exit(not same)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(model(rows), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[::2, ::-1],
        np.asfortranarray,
        lambda rows: (rows * 100).astype(np.int16),
        lambda rows: rows > 0.5,
        lambda rows: rows.astype(np.float16),
        lambda rows: scipy.sparse.coo_matrix(rows > 0.5),
        lambda rows: scipy.sparse.csr_array(rows * (rows > 0.5))[:37],
    ],
    ids=["strided", "fortran", "integers", "booleans", "halves", "coo", "csr"],
)
@pytest.mark.parametrize("kernel", ["csr", "push"])
def test_arrays_of_any_kind_give_what_infer_gives(network, rows, change, kernel):
    samples = change(rows)
    for batch in (1, 7, 64):
        found = tg.compile(network, batch=batch, kernel=kernel)(samples)
        np.testing.assert_array_equal(found, dense(network, samples, kernel=kernel))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.ones((2, 31)), "samples are 31 values wide, but the network has 30 inputs"),
        (np.ones(29), "samples are 29 values wide"),
        (np.full((1, 30), np.nan), "sample 0, input 0 is nan"),
    ],
)
def test_wrong_samples_are_refused(network, samples, message):
    with pytest.raises(InputError, match=message):
        tg.compile(network)(samples)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch": 0}, PlanError, "batch is 0, expected a whole number of at least 1"),
        ({"kernel": "cuda"}, KernelError, "unknown kernel 'cuda'"),
        ({"dtype": "int8"}, PlanError, "dtype is 'int8'"),
    ],
)
def test_wrong_options_are_refused(network, options, error, message):
    with pytest.raises(error, match=message):
        tg.compile(network, **options)


def test_something_else_than_a_network_is_refused():
    with pytest.raises(InputError, match="network is a list, expected a Network"):
        tg.compile([np.eye(3)])
