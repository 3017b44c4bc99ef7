"""Processes start without what they do not need, and what their start takes is measured on right answers."""

import json
import subprocess
import sys

import numpy as np
import pytest

from taskgraph_dnn.benchmarks.report.records import Report
from taskgraph_dnn.benchmarks.suite import Effort
from taskgraph_dnn.benchmarks.suites import startup
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.synthetic import digit_images, radixnet

ONCE = Effort("smoke", 1, 1e-6)


def imported(code):
    """Which large libraries, and modules of this package, a fresh process has imported when the code is done."""
    code += "\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules = done.stdout.splitlines()[-1].split()
    return {name for name in modules if name in startup.LARGE or name.startswith("taskgraph_dnn.")}


def test_importing_the_package_imports_no_large_library():
    found = imported("import taskgraph_dnn")
    assert "taskgraph_dnn.inference" in found
    assert not found & set(startup.LARGE)
    assert not any(name.startswith(("taskgraph_dnn.benchmarks", "taskgraph_dnn.cli")) for name in found)


@pytest.mark.parametrize("scheduler", [None, "threads", "synchronous"])
def test_a_run_in_this_process_never_imports_distributed(scheduler):
    found = imported(
        "import numpy as np, taskgraph_dnn as tg\n"
        "network = tg.Network([tg.Layer(np.eye(4, dtype=np.float32))])\n"
        f"result = tg.infer(network, np.eye(4), kernel='scipy').compute(scheduler={scheduler!r})\n"
        "assert result.categories.tolist() == [0, 1, 2, 3]"
    )
    assert not found & {"distributed", "fsspec", "pyarrow", "sklearn"}


@pytest.mark.parametrize(("configured", "main"), [("synchronous", True), ("threads", False), (None, False)])
def test_the_configured_scheduler_is_taken_where_distributed_is_not_there(configured, main):
    found = imported(
        "import dask, numpy as np, sys, threading, taskgraph_dnn as tg\n"
        "network = tg.Network([tg.Layer(np.eye(4, dtype=np.float32))])\n"
        f"with dask.config.set(scheduler={configured!r}):\n"
        "    result = tg.infer(network, np.eye(4), kernel='scipy').compute()\n"
        f"assert (str(threading.get_ident()) in result.events[0].worker) is {main}, result.events[0].worker"
    )
    assert "distributed" not in found


def test_a_scheduler_that_nobody_knows_is_still_refused_by_dask():
    code = "import numpy as np, taskgraph_dnn as tg\n"
    code += "network = tg.Network([tg.Layer(np.eye(4, dtype=np.float32))])\n"
    code += "tg.infer(network, np.eye(4), kernel='scipy').compute(scheduler='no-such')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Expected one of [distributed" in done.stderr


def test_a_command_imports_its_own_module_alone():
    found = imported("from taskgraph_dnn.cli import main\nmain(['timeline', '--help'], standalone_mode=False)")
    assert {name for name in found if name.startswith("taskgraph_dnn.cli.")} == {
        "taskgraph_dnn.cli.main",
        "taskgraph_dnn.cli.timeline",
    }
    assert not found & {"distributed", "numba", "pyarrow", "fsspec", "sklearn", "rich"}


# The suite.


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(startup, "_LAYERS", 8)
        patch.setattr(startup, "_SAMPLES", 60)
        patch.setattr(startup, "_CEILINGS", {"Python": ""})
        return Report("now", "smoke", {}, {}, tuple(startup.measure(ONCE, lambda text: None)))


def test_processes_are_measured_and_count_the_large_libraries(report):
    measured = {each.formulation: each for each in report.measurements}
    package, program = measured["import taskgraph_dnn"], measured["in Python, twice"]
    assert package.counted == {"large libraries": 0}
    assert program.counted == {"large libraries": len(program.details["large"])}
    assert {"numba", "pyarrow"} <= set(program.details["large"])
    assert "distributed" not in program.details["large"]
    assert package.details["modules"] > measured["pass"].details["modules"] > 0
    assert [len(each.rounds) for each in report.measurements if not each.left_out] == [1] * 4
    assert all("--effort all" in each.left_out for each in report.measurements if "compiled yet" in each.formulation)


def test_parts_are_those_of_the_process(report):
    (program,) = (each for each in report.measurements if "parts" in each.details)
    (parts,) = program.details["parts"]
    assert len(parts) == len(startup._PARTS)
    assert 0 < sum(parts) < program.rounds[0]


def test_tables_show_every_process(report):
    imports, runs, goal, parts = startup.tables(report)
    assert [row[1] for row in imports.rows[1:]] == ["pass", "import taskgraph_dnn"]
    assert [row[4] for row in runs.rows if row[1] == "taskgraph-dnn run, threads"] == ["1"]
    assert sum(row[2].startswith("left out") for row in runs.rows) == 2
    assert [row[0] for row in parts.rows[1:-1]] == list(startup._PARTS)
    assert [(row[0], row[3]) for row in goal.rows[1:]] == [("taskgraph-dnn run, threads", "2 s")]
    assert goal.rows[1][-1] in ("reached", "open", "missed")


def test_scipy_finds_the_same_from_its_own_files(tmp_path):
    network, images = radixnet(1024, 8), digit_images(60, 1024)
    expected = startup._categories(startup.Oracle(images).references(network, np.inf)[-1].outputs)
    contender = startup._with_scipy(tmp_path, network, images, expected)
    contender.run(1)
    assert contender.difference() == 0
    assert 0 < len(expected) < 60
    wrong = startup._with_scipy(tmp_path, network, images, expected[1:])
    wrong.run(1)
    assert wrong.difference() == np.inf


def test_each_cold_run_finds_an_empty_cache(tmp_path):
    kernel = tmp_path / "compiled" / "kernel.nbc"
    contender = startup._cold_run(tmp_path, (tmp_path / "network", tmp_path / "images"), [])
    for _ in range(2):
        kernel.parent.mkdir(exist_ok=True)
        kernel.touch()
        with pytest.raises(KernelError, match="a process ended"):  # there is no network
            contender.run(1)
        assert not kernel.exists()


def test_a_process_that_fails_says_why():
    with pytest.raises(KernelError, match="status 1: ValueError: no such thing"):
        startup._Process(startup._python("raise ValueError('no such thing')"), json.loads, 1).run()
