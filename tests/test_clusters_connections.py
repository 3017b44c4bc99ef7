"""Where a run goes: schedulers in processes of their own, by address, by file, with TLS; and their configurations."""

import json
import math
import shutil
import signal
import subprocess
import sys
import warnings
from importlib.resources import files
from importlib.util import find_spec

import dask.config
import numpy as np
import pytest
import scipy.sparse
import yaml
from distributed import Client, LocalCluster

import taskgraph_dnn as tg
from taskgraph_dnn import executors
from taskgraph_dnn.config import cluster_settings
from taskgraph_dnn.errors import PlanError, UnprotectedSchedulerWarning
from taskgraph_dnn.executors import cluster
from tests.clusters import CONFIGS, address, command_cluster, make_certificates
from tests.test_inference import equal

COMMAND = [sys.executable, "-m", "taskgraph_dnn"]
SMALL = ["--neurons", "1024", "--layers", "8", "--samples", "200"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a scheduler with two workers, started by their commands."""
    folder = tmp_path_factory.mktemp("cluster")
    with command_cluster(folder, worker=["--no-nanny", "--memory-limit", "512MiB"]):
        yield folder


@pytest.fixture
def network():
    return tg.radixnet(1024, 12)


@pytest.fixture
def images():
    return tg.digit_images(300, 1024)


@pytest.mark.parametrize("by", [address, lambda folder: str(folder / "scheduler.json")], ids=["address", "file"])
def test_a_cluster_of_commands_gives_the_answer_of_the_threads(folder, network, images, by):
    expected = tg.infer(network, images).compute(scheduler="synchronous")
    with executors.connected(by(folder)) as where:
        assert executors.resources().threads == 2
        assert equal(tg.infer(network, images, partitions=6).compute(**where).outputs, expected.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["address", "file"])
def test_the_command_line_runs_there(folder, tmp_path, by):
    scheduler = address(folder) if by == "address" else folder / "scheduler.json"
    done = command("run", *SMALL, "--scheduler", scheduler, "--json", tmp_path / "found.json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    here = tg.infer(tg.radixnet(1024, 8), tg.digit_images(200, 1024)).compute(scheduler="synchronous")
    assert json.loads((tmp_path / "found.json").read_text())["categories"] == here.categories.tolist()


def command(*arguments, folder, env=None):
    arguments = list(map(str, arguments))
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read the scheduler file: No such file"),
        ("", "found no JSON object with an address"),
        ('{"address": "tcp://127.0.0', "found no JSON object with an address"),
        ("[1, 2]", "found no JSON object with an address"),
        ("3", "found no JSON object with an address"),
        ('{"type": "Scheduler"}', "found no JSON object with an address"),
        ('{"address": 8786}', "the scheduler's address is 8786, expected one like tcp://"),
        ('{"address": "somewhere"}', "the scheduler's address is 'somewhere', expected one like tcp://"),
        (b"\xff\xfe", "found no JSON object with an address"),
    ],
)
def test_damaged_scheduler_files_are_refused_before_anything_starts(tmp_path, text, message):
    file = tmp_path / "scheduler.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PlanError) as caught:
        executors.check_scheduler(str(file))
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


def test_a_scheduler_that_ended_leaves_a_file_of_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    (tmp_path / "scheduler.json").write_text('{"address": "tcp://127.0.0.1:1"}')
    with (
        pytest.raises(PlanError, match="cannot reach a Dask scheduler at 'tcp://127.0.0.1:1'"),
        executors.connected(str(tmp_path / "scheduler.json")),
    ):
        pass


@pytest.mark.parametrize("value", ["x", "-3s", "10 parsecs", [1], {}, "nan", "", True])
def test_wrong_cluster_settings_are_refused_before_anything_starts(value):
    with dask.config.set({"taskgraph-dnn.cluster.silence": value}), pytest.raises(PlanError) as caught:
        executors.check_scheduler("threads")
    assert str(caught.value).startswith(f"taskgraph-dnn.cluster.silence is {value!r}, expected a time")


def test_unknown_cluster_settings_are_refused():
    with dask.config.set({"taskgraph-dnn.cluster.silense": 3}), pytest.raises(PlanError) as caught:
        executors.check_scheduler("threads")
    known = "silence, temporary, ssh-python, ssh-threads"
    assert str(caught.value) == f"unknown setting taskgraph-dnn.cluster.silense, expected one of {known}"


@pytest.mark.parametrize(("value", "seconds"), [(None, math.inf), (0, math.inf), ("2 minutes", 120), (0.5, 0.5)])
def test_silence_is_a_time(value, seconds):
    with dask.config.set({"taskgraph-dnn.cluster.silence": value}):
        assert cluster_settings().silence == seconds


@pytest.mark.parametrize(
    "reached", ["tcp://10.1.2.3:8786", "10.1.2.3:8786", "ws://10.1.2.3:80", "tcp://[2001:db8::1]:1"]
)
def test_schedulers_on_a_network_without_tls_give_a_warning(reached):
    with pytest.warns(UnprotectedSchedulerWarning, match="whoever reaches this port can run code"):
        cluster.warn_unprotected(reached)


@pytest.mark.parametrize(
    "reached",
    ["tcp://127.0.0.1:8786", "localhost:8786", "tcp://127.3.2.1:1", "tcp://[::1]:1", "tls://10.1.2.3:8786"],
)
def test_schedulers_on_loopback_or_with_tls_give_none(reached):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cluster.warn_unprotected(reached)


@pytest.fixture
def certificates(tmp_path):
    """A folder with an authority, and a key and a certificate of it, named as in configs/clusters/tls.yaml."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make certificates")
    make_certificates(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_tls_from_end_to_end_with_the_configuration_of_the_repository(certificates, tmp_path_factory):
    """The cluster, and the command line, with one file; a client without certificates, or with others, is refused."""
    env = {"DASK_CONFIG": str(certificates / "tls.yaml")}
    with command_cluster(certificates, scheduler=["--protocol", "tls"], worker=["--no-nanny"], workers=1, env=env):
        reached = address(certificates)
        assert reached.startswith("tls://127.0.0.1:")
        done = command("run", *SMALL, "--config", "tls.yaml", "--check", 20, folder=certificates)
        assert done.returncode == 0, done.stderr
        assert "agrees" in done.stdout
        assert not done.stderr
        refused = command("run", *SMALL, "--scheduler", reached, folder=certificates)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"Error: cannot reach a Dask scheduler at '{reached}'")
        stranger = tmp_path_factory.mktemp("stranger")
        make_certificates(stranger)
        refused = command("run", *SMALL, "--config", "tls.yaml", "--scheduler", reached, folder=stranger)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"Error: cannot reach a Dask scheduler at '{reached}'")


@pytest.mark.slow
def test_workers_come_when_there_is_work(network, images):
    expected = tg.infer(network, images).compute(scheduler="synchronous")
    found = yaml.safe_load((CONFIGS / "adaptive.yaml").read_text())
    adaptive = found["distributed"]["adaptive"]
    loopback = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    with (
        dask.config.set({f"distributed.adaptive.{name}": value for name, value in adaptive.items()}),
        LocalCluster(n_workers=0, threads_per_worker=1, **loopback) as local,
        Client(local) as client,
    ):
        local.adapt(maximum=2)
        assert executors.resources().workers == ()
        result = tg.infer(network, images, partitions=found["taskgraph-dnn"]["partitions"]).compute()
        assert equal(result.outputs, expected.outputs)
        assert len(result.plan.partitions) == 256
        assert 1 <= len(client.nthreads()) <= 2


@pytest.mark.slow
def test_a_run_that_no_worker_can_hold_is_refused_with_the_numbers(folder):
    network = tg.Network([tg.Layer(scipy.sparse.eye_array(4096))] * 2)
    rows = scipy.sparse.csr_array((40_000, 4096), dtype=np.float32)
    with Client(address(folder)):
        inference = tg.infer(network, rows, partitions=1, reductions="none", kernel="scipy")
        assert inference.plan.largest_task_nbytes > 2**29
        for run in (inference.compute, inference.persist):
            with pytest.raises(tg.ClusterError) as caught:
                run()
            assert str(caught.value).startswith("worker tcp://127.0.0.1:")
            assert "may have 512.00 MiB of memory (its memory limit), but the 1 largest tasks" in str(caught.value)
            assert "partition-bytes (at most 512.00 MiB)" in str(caught.value)
        smaller = tg.infer(network, rows, partitions=20, reductions="none", kernel="scipy")
        assert smaller.compute().outputs.nnz == 0
        assert inference.compute(scheduler="synchronous").outputs.nnz == 0  # not there


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_configurations_have_known_keys_only(path):
    """Our own settings and those of `distributed` are checked against the defaults that they override."""
    for section in yaml.safe_load_all(path.read_text()):
        for name in section.keys() & {"distributed", "taskgraph-dnn"}:
            assert_known(section[name], dask.config.get(name), name)


def assert_known(found, defaults, place):
    for name, value in found.items():
        assert name in defaults, f"{place}.{name} is no setting"
        if isinstance(value, dict) and isinstance(defaults[name], dict):
            assert_known(value, defaults[name], f"{place}.{name}")


@pytest.mark.skipif(find_spec("dask_jobqueue") is None, reason="dask-jobqueue is not installed")
def test_the_slurm_configuration_makes_a_job_script():
    interrupt = signal.getsignal(signal.SIGINT)
    from dask_jobqueue.slurm import SLURMJob

    signal.signal(signal.SIGINT, interrupt)  # its import makes Ctrl-C an exit, for the tests that follow, too
    section = yaml.safe_load((CONFIGS / "slurm.yaml").read_text())["jobqueue"]
    defaults = yaml.safe_load(files("dask_jobqueue").joinpath("jobqueue.yaml").read_text())["jobqueue"]
    assert_known(section, defaults, "jobqueue")
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in section["slurm"].items()}):
        script = SLURMJob("tcp://127.0.0.1:8786", name="worker").job_script()
    assert "#SBATCH --cpus-per-task=32" in script
    assert "#SBATCH --mem=128G" in script
    assert "--lifetime 110m" in script


@pytest.mark.skipif(find_spec("dask_kubernetes") is None, reason="dask-kubernetes is not installed")
def test_the_kubernetes_resources_are_what_the_operator_expects():
    chart = files("dask_kubernetes").joinpath("operator", "deployment", "helm", "dask-kubernetes-operator")
    for resource in yaml.safe_load_all((CONFIGS / "kubernetes.yaml").read_text()):
        definition = yaml.safe_load(chart.joinpath("crds", f"{resource['kind'].lower()}.yaml").read_text())
        (version,) = definition["spec"]["versions"]
        assert resource["apiVersion"] == f"{definition['spec']['group']}/{version['name']}"
        assert_schema(resource["spec"], version["schema"]["openAPIV3Schema"]["properties"]["spec"], resource["kind"])


def assert_schema(found, schema, place):
    for name in schema.get("required", ()):
        assert name in found, f"{place}.{name} is missing"
    for name, value in found.items():
        known = schema.get("properties")
        if known is None:
            return
        assert name in known, f"{place}.{name} is no field"
        if isinstance(value, dict):
            assert_schema(value, known[name], f"{place}.{name}")
        for item in value if isinstance(value, list) else ():
            if isinstance(item, dict):
                assert_schema(item, known[name]["items"], f"{place}.{name}")
