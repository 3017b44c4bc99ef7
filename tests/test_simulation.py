"""The model of runs agrees with closed forms; and the benchmarks around it measure what they say."""

import math
import os
from dataclasses import replace

import dask
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn import executors
from taskgraph_dnn.benchmarks import runs, workers
from taskgraph_dnn.benchmarks.parameters import NETWORK_RATE, Moved, Parameters
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.simulation import Cluster, Limits, Work, simulate
from taskgraph_dnn.benchmarks.suite import EFFORTS
from taskgraph_dnn.benchmarks.suites import scaling, scheduling
from taskgraph_dnn.config import settings
from taskgraph_dnn.errors import InputError, KernelError, PlanError
from taskgraph_dnn.plan import make_plan
from taskgraph_dnn.strategies import STRATEGIES
from taskgraph_dnn.synthetic import digit_images, radixnet

ANYWHERE = -1


def work(partitions, spans, *, seconds=1.0, nbytes=0.0, weights=0.0, places=ANYWHERE):
    shape = partitions, spans
    return Work(
        np.broadcast_to(np.asarray(seconds, float), shape),
        np.broadcast_to(np.asarray(nbytes, float), shape),
        np.broadcast_to(np.asarray(weights, float), (spans,)),
        np.broadcast_to(np.asarray(places, np.int64), shape),
    )


def by_span(spans):
    """A pipeline: each span stays on a worker."""
    return np.arange(spans)[None, :]


def by_partition(partitions):
    """Each partition stays on a worker."""
    return np.arange(partitions)[:, None]


def seconds(*arguments, **options):
    return simulate(*arguments, **options).seconds


# Closed forms.


def test_one_worker_takes_the_sum_of_all_tasks(rng):
    durations = rng.random((7, 5))
    for places in (ANYWHERE, 0):
        assert seconds(work(7, 5, seconds=durations, places=places), Cluster(1)) == pytest.approx(durations.sum())


def test_with_workers_enough_the_longest_chain_is_left(rng):
    durations = rng.random((7, 5))
    expected = pytest.approx(durations.sum(axis=1).max())
    assert seconds(work(7, 5, seconds=durations), Cluster(1000)) == expected
    assert seconds(work(7, 5, seconds=durations, places=by_partition(7)), Cluster(7)) == expected


@pytest.mark.parametrize(("partitions", "stages"), [(1, 1), (1, 6), (8, 1), (8, 6), (3, 50), (200, 13)])
def test_a_pipeline_fills_and_drains(partitions, stages):
    taken = seconds(work(partitions, stages, seconds=0.5, places=by_span(stages)), Cluster(stages))
    assert taken == pytest.approx((partitions + stages - 1) * 0.5)


def test_the_slowest_stage_sets_the_pace_of_a_pipeline():
    durations = np.array([1.0, 4.0, 2.0])
    taken = seconds(work(10, 3, seconds=durations, places=by_span(3)), Cluster(3))
    assert taken == pytest.approx(1 + 10 * 4 + 2)


def test_a_scheduler_handles_one_task_after_the_other():
    """400 workers want more tasks than it can hand out; the last task begins when it is handed out, and lasts."""
    taken = seconds(work(400, 10, seconds=0.01), Cluster(400, scheduling_seconds=0.001))
    assert taken == pytest.approx(400 * 10 * 0.001 + 0.01)


def test_a_chain_alone_waits_for_every_message():
    taken = seconds(work(1, 20, seconds=0.5), Cluster(3, scheduling_seconds=0.01, latency_seconds=0.1))
    assert taken == pytest.approx(20 * (0.5 + 0.01 + 0.1))


def test_latency_costs_nothing_where_another_partition_is_there():
    """But once at the begin: a worker has something else to do meanwhile."""
    taken = seconds(work(4, 20), Cluster(1, latency_seconds=0.5))
    assert taken == pytest.approx(0.5 + 80)


def test_activations_travel_where_the_next_worker_is_another():
    cluster = Cluster(2, network_rate=10.0)
    assert seconds(work(1, 2, nbytes=30.0, places=by_span(2)), cluster) == pytest.approx(1 + 3 + 1)
    assert seconds(work(1, 2, nbytes=30.0), cluster) == pytest.approx(2)


def test_a_pipeline_computes_while_activations_travel():
    """Receiving one takes as long as computing one: only the first is waited for."""
    taken = seconds(work(9, 2, nbytes=10.0, places=by_span(2)), Cluster(2, network_rate=10.0))
    assert taken == pytest.approx(9 + 1 + 1)


def test_a_worker_receives_one_partition_after_the_other():
    taken = seconds(work(9, 2, nbytes=50.0, places=by_span(2)), Cluster(2, network_rate=10.0))
    assert taken == pytest.approx(1 + 9 * 5 + 1)


def test_a_free_worker_takes_first_what_it_has_the_activations_of():
    """Nothing ever travels: as many partitions as workers, all alike."""
    taken = seconds(work(8, 12, nbytes=1.0), Cluster(8, network_rate=1e-9))
    assert taken == pytest.approx(12)


def test_a_worker_leaves_partitions_to_those_that_have_them_while_its_own_are_on_their_way():
    """Moving one takes 9 s, waiting for the next task of one's own half a second: nothing is moved."""
    durations = np.full((4, 3), 2.0)
    durations[0] = 1.5
    taken = seconds(work(4, 3, seconds=durations, nbytes=9.0), Cluster(2, latency_seconds=0.5, network_rate=1.0))
    assert taken < 0.5 + 6 * 2 + 2


def test_a_worker_without_partitions_of_its_own_takes_others():
    durations = np.array([[1.0], [5.0], [5.0]]) * np.ones((3, 2))
    assert seconds(work(3, 2, seconds=durations), Cluster(2)) == 1 + 1 + 5 + 5


def test_weights_are_read_once_by_every_worker_that_needs_them():
    cluster = Cluster(4, weights_rate=10.0)
    assert seconds(work(8, 3, weights=20.0), cluster) == pytest.approx(2 * 3 + 3 * 2)
    assert seconds(work(8, 4, weights=20.0, places=by_span(4)), cluster) == pytest.approx(11 * 1 + 4 * 2)


def test_weights_that_a_worker_cannot_keep_are_read_for_every_task():
    cluster = Cluster(4, weights_rate=10.0, kept_nbytes=59.0)
    assert seconds(work(8, 3, weights=20.0), cluster) == pytest.approx(2 * 3 * (1 + 2))
    pipeline = work(8, 4, weights=20.0, places=by_span(4))
    assert seconds(pipeline, cluster) == seconds(pipeline, replace(cluster, kept_nbytes=math.inf))


@given(
    durations=st.lists(st.lists(st.floats(0.0, 10.0), min_size=3, max_size=3), min_size=1, max_size=12),
    workers=st.integers(1, 9),
)
def test_free_workers_keep_grahams_bound(durations, workers):
    """A worker is idle only where all that waits runs already (Graham, 1966)."""
    found = work(len(durations), 3, seconds=durations)
    taken = seconds(found, Cluster(workers))
    assert taken >= max(found.total / workers, found.longest_chain) - 1e-9
    assert taken <= found.total / workers + (1 - 1 / workers) * found.longest_chain + 1e-9


@given(workers=st.integers(1, 12), partitions=st.integers(1, 12), spans=st.integers(1, 6))
def test_a_run_is_the_same_every_time(workers, partitions, spans):
    durations = np.random.default_rng(partitions).random((partitions, spans))
    cluster = Cluster(workers, 0.01, 0.1, network_rate=10.0, weights_rate=10.0, kept_nbytes=5.0)
    found = work(partitions, spans, seconds=durations, nbytes=1.0, weights=2.0)
    assert simulate(found, cluster) == simulate(found, cluster)


def test_speed_up_and_utilisation():
    outcome = simulate(work(6, 2), Cluster(4))
    assert (outcome.seconds, outcome.computing, outcome.speedup, outcome.utilisation) == (3, 12, 4, 1)
    assert simulate(work(1, 2), Cluster(4)).utilisation == pytest.approx(1 / 4)


def test_no_partitions_take_no_time():
    assert seconds(work(0, 3), Cluster(2, scheduling_seconds=1.0)) == 0


def test_a_worker_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="a task is for worker 4, expected one of 4, from 0"):
        simulate(work(3, 5, places=by_span(5)), Cluster(4))


def test_many_workers_and_tasks():
    """115,200 tasks, which must not take the square of it."""
    found = work(60, 1920, seconds=0.01, nbytes=1e6, weights=1e5)
    outcome = simulate(found, Cluster(1024, 1e-4, 1e-3, network_rate=1e9, weights_rate=1e9))
    assert outcome.seconds >= 1920 * (0.01 + 1e-4 + 1e-3)
    assert outcome.speedup < 60


# What limits.


@pytest.mark.parametrize(
    ("limit", "tasks", "cluster"),
    [
        ("computing", work(100, 4), Cluster(4, 1e-4, 1e-3)),
        ("scheduler", work(400, 10, seconds=0.01), Cluster(400, scheduling_seconds=0.001)),
        ("scheduler", work(4, 10, seconds=0.01), Cluster(4, latency_seconds=0.1)),
        ("network", work(9, 2, nbytes=50.0, places=by_span(2)), Cluster(2, network_rate=10.0)),
        ("weights", work(8, 3, weights=20.0), Cluster(8, weights_rate=1.0)),
        ("critical path", work(8, 3), Cluster(64)),
        ("parts", work(9, 1), Cluster(8)),
        ("parts", work(90, 2, places=by_span(2)), Cluster(8)),
    ],
)
def test_the_limit_is_what_costs_most(limit, tasks, cluster):
    limits = Limits(tasks, cluster)
    assert limits.limit == limit
    assert limits.outcome == simulate(tasks, cluster)


def test_losses_are_seconds():
    losses = Limits(work(1, 2, nbytes=30.0, places=by_span(2)), Cluster(2, 0.5, network_rate=10.0)).losses
    assert losses == pytest.approx({"scheduler": 1, "network": 3, "weights": 0, "critical path": 2 - 2 / 2})


# Where tasks come from.


@pytest.fixture(scope="module")
def network():
    return radixnet(256, 16)


@pytest.fixture(scope="module")
def images():
    return digit_images(400, 256)


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_planned_work_is_the_plans(network, strategy):
    chosen = settings(strategy=strategy, reductions="none", task_seconds=1e-9)
    plan = make_plan(network, 1000, chosen, threads=3, workers=3)
    planned = Work.planned(network, plan)
    assert planned.seconds.shape == (len(plan.partitions), len(plan.spans))
    assert planned.seconds.max() == pytest.approx(plan.longest_task_seconds)
    assert planned.weights.sum() == network.nbytes
    samples = sum(-(-(stop - first) // plan.lanes) * plan.lanes for first, stop in plan.partitions)
    assert planned.nbytes[:, -1].sum() == 4 * samples * network.outputs
    found = set(planned.places.ravel().tolist())
    assert found == ({ANYWHERE} if strategy == "hybrid" else {0, 1, 2})
    assert simulate(planned, Cluster(3)).speedup <= 3 * (1 + 1e-12)  # of sums that are rounded


def test_measured_work_is_the_events(network, images):
    inference = tg.infer(network, images, partitions=5, reductions="none", strategy="pipeline")
    result = inference.compute()
    measured = Work.measured(network, result.plan, result.events)
    assert measured.total == pytest.approx(sum(event.seconds for event in result.events))
    assert measured.nbytes.sum() == sum(event.nbytes for event in result.events)
    assert seconds(measured, Cluster(result.plan.workers)) <= measured.total + 1e-9
    with pytest.raises(InputError, match=f"events of {len(result.events) - 1} tasks, expected {len(result.events)}"):
        Work.measured(network, result.plan, result.events[1:])


def test_merged_partitions_are_refused(network, images):
    plan = replace(tg.infer(network, images, partitions=5, reductions="none").plan, merged=2)
    with pytest.raises(InputError, match="the run has 2 merged partitions, expected none"):
        Work.measured(network, plan, [])


# The benchmarks.


def report_of(measurements):
    return Report("", "smoke", {}, {}, tuple(measurements))


def widths(table):
    return {len(row) for row in table.rows}


def test_parts_of_a_run_add_up(network, images):
    inference = tg.infer(network, images, partitions=4)
    parts, result = runs.timed(inference, {"scheduler": "threads"})
    assert parts.before + parts.first_to_last + parts.after == pytest.approx(parts.wall)
    assert min(parts.before, parts.tasks, parts.after) > 0
    assert 0 < parts.overhead < parts.wall
    assert len(result.events) == inference.plan.tasks


def test_each_inference_runs_once_a_round(network, images):
    inferences = {mode: tg.infer(network, images, partitions=4, reductions=mode) for mode in ("none", "exact")}
    found = runs.side_by_side(inferences, {"scheduler": "threads"}, 3)
    assert list(found) == ["none", "exact"]
    for rounds in found.values():
        assert len(rounds.parts) == len(rounds.events) == 3
        assert rounds.columns()["wall"] == list(rounds.walls)


def test_inferences_that_find_other_samples_are_not_timed(network, images):
    inferences = {str(stop): tg.infer(network, images[:stop], partitions=2) for stop in (400, 40)}
    with pytest.raises(KernelError, match="40 finds .* categories, but 400 finds"):
        runs.side_by_side(inferences, {"scheduler": "threads"}, 1)


def test_the_median_round_is_one_of_them():
    columns = {"wall": [4.0, 1.0, 3.0, 2.0], "tasks": [0.4, 0.1, 0.3, 0.2]}
    assert runs.median_round(columns) == {"wall": 2.0, "tasks": 0.2}


def test_scheduling_tells_every_round(monkeypatch):
    monkeypatch.setattr(scheduling, "WHERE", (runs.THREADS,))
    found = list(scheduling.measure(EFFORTS["smoke"], lambda _: None))
    assert len({each.key for each in found}) == len(found) == 3 + 4
    for each in found:
        assert len(each.rounds) == EFFORTS["smoke"].rounds
        assert each.details["parts"]["wall"] == list(each.rounds)
        assert each.details["sent_nbytes"] < 2**15
        assert each.threads == 2
    whole, nodes = found[:3], found[3:]
    assert [each.contender for each in whole] == ["exact", "dynamic", "none"]
    for each in whole:
        assert all(true["longest"] >= true["median"] > 0 for true in each.details["true"])
    assert whole[-1].details["planned"]["longest"] == pytest.approx(whole[-1].details["planned"]["median"], rel=0.5)
    assert [(each.details["nodes"], each.counted["tasks"]) for each in nodes][-2:] == [(24 * 4, 4), (24 * 4, 24 * 4)]
    assert all(each.counted["tasks"] < each.counted["keys"] for each in nodes)
    tables = scheduling.tables(report_of(found))
    assert [len(table.rows) for table in tables] == [1 + 3, 1 + 4]
    assert all(len(widths(table)) == 1 for table in tables)


def test_worker_processes_come_and_go():
    with workers.worker_processes(2) as scheduler:
        started = [child for child in psutil.Process().children() if "dask_worker" in " ".join(child.cmdline())]
        assert len(started) == len(executors.resources().workers) == 2
        assert scheduler.ppid() == os.getpid()
        for process in (scheduler, *started):
            assert {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert not any(process.is_running() for process in (scheduler, *started))


def test_workers_that_do_not_come_are_an_error(monkeypatch):
    monkeypatch.setattr(workers, "_START_SECONDS", 0)
    with pytest.raises(PlanError, match="a scheduler: not there after 0 s"), workers.worker_processes(1):
        pass


PARAMETERS = Parameters((3e-4, 1e-4, 1e-4), (1e-3,), Moved(10**9, (2.0, 1.0, 1.0)))


def test_a_cluster_is_like_the_one_that_was_measured():
    kept = settings().packed_bytes
    assert PARAMETERS.cluster(7) == Cluster(7, 1e-4, 1e-3, NETWORK_RATE, 1e9, kept)
    assert PARAMETERS.cluster(7, network_rate=5.0).network_rate == 5.0


def test_runs_are_simulated_as_they_are_planned_for_so_many_workers():
    network = scaling.deep_network(256, 40)
    assert len(network) == 40
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        found = list(scaling.simulated(network, "pipeline", 2000, PARAMETERS, (1, 4, 64)))
    assert [each.details["spans"] for each in found] == [1, 4, 40]
    assert all(each.kind == "model" for each in found)
    assert found[0].details["utilisation"] <= 1


def test_scaling_tells_where_a_strategy_stops():
    one = Measurement("scaling", "", "hybrid", "model")
    of = [(1, 4.0, "a"), (2, 2.0, "b"), (4, 1.9, "c")]
    slow = [replace(one, threads=w, rounds=(s,), details={"limit": name}) for w, s, name in of]
    assert scaling.stops(slow) == "2: c"
    assert scaling.stops(slow[:2]) == "nowhere"
    assert scaling.stops([slow[0], replace(slow[2], threads=16)]) == "1: c"  # 2.1 times as fast, not 1.25 ** 4


@pytest.mark.slow
def test_scaling_compares_with_real_runs():
    """On this many cores nobody knows how fast; but a run that is simulated from its own tasks is much like it."""
    found = list(scaling.measure(EFFORTS["smoke"], lambda _: None))
    assert len({each.key for each in found}) == len(found)
    parameters, real, model = ([m for m in found if m.details["kind"] == k] for k in ("parameter", "real", "simulated"))
    assert [bool(each.work) for each in parameters] == [False, False, True, True]
    assert all(0 <= seconds < 10 for each in parameters for seconds in each.rounds)
    assert {(each.contender, each.threads) for each in real} == {(name, n) for name in STRATEGIES for n in (1, 2)}
    for each in real:
        columns = [each.rounds, *(each.details[name] for name in ("first_to_last", "simulated", "computing"))]
        for wall, first_to_last, simulated, computing in zip(*columns, strict=True):
            assert computing / each.threads <= simulated + 1e-9
            assert computing / each.threads < first_to_last < wall
    assert {each.threads for each in model} == {1, 16}
    tables = scaling.tables(report_of(found))
    assert [len(table.rows) for table in tables] == [1 + 5, 1 + 6, 1 + 2 + 1]
    assert all(len(widths(table)) == 1 for table in tables)
    assert tables[-1].rows[-1][0] == "stops at"
