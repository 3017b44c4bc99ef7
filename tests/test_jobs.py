"""Jobs on a cluster, as users have them: a scheduler, workers and commands that are processes of their own."""

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import dask.config
import pytest
from distributed import Client

import taskgraph_dnn as tg
from taskgraph_dnn import jobs
from taskgraph_dnn.errors import JobError
from taskgraph_dnn.executors import cluster as cluster_module
from tests.clusters import until
from tests.test_cli import invoke

COMMAND = [sys.executable, "-m", "taskgraph_dnn"]
DASK = [sys.executable, "-m", "dask"]
SMALL = ["--neurons", "64", "--layers", "8", "--samples", "200", "--seed", "5", "--partitions", "3"]
LOOPBACK = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
#: So much work that it is still running when somebody looks, or cancels it.
LONG = ["--neurons", "1024", "--samples", "40000", "--partitions", "50", "--kernel", "scipy", "--reductions", "none"]


@contextlib.contextmanager
def running(*arguments):
    with subprocess.Popen([*DASK, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def a_scheduler(folder):
    """A scheduler without workers: its address."""
    file = folder / "scheduler.json"
    with running("scheduler", *LOOPBACK, "--port", "0", "--scheduler-file", str(file)):
        until(lambda: file.exists() and file.read_text().endswith("}"))
        yield json.loads(file.read_text())["address"]


@contextlib.contextmanager
def a_worker(address, folder):
    """A worker with one thread and no nanny; killed when the context is left."""
    options = ["--nthreads", "1", "--no-nanny", "--local-directory", str(folder)]
    with running("worker", address, *LOOPBACK, *options):
        with Client(address) as client:
            client.wait_for_workers(1, timeout=60)
        yield


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a scheduler with one worker."""
    folder = tmp_path_factory.mktemp("cluster")
    with a_scheduler(folder) as address, a_worker(address, folder):
        yield address


@pytest.fixture
def scheduler(tmp_path):
    """The address of a scheduler without workers."""
    with a_scheduler(tmp_path) as address:
        yield address


def call(*arguments, code=0):
    """The output of a command; errors of ours are one line."""
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    if code == 1 and not done.stdout:
        assert len(done.stderr.splitlines()) == 1
    return done.stdout + done.stderr


def told(address, name, folder, code=0):
    """What `status NAME --json` writes."""
    call("status", name, "--scheduler", address, "--json", folder / "status.json", code=code)
    (found,) = json.loads((folder / "status.json").read_text())
    return found


@pytest.fixture
def expected():
    network, images = tg.radixnet(neurons=64, layers=8, seed=5), tg.digit_images(samples=200, neurons=64, seed=5)
    return tg.infer(network, images).compute(scheduler="synchronous")


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "network.safetensors"
    tg.write_packed(tg.radixnet(neurons=64, layers=8, seed=5), path)
    return path


@pytest.mark.slow
def test_a_job_from_beginning_to_end(cluster, tmp_path, expected):
    """Each step is another process."""
    on = ("--scheduler", cluster)
    output = call("submit", *SMALL, *on, "--name", "first")
    assert "job first: 200 samples, 3 tasks" in output
    assert f"taskgraph-dnn result first --scheduler {cluster}" in output
    files = "--categories", tmp_path / "found.tsv", "--json", tmp_path / "found.json"
    assert f"{len(expected.categories)} samples with a nonzero output" in call("result", "first", *on, *files)
    call("run", *SMALL, "--categories", tmp_path / "run.tsv")
    assert (tmp_path / "found.tsv").read_bytes() == (tmp_path / "run.tsv").read_bytes()
    assert json.loads((tmp_path / "found.json").read_text())["categories"] == expected.categories.tolist()
    found = told(cluster, "first", tmp_path)
    assert (found["state"], found["done"], found["partitions"], found["workers"]) == ("finished", 3, 3, [])
    assert (found["samples"], found["layers"], found["version"]) == (200, 8, tg.__version__)
    assert 0 < time.time() - found["submitted"] < 600
    output = call("submit", *SMALL, *on, "--name", "first", code=1)
    assert re.search(r"there is a job 'first' since [0-9: -]+ \(finished, 3 of 3 partitions done\)", output)
    assert re.search(r"│ first +│ finished +│ 3 of 3 +│ 200 +│ [0-9 :-]+│ 0 ", call("status", *on))
    call("result", "first", *on)  # the cluster has kept it
    assert "job first is gone (finished, 3 of 3 partitions done)" in call("cancel", "first", *on)
    assert "there is no job 'first' on this cluster, nor any other" in call("result", "first", *on, code=1)
    assert keys_of(cluster) == 0


def keys_of(address):
    """How many tasks the scheduler knows."""
    with Client(address) as client:
        return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


def clients_of(address):
    """How many others are connected."""
    with Client(address) as client:
        return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.client_comms)) - 1


@pytest.mark.slow
def test_a_running_job_is_seen_and_cancelled_in_the_middle(cluster, tmp_path):
    on = ("--scheduler", cluster)
    call("submit", *LONG, *on, "--name", "long.1")
    with Client(cluster):
        until(lambda: jobs.status("long.1").done)
    found = told(cluster, "long.1", tmp_path)
    assert (found["state"], len(found["workers"])) == ("running", 1)
    assert 0 < found["done"] < found["partitions"] == 50
    output = call("result", "long.1", *on, "--timeout", "0", code=1)
    assert re.search(r"job 'long.1': running, [0-9]+ of 50 partitions done", output)
    with subprocess.Popen([*COMMAND, "result", "long.1", *on], stderr=subprocess.PIPE, text=True) as waiting:
        until(lambda: clients_of(cluster) == 1)
        assert re.search(r"job long.1 is gone \(running, [0-9]+ of 50 partitions done", call("cancel", "long.1", *on))
        _, error = waiting.communicate(timeout=60)
    assert waiting.returncode == 1
    assert "there is no job 'long.1' on this cluster" in error
    until(lambda: keys_of(cluster) == 0)
    assert call("cancel", "long.1", *on, code=1).startswith("Error: there is no job 'long.1'")


def test_a_terminal_that_waits_gets_a_progress_bar(cluster):
    call("submit", *SMALL, "--scheduler", cluster, "--name", "bar")
    leader, follower = pty.openpty()
    command = [*COMMAND, "result", "bar", "--scheduler", cluster]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, text=True) as process:
        os.close(follower)
        seen = b""
        with contextlib.suppress(OSError):  # the other side is closed
            while select.select([leader], [], [], 60)[0]:
                seen += os.read(leader, 65536)
        assert "categories" in process.stdout.read()
    os.close(leader)
    assert b"Infer" in seen
    call("cancel", "bar", "--scheduler", cluster)


def test_equal_jobs_share_their_tasks_and_one_outlives_the_other(cluster, expected):
    with Client(cluster) as client:
        inference = tg.infer(tg.radixnet(64, 8, seed=5), tg.digit_images(200, 64, seed=5), partitions=3)
        one, other = jobs.submit(inference, "one"), jobs.submit(inference, "other")
        assert one.keys == other.keys
        assert [job.submission for job in jobs.statuses()] == [one, other]
        jobs.cancel("one")
        reports = []
        result = jobs.result("other", report=lambda done, total: reports.append((done, total)))
        assert result.categories.tolist() == expected.categories.tolist()
        assert all(0 <= done < total == 3 for done, total in reports)
        with pytest.raises(JobError, match="there is no job 'one' on this cluster, but other"):
            jobs.status("one")
        jobs.cancel("other")
        assert jobs.statuses() == []
        assert client.list_datasets() == ()


def test_no_samples_are_a_finished_job(cluster):
    with Client(cluster):
        jobs.submit(tg.infer(tg.radixnet(64, 2), tg.digit_images(0, 64)), "empty")
        assert jobs.status("empty").state == "finished"
        assert jobs.result("empty").samples == 0
        jobs.cancel("empty")


def test_whoever_is_second_to_publish_a_name_is_refused(cluster, monkeypatch):
    """Both have found the name free."""
    with Client(cluster):
        inference = tg.infer(tg.radixnet(64, 2), tg.digit_images(10, 64))
        jobs.submit(inference, "race")
        first, check = [True], jobs.check_free
        monkeypatch.setattr(jobs, "check_free", lambda name: None if first and first.pop() else check(name))
        with pytest.raises(JobError, match="there is a job 'race' since"):
            jobs.submit(inference, "race")
        assert jobs.result("race").samples == 10
        jobs.cancel("race")


@pytest.mark.slow
def test_a_job_waits_for_workers_and_fails_where_its_network_is_gone(scheduler, packed, tmp_path):
    call("submit", "--network", packed, "--samples", 50, "--scheduler", scheduler, "--name", "gone")
    found = told(scheduler, "gone", tmp_path)
    assert (found["state"], found["done"], found["workers"], found["error"]) == ("waiting", 0, [], "")
    output = call("result", "gone", "--scheduler", scheduler, "--timeout", "0.5", code=1)
    assert "job 'gone': waiting, 0 of" in output
    packed.unlink()
    with a_worker(scheduler, tmp_path):
        output = call("result", "gone", "--scheduler", scheduler, code=1)
        assert re.search(rf"job 'gone': failed, 0 of.*partition 0.*{re.escape(str(packed))}", output), output
        found = told(scheduler, "gone", tmp_path, code=1)
        assert found["state"] == "failed"
        assert str(packed) in found["error"]
        output = call("submit", "--network", packed, "--scheduler", scheduler, "--name", "again", code=1)
        assert str(packed) in output
        call("cancel", "gone", "--scheduler", scheduler)


def test_nobody_waits_for_ever_for_a_job_that_nobody_runs(scheduler):
    with Client(scheduler), dask.config.set({"taskgraph-dnn.cluster.silence": "1s"}):
        jobs.submit(tg.infer(tg.radixnet(64, 8), tg.digit_images(200, 64), partitions=3), "idle")
        with pytest.raises(JobError) as caught:
            jobs.result("idle")
        assert str(caught.value).startswith("job 'idle': waiting, 0 of 3 partitions done; no task of the run began or")
        assert "workers none; start workers" in str(caught.value)
        assert jobs.status("idle").state == "waiting"


def test_a_network_that_a_worker_cannot_read_is_refused(cluster, packed):
    network, images = tg.read_packed(packed), tg.digit_images(10, 64)
    packed.unlink()
    with Client(cluster), pytest.raises(JobError, match=r"worker tcp://127.0.0.1:[0-9]+ cannot read the network: .*"):
        jobs.submit(tg.infer(network, images), "unread")
    with Client(cluster):
        assert jobs.statuses() == []


def test_a_result_that_died_with_its_worker_is_computed_again(scheduler, tmp_path, expected):
    with Client(scheduler):
        with a_worker(scheduler, tmp_path):
            jobs.submit(tg.infer(tg.radixnet(64, 8, seed=5), tg.digit_images(200, 64, seed=5)), "twice")
            jobs.result("twice", timeout=60)
        until(lambda: jobs.status("twice").state == "waiting")
        with a_worker(scheduler, tmp_path):
            assert jobs.result("twice", timeout=60).categories.tolist() == expected.categories.tolist()


def test_tasks_that_somebody_cancelled_are_a_lost_job(scheduler, tmp_path):
    with Client(scheduler) as client:
        inference = tg.infer(tg.radixnet(64, 8), tg.digit_images(200, 64), partitions=3)
        jobs.submit(inference, "lost")
        client.cancel(client.get_dataset("taskgraph-dnn/lost"), force=True)
        until(lambda: jobs.status("lost").state == "lost")
    found = told(scheduler, "lost", tmp_path, code=1)
    assert "somebody cancelled its tasks" in found["error"]
    assert "job 'lost': lost, 0 of 3 partitions done" in call("result", "lost", "--scheduler", scheduler, code=1)
    with Client(scheduler):
        jobs.cancel("lost")
        jobs.submit(inference, "lost")
        assert jobs.status("lost").state == "waiting"


def test_there_are_no_jobs_without_a_client():
    with pytest.raises(JobError, match="connect to it first"):
        jobs.statuses()


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a\n", "[red]"])
def test_names_that_no_job_can_have(cluster, name):
    with Client(cluster), pytest.raises(JobError, match="a job cannot be called"):
        jobs.check_free(name)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["status"], 1, "scheduler is 'threads', expected the address or the scheduler file of a cluster"),
        (["submit", "--name", "x", "--scheduler", "processes"], 1, "scheduler is 'processes', expected the address"),
        (["status", "--scheduler", "nowhere"], 1, "unknown scheduler 'nowhere'"),
        (["status", "--scheduler", "tcp://127.0.0.1:1"], 1, "cannot reach a Dask scheduler at 'tcp://127.0.0.1:1'"),
        (["status", "--json", "no/folder/s.json"], 1, "there is no folder"),
        (["result", "x", "--categories", "/dev/stdout"], 1, "cannot write /dev/stdout"),
        (["submit", *SMALL], 2, "Missing option '--name'"),
        (["result"], 2, "Missing argument 'NAME'"),
        (["result", "x", "--timeout", "-1"], 2, "Invalid value for '--timeout'"),
        (["cancel"], 2, "Missing argument 'NAME'"),
    ],
)
def test_wrong_arguments(arguments, code, message, monkeypatch):
    monkeypatch.setattr(cluster_module, "CONNECT_SECONDS", 1)
    assert message in invoke(*arguments, code=code)


def test_a_wrong_kernel_leaves_no_job(cluster):
    wrong = (*SMALL, "--kernel", "cuda")
    assert "unknown kernel 'cuda'" in invoke("submit", *wrong, "--name", "x", "--scheduler", cluster, code=1)
    assert "there is no job 'x'" in invoke("status", "x", "--scheduler", cluster, code=1)
