"""Whole networks timed beside others, and what reductions cost: answers are compared before times are told."""

import json

import pytest
from click.testing import CliRunner

from taskgraph_dnn.benchmarks import overhead, scaling, scheduling, whole
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.synthetic import digit_images, radixnet


def test_all_find_the_same_categories(tmp_path):
    """An answer that differs from another one's would end the command."""
    arguments = "--neurons", "1024", "--layers", "3", "--samples", "200", "--rounds", "2"
    ran = CliRunner().invoke(whole.main, [*arguments, "--json", str(tmp_path / "whole.json")])
    assert ran.exit_code == 0, ran.output
    seconds = json.loads((tmp_path / "whole.json").read_text())["seconds"]
    assert {"this package, exact", "this package, dynamic", "scipy"} <= set(seconds)
    assert all(len(taken) == 2 and min(taken) > 0 for taken in seconds.values())


def test_a_wrong_answer_ends_the_comparison(monkeypatch):
    network, images = radixnet(1024, 2), digit_images(50, 1024)
    monkeypatch.setattr(whole, "with_scipy", lambda network, images: lambda: (1.0, whole.np.array([0])))
    with pytest.raises(KernelError, match="scipy finds 1 categories, expected"):
        whole.measure(network, images, rounds=1)


def test_overhead_is_measured_where_nothing_can_be_left_out(tmp_path, monkeypatch):
    problems = {
        "random": lambda: overhead.random_network(64, 3, 8, 100),
        "pruned": lambda: overhead.pruned_network(100),
    }
    monkeypatch.setattr(overhead, "PROBLEMS", problems)
    ran = CliRunner().invoke(overhead.main, ["--rounds", "2", "--json", str(tmp_path / "overhead.json")])
    assert ran.exit_code == 0, ran.output
    times = json.loads((tmp_path / "overhead.json").read_text())["times"]
    assert set(times) == set(problems)
    assert all(set(of) == {"none", "dynamic", "exact"} for of in times.values())
    assert all(len(rounds) == 2 for of in times.values() for rounds in of.values())


def test_a_network_with_structure_says_nothing_of_overhead():
    with pytest.raises(KernelError, match="reductions leave out"):
        overhead.measure((radixnet(1024, 6), digit_images(500, 1024)), rounds=1)


@pytest.mark.parametrize("benchmark", [scaling, scheduling], ids=lambda module: module.__name__.rsplit(".", 1)[1])
def test_a_file_that_cannot_be_written_is_said_in_a_line_before_work(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "benchmark", lambda *arguments, **options: pytest.fail("work has begun"))
    ran = CliRunner().invoke(benchmark.main, ["--json", str(tmp_path / "none" / "report.json")])
    assert ran.exit_code == 1
    assert ran.output.startswith("Error: cannot write")
    assert "there is no folder" in ran.output
