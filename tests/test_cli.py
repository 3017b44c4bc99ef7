"""The command line, as users type it: in this process where that is enough, as a process where it matters."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import networkx
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from distributed import LocalCluster

import taskgraph_dnn as tg
from taskgraph_dnn.cli import main
from taskgraph_dnn.reductions.names import EXACT, chosen_reductions

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SMALL = ["--neurons", "64", "--layers", "8", "--samples", "200"]
COMMAND = [sys.executable, "-m", "taskgraph_dnn"]


def invoke(*arguments, code=0):
    outcome = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert outcome.exit_code == code, outcome.output
    return outcome.output


@pytest.fixture
def files(tmp_path):
    """A synthetic network of 64 x 8 and 200 images, in the official layout."""
    invoke("generate", *SMALL, "--seed", 5, "--output", tmp_path)
    return tmp_path / "neuron64", tmp_path / "sparse-images-64.tsv.gz"


@pytest.fixture
def expected():
    network, images = tg.radixnet(neurons=64, layers=8, seed=5), tg.digit_images(samples=200, neurons=64, seed=5)
    return tg.infer(network, images).compute(scheduler="synchronous")


def test_run_makes_a_network_and_images(tmp_path, expected):
    output = invoke("run", *SMALL, "--seed", 5, "--check", 50, "--json", tmp_path / "result.json")
    assert "float64 reference" in output
    assert "agrees" in output
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["categories"] == expected.categories.tolist()
    assert (found["neurons"], found["layers"], found["samples"]) == (64, 8, 200)
    assert found["edges"] == 200 * 2048 * 8
    assert found["verified"] is True
    assert found["infer_seconds"] > 0
    assert found["edges_per_second"] == found["edges"] / found["infer_seconds"]
    lasted = found["task_seconds"]
    assert lasted["planned"]["median"] <= lasted["planned"]["longest"] == max(found["plan"]["span_seconds"])
    assert 0 < lasted["true"]["median"] <= lasted["true"]["longest"]
    assert f"longest {lasted['true']['longest']:.3g} s; planned {lasted['planned']['median']:.3g} s and" in output
    assert found["plan"]["folds_inputs"] is True
    assert found["plan"]["spans"] == [[0, 9]]
    assert found["reductions"] == list(EXACT[:3] + EXACT[4:])  # one span: there is nothing to merge
    assert [counts["layer"] for counts in found["layer_counts"]] == list(range(9))
    assert sum(counts["done"] for counts in found["layer_counts"]) == found["multiply_adds"] < found["edges"] / 5
    assert sum(counts["done"] + counts["skipped"] for counts in found["layer_counts"]) == found["edges"]


@pytest.mark.parametrize("reductions", ["exact", "dynamic", "none", "dead-samples", " fixed-point,dead-samples"])
def test_reductions_are_chosen_by_name(tmp_path, expected, reductions):
    """The answer stays; what is left out is shown layer by layer."""
    job = (*SMALL, "--seed", 5, "--reductions", reductions)
    output = invoke("run", *job, "--json", tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["categories"] == expected.categories.tolist()
    names = chosen_reductions(reductions)
    assert set(found["reductions"]) == set(names) - {"merge-partitions"}
    assert ("samples alive" in output) == bool(names)
    assert f"{found['multiply_adds']:,} of {found['edges']:,}" in output
    assert (found["multiply_adds"] == found["edges"]) == (reductions == "none")
    planned = invoke("plan", *job)
    assert all(f"{name}: " in planned for name in names)
    assert "off: there is only one span of layers" in planned or "merge-partitions" not in names


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
@pytest.mark.parametrize("kernel", ["csr", "scipy", "auto"])
def test_run_from_files(files, expected, tmp_path, scheduler, kernel):
    network, images = files
    tg.write_categories(expected.categories, tmp_path / "truth.tsv")
    options = ["--scheduler", scheduler, "--kernel", kernel, "--partitions", 3, "--strategy", "data"]
    output = invoke("run", "--network", network, "--images", images, "--truth", tmp_path / "truth.tsv", *options)
    assert f"{len(expected.categories)} categories" in output
    assert "agrees" in output


def test_a_wrong_truth_is_exit_status_1(files, expected, tmp_path):
    network, images = files
    tg.write_categories(expected.categories[1:], tmp_path / "truth.tsv")
    output = invoke("run", "--network", network, "--images", images, "--truth", tmp_path / "truth.tsv", code=1)
    assert "DIFFERS" in output
    assert f"1 are wrong ({expected.categories[0]})" in " ".join(output.split())


def test_categories_are_written_from_1(files, expected, tmp_path):
    invoke("run", "--network", files[0], "--images", files[1], "--categories", tmp_path / "found.tsv")
    assert [int(line) for line in (tmp_path / "found.tsv").read_text().split()] == (expected.categories + 1).tolist()


def test_the_first_images_of_a_file(files, tmp_path):
    invoke("run", "--network", files[0], "--images", files[1], "--samples", 7, "--json", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["samples"] == 7
    output = invoke("run", "--network", files[0], "--images", files[1], "--samples", 201, code=1)
    assert "asked for 201 images, but it has 200" in output


def test_no_images_are_an_empty_answer(tmp_path):
    output = invoke("run", "--neurons", 64, "--layers", 3, "--samples", 0, "--check", 5)
    assert "0 samples with a nonzero output" in output


def test_convert_and_run_packed(files, expected, tmp_path):
    packed = tmp_path / "network.safetensors"
    assert "8 layers, 16,384 edges" in invoke("convert", files[0], packed)
    assert "exists already; --force replaces it" in invoke("convert", files[0], packed, code=1)
    invoke("convert", files[0], packed, "--layers", 5, "--force")
    assert len(tg.read_packed(packed)) == 5
    invoke("convert", files[0], packed, "--force")
    invoke("run", "--network", packed, "--images", files[1], "--json", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["categories"] == expected.categories.tolist()
    output = invoke("convert", files[0], tmp_path / "network.pkl", code=1)
    assert "the name ends in '.pkl', expected .safetensors" in output


def test_verify_with_one_kernel():
    output = invoke("verify", *SMALL, "--kernel", "scipy", "--check", 20)
    assert "scipy: float64 reference" in output
    assert "20 samples" in output
    assert "csr" not in output


def test_verify_names_what_it_leaves_out(monkeypatch):
    from taskgraph_dnn.kernels import load_kernel, registry

    monkeypatch.setitem(registry._OWN, "tile", ("taskgraph_dnn.kernels.nowhere", "numba", "numba"))
    load_kernel.cache_clear()
    try:
        output = invoke("verify", *SMALL)
        assert (
            "left out: kernel 'tile' needs numba, which is not installed: pip install 'taskgraph-dnn[numba]'" in output
        )
        assert "'taskgraph-dnn[numba]'" in invoke("info")
    finally:
        load_kernel.cache_clear()


def test_verify_tries_every_kernel():
    output = invoke("verify", *SMALL)
    for kernel in ("tile", "ell", "csr", "quads", "push", "dense", "scipy"):
        assert f"{kernel}: float64 reference" in output
    assert "DIFFERS" not in output


def test_plan(tmp_path):
    options = ("--partitions", 3, "--kernel", "scipy", "--reductions", "none")
    output = invoke("plan", *SMALL, *options, "--json", tmp_path / "plan.json")
    assert "24 logical nodes (layer x partition) in 3 tasks" in output
    assert len(json.loads((tmp_path / "plan.json").read_text())["partitions"]) == 3


def test_a_plan_is_that_of_the_run(tmp_path):
    """Also the kernel of the first layer, which depends on how many pixels are not zero."""
    job = ("--neurons", 1024, "--layers", 2, "--samples", 300, "--reductions", "none")
    invoke("plan", *job, "--json", tmp_path / "plan.json")
    invoke("run", *job, "--json", tmp_path / "run.json")
    planned, run = (json.loads((tmp_path / name).read_text()) for name in ("plan.json", "run.json"))
    assert [layer["kernel"] for layer in planned["layers"]] == ["push", "tile"]
    assert [layer["kernel"] for layer in run["plan"]["layers"]] == ["push", "tile"]


def test_plan_of_files(files):
    assert "up to 200 samples" in invoke("plan", "--network", files[0], "--images", files[1], "--partitions", 1)
    assert "up to 77 samples" in invoke("plan", "--network", files[0], "--samples", 77, "--partitions", 1)


@pytest.mark.parametrize("suffix", [".svg", ".dot", ".json"])
def test_visualize(tmp_path, suffix):
    output = invoke("visualize", tmp_path / f"graph{suffix}", *SMALL, "--partitions", 2, "--reductions", "none")
    assert "20 nodes, 8 layers x 2 partitions" in output
    if suffix == ".json":
        graph = networkx.node_link_graph(json.loads((tmp_path / "graph.json").read_text()), edges="edges")
        assert len(graph) == 2 * (8 + 2)


def test_text_in_brackets_is_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tg.write_packed(tg.radixnet(neurons=64, layers=1), "m[bold][red].safetensors")
    assert "m[bold][red].safetensors" in invoke("info", "--network", "m[bold][red].safetensors")


def test_info(files):
    output = invoke("info", "--network", files[0])
    assert "8 layers, 16,384 edges" in output
    assert "relu, at most 32" in output
    output = invoke("info")
    assert "numba" in output
    assert "dask" in output


def test_a_configuration_file(tmp_path):
    path = tmp_path / "job.yaml"
    job = {"neurons": 64, "layers": 4, "samples": 30}
    path.write_text(yaml.safe_dump({"taskgraph-dnn": {"partitions": 3, "kernel": "scipy", "job": job}}))
    invoke("run", "--config", path, "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["layers"], found["samples"]) == (4, 30)
    assert len(found["plan"]["partitions"]) == 3
    assert found["plan"]["layers"][0]["kernel"] == "scipy"
    invoke("run", "--config", path, "--partitions", 5, "--layers", 2, "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["layers"] == 2
    assert len(found["plan"]["partitions"]) == 5


def test_a_configuration_file_names_files(files, tmp_path):
    network, images = files
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"taskgraph-dnn": {"job": {"network": str(network), "images": str(images)}}}))
    invoke("run", "--config", path, "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["layers"], found["samples"]) == (8, 200)
    job = {"layers": 3, "samples": 7}
    path.write_text(yaml.safe_dump({"taskgraph-dnn": {"job": job}}))
    invoke("run", "--config", path, "--network", network, "--images", images, "--json", tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text())
    assert (found["layers"], found["samples"]) == (3, 7)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_configurations_in_the_repository_load(path):
    assert "logical nodes" in invoke("plan", "--config", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "no readable YAML file"),
        ("other: 3", "found no section taskgraph-dnn:"),
        ("taskgraph-dnn: {kernal: scipy}", "unknown setting taskgraph-dnn.kernal"),
        ("taskgraph-dnn: {job: {neuron: 3}}", "unknown setting taskgraph-dnn.job.neuron"),
        ("taskgraph-dnn: {partitions: 0}", "partitions is 0"),
        ("taskgraph-dnn: {job: {samples: many}}", "job.samples is 'many', expected a whole number of at least 0"),
        ("taskgraph-dnn: {job: {scheduler: }}", "job.scheduler is None, expected a name"),
        ("taskgraph-dnn: {job: 5}", "taskgraph-dnn.job is 5, expected settings: network, neurons"),
    ],
)
def test_wrong_configurations(tmp_path, text, message):
    (tmp_path / "job.yaml").write_text(text)
    assert message in invoke("plan", "--config", tmp_path / "job.yaml", code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--kernel", "cuda"], "unknown kernel 'cuda', expected one of auto, tile, ell, csr"),
        (["run", "--strategy", "zigzag"], "unknown strategy 'zigzag', expected one of hybrid, data, pipeline"),
        (["run", "--reductions", "all"], "unknown reduction 'all', expected exact, dynamic, none, or names among"),
        (["plan", "--reductions", "dead-samples,x"], "unknown reduction 'x', expected exact, dynamic, none, or names"),
        (["run", "--partitions", "0"], "partitions is '0', expected a whole number of at least 1"),
        (["run", "--network", "nowhere.tar.gz"], "nowhere.tar.gz"),
        (["run", "--truth", "nowhere.tsv"], "nowhere.tsv"),
        (["run", "--config", "nowhere.yaml"], "nowhere.yaml: no readable YAML file"),
        (["run", "--json", "no/such/folder/r.json"], "there is no folder"),
        (["run", "--neurons", "100"], "100"),
        (["run", "--json", "/dev/stdout"], "cannot write /dev/stdout: it exists and is no regular file"),
        (["run", "--json", "."], "it exists and is no regular file"),
        (["run", "--scheduler", "thread"], "unknown scheduler 'thread', expected threads, synchronous, processes, or"),
        (["plan", *SMALL, "--partitions", "10000000000", "--samples", "10000000000"], "expected at most 1,000,000"),
        (["verify", *SMALL, "--check", "0"], "there is nothing to compare with"),
        (["verify", "--kernel", "cuda"], "unknown kernel 'cuda'"),
        (["generate", *SMALL, "--output", "/proc/x"], "cannot make the folder /proc/x"),
        (["plan", *SMALL, "--json", "/proc/x.json"], "cannot write /proc/x.json"),
        (["visualize", "/dev/x.svg", *SMALL], "cannot write /dev/x.svg"),
        (["run", *SMALL, "--check", "-1"], "job.check is -1"),
        (["run", "--samples", "-1"], "-1"),
        (["visualize", "graph.pdf", *SMALL], "cannot write a graph as 'graph.pdf'"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_1(arguments, message):
    output = invoke(*arguments, code=1)
    assert message in output
    assert len(output.strip().splitlines()) == 1
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--layers", "x"],
        ["run", "--bogus"],
        ["bogus"],
        ["convert"],
        ["generate", "--output", "x", "--bias", "1"],
    ],
)
def test_wrong_usage_is_exit_status_2(arguments):
    assert "Usage:" in invoke(*arguments, code=2)


def test_help_names_every_command():
    output = invoke("--help")
    for command in ("run", "verify", "plan", "visualize", "generate", "convert", "info"):
        assert f"  {command} " in output
        assert "--help" in invoke(command, "--help")
    assert tg.__version__ in invoke("--version")


def test_it_is_a_command_of_dask_too():
    from importlib.metadata import entry_points

    (point,) = entry_points(group="dask_cli", name="taskgraph-dnn")
    assert point.load() is main


# As a process.


def test_a_pipe_gets_no_progress_bar():
    done = subprocess.run([*COMMAND, "run", *SMALL], capture_output=True, text=True, check=True)
    assert "categories" in done.stdout
    assert not done.stderr
    assert "\x1b" not in done.stdout


def test_a_terminal_gets_a_progress_bar():
    leader, follower = pty.openpty()
    with subprocess.Popen([*COMMAND, "run", *SMALL], stdout=subprocess.PIPE, stderr=follower, text=True) as process:
        os.close(follower)
        seen = b""
        while select.select([leader], [], [], 60)[0]:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
        assert process.wait() == 0
    os.close(leader)
    for stage in (b"Network", b"Images", b"Infer"):
        assert stage in seen


@pytest.fixture
def scheduler(request):
    """What --scheduler takes; "address" stands for a cluster outside of the command."""
    if request.param != "address":
        yield request.param
        return
    with LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize("scheduler", ["threads", "processes", "address"], indirect=True)
def test_ctrl_c_ends_a_run_without_a_traceback(tmp_path, scheduler):
    """As a terminal does it: the signal goes to all processes of the command, once its last stage has begun."""
    work = ["--samples", "60000", "--kernel", "scipy", "--reductions", "none"]
    options = [*work, "--scheduler", scheduler, "--json", str(tmp_path / "r.json")]
    leader, follower = pty.openpty()
    command = [*COMMAND, "run", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, start_new_session=True) as run:
        os.close(follower)
        seen = _read_until(leader, b"Infer")
        os.killpg(run.pid, signal.SIGINT)
        seen += _read_until(leader, b"Aborted!")
        assert run.wait(60) == 1
        assert not run.stdout.read()
        assert _ends(run.pid)
    os.close(leader)
    assert b"Traceback" not in seen
    assert b"Error" not in seen
    assert not list(tmp_path.iterdir())


def _ends(group):
    """Whether the last process of the group, which its first has left behind, goes away."""
    for _ in range(300):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def _read_until(descriptor, text):
    seen = b""
    while text not in seen:
        assert select.select([descriptor], [], [], 60)[0], seen
        seen += os.read(descriptor, 65536)
    return seen


def test_nobody_reads_the_output():
    with subprocess.Popen([*COMMAND, "plan", *SMALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert not process.stderr.read()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "plan", *SMALL], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_generate_replaces_nothing(files):
    network, images = files
    output = invoke("generate", *SMALL, "--output", network.parent, code=1)
    assert f"cannot write {network}: it exists and is no empty folder" in output
    shutil.rmtree(network)
    output = invoke("generate", *SMALL, "--output", network.parent, code=1)
    assert f"cannot write {images}: it exists already" in output
    assert not network.exists()


def test_generate_packed(tmp_path):
    output = invoke("generate", *SMALL, "--seed", 5, "--output", tmp_path, "--packed")
    packed = tmp_path / "neuron64.safetensors"
    assert f"{packed}: 8 layers" in output
    assert tg.read_packed(packed, verify=True).digest == tg.radixnet(64, 8, seed=5).digest
    output = invoke("generate", *SMALL, "--output", tmp_path, "--packed", code=1)
    assert f"cannot write {packed}: it exists already" in output


def test_synthetic_files_are_read_back_as_generated(files):
    assert tg.read_network(files[0]).digest == tg.radixnet(neurons=64, layers=8, seed=5).digest
    images = tg.read_images(files[1], 64, samples=200)
    np.testing.assert_array_equal(images.toarray(), tg.digit_images(samples=200, neurons=64, seed=5).toarray())
