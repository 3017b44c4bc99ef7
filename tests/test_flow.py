"""How a task takes blocks through its layers: what it looks at, what that may cost, and that nobody is lost."""

from dataclasses import replace

import numpy as np
import pytest

import taskgraph_dnn as tg
from taskgraph_dnn import flow
from taskgraph_dnn.activations import Activations
from taskgraph_dnn.flow import Block, Pool, Span
from taskgraph_dnn.kernels.moves import CALLS, LOOK, PASS
from taskgraph_dnn.reductions.names import DYNAMIC
from taskgraph_dnn.spans import left_over, run_span
from tests.conftest import random_layer
from tests.test_reductions import NETWORKS, assert_same, run, scattered


def span(first, stop, reductions=DYNAMIC, *, lanes=16, tiles_at_once=4, **changes):
    made = Span("run", 0, 0, first, stop, ("csr",) * (stop - first), lanes, tiles_at_once, "float32", tuple(reductions))
    return replace(made, **changes)


def answers(finished, samples):
    """The outputs of all samples of a partition, dense."""
    outputs = np.zeros((samples, finished.outputs.shape[1]), finished.outputs.dtype)
    outputs[finished.samples] = finished.outputs.toarray()
    for folded, twin in finished.twins.T[::-1]:  # from the last fold back to the first
        outputs[folded] = outputs[twin]
    return outputs


def blocks(pool):
    """What is in a pool, samples x neurons."""
    left = pool.activations()
    return left.values.transpose(0, 2, 1).reshape(-1, left.values.shape[1])[: left.samples.size]


def test_nobody_is_lost_where_a_pool_shrinks_at_the_end(rng, eager):
    """Two blocks leave equal samples in one pool; when these are folded they move together once more."""
    network = tg.Network([tg.Layer(rng.random((32, 32)) + 32 * np.eye(32), bias=-40) for _ in range(5)])
    living = np.zeros((64, 32), np.float32)
    living[rng.permutation(64)[:20]] = 1 + 4 * rng.random((20, 32))
    rows = np.concatenate([living, living])
    before = run_span(rows, network, span(0, 1, ()))
    after = run_span(before, network, span(1, 5))
    assert after.samples.size == 20
    assert len(set(np.concatenate([after.samples, after.twins[0]]))) == 127  # one of zeros stood for all those
    expected = run_span(before, network, span(1, 5, ()))
    np.testing.assert_array_equal(answers(after, 128), answers(expected, 128))


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("looks", ["eager", "rng"])
def test_everybody_is_somewhere(make, looks, rng, request):
    """After each span a sample is carried, folded into one that is, or all zero where nothing can revive it."""
    request.getfixturevalue(looks)
    network, rows = make(rng)
    whole = run(network, rows, "none", kernel="csr").outputs.toarray()
    spans = [(0, 2), (2, 3), (3, len(network))]
    for tiles_at_once in (1, 2):
        part = rows
        for first, stop in spans:
            part = run_span(part, network, span(first, stop, tiles_at_once=tiles_at_once))
            here = part.samples if stop == len(network) else part.activations.samples
            folded = part.twins[0]
            assert len(set(here) | set(folded)) == len(here) + len(folded)
        np.testing.assert_array_equal(answers(part, rows.shape[0]), whole)


def test_copies_add_up(rng, eager):
    """Every sample that lives is counted where it is, however often it was folded."""
    network = tg.Network([tg.Layer(np.eye(8), bias=-0.01)] * 6)
    rows = scattered(rng, 5, 8, 1.0)[rng.integers(0, 5, 300)]
    second = run_span(run_span(rows, network, span(0, 2)), network, span(2, 4))
    assert second.activations.copies.sum() == 300
    assert second.activations.samples.size == 5
    assert second.twins.shape == (2, 295)


@pytest.mark.parametrize("make", NETWORKS)
def test_equal_hashes_do_no_harm(make, rng, eager, monkeypatch):
    """Samples are compared before they are folded."""
    look = flow.look

    def colliding(values, samples, threshold):
        hashes, saturated = look(values, samples, threshold)
        return np.zeros_like(hashes), saturated

    network, rows = make(rng)
    expected = run(network, rows, "none")
    monkeypatch.setattr(flow, "look", colliding)
    for reductions in ("duplicate-samples", "dynamic"):
        assert_same(run(network, rows, reductions, partitions=3), expected)


@pytest.mark.parametrize("tied", [False, True])
def test_looking_takes_a_fiftieth_of_the_work_at_most(rng, monkeypatch, tied):
    """On a network without structure, over all layers, tasks and partitions."""
    looked = []
    for name in ("look", "equal"):
        real = getattr(flow, name)

        def counted(values, *arguments, real=real):
            looked.append(values.size)
            return real(values, *arguments)

        monkeypatch.setattr(flow, name, counted)
    weights = [rng.standard_normal((256, 256)) / 16 for _ in range(40)]
    layers = [tg.Layer(weights[0 if tied else n], activation="tanh") for n in range(40)]
    rows = rng.standard_normal((600, 256), dtype=np.float32)
    result = run(tg.Network(layers), rows, "dynamic", partitions=3, kernel="csr")
    assert result.multiply_adds == result.edges
    called = len(result.plan.partitions) * len(layers) * CALLS / 2  # what a layer takes beside its multiply-adds
    effort = 600 * sum(layer.nnz + PASS * (layer.inputs + layer.outputs) for layer in layers) + called
    assert result.edges < effort < 1.2 * result.edges
    assert 0.002 * effort < LOOK * sum(looked) + CALLS * len(looked) <= 0.02 * effort
    assert LOOK * sum(looked) <= 0.02 * result.multiply_adds


def test_nothing_is_looked_at_without_reductions(rng, monkeypatch):
    monkeypatch.setattr(flow, "look", None)
    monkeypatch.setattr(flow, "equal", None)
    monkeypatch.setattr(flow, "move", None)
    network = tg.Network([random_layer(rng, 32, 32, density=1.0)] * 30)
    rows = scattered(rng, 70, 32)
    result = run(network, rows, "none", partitions=1, strategy="data", lanes=32, tiles_at_once=1)
    assert result.multiply_adds == 70 * network.nnz


def test_a_pool_grows_and_numbers_its_samples(rng):
    rows = rng.random((100, 5), dtype=np.float32)
    pool = Pool(1, 5, 16, np.float32)
    values = np.zeros((7, 5, 16), np.float32)
    values.transpose(0, 2, 1)[...] = np.resize(rows, (7, 16, 5))
    block = Block.of(values[:3], np.arange(40), np.arange(40) + 1)
    pool.add(block.only(np.arange(3, 40, 2)))
    pool.fill(7.0, np.array([90, 91]), np.array([1, 5]))
    pool.add(Block.of(values[3:], np.arange(48, 100), np.ones(52, np.int64)))
    left = pool.activations()
    assert left.samples.tolist() == [*range(3, 40, 2), 90, 91, *range(48, 100)]
    assert left.copies.tolist() == [*range(4, 41, 2), 1, 5, *[1] * 52]
    assert len(left.values) == 5
    expected = np.concatenate([rows[3:40:2], np.full((2, 5), 7), rows[48:100]])
    np.testing.assert_array_equal(blocks(pool), expected)


def test_an_emptied_pool_is_filled_again_after_its_block_was_used(rng):
    pool = Pool(1, 2, 16, np.float32)
    pool.fill(1.0, np.arange(5), np.ones(5, np.int64))
    block = pool.block()
    assert (pool.count, block.places.tolist()) == (0, [0, 1, 2, 3, 4])
    pool.add(block.only(np.array([1, 4])))
    assert pool.activations().samples.tolist() == [1, 4]
    assert block.samples.tolist() == [0, 1, 2, 3, 4]


#: Bytes of 16 samples of 8 neurons, and of their alignment.
ONE_TILE = 16 * 8 * 4 + 100


def memory_kept(array):
    """Bytes that stay in memory as long as the array does."""
    while array.base is not None:
        array = array.base
    return array.nbytes


def test_what_is_left_over_keeps_no_larger_block_in_memory(rng):
    network = tg.Network([tg.Layer(np.eye(8), bias=-0.5)] * 3)
    rows = np.zeros((320, 8), np.float32)
    rows[::100] = 9
    part = run_span(rows, network, span(0, 1))
    assert part.activations.samples.tolist() == [0, 100, 200, 300]
    assert memory_kept(part.activations.values) < ONE_TILE
    full = run_span(rows, network, span(0, 1, ()))
    assert memory_kept(full.activations.values) > 20 * ONE_TILE / 2
    for before, few, samples in ((part, 4, 4), (part, 3, 0), (full, 4, 0)):
        left = left_over(before, few).activations
        assert left.samples.size == left.copies.size == samples
        assert max(map(memory_kept, (left.values, left.samples, left.copies))) < ONE_TILE


def test_partitions_leave_their_last_samples_or_go_on_with_them(rng):
    """Each sample is taken on by exactly one of the two."""
    network = tg.Network([tg.Layer(np.eye(8))] * 3)
    for samples in (3, 4, 5):
        part = run_span(np.ones((samples, 8), np.float32), network, span(0, 1, ()))
        own = run_span(part, network, span(1, 3, few=4))
        merged = run_span([left_over(part, 4)], network, span(1, 3, merges=True, partition=1))
        assert [own.samples.size, merged.samples.size] == ([samples, 0] if samples > 4 else [0, samples])
        assert isinstance(part.activations, Activations)


@pytest.mark.parametrize("make", NETWORKS)
def test_a_task_leaves_what_it_was_given_alone(make, rng, eager):
    """Dask may hand it to another task, or to the same again after a failure."""
    network, rows = make(rng)
    given = run_span(rows, network, span(0, 2, ()))
    kept = [array.copy() for array in vars(given.activations).values()]
    first = run_span(given, network, span(2, len(network)))
    merged = run_span([given, given], network, span(2, len(network), merges=True))
    for array, copy in zip(vars(given.activations).values(), kept, strict=True):
        assert array.tobytes() == copy.tobytes()
    again = run_span(given, network, span(2, len(network)))
    assert first.outputs.data.tobytes() == again.outputs.data.tobytes()
    np.testing.assert_array_equal(first.twins, again.twins)
    assert merged.samples.size >= first.samples.size


def test_what_one_kernel_leaves_as_it_is_another_may_not(rng, eager):
    """They round in different ways, so their fixed points differ in the last bits."""
    layer = tg.Layer(rng.standard_normal((24, 24)) / 30, bias=rng.standard_normal(24), activation="leaky_relu")
    network = tg.Network([layer] * 120)
    rows = scattered(rng, 60, 24)
    kernels = ("csr",) * 100 + ("scipy",) * 20

    def run_all(reductions, kernels):
        return answers(run_span(rows, network, span(0, 120, reductions, kernels=kernels)), 60)

    expected = run_all((), kernels)
    assert (expected != run_all((), ("csr",) * 120)).any()  # the last ones do matter
    np.testing.assert_array_equal(run_all(DYNAMIC, kernels), expected)
    alike = run_span(rows, network, span(0, 120, ("fixed-point",))).events[0].counts[:, 2]
    assert alike[99] == 0  # the first ones alone come to a fixed point
