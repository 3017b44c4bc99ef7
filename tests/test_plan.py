import json
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import dask
import numpy as np
import pytest

import taskgraph_dnn as tg
from taskgraph_dnn import sizing
from taskgraph_dnn.config import Settings
from taskgraph_dnn.costs import cost
from taskgraph_dnn.errors import KernelError, PlanError
from taskgraph_dnn.kernels import load_kernel
from taskgraph_dnn.machine import Cache
from taskgraph_dnn.plan import make_plan
from tests.conftest import random_layer


@pytest.fixture
def network(rng):
    return tg.Network([random_layer(rng, 64, 64) for _ in range(20)])


def planned(network, samples, threads=2, **changes):
    defaults = {
        "partitions": "auto",
        "kernel": "scipy",
        "strategy": "hybrid",
        "dtype": "float32",
        "reductions": "none",
        "task_seconds": 0.1,
        "partition_bytes": 2**26,
        "packed_bytes": 2**32,
        "read_bytes": 2**28,
    }
    return make_plan(network, samples, Settings(**(defaults | changes)), threads=threads)


def covers(ranges, total):
    edges = [0, *(stop for _, stop in ranges)]
    return list(ranges) == list(pairwise(edges)) and edges[-1] == total and all(a < b for a, b in ranges)


@pytest.mark.parametrize("partitions", [1, 3, 7, 100, 1000])
def test_partitions_cover_the_samples_evenly(network, partitions):
    plan = planned(network, 100, partitions=partitions)
    assert covers(plan.partitions, 100)
    assert len(plan.partitions) == min(partitions, 100)
    sizes = {stop - first for first, stop in plan.partitions}
    assert max(sizes) - min(sizes) <= 1


def test_automatic_partitions_are_whole_tiles(network):
    plan = planned(network, 1000)
    assert covers(plan.partitions, 1000)
    assert len(plan.partitions) == 4
    assert all(stop % plan.lanes == 0 for _, stop in plan.partitions[:-1])


@pytest.mark.parametrize("limit", [2**15, 2**16, 2**20, 2**24])
def test_automatic_partitions_fit_their_bytes(network, limit):
    plan = planned(network, 100_000, partition_bytes=limit, task_seconds=1e-9)
    assert covers(plan.partitions, 100_000)
    largest = max(stop - first for first, stop in plan.partitions)
    passing = min(largest, plan.tiles_at_once * plan.lanes)
    assert plan.largest_task_nbytes == 4 * 64 * (2 * largest + 2 * passing)
    assert largest == plan.lanes or 0.5 * limit < plan.largest_task_nbytes <= limit


def test_padding_is_counted(network):
    # One tile of a given input, and two that pass through; the last span returns rows.
    assert planned(network, 1).largest_task_nbytes == 16 * 4 * (64 + 2 * 64)


def test_few_samples_get_a_narrow_tile(rng):
    wide = tg.Network([random_layer(rng, 256, 256, density=0.1)])
    assert [planned(wide, samples, kernel="csr").lanes for samples in (1, 16, 17, 10_000)] == [16, 16, 32, 32]


def test_wide_layers_decide_the_partitions(rng):
    """16 -> 16 -> 2,000 -> 16: the widest layer counts, not the first."""
    network = tg.Network([random_layer(rng, 16, 16), random_layer(rng, 16, 2000), random_layer(rng, 2000, 16)])
    plan = planned(network, 10_000, partition_bytes=2**23, task_seconds=1e-9)
    largest = max(stop - first for first, stop in plan.partitions)
    assert 2**22 < plan.largest_task_nbytes <= 2**23
    assert plan.largest_task_nbytes == 4 * (largest * (16 + 2000) + 2 * plan.tiles_at_once * plan.lanes * 2000)


@pytest.mark.parametrize(("strategy", "given"), [("hybrid", 0), ("data", 1024 * 1000 * 4)])
def test_a_task_needs_no_more_than_planned(rng, strategy, given, monkeypatch):
    """A pyramid: every layer has another shape. The largest task is given rows, or what a task before has made."""
    monkeypatch.setattr(sizing, "last_cache", lambda: Cache(2**24, cores=2))  # it says how many tiles are at once
    sizes = range(1000, 8000, 1000)
    network = tg.Network([random_layer(rng, a, b, density=1e-4, bias=-1) for a, b in pairwise(sizes)])
    rows = np.zeros((1024, 1000), np.float32)
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        inference = tg.infer(network, rows, partitions=1, kernel="csr", strategy=strategy, reductions="none")
    assert 0.9 < (given + peak_nbytes(inference)) / inference.plan.largest_task_nbytes < 1.1


@pytest.mark.parametrize("strategy", ["hybrid", "data"])
@pytest.mark.parametrize("dying", ["none", "half", "one by one"])
def test_a_task_needs_no_more_than_planned_where_samples_die(strategy, dying):
    """Those that are left wait in pools, which are larger than what is in them: the rest is never touched."""
    size, samples = 1000, 1024
    network = tg.Network([tg.Layer(np.eye(size), bias=-0.0625)] * 40)
    lasting = {"none": np.full(samples, 9), "half": np.tile([1, 9], samples // 2), "one by one": np.arange(1024) / 400}
    rows = np.zeros((samples, size), np.float32)
    rows[:, :20] = lasting[dying][:, None] + np.arange(20) / 1000
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-5}):
        inference = tg.infer(network, rows, partitions=1, kernel="csr", strategy=strategy, reductions="dynamic")
    assert strategy == "data" or len(inference.plan.spans) > 2
    assert peak_nbytes(inference) < 1.5 * inference.plan.largest_task_nbytes


def peak_nbytes(inference):
    inference.compute(scheduler="synchronous")  # imports and compiles
    tracemalloc.start()
    inference.compute(scheduler="synchronous")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("strategy", ["hybrid", "data", "pipeline"])
def test_what_a_partition_leaves_keeps_no_more_in_memory(strategy):
    """Seven partitions of eight die at once: what is kept until the merged one goes on is not their blocks."""
    network = tg.Network([tg.Layer(np.eye(1000), bias=-0.0625)] * 6)
    rows = np.zeros((2048, 1000), np.float32)
    rows[::64, :20] = 9
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        inference = tg.infer(network, rows, partitions=8, kernel="csr", strategy=strategy, reductions="dynamic")
    assert peak_nbytes(inference) < 1.5 * inference.plan.largest_task_nbytes


def test_more_threads_get_more_partitions(network):
    assert len(planned(network, 100_000, threads=32).partitions) == 64


def test_no_samples_need_no_partition(network):
    plan = planned(network, 0)
    assert (plan.partitions, plan.tasks, plan.samples) == ((), 0, 0)
    assert (plan.longest_task_seconds, plan.task_seconds.size) == (0, 0)
    assert "0 of up to 0 samples" in str(plan)


def test_hybrid_spans_last_as_long_as_asked(network):
    layer_seconds = cost(network[0], load_kernel("scipy"), 1000, 32).seconds
    plan = planned(network, 1000, partitions=1, task_seconds=3.5 * layer_seconds)
    assert (plan.lanes, covers(plan.spans, 20)) == (32, True)
    lasting = [
        sum(cost(network[n], load_kernel("scipy"), 1000, 32, first=n == 0).seconds for n in range(a, b))
        for a, b in plan.spans
    ]
    assert min(lasting[:-1]) >= 3.5 * layer_seconds
    assert plan.span_seconds == pytest.approx(lasting)
    assert plan.longest_task_seconds == max(plan.span_seconds)
    assert 4 <= len(plan.spans) <= 6


def test_tasks_are_expected_to_last_as_long_as_their_tiles(network):
    plan = planned(network, 200, partitions=3, task_seconds=1e-9)
    tiles = [-(-(stop - first) // plan.lanes) for first, stop in plan.partitions]
    assert (plan.lanes, tiles) == (32, [3, 3, 3])
    assert plan.task_seconds == pytest.approx(np.tile(plan.span_seconds, (3, 1)))
    shorter = replace(plan, partitions=((0, 96), (96, 128), (128, 200)))
    assert shorter.task_seconds.sum(axis=1) == pytest.approx(sum(plan.span_seconds) * np.array([1, 1 / 3, 1]))


def test_a_short_rest_joins_the_span_before(network):
    seconds = cost(network[0], load_kernel("scipy"), 10, 64).seconds
    plan = planned(network, 10, partitions=1, task_seconds=18.5 * seconds)
    assert plan.spans == ((0, 20),)


def test_short_layers_are_one_span(network):
    assert planned(network, 10).spans == ((0, 20),)
    assert planned(network, 1000, task_seconds=1e-9).spans == tuple((n, n + 1) for n in range(20))


def test_data_keeps_a_partition_in_one_task(network):
    plan = planned(network, 1000, strategy="data", task_seconds=1e-9, partitions=5)
    assert plan.spans == ((0, 20),)
    assert (plan.tasks, plan.nodes) == (5, 100)


def test_unknown_names_are_refused_with_the_valid_ones(network):
    with pytest.raises(PlanError, match="unknown strategy 'zigzag', expected one of hybrid, data, pipeline"):
        planned(network, 10, strategy="zigzag")
    with pytest.raises(KernelError, match="unknown kernel 'cuda', expected one of auto, tile, ell, csr"):
        planned(network, 10, kernel="cuda")


def test_tiles_are_made_for_the_caches(rng, monkeypatch):
    """Two threads share 32 MiB, half of which is for weights: what all tiles at once read and write must fit 8 MiB."""
    monkeypatch.setattr(sizing, "last_cache", lambda: Cache(2**25, cores=2))
    sizes = 1024, 32_760, 65_536, 200_000
    networks = [tg.Network([random_layer(rng, n, 4, density=0.001)]) for n in sizes]
    plans = [planned(network, 9_600, kernel="csr") for network in networks]
    assert [plan.lanes for plan in plans] == [32, 32, 32, 32]
    assert [plan.tiles_at_once for plan in plans] == [63, 2, 1, 1]
    small = planned(networks[0], 256, kernel="csr", partitions=2)
    assert small.tiles_at_once * small.lanes == 128  # a partition has no more


def test_plans_are_frozen_values(network):
    plan = planned(network, 100)
    assert plan == planned(network, 100)
    assert plan != planned(network, 101)
    with pytest.raises(AttributeError):
        plan.lanes = 3
    assert json.loads(json.dumps(plan.to_dict()))["lanes"] == plan.lanes


def test_a_graph_of_too_many_partitions_is_refused(network):
    with pytest.raises(PlanError, match="1,000,001 partitions, expected at most 1,000,000"):
        planned(network, 10**12, partitions=1_000_001)
    with pytest.raises(PlanError, match="partitions, expected at most 1,000,000"):
        planned(network, 10**12)


def test_a_plan_prints_as_a_table(rng):
    network = tg.Network([random_layer(rng, 8, 16), random_layer(rng, 16, 16), random_layer(rng, 16, 4)])
    text = str(planned(network, 1200, partitions=3))
    assert "3 of up to 400 samples, in tiles of 32 float32" in text
    assert "9 logical nodes (layer x partition) in 3 tasks" in text
    assert all(line.endswith("scipy  as asked") for line in text.splitlines()[-3:])
    assert [line.split()[:3] for line in text.splitlines()[-3:]] == [
        ["1", "8", "16"],
        ["2", "16", "16"],
        ["3", "16", "4"],
    ]


def test_like_layers_share_a_line():
    network = tg.radixnet(neurons=64, layers=30, seed=1)
    lines = str(planned(network, 10)).splitlines()
    assert lines[-1].split() == ["1-30", "64", "64", "2,048", "2,048", "scipy", "as", "asked"]
