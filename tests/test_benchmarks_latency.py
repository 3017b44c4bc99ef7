"""The latency of compiled networks is measured beside peers; how long anything takes, no test asserts."""

from functools import partial

import numpy as np
import pytest

from taskgraph_dnn.benchmarks import timing
from taskgraph_dnn.benchmarks.cases.networks import pruned_network
from taskgraph_dnn.benchmarks.report.records import Report
from taskgraph_dnn.benchmarks.suite import Effort
from taskgraph_dnn.benchmarks.suites import latency
from taskgraph_dnn.compiled_network import CompiledNetwork
from taskgraph_dnn.errors import KernelError

#: torch's compiler uses what torch calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

QUICK = Effort("smoke", 5, 1e-5)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(timing, "rest", lambda: None)
    case = latency.Case("tiny", partial(pruned_network, widths=(12, 8, 3), density=0.5))
    monkeypatch.setattr(latency, "CASES", (case,))


@pytest.fixture
def measured():
    return tuple(latency.measure(QUICK, lambda text: None))


def test_calls_of_one_sample_and_of_more_are_timed_in_every_round(measured):
    assert {each.case for each in measured} == {"tiny, 1 sample", "tiny, 64 samples"}
    assert {len(each.rounds) for each in measured} == {5}
    assert {each.work for each in measured if each.case == "tiny, 64 samples"} == {64}
    assert {"compile", "infer", "scipy"} <= {each.contender for each in measured}


def test_peers_run_on_one_thread_and_on_all(measured):
    threads = {each.threads for each in measured if each.contender == "scipy"}
    assert threads == {1, timing.THREADS}


def test_peers_are_there_or_named_as_missing(measured):
    assert {each.contender for each in measured} | latency.missing().keys() == {"compile", "infer", *latency._CHAINS}


def test_what_is_computed_is_counted(measured):
    ours = [each for each in measured if each.contender == "compile"]
    assert [each.counted["layers"] for each in ours] == [2, 2]
    assert all(0 < each.counted["edges"] <= each.parameters["edges"] for each in ours)


def test_a_wrong_answer_ends_the_benchmark(monkeypatch):
    right = CompiledNetwork.__call__
    monkeypatch.setattr(CompiledNetwork, "__call__", lambda self, rows: right(self, rows) + np.float32(0.1))
    with pytest.raises(KernelError, match="compile"):
        list(latency.measure(QUICK, lambda text: None))


def test_the_table_says_who_is_ahead(measured):
    report = Report("2026-11-21", "smoke", {}, latency.missing(), measured)
    (table,) = latency.tables(report)
    head, *rows = table.rows
    assert [row[0] for row in rows] == ["tiny, 1 sample", "tiny, 64 samples"]
    scipy = head.index("scipy")
    assert all(row[scipy].endswith(("ahead", "behind", "open")) for row in rows)
    for name in latency.missing():
        assert {row[head.index(name)] for row in rows} == {"missing"}
