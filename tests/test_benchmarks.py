"""The benchmarks measure what they say; how fast anything is, no test asserts."""

import io
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner
from threadpoolctl import threadpool_info

from taskgraph_dnn.benchmarks import fingerprint, runs, timing
from taskgraph_dnn.benchmarks.cases import layers, networks
from taskgraph_dnn.benchmarks.cases.layers import Case
from taskgraph_dnn.benchmarks.harness import run_suites
from taskgraph_dnn.benchmarks.peers import products as peers
from taskgraph_dnn.benchmarks.report.records import Measurement, read_report
from taskgraph_dnn.benchmarks.suite import Effort
from taskgraph_dnn.benchmarks.suites import ceilings, kernels, reductions
from taskgraph_dnn.benchmarks.timing import Contender, fastest, in_threads, interleaved, rates, ratios, summary
from taskgraph_dnn.cli import main
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.kernels import automatic_kernels, load_kernel
from taskgraph_dnn.synthetic import digit_images, radixnet

RANDOM = Case("random-64", 64, layers.random_layer)
PUSH = Case("push-64", 64, layers.radix_first_layer, density=0.1)
QUICK = Effort("all", rounds=5, seconds=1e-5)


def quiet(text: str) -> None:
    """Hear what is being measured."""


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
    untimed, measured = ([name for name, _ in clock.log[first::2]] for first in (3 * len(names), 3 * len(names) + 1))
    assert untimed == measured  # a pass before each measurement
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


def test_the_fastest_has_the_highest_median_rate():
    made = partial(Measurement, "suite", "case", kind="ours", work=6.0)
    slow, fast = made("slow", rounds=(1.0, 3.0, 3.0)), made("fast", rounds=(9.0, 2.0, 2.0))
    assert rates(slow) == [6.0, 2.0, 2.0]
    assert fastest([slow, fast]) is fast
    assert fastest([]) is None


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
    assert len({case.name for case in layers.CASES}) == len(layers.CASES) == 24
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


def test_peers_are_given_inputs_that_begin_on_a_cache_line():
    starts = []

    def product(weights, blocks):
        starts.extend(block.ctypes.data % 64 for block in blocks)
        return peers._Product(lambda k: weights @ blocks[k])

    with ThreadPoolExecutor(2) as pool:
        for _ in range(4):  # any one might by chance
            peers.Peer("any", "scipy", product, None, nullcontext).contenders(RANDOM.problem(2, 2**16), 2, pool)
    assert len(starts) >= 16
    assert not any(starts)


# Ceilings.


def test_ceilings_are_right():
    with ThreadPoolExecutor(2) as pool:
        for contender in (ceilings.sgemm(1, 64), ceilings.copy(2, pool, 2**16)):
            assert not contender.difference() < timing.TOLERANCE
            contender.run(1)
            assert contender.difference() < timing.TOLERANCE


@pytest.mark.parametrize("large", [2**14, 2**20], ids=["fetched ahead", "near"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("nbytes", [2**14, 2**19])
def test_every_row_is_gathered_as_often_as_it_counts(nbytes, threads, large, monkeypatch):
    monkeypatch.setattr(ceilings, "_LARGE", large)
    monkeypatch.setattr(ceilings, "_GATHERED", 2**13)
    with ThreadPoolExecutor(threads) as pool:
        contender = ceilings.gather(threads, pool, nbytes)
        assert not contender.difference() < timing.TOLERANCE
        contender.run(2)
        assert contender.difference() == 0  # the sums of whole numbers are exact, and none is left out
    assert contender.work == threads * 2**13 * 128


@pytest.fixture
def small_ceilings(monkeypatch):
    monkeypatch.setattr(ceilings, "SIZES", {"16 KiB": 2**14, "64 KiB": 2**16, "1 GiB": 2**30})
    monkeypatch.setattr(ceilings, "_LARGE", 2**16)
    monkeypatch.setattr(ceilings, "sgemm", partial(ceilings.sgemm, size=64))
    return lambda: run_suites([ceilings.CEILINGS], replace(QUICK, name="smoke"), None, say=quiet)


def test_ceilings_are_measured_on_one_thread_and_on_all(small_ceilings):
    found = Counter((each.case, each.contender, each.threads) for each in small_ceilings().of("ceilings"))
    expected = ("multiply-adds", "sgemm"), ("16 KiB", "gather"), ("64 KiB", "copy"), ("64 KiB", "gather")
    assert found == Counter((*pair, threads) for pair in expected for threads in (1, 2))


def test_what_cannot_be_gathered_without_numba_is_told(small_ceilings, monkeypatch):
    monkeypatch.setattr(ceilings, "kernel_problem", lambda name: "numba is not here")
    report = small_ceilings()
    assert [each.case for each in report.of("ceilings") if each.left_out] == ["16 KiB", "64 KiB"]
    (table,) = ceilings.tables(report)
    assert ["gather", "16 KiB", "2", "left out", "", "numba is not here"] in [
        [row[0].split(",")[0], *row[1:]] for row in table.rows
    ]


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


def test_weights_are_counted_as_they_are_stored():
    problem = RANDOM.problem(2, 2**16)
    with ThreadPoolExecutor(1) as pool:
        stored = {
            kernel.name: kernels.our_contender(kernel, problem, 1, pool).counted()["weight bytes"]
            for kernel in automatic_kernels()
            if not kernel.reads_rows
        }
    edges, neurons = 64 * layers.EDGES, 64
    assert stored["dense"] == 4 * neurons**2
    assert stored["scipy"] == problem.layer.nbytes  # it works on the layer
    assert stored["ell"] == 8 * edges + 4 * neurons
    assert 6 * edges + 4 * neurons < stored["csr"] < 8 * edges + 2048


# The report.


@pytest.fixture
def cases(monkeypatch):
    """Two small cases, and no peer but scipy."""
    monkeypatch.setattr(kernels, "CASES", (RANDOM, PUSH))
    monkeypatch.setattr(kernels, "sgemm", partial(ceilings.sgemm, size=64))
    monkeypatch.setattr(Case, "samples", lambda self, threads, nbytes: 256)
    monkeypatch.setattr(
        peers, "kernel_problem", lambda name: None if name == "scipy" else f"kernel {name!r} is not here"
    )


@pytest.fixture
def report(cases):
    return run_suites([kernels.KERNELS], QUICK, None, say=quiet)


def rows_of(report, title):
    """Return a table's rows by their cases, as cells by columns."""
    (table,) = [table for table in kernels.tables(report) if table.title.startswith(title)]
    head, *rows = table.rows
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_report_can_be_written(report, tmp_path):
    (tmp_path / "report.jsonl").write_text(report.lines())
    assert read_report(tmp_path / "report.jsonl") == report
    assert list(dict.fromkeys(each.case for each in report.measurements)) == ["random-64", "push-64"]
    assert set(report.machine["packages"]) >= {"numpy", "numba", "torch", "mkl"}


def test_report_tells_nothing_of_whose_machine_it_is(report):
    assert "/" not in report.lines()  # no path


def test_a_machine_has_no_pools_that_read_files():
    """scipy adds its reader's once it has read something, with a function in place of a version."""
    scipy.io.mmread(io.StringIO("%%MatrixMarket matrix coordinate real general\n1 1 1\n1 1 2.0\n"), spmatrix=False)
    assert "scipy" in {pool["user_api"] for pool in threadpool_info()}
    assert {pool["user_api"] for pool in json.loads(json.dumps(fingerprint.machine()))["thread_pools"]} <= {
        "blas",
        "openmp",
    }


def test_every_contender_is_measured_in_every_round(report):
    found = {case: [each for each in report.measurements if each.case == case] for case in ("random-64", "push-64")}
    names = Counter((each.kind, each.contender, each.threads) for each in found["random-64"])
    assert names["ours", "csr", 1] == names["ours", "csr", 2] == 1
    assert names["peer", "scipy", 2] == 2
    assert names["ceiling", "sgemm", 1] == names["ceiling", "sgemm", 2] == 1
    assert not any(name in ("scipy", "push") for kind, name, _ in names if kind == "ours")
    assert {each.contender for each in found["push-64"]} >= {"push", "tile", "sgemm"}
    for each in report.measurements:
        assert len(each.rounds) == 5
        assert min(each.rounds) > 0
        if each.kind != "ceiling":
            assert each.work == 256 * each.parameters["edges"]
        assert bool(each.counted) == (each.kind == "ours")


def test_one_of_ours_is_what_a_plan_takes(report):
    for case in ("random-64", "push-64"):
        (auto,) = [each for each in report.of("kernels") if each.case == case and each.details.get("default")]
        assert (auto.kind, auto.threads) == ("ours", 2)
        assert auto.details["why"].startswith("us a tile: " + auto.contender)


def test_ratios_of_the_report(report):
    rows = rows_of(report, "What auto takes")
    measured = [each for each in report.of("kernels") if each.case == "random-64" and each.threads == 2]
    (auto,) = [each for each in measured if each.details.get("default")]
    best = fastest([each for each in measured if each.kind == "peer"])
    times = summary(ratios(rates(auto), rates(best)))
    assert rows["random-64"]["best peer"] == f"scipy, {best.formulation}"
    assert rows["random-64"]["auto / best peer"].startswith(f"{times.median:.2f} ({times.low:.2f} to {times.high:.2f})")
    assert rows["push-64"]["best peer"] == rows["push-64"]["auto / best peer"] == ""
    assert rows["push-64"]["2 threads / 1"]


def test_missing_peers_are_named(report):
    missing = ["mkl", "torch", "torch dense", "torch compiled", "graphblas"]
    assert list(report.missing) == missing
    assert report.missing["mkl"] == "kernel 'mkl' is not here"
    rows = rows_of(report, "Rates")
    assert [name for name, cell in rows["random-64"].items() if cell == "missing"] == missing
    assert sum(cell.startswith("**") for cell in rows["random-64"].values()) == 1
    assert rows["random-64"][rows["random-64"]["auto"]].strip("*")
    assert "missing" not in rows["push-64"].values()


def test_dense_weights_of_wide_layers_are_left_out(cases, monkeypatch):
    monkeypatch.setattr(kernels, "DENSE_NEURONS", 32)
    report = run_suites([kernels.KERNELS], QUICK, None, say=quiet)
    left = [each for each in report.of("kernels") if each.left_out]
    assert {(each.case, each.kind, each.contender) for each in left} == {
        ("random-64", "ours", "dense"),
        ("random-64", "peer", "torch dense"),
        ("random-64", "peer", "torch compiled"),
    }
    assert all(each.left_out.startswith("dense weights would take") and not each.rounds for each in left)
    timed = [each for each in report.of("kernels") if each.rounds]
    assert "dense" not in {each.contender for each in timed}
    assert rows_of(replace(report, missing={}), "Rates")["random-64"]["torch dense"] == "left out"


def test_a_broken_off_report_has_tables_of_what_is_there(report):
    whole = rows_of(report, "Rates")["random-64"]
    part = replace(report, measurements=tuple(each for each in report.measurements if each.case == "random-64"))
    assert {name: cell for name, cell in rows_of(part, "Rates")["random-64"].items() if cell} == {
        name: cell for name, cell in whole.items() if cell
    }
    assert all(len(table.rows) == 1 for table in kernels.tables(replace(report, measurements=())))


# Tables, of numbers that are made up.


def made(contender, kind, seconds, threads=2, default=False, formulation="one call", density=1.0):
    return Measurement(
        "kernels",
        "case",
        contender,
        kind,
        rounds=tuple(seconds),
        formulation=formulation,
        threads=threads,
        work=1e9,
        counted={"weight bytes": 2e8} if kind == "ours" else {},
        parameters={
            "neurons": 1024,
            "density": density,
            "weight bytes": 3e8,
            "activation bytes": 3e8,
            "gathered bytes": 4e9,
        },
        details={"default": True} if default else {},
    )


def ratio_row(report, *measurements):
    return rows_of(replace(report, measurements=measurements), "What auto takes")["case"]


def test_a_choice_that_is_too_slow_is_told(report):
    auto, other = made("csr", "ours", [1.0, 1.1, 1.0], default=True), made("ell", "ours", [0.8, 0.9, 0.8])
    assert ratio_row(report, auto, other)["auto / best of ours"] == "0.80 (0.80 to 0.81), too low"


def test_a_spread_that_is_wider_than_the_claim_is_told(report):
    auto = made("csr", "ours", [1.0, 1.0, 1.0], default=True)
    row = ratio_row(report, auto, made("scipy", "peer", [0.9, 1.2, 1.5]), made("sgemm", "ceiling", [0.5, 0.5, 0.5]))
    assert row["auto / best peer"] == "1.20 (0.96 to 1.44), open"
    assert row["auto / sgemm"] == "0.50 (0.50 to 0.50)"  # nothing is claimed
    row = ratio_row(report, auto, made("scipy", "peer", [1.1, 1.2, 1.5]))
    assert row["auto / best peer"] == "1.20 (1.12 to 1.44)"
    row = ratio_row(report, auto, made("scipy", "peer", [0.8, 0.7, 0.8]))
    assert row["auto / best peer"] == "0.80 (0.72 to 0.80), too low"


def test_one_call_is_what_users_write(report):
    auto = made("csr", "ours", [1.0, 1.0, 1.0], default=True)
    narrow = made("mkl", "peer", [2.0, 2.0, 2.0], formulation="64 columns a call")
    row = ratio_row(report, auto, narrow, made("mkl", "peer", [3.0, 3.0, 3.0], formulation="one call, 2 callers"))
    assert (row["best peer"], row["auto / best peer"]) == ("mkl, 64 columns a call", "2.00 (2.00 to 2.00)")
    assert row["auto / peer, one call"] == "3.00 (3.00 to 3.00)"


def test_intensity_is_multiply_adds_for_each_byte_that_must_move():
    assert kernels.intensity(made("csr", "ours", [1.0])) == 2.0
    assert kernels.intensity(made("scipy", "peer", [1.0])) == pytest.approx(1e9 / 6e8)


def test_the_roof_is_that_of_the_same_report(report):
    auto = made("csr", "ours", [0.1, 0.1, 0.1], default=True)
    machine = partial(Measurement, "ceilings", kind="ceiling", rounds=(1.0, 1.0), threads=2, work_unit="bytes")
    roofs = (
        machine("16 MiB", "copy", work=3e10),
        machine("16 MiB", "gather", work=4e10),
        machine("512 KiB", "gather", work=1e11),
        machine("16 KiB", "gather", work=4e11),
    )
    row = rows_of(replace(report, measurements=(auto, *roofs)), "What the machine allows")["case"]
    assert row["rate"] == "10.0"
    assert row["multiply-adds a byte"] == "2.00"
    assert row["copying would allow"] == "60.0"
    assert row["gathering would allow"] == "25.0"  # a tile has 128 KiB
    row = rows_of(replace(report, measurements=(auto,)), "What the machine allows")["case"]
    assert row["copying would allow"] == row["gathering would allow"] == ""
    pushed = made("push", "ours", [0.1, 0.1, 0.1], default=True, density=0.1)
    row = rows_of(replace(report, measurements=(pushed, *roofs)), "What the machine allows")["case"]
    assert (row["copying would allow"], row["gathering would allow"]) == ("60.0", "")


# Wrong answers.


def test_a_wrong_peer_ends_the_benchmark(cases, monkeypatch):
    monkeypatch.setattr(layers.Problem, "sums", property(lambda self: self.outputs + 1))
    with pytest.raises(KernelError, match=r"scipy \(.*\): the answer is off"):
        list(kernels.measure_case(RANDOM, QUICK))


def test_a_wrong_kernel_ends_the_benchmark(cases, monkeypatch):
    monkeypatch.setattr(layers.Problem, "outputs", property(lambda self: self.sums + 1))
    with pytest.raises(KernelError, match=r"tile \(.*\): the answer is off"):
        list(kernels.measure_case(RANDOM, QUICK))


# The command.


def test_command_ends_in_one_line_where_a_kernel_is_wrong(cases, small_ceilings, monkeypatch):
    monkeypatch.setattr(kernels, "_SMOKE", ("random-64",))
    monkeypatch.setattr(layers.Problem, "outputs", property(lambda self: self.sums + 1))
    result = CliRunner().invoke(main, ["bench", "--suites", "kernels", "--effort", "smoke"])
    assert result.exit_code == 1
    assert "the answer is off by" in result.output.splitlines()[-1]


def test_command_measures_and_shows_tables(cases, small_ceilings, monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "_SMOKE", ("push-64",))
    path = tmp_path / "report.jsonl"
    result = CliRunner().invoke(main, ["bench", "--suites", "kernels", "--effort", "smoke", "--output", str(path)])
    assert result.exit_code == 0, result.output
    assert "push-64" in result.stdout
    assert {each.case for each in read_report(path).of("kernels")} == {"push-64"}


# Reductions.


@pytest.fixture
def problems(monkeypatch):
    found = {"random": lambda: networks.random_network(64, 3, 8, 100), "pruned": lambda: networks.pruned_network(100)}
    monkeypatch.setattr(reductions, "PROBLEMS", found)
    monkeypatch.setattr(runs, "rest", lambda: None)


def test_overhead_is_measured_where_nothing_can_be_left_out(problems):
    report = run_suites([reductions.REDUCTIONS], replace(QUICK, name="smoke"), None, say=quiet)
    assert Counter((each.case, each.contender) for each in report.measurements) == Counter(
        {(case, mode): 2 for case in ("random", "pruned") for mode in ("none", "dynamic", "exact")}
    )
    assert all(len(each.rounds) == 2 and min(each.rounds) > 0 for each in report.measurements)
    done = {(each.case, each.contender): each.counted["multiply_adds"] for each in report.measurements if each.counted}
    for case in ("random", "pruned"):
        assert done[case, "dynamic"] == done[case, "none"] >= done[case, "exact"]
    (table,) = reductions.tables(report)
    assert [row[0] for row in table.rows] == ["", "random", "pruned"]


def test_costs_are_ratios_within_rounds_and_say_when_they_are_open():
    assert reductions._cost([1.02, 2.04, 3.06], [1.0, 2.0, 3.0]) == "+2.0% (+2.0% to +2.0%)"
    assert reductions._cost([0.9, 1.0, 1.2], [1.0, 1.0, 1.0]).endswith(", open")


def test_a_network_with_structure_says_nothing_of_overhead(problems):
    with pytest.raises(KernelError, match="reductions leave out"):
        list(reductions.measure_case("deep", (radixnet(1024, 6), digit_images(500, 1024)), rounds=1))


def test_a_wrong_answer_ends_the_measurement_of_reductions(problems, monkeypatch):
    monkeypatch.setattr(runs, "reference_outputs", lambda network, rows: np.ones((len(rows), 64)))
    with pytest.raises(KernelError, match="none: the answer is off"):
        list(reductions.measure_case("random", networks.random_network(64, 3, 8, 100), rounds=1))


def test_what_needs_scikit_learn_is_left_out_without_it(monkeypatch):
    monkeypatch.setattr(reductions, "PROBLEMS", {"trained": lambda: pytest.fail("it is made")})
    monkeypatch.setattr(reductions, "find_spec", lambda name: None)
    (left,) = reductions.measure(QUICK, quiet)
    assert left.left_out == "scikit-learn is not installed"
