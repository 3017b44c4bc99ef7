"""The benchmarks measure what they say; how fast anything is, no test asserts."""

import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner
from threadpoolctl import threadpool_info

from taskgraph_dnn.benchmarks import fingerprint, kernels, layers, peers, tables, timing
from taskgraph_dnn.benchmarks.layers import Case
from taskgraph_dnn.benchmarks.suites import ceilings
from taskgraph_dnn.benchmarks.timing import Contender, in_threads, interleaved, ratios, summary
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.kernels import load_kernel

RANDOM = Case("random-64", 64, layers.random_layer)
PUSH = Case("push-64", 64, layers.radix_first_layer, density=0.1)
QUICK = {"rounds": 5, "seconds": 1e-5}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(timing, "rest", lambda: None)


# Timing.


class Clock:
    """A clock that only contenders move; it remembers who did, and by how many passes."""

    def __init__(self) -> None:
        self.now, self.log = 0.0, []

    def __call__(self) -> float:
        return self.now

    def contender(self, name: str, seconds: float, difference: float = 0.0) -> Contender:
        def run(passes: int) -> None:
            self.log.append((name, passes))
            self.now += passes * seconds

        return Contender(name, "made up", 1, 1000, run, lambda: difference)


def timed(clock, contenders, rounds=6, seconds=1.0):
    rng = np.random.default_rng(0)
    return interleaved(contenders, rounds=rounds, seconds=seconds, rng=rng, clock=clock)


def test_each_contender_runs_once_a_round_in_changing_order():
    clock = Clock()
    names = "abcd"
    timed(clock, [clock.contender(name, 2.0) for name in names])
    measured = [name for name, _ in clock.log[2 * len(names) :]]
    rounds = ["".join(measured[first : first + 4]) for first in range(0, len(measured), 4)]
    assert len(rounds) == 6
    assert {"".join(sorted(order)) for order in rounds} == {names}
    assert len(set(rounds)) > 1


def test_seconds_are_those_of_a_pass():
    clock = Clock()
    taken = timed(clock, [clock.contender("fast", 0.001), clock.contender("slow", 3.0)])
    assert [len(each) for each in taken] == [6, 6]
    np.testing.assert_allclose(taken, [[0.001] * 6, [3.0] * 6])


def test_passes_are_repeated_until_a_measurement_lasts():
    clock = Clock()
    timed(clock, [clock.contender("a", 0.001)], seconds=0.5)
    *_, (_, woken), (_, measured) = clock.log
    assert woken == 1
    assert 500 <= measured <= 600


def test_a_clock_too_coarse_for_a_pass_asks_for_more_passes():
    clock = Clock()
    ticks = iter([0.0, 0.0, *np.arange(100.0)])
    interleaved(
        [clock.contender("a", 0.0)], rounds=5, seconds=0.5, rng=np.random.default_rng(0), clock=lambda: next(ticks)
    )
    assert clock.log[-1] == ("a", 10)


@pytest.mark.parametrize("difference", [1e-3, float("inf"), float("nan")])
def test_a_wrong_contender_is_not_timed(difference):
    clock = Clock()
    with pytest.raises(KernelError, match=r"b \(made up, threads: 1\): the answer is off by"):
        timed(clock, [clock.contender("a", 1.0), clock.contender("b", 1.0, difference), clock.contender("c", 1.0)])
    assert clock.log == [("a", 1), ("b", 1)]


def test_summary():
    found = summary([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (found.median, found.minimum) == (3.0, 1.0)
    assert (found.low, found.high) == pytest.approx((1.4, 4.6))


def test_ratios_are_taken_within_rounds():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError):
        ratios([1.0], [1.0, 2.0])


def test_parts_run_in_threads_and_their_errors_arrive():
    done = Counter()
    with ThreadPoolExecutor(2) as pool:
        in_threads(pool, [partial(done.update, "a"), partial(done.update, "b")])(3)
        assert done == {"a": 3, "b": 3}
        with pytest.raises(ZeroDivisionError):
            in_threads(pool, [lambda: None, lambda: 1 // 0])(1)


def test_a_process_at_rest_is_settled_at_once(monkeypatch):
    monkeypatch.undo()
    slept = []
    monkeypatch.setattr(timing.time, "sleep", slept.append)
    spent = iter([0.0, 0.005, 0.005, 0.01, 0.01, 0.01])  # busy, busy, at rest
    monkeypatch.setattr(timing.time, "process_time", lambda: next(spent))
    timing.rest()
    assert len(slept) == 3


def test_the_processor_was_used_by_others_and_by_us():
    others, everything = fingerprint.processor_seconds()
    assert 0 < others < everything


# Layers.


def test_random_layer_has_as_many_different_inputs_for_every_output(rng):
    layer = layers.random_layer(64, rng)
    assert (np.diff(layer.weights.indptr) == layers.EDGES).all()
    assert layer.nnz == 64 * layers.EDGES  # no input twice: those would have been summed


def test_radix_layers_have_the_pattern_and_weights_of_their_own(rng):
    for layer in (layers.radix_layer(64, rng), layers.radix_first_layer(64, rng)):
        assert (np.diff(layer.weights.indptr) == layers.EDGES).all()
        assert len(np.unique(layer.weights.data)) > layer.nnz / 2


def test_scattered_layer_is_as_sparse_as_it_says(rng):
    assert layers.scattered_layer(64, rng, sparsity=75).nnz == 64 * 64 / 4


def test_cases_have_names_of_their_own_and_samples_for_each_thread():
    assert len({case.name for case in layers.CASES}) == len(layers.CASES) == 20
    for case in layers.CASES:
        samples = case.samples(2)
        assert samples % (2 * peers.NARROW) == 0
        assert layers.LEAST_COLUMNS * 2 <= samples <= layers.MOST_SAMPLES
        assert 4 * samples * case.neurons <= max(layers.BATCH_NBYTES, 4 * 128 * case.neurons)


def test_problems_are_drawn_the_same_each_time():
    first, second = (RANDOM.problem(2, 2**16) for _ in range(2))
    assert first.layer.digest == second.layer.digest
    np.testing.assert_array_equal(first.rows, second.rows)


# Peers.


@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda peer: peer.name)
def test_every_formulation_of_a_peer_is_right(peer):
    if peer.problem is not None:
        pytest.skip(peer.problem)
    with ThreadPoolExecutor(2) as pool:
        found = peer.contenders(RANDOM.problem(2, 2**16), 2, pool)
        assert len(found) == len({contender.formulation for contender in found}) >= 2
        for contender in found:
            with contender.around():
                contender.run(2)
            assert contender.difference() < timing.TOLERANCE


def test_a_peer_whose_sums_are_wrong_is_wrong():
    half = peers.Peer("half", "scipy", lambda w, blocks: peers._Product(lambda k: w @ blocks[k] / 2), None, nullcontext)
    with ThreadPoolExecutor(2) as pool:
        contender, _ = half.contenders(RANDOM.problem(2, 2**16), 2, pool)
        contender.run(1)
    assert not contender.difference() < timing.TOLERANCE


def test_ceilings_are_right():
    with ThreadPoolExecutor(2) as pool:
        for contender in (ceilings.sgemm(1, 64), ceilings.copy(2, pool, 2**16)):
            assert not contender.difference() < timing.TOLERANCE
            contender.run(1)
            assert contender.difference() < timing.TOLERANCE


# Our kernels.


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("case", "kernel"), [(RANDOM, "csr"), (RANDOM, "scipy"), (PUSH, "push"), (PUSH, "scipy")])
def test_a_kernel_runs_as_in_tasks(case, kernel, threads):
    with ThreadPoolExecutor(threads) as pool:
        contender = kernels.our_contender(load_kernel(kernel), case.problem(2, 2**16), threads, pool)
        assert not contender.difference() < timing.TOLERANCE
        contender.run(2)
        assert contender.difference() < timing.TOLERANCE


def test_a_kernel_whose_flags_are_wrong_is_wrong(monkeypatch):
    with ThreadPoolExecutor(1) as pool:
        found = kernels.our_contender(load_kernel("scipy"), RANDOM.problem(2, 2**16), 1, pool)
        found.run(1)
        assert found.difference() < timing.TOLERANCE
        monkeypatch.setattr("taskgraph_dnn.kernels.finish.np.any", lambda *_, out, **__: out.fill(False))
        found.run(1)
        assert found.difference() == np.inf


# The report.


@pytest.fixture
def report(monkeypatch):
    monkeypatch.setattr(kernels, "copy", partial(ceilings.copy, nbytes=2**16))
    monkeypatch.setattr(kernels, "sgemm", partial(ceilings.sgemm, size=64))
    monkeypatch.setattr(Case, "samples", lambda self, threads, nbytes: 256)
    monkeypatch.setattr(
        peers, "kernel_problem", lambda name: None if name == "scipy" else f"kernel {name!r} is not here"
    )
    return kernels.benchmark([RANDOM, PUSH], **QUICK)


def test_report_can_be_written(report):
    assert json.loads(json.dumps(report)) == report
    assert [case["name"] for case in report["cases"]] == ["random-64", "push-64"]
    assert set(report["machine"]["packages"]) >= {"numpy", "numba", "torch", "mkl"}


def test_report_tells_nothing_of_whose_machine_it_is(report):
    assert "/" not in json.dumps(report)  # no path
    assert set(report["machine"]) == {
        *("processor", "cores", "last_cache", "memory_nbytes", "python", "packages", "thread_pools", "thread_variables")
    }


def test_a_machine_has_no_pools_that_read_files():
    """scipy adds its reader's once it has read something, with a function in place of a version."""
    scipy.io.mmread(io.StringIO("%%MatrixMarket matrix coordinate real general\n1 1 1\n1 1 2.0\n"), spmatrix=False)
    assert "scipy" in {pool["user_api"] for pool in threadpool_info()}
    assert {pool["user_api"] for pool in json.loads(json.dumps(fingerprint.machine()))["thread_pools"]} <= {
        "blas",
        "openmp",
    }


def test_every_contender_is_measured_in_every_round(report):
    case, push = report["cases"]
    names = Counter((t["kind"], t["name"], t["threads"]) for t in case["contenders"])
    assert names["ours", "csr", 1] == names["ours", "csr", 2] == 1
    assert names["peer", "scipy", 2] == 2
    assert names["ceiling", "sgemm", 1] == names["ceiling", "sgemm", 2] == 1
    assert not any(name in ("scipy", "push") for kind, name, _ in names if kind == "ours")
    assert {t["name"] for t in push["contenders"]} >= {"push", "tile", "sgemm"}
    for t in case["contenders"]:
        seconds = t["seconds"]
        assert len(seconds["rounds"]) == 5
        assert seconds["minimum"] <= seconds["low"] <= seconds["median"] <= seconds["high"]
        assert t["rate"] == t["multiply_adds"] / seconds["median"]
        if t["kind"] != "ceiling":
            assert t["multiply_adds"] == 256 * case["edges"]


def test_ratios_of_the_report(report):
    case, push = report["cases"]
    (best,) = [t for t in case["contenders"] if t["formulation"] == case["formulations"]["scipy"]]
    assert case["best_peer"] == "scipy"
    assert best["to_best_peer"]["median"] == 1.0
    (auto,) = [t for t in case["contenders"] if (t["name"], t["threads"]) == (case["auto"]["kernel"], 2)]
    assert case["auto"]["to_best_peer"] == auto["to_best_peer"]
    assert case["auto"]["to_sgemm"] == auto["to_sgemm"]
    assert push["best_peer"] is None
    assert push["auto"]["to_best_peer"] is None


def test_missing_peers_are_named(report):
    assert set(report["missing"]) == {"mkl", "torch", "torch dense", "graphblas"}
    head, row, push = tables.rate_table(report)
    cells = dict(zip(head, row, strict=True))
    assert [name for name, cell in cells.items() if cell == "missing"] == ["mkl", "torch", "torch dense", "graphblas"]
    assert cells["auto"].startswith(report["cases"][0]["auto"]["kernel"])
    assert sum(cell.startswith("**") for cell in row) == 1
    assert "missing" not in push
    assert "mkl is missing: kernel 'mkl' is not here" in tables.markdown(report)


def test_dense_weights_of_wide_layers_are_left_out(report, monkeypatch):
    monkeypatch.setattr(kernels, "DENSE_NEURONS", 32)
    case = kernels.measure(RANDOM, **QUICK)
    assert set(case["left_out"]) == {"dense", "torch dense"}
    assert "dense" not in {t["name"] for t in case["contenders"]}
    head, row = tables.rate_table(report | {"missing": {}, "cases": [case]})
    assert dict(zip(head, row, strict=True))["torch dense"] == "left out"
    assert "- Left out, torch dense: dense weights" in tables.markdown(report | {"cases": [case]})


def test_a_choice_that_is_too_slow_is_told(report):
    report["cases"][0]["auto"]["to_best_of_ours"] = {"median": 0.9, "minimum": 0.8, "low": 0.85, "high": 0.99}
    _, row, _ = tables.ratio_table(report)
    assert "0.90 (0.85 to 0.99), too low" in row


def test_a_wrong_kernel_ends_the_benchmark(monkeypatch):
    monkeypatch.setattr(layers.Problem, "sums", property(lambda self: self.outputs + 1))
    with pytest.raises(KernelError, match=r"scipy \(.*\): the answer is off"):
        kernels.measure(RANDOM, nbytes=2**16, **QUICK)


# The command.


def test_command_ends_in_one_line_where_a_kernel_is_wrong(report, monkeypatch):
    monkeypatch.setattr(kernels, "CASES", (RANDOM,))
    monkeypatch.setattr(layers.Problem, "outputs", property(lambda self: self.sums + 1))
    result = CliRunner().invoke(kernels.main, [])
    assert result.exit_code == 1
    assert "the answer is off by" in result.output.splitlines()[-1]


def test_command_writes_files_and_shows_tables(report, monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "CASES", (RANDOM, PUSH))
    files = ["--json", str(tmp_path / "k.json"), "--markdown", str(tmp_path / "k.md")]
    result = CliRunner().invoke(kernels.main, ["--only", "push-64", "--rounds", "5", "--seconds", "0.001", *files])
    assert result.exit_code == 0, result.output
    assert "push-64" in result.stdout
    assert "graphblas is missing: kernel 'graphblas' is not here" in result.stdout
    assert [case["name"] for case in json.loads((tmp_path / "k.json").read_text())["cases"]] == ["push-64"]
    assert "| push-64 |" in (tmp_path / "k.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "random-7"], "unknown case 'random-7'"),
        (["--rounds", "4"], "4 is not in the range"),
        (["--json", "no/folder/k.json"], "there is no folder"),
    ],
)
def test_command_refuses(options, message):
    result = CliRunner().invoke(kernels.main, options)
    assert result.exit_code in (1, 2)
    assert message in result.output
