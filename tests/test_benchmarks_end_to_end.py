"""Whole networks beside others: every way to write one is right, or is not timed."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import scipy.sparse

from taskgraph_dnn.benchmarks import timing
from taskgraph_dnn.benchmarks.cases.networks import pruned_network, random_network
from taskgraph_dnn.benchmarks.peers import networks as peer_networks
from taskgraph_dnn.benchmarks.peers.chains import mkl_columns, scipy_rows
from taskgraph_dnn.benchmarks.peers.networks import PEERS, NetworkPeer, Way, Work, fastest_way, our_contender
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import Effort
from taskgraph_dnn.benchmarks.suites import end_to_end
from taskgraph_dnn.benchmarks.timing import measured
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.kernels import kernel_problem
from taskgraph_dnn.network import Layer, Network
from taskgraph_dnn.reference import reference_outputs
from taskgraph_dnn.synthetic import digit_images, radixnet

#: torch's compiler uses what torch calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

QUICK = Effort("smoke", 2, 1e-5)
WORKS = {
    "categories": lambda: Work.of((radixnet(1024, 4), digit_images(300, 1024)), categories=True),
    "outputs": lambda: Work.of(pruned_network(300, (64, 32, 16, 10), 0.2), categories=False),
    "capped": lambda: Work.of(random_network(64, 3, 8, 300), categories=False),
}
WAYS = [(peer, way) for peer in PEERS for way in peer.ways]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(timing, "rest", lambda: None)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as threads:
        yield threads


def name_of(value):
    return value.name if isinstance(value, NetworkPeer) else value.formulation(2).replace(" ", "-")


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize(("peer", "way"), WAYS, ids=name_of)
def test_every_way_of_every_peer_gives_the_right_answer(peer, way, make, pool):
    if peer.problem() is not None:
        pytest.skip(peer.problem())
    work = make()
    if peer.misfit(work.network):
        pytest.skip(peer.misfit(work.network))
    chain = way.chain(work.network, 2 if way.by == "own" else 1)
    contender = peer.contender(work, way, chain, 2, pool)
    assert contender.work == work.samples * work.network.nnz
    with contender.around():
        contender.run(2)
    assert contender.difference() < 1e-4


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
def test_mkl_works_on_arrays_that_begin_on_cache_lines(form, monkeypatch):
    if kernel_problem("mkl") is not None:
        pytest.skip(kernel_problem("mkl"))
    mkl = import_module("taskgraph_dnn.kernels.mkl_kernel")
    multiply, starts = mkl._Handle.multiply, []

    def noted(self, tile, out):
        starts.extend(array.ctypes.data % 64 for array in (tile, out))
        multiply(self, tile, out)

    monkeypatch.setattr(mkl._Handle, "multiply", noted)
    network, rows = random_network(64, 3, 8, 32)
    chain = mkl_columns(network, 1)
    for _ in range(4):  # any one might by chance
        np.testing.assert_allclose(chain(form(rows)), reference_outputs(network, rows), rtol=1e-4, atol=1e-5)
    assert len(starts) == 4 * 3 * 2
    assert not any(starts)


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize("reductions", ["none", "dynamic", "exact"])
def test_ours_gives_the_right_answer_and_counts(reductions, make):
    work = make()
    contender = our_contender(work, reductions, 2, {"scheduler": "threads"}, partitions=3)
    contender.run(2)
    assert contender.difference() < 1e-4
    counts = contender.counted()
    assert counts["tasks"] == 3
    assert 0 < counts["multiply_adds"] <= work.edges
    assert reductions != "none" or counts["multiply_adds"] == work.edges
    assert "tiles" in contender.formulation


def test_categories_are_those_of_the_reference():
    network, images = radixnet(1024, 4), digit_images(300, 1024)
    outputs = reference_outputs(network, images)
    work = Work.of((network, images), categories=True)
    np.testing.assert_array_equal(work.categories, np.flatnonzero(outputs.any(axis=1)))
    np.testing.assert_array_equal(work.outputs, outputs[work.checked])
    assert 0 < len(work.categories) < 300
    assert np.isin(work.checked, work.categories).any()


@pytest.mark.parametrize("make", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize("wrong", [lambda outputs: 0 * outputs, lambda outputs: outputs + 0.01])
@pytest.mark.parametrize("by", ["callers", "own", "dask"])
def test_a_wrong_peer_is_not_timed(make, wrong, by, pool):
    def chain(network, threads):
        right = scipy_rows(network, threads)
        return lambda rows: wrong(right(rows))

    work, way = make(), Way("wrong", chain, 64, by)
    peer = NetworkPeer("wrong", (way,))
    contender = peer.contender(work, way, way.chain(work.network, 1), 2, pool)
    with pytest.raises(KernelError, match=r"wrong \(wrong, 64 samples at a time, .*: the answer is off by"):
        measured("end-to-end", "case", [contender], QUICK, {})


def test_the_fastest_way_is_taken(pool):
    def slow(network, threads):
        quick = scipy_rows(network, threads)
        return lambda rows: [time.sleep(0.05), quick(rows)][1]

    peer = NetworkPeer("scipy", (Way("slow", slow, 64, "callers"), Way("quick", scipy_rows, 64, "callers")))
    found, why = fastest_way(peer, WORKS["outputs"](), 2, pool, most_seconds=60)
    assert found.formulation.startswith("quick")
    assert not why


def test_what_a_peer_does_once_is_no_reason_to_leave_it_out(monkeypatch, pool):
    monkeypatch.setattr(peer_networks, "_ENOUGH_SECONDS", 0.0)

    def compiled(network, threads):
        chain, waits = scipy_rows(network, threads), iter([2.0])
        return lambda rows: [time.sleep(next(waits, 0.0)), chain(rows)][1]

    peer = NetworkPeer("scipy", (Way("rows", compiled, 0, "own"),))
    found, why = fastest_way(peer, WORKS["outputs"](), 2, pool, most_seconds=1.5)
    assert found is not None, why


def test_a_peer_that_takes_too_long_is_left_out_and_the_reason_is_said(pool):
    peer = NetworkPeer("scipy", (Way("rows", scipy_rows, 64, "callers"),))
    found, why = fastest_way(peer, WORKS["outputs"](), 2, pool, most_seconds=0)
    assert found is None
    assert why.startswith("a pass would take about")


@pytest.mark.parametrize("layer", [{"bias": 0.1}, {"activation": "identity"}, {"bias": [-1.0, -2.0]}])
def test_activations_are_kept_sparse_only_where_that_is_right(layer, pool):
    (peer,) = (peer for peer in PEERS if peer.name == "scipy sparse")
    work = Work.of((Network([Layer(np.eye(2), **layer)]), np.ones((8, 2), np.float32)), categories=False)
    assert fastest_way(peer, work, 2, pool, 60) == (None, "outputs without a sum are not all zero")


def test_dense_weights_that_are_too_large_are_left_out(monkeypatch, pool):
    monkeypatch.setattr(peer_networks, "_DENSE_NBYTES", 1000)
    (peer,) = (peer for peer in PEERS if peer.name == "onnxruntime")
    assert fastest_way(peer, WORKS["capped"](), 2, pool, 60) == (None, "dense weights would take 0.0 GiB")


def test_the_suite_says_who_is_ahead_and_what_was_left_out_or_is_missing():
    names = {"a": WORKS["categories"], "b": WORKS["outputs"]}
    found = [m for name, make in names.items() for m in end_to_end.measure_case(name, make(), QUICK, lambda _: None)]
    report = Report("now", "smoke", {}, end_to_end.missing(), tuple(found))
    beside, everything = end_to_end.tables(report)
    head, *rows = beside.rows
    assert head[4:] == [peer.name for peer in PEERS]
    assert [row[0] for row in rows] == ["a", "b"]
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        assert cells["scipy"].endswith(("ahead", "behind", "open"))
        assert all(cells[name] == "missing" for name in report.missing)
    assert rows[1][head.index("scipy sparse")] == "left out: outputs without a sum are not all zero"
    assert {row[3] for row in rows} == {""}  # nobody knows what the machine can do
    ceilings = [Measurement("ceilings", "multiply-adds", "sgemm", "ceiling", rounds=(2.0,), work=1e9)]
    of_sgemm = end_to_end.tables(replace(report, measurements=(*found, *ceilings)))[0].rows[1][3]
    none = next(each for each in found if each.contender == "none")
    assert of_sgemm == f"{np.median([none.work / seconds for seconds in none.rounds]) / 0.5e9:.0%}"
    assert len(everything.rows) == 1 + len(found)
    assert [m.contender for m in found if m.details.get("default")] == ["exact", "exact"]


def test_what_is_counted_is_the_same_in_every_run():
    def counts():
        case = end_to_end.measure_case("a", WORKS["categories"](), QUICK, lambda _: None)
        return {m.key: m.counted for m in case if m.kind == "ours"}

    assert counts() == counts()


def test_cases_have_names_of_their_own_in_each_effort():
    for number in range(3):
        cases = [(case.name, case.samples[number]) for case in end_to_end.CASES if case.samples[number]]
        assert len(set(cases)) == len(cases) > 1
