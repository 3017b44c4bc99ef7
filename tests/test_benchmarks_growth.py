"""How counted work grows, by exponents; time and memory are measured, but nothing is asserted of how fast they grow."""

import os
import sys
from functools import partial

import dask
import numpy as np
import pytest
import scipy.stats

import taskgraph_dnn as tg
from taskgraph_dnn.benchmarks import memory as peak_memory
from taskgraph_dnn.benchmarks.powerlaw import power_law
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.runs import NO_SECONDS, counted, packed, sent_nbytes, task_seconds
from taskgraph_dnn.benchmarks.suite import EFFORTS
from taskgraph_dnn.benchmarks.suites import growth, memory
from taskgraph_dnn.benchmarks.suites.growth import Axis, Point
from taskgraph_dnn.config import settings
from taskgraph_dnn.errors import ClusterError, InputError, KernelError
from taskgraph_dnn.plan import make_plan

SMOKE = EFFORTS["smoke"]
POINT = Point(neurons=256, layers=16, samples=400, partitions=4)
LINEAR = pytest.approx(1, abs=1e-9)
CONSTANT = pytest.approx(0, abs=1e-9)


def grown(axis, values, count, others=POINT):
    """The power law of what `count` finds in the runs along an axis."""
    points = Axis(axis, values, others).points
    return power_law(values, [count(*point.problem(), partitions=point.partitions) for point in points])


def done(name, network, images, **options):
    """A number that a run has counted."""
    inference = tg.infer(network, images, **{"reductions": "none"} | options)
    return counted(inference, inference.compute(scheduler="threads"))[name]


# Power laws.


def test_a_power_law_is_found_exactly():
    law = power_law([1, 3, 10, 50], [5 * x**1.5 for x in (1, 3, 10, 50)])
    assert (law.exponent, law.factor) == (pytest.approx(1.5), pytest.approx(5))
    assert law.error == pytest.approx(0, abs=1e-9)
    assert law.holds
    assert law(100) == pytest.approx(5 * 100**1.5)


def test_exponent_and_standard_error_are_those_of_linear_regression(rng):
    x = np.geomspace(3, 4000, 12)
    y = 0.1 * x**0.7 * np.exp(rng.normal(0, 0.3, x.size))
    law, expected = power_law(x, y), scipy.stats.linregress(np.log(x), np.log(y))
    assert law.exponent == pytest.approx(expected.slope)
    assert law.error == pytest.approx(expected.stderr)
    assert law.factor == pytest.approx(np.exp(expected.intercept))


def test_what_has_a_constant_part_is_no_power_law():
    x = [1, 10, 100, 1000]
    law = power_law(x, [50 + each for each in x])
    assert not law.holds
    assert law.first < 0.1 < 0.8 < law.last < 1


def test_two_points_have_an_exponent_without_an_error():
    law = power_law([1, 2], [10, 5])
    assert (law.exponent, law.error, law.worst) == (pytest.approx(-1), None, pytest.approx(1))


@pytest.mark.parametrize(("x", "y"), [([1], [1]), ([1, 2], [1]), ([2, 1], [1, 1]), ([1, 1], [1, 2]), ([1, 2], [0, 1])])
def test_points_without_logarithms_or_order_are_refused(x, y):
    with pytest.raises(InputError, match="expected"):
        power_law(x, y)


# Counted work.


@pytest.mark.parametrize(
    ("axis", "values"), [("samples", (100, 200, 800)), ("neurons", (64, 256, 1024)), ("layers", (4, 8, 32))]
)
def test_multiply_adds_are_linear_in_samples_edges_and_layers(axis, values):
    """A layer has 32 edges a neuron."""
    assert grown(axis, values, partial(done, "multiply_adds")).exponent == LINEAR


def test_multiply_adds_do_not_depend_on_partitions():
    assert grown("partitions", (1, 2, 4, 8), partial(done, "multiply_adds")).exponent == CONSTANT


def test_dynamic_reductions_end_the_work_where_no_sample_changes_any_more():
    deep = Point(neurons=1024, layers=0, samples=200, partitions=2)
    count = partial(done, "multiply_adds", reductions="dynamic")
    assert grown("layers", (60, 120, 240), count, deep).exponent == CONSTANT


@pytest.mark.parametrize(("axis", "values"), [("layers", (4, 16, 64)), ("partitions", (1, 4, 16))])
def test_there_is_a_task_for_each_span_of_each_partition(axis, values):
    with task_seconds(NO_SECONDS):
        assert grown(axis, values, partial(done, "tasks")).exponent == LINEAR
    law = grown(axis, values, partial(done, "tasks", strategy="data"))
    assert law.exponent == (CONSTANT if axis == "layers" else LINEAR)


def test_keys_beside_tasks_are_one_for_each_partition_and_one_for_the_network():
    for layers, partitions in ((4, 4), (16, 4), (4, 16)):
        with task_seconds(NO_SECONDS):
            inference = tg.infer(
                tg.radixnet(64, layers), np.ones((640, 64), np.float32), partitions=partitions, reductions="none"
            )
        assert counted(inference)["keys"] == layers * partitions + partitions + 1


def test_weights_of_a_pass_are_linear_in_edges_and_read_once_by_a_worker():
    count = partial(done, "weight_nbytes")
    assert [grown(*of, count).exponent for of in (("layers", (4, 16)), ("neurons", (64, 256)))] == [LINEAR, LINEAR]
    assert grown("samples", (100, 400), count).exponent == CONSTANT


def test_activations_between_tasks_are_linear_in_samples_and_neurons():
    """Whole tiles of 32 samples or of 16; between tasks only, that is without the rows that the last ones return."""

    def between(network, images, **options):
        with task_seconds(NO_SECONDS):
            inference = tg.infer(network, images, reductions="none", **options)
        events = inference.compute(scheduler="threads").events
        return sum(event.nbytes for event in events if event.last_layer < len(network))

    whole_tiles = Point(neurons=256, layers=5, samples=512, partitions=4)
    assert grown("samples", (128, 512, 1024), between, whole_tiles).exponent == LINEAR
    assert grown("neurons", (64, 256, 1024), between, whole_tiles).exponent == LINEAR
    assert grown("partitions", (1, 2, 4), between, whole_tiles).exponent == CONSTANT


# Bytes that are sent.


def sent(tmp_path, neurons=256, layers=16, samples=400, partitions=4):
    images = tg.digit_images(samples, neurons)
    return sent_nbytes(tg.infer(packed(tmp_path, neurons, layers), images, partitions=partitions, reductions="none"))


def test_what_is_sent_does_not_grow_with_samples_or_weights(tmp_path):
    """A pickled number takes a few bytes more where it is larger."""
    few = sent(tmp_path)
    assert sent(tmp_path, samples=4_000) == pytest.approx(few, rel=0.1)
    assert sent(tmp_path, neurons=4096) == pytest.approx(few, rel=0.1)  # 16 times the weights


def test_what_is_sent_is_no_more_than_a_line_for_each_layer_and_a_pair_for_each_partition(tmp_path):
    assert sent(tmp_path, layers=160) - sent(tmp_path, layers=16) < 200 * 144
    assert sent(tmp_path, partitions=40) - sent(tmp_path, partitions=4) < 20 * 36


# Bytes that a task holds.


def held(strategy, samples, **chosen):
    plan = make_plan(tg.radixnet(1024, 8), samples, settings(strategy=strategy, **chosen), threads=2)
    return plan.largest_task_nbytes, len(plan.partitions)


@pytest.mark.parametrize("reductions", ["none", "dynamic", "exact"])
@pytest.mark.parametrize("strategy", ["hybrid", "data", "pipeline"])
def test_beyond_what_fits_there_are_more_partitions_and_not_larger_ones(strategy, reductions):
    samples = 10**6, 10**7, 10**8
    nbytes, partitions = zip(*(held(strategy, count, reductions=reductions) for count in samples), strict=True)
    assert max(nbytes) <= settings().partition_bytes
    assert power_law(samples, nbytes).exponent == pytest.approx(0, abs=0.02)
    assert power_law(samples, partitions).exponent == pytest.approx(1, abs=0.02)


def test_a_task_holds_as_much_whatever_the_number_of_layers():
    chosen = settings(reductions="none", partitions=4, strategy="data")
    nbytes = [make_plan(tg.radixnet(256, n), 4096, chosen, threads=2).largest_task_nbytes for n in (8, 32, 128)]
    assert len(set(nbytes)) == 1


def test_a_task_holds_its_share_of_the_samples_beside_a_constant():
    few, more, most = (held("data", 32 * 1024 * n, reductions="none", partitions=4)[0] for n in (1, 2, 4))
    assert most - more == 2 * (more - few) > 0


# The suite.


def report_of(measurements):
    return Report("", "smoke", {}, {}, tuple(measurements))


def test_an_axis_gives_time_and_memory_of_each_point_and_their_exponents():
    axis = Axis("samples", (50, 100, 200), Point(64, 4, 50, 2))
    found = growth.along(axis, ("none", "exact"), SMOKE)
    assert len({each.key for each in found}) == len(found) == 3 * 2 * 2
    for each in found:
        assert len(each.rounds) == SMOKE.rounds
        assert min(each.rounds) > 0
        assert each.unit == ("bytes" if each.formulation == growth.MEMORY else "seconds")
    exact = [each for each in found if each.contender == "exact" and each.counted]
    assert [each.counted["tasks"] for each in exact] == [2, 2, 2]
    exponents, points = growth.tables(report_of(found))
    assert len(exponents.rows) == 1 + 4
    assert len(points.rows) == 1 + 3 * 4
    assert len({len(row) for row in exponents.rows}) == len({len(row) for row in points.rows}) == 1


def test_the_exponent_is_told_as_what_it_is():
    def made_up(samples, seconds):
        return Measurement(
            "growth", f"samples: {samples}", "none", "ours", (seconds,) * 5, formulation=growth.TIME,
            parameters={"samples": samples}, details={"axis": "samples"},
        )  # fmt: skip

    straight = [made_up(n, 0.002 * n**0.5) for n in (400, 100, 1600)]  # in any order
    (curve,) = growth.curves(report_of(straight))
    assert curve.x == (100, 400, 1600)
    assert curve.law.exponent == pytest.approx(0.5)
    bent = [made_up(n, 1 + n / 1000) for n in (1, 10, 100, 10_000)]
    for measurements, cells in ((straight, ["0.50", "0.00"]), (bent, ["no: "]), (straight[:2], ["0.50", "", "two p"])):
        (_, row), _points = (table.rows for table in growth.tables(report_of(measurements)))
        assert all(any(cell.startswith(expected) for cell in row[6:]) for expected in cells)
    assert growth.curves(report_of(straight[:1])) == []


def test_planning_and_making_the_graph_have_a_task_for_each_node():
    planning, making = growth.graph(5, SMOKE)
    assert planning.contender != making.contender
    assert planning.counted == making.counted
    assert planning.counted["tasks"] == planning.work == planning.parameters["nodes"] == 25
    assert min(*planning.rounds, *making.rounds) > 0


def test_counted_work_of_the_smallest_effort_is_the_same_in_every_run():
    axis = Axis("partitions", (1, 3), Point(64, 6, 150, 2))
    first, second = (
        {each.key: dict(each.counted) for each in growth.along(axis, ("dynamic", "exact"), SMOKE)} for _ in range(2)
    )
    assert first == second


# Memory.


def test_a_new_process_has_done_nothing_before():
    assert peak_memory.in_new_process(os.getpid) != os.getpid()
    with pytest.raises(ZeroDivisionError):
        peak_memory.in_new_process(divmod, 1, 0)
    with pytest.raises(ClusterError, match="the process that was to run _exit died"):
        peak_memory.in_new_process(os._exit, 3)


linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the peak anew")


@linux
def test_the_peak_of_a_round_is_what_it_held_beyond_what_was_there():
    kept = np.ones(2**24, np.uint8)
    found = peak_memory.peaks(lambda: np.ones(2**26, np.uint8).sum(), 3)
    assert found == pytest.approx([2**26] * 3, rel=0.1)
    assert peak_memory.peaks(lambda: None, 1)[0] < 2**24 == kept.nbytes


@linux
def test_memory_of_a_run_stands_beside_its_estimate_and_scipys():
    case = memory.Case(neurons=1024, layers=3, samples=1_500, partitions=3)
    found = [memory.peak(case, contender, 2) for contender in ("exact", "scipy")]
    ours, scipys = found
    assert (ours.kind, scipys.kind, ours.unit) == ("ours", "peer", "bytes")
    assert scipys.rounds[-1] > 2 * 4 * 1024 * 1_500  # inputs and outputs of a layer, dense
    assert set(ours.details["estimate"]) == {"activations", "weights", "result"}
    assert ours.counted["tasks"] == 3
    (table,) = memory.tables(report_of(found))
    assert [row[1] for row in table.rows] == ["with", "exact", "scipy"]
    assert len({len(row) for row in table.rows}) == 1


def test_where_the_system_tells_no_peaks_they_are_left_out(monkeypatch):
    for suite in (growth, memory):
        monkeypatch.setattr(suite, "why_no_peaks", lambda: "nobody tells")
    found = growth.along(Axis("samples", (50, 100), Point(64, 2, 50, 1)), ("none",), SMOKE)
    found.append(memory.peak(memory.Case(64, 2, 50), "exact", 1))
    left_out = [each for each in found if each.unit == "bytes"]
    assert [(each.rounds, each.left_out) for each in left_out] == [((), "nobody tells")] * 3
    assert [curve.unit for curve in growth.curves(report_of(found))] == ["seconds"]
    assert len(memory.tables(report_of(found))[0].rows) == 1


def test_the_estimate_is_the_plans_activations_on_each_thread_weights_and_the_result():
    with dask.config.set(num_workers=2):
        inference = tg.infer(tg.radixnet(256, 8), tg.digit_images(400, 256), reductions="none", partitions=4)
    result = inference.compute(scheduler="threads")
    expected = counted(inference, result)
    assert memory.estimate(result) == {
        "activations": 2 * inference.plan.largest_task_nbytes,
        "weights": expected["weight_nbytes"],
        "result": expected["result_nbytes"],
    }


def test_memory_of_a_wrong_answer_is_not_told(monkeypatch):
    monkeypatch.setattr(memory, "_with_scipy", lambda network, images: np.ones(images.shape))
    with pytest.raises(KernelError, match="scipy: the answer is off by"):
        memory.peak(memory.Case(64, 2, 20), "scipy", 1)
