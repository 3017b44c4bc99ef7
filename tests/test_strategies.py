"""How layers become spans, and where their tasks go; every strategy gives the same bits."""

from dataclasses import replace
from itertools import pairwise

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.config import settings
from taskgraph_dnn.plan import make_plan
from taskgraph_dnn.strategies import STRATEGIES, stage_workers
from tests.conftest import random_layer


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(7)
    return tg.Network([random_layer(rng, 64, 64, cap=2.0) for _ in range(24)])


def planned(network, strategy, workers, **options):
    chosen = settings(strategy=strategy, reductions="none", **options)
    return make_plan(network, 10_000, chosen, threads=2 * workers, workers=workers)


@given(
    seconds=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60),
    workers=st.integers(1, 70),
    lasting=st.floats(1e-6, 10.0),
    growing=st.booleans(),
)
def test_spans_cover_all_layers(seconds, workers, lasting, growing):
    for strategy in STRATEGIES.values():
        spans = strategy.spans(seconds, lasting, growing, workers)
        assert [first for first, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
        assert spans[-1][1] == len(seconds)
        assert all(first < stop for first, stop in spans)


@given(seconds=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60), workers=st.integers(1, 70))
def test_stages_of_a_pipeline_are_even(seconds, workers):
    stages = STRATEGIES["pipeline"].spans(seconds, 1e-9, False, workers)
    assert len(stages) == min(workers, len(seconds))
    slowest = max(sum(seconds[first:stop]) for first, stop in stages)
    assert slowest <= sum(seconds) / len(stages) + 2 * max(seconds)


def test_equal_layers_make_equal_stages():
    stages = STRATEGIES["pipeline"].spans([0.25] * 12, 0.1, False, 4)
    assert stages == ((0, 3), (3, 6), (6, 9), (9, 12))


def test_stages_that_would_be_too_short_are_fewer_and_last_in_proportion_to_their_workers():
    pipeline = STRATEGIES["pipeline"]
    assert pipeline.spans([0.25] * 12, 1.0, False, 4) == ((0, 3), (3, 6), (6, 12))
    assert [stage_workers(stage, 3, 4) for stage in range(3)] == [range(1), range(1, 2), range(2, 4)]
    assert pipeline.spans([0.25] * 12, 3.1, False, 4) == ((0, 12),)


def test_workers_that_share_a_stage_share_its_partitions(network):
    plan = replace(planned(network, "pipeline", 5, partitions=30, task_seconds=1e-9), spans=((0, 10), (10, 24)))
    assert [plan.worker(0, p) for p in range(4)] == [0, 1, 0, 1]
    assert [plan.worker(1, p) for p in range(4)] == [2, 3, 4, 2]


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_every_worker_gets_its_part(network, workers):
    """Spans of a pipeline, partitions of `data`; hybrid leaves it to the scheduler."""
    pipeline = planned(network, "pipeline", workers, task_seconds=1e-9)
    assert [pipeline.worker(span, 0) for span in range(len(pipeline.spans))] == list(range(workers))
    assert {pipeline.worker(0, p) for p in range(len(pipeline.partitions))} == {0}
    data = planned(network, "data", workers)
    places = [data.worker(0, p) for p in range(len(data.partitions))]
    assert places == sorted(places)
    assert set(places) == set(range(workers))
    assert planned(network, "hybrid", workers).worker(0, 0) is None


def test_a_pipeline_has_enough_partitions_to_keep_it_full(network):
    assert len(planned(network, "pipeline", 4, task_seconds=1e-9).partitions) == 8 * 8
    assert len(planned(network, "pipeline", 4).partitions) == 2 * 8  # they would not last long enough
    assert len(planned(network, "hybrid", 4).partitions) == 2 * 8


def test_the_plan_says_how_many_workers(network):
    assert "pipeline, for 6 threads of 3 workers" in str(planned(network, "pipeline", 3))
    alone = make_plan(network, 10, settings(strategy="pipeline", task_seconds=1e-9), threads=2)
    assert (alone.workers, len(alone.spans)) == (2, 2)
    assert "pipeline, for 2 threads\n" in str(alone)


def test_dumps_show_the_worker(network, tmp_path):
    import json

    rows = np.ones((40, 64), np.float32)
    inference = tg.infer(network, rows, strategy="pipeline", partitions=2, reductions="none")
    path = inference.visualize(tmp_path / "graph.json")
    nodes = json.loads((path or tmp_path / "graph.json").read_text())["nodes"]
    assert {node["worker"] for node in nodes if node["kind"] == "layer"} == set(range(inference.plan.workers))


@pytest.mark.parametrize("task_seconds", [1e-9, 0.1])
@pytest.mark.parametrize("reductions", ["none", "dynamic", "exact"])
def test_every_strategy_gives_the_same_bits(network, reductions, task_seconds, rng):
    rows = rng.random((300, 64)).astype(np.float32)
    with dask.config.set({"taskgraph-dnn.task-seconds": task_seconds}):
        results = [
            tg.infer(network, rows, strategy=strategy, partitions=5, reductions=reductions).compute().outputs.toarray()
            for strategy in STRATEGIES
        ]
    for one, other in pairwise(results):
        np.testing.assert_array_equal(one, other)
