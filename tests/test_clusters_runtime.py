"""What a run is on a cluster of processes: what is taken when, what workers get, and what is left when it ends."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import dask.array as da
import dask.config
import numpy as np
import pytest
import scipy.sparse
from distributed import Client, LocalCluster

import taskgraph_dnn as tg
from taskgraph_dnn import executors, jobs
from taskgraph_dnn.config import task_settings
from taskgraph_dnn.executors import sharing
from tests.clusters import command_cluster, until
from tests.test_inference import equal

PACKED, READ = "taskgraph-dnn.packed-bytes", "taskgraph-dnn.read-bytes"


@contextlib.contextmanager
def a_cluster(folder, **options):
    """A scheduler and workers of one thread each, without nannies: the client, and the workers' processes."""
    with command_cluster(folder, worker=["--no-nanny"], **options) as (_, processes):
        address = json.loads((folder / "scheduler.json").read_text())["address"]
        with Client(address) as client:
            yield client, processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def client(folder):
    """Of a cluster of two workers that all tests but those that kill workers share."""
    with a_cluster(folder, env={"DASK_TASKGRAPH_DNN__READ_BYTES": "64MiB"}) as (client, _):
        yield client


@pytest.fixture(scope="module")
def network():
    return tg.radixnet(1024, 60)


@pytest.fixture(scope="module")
def images():
    return tg.digit_images(2000, 1024)


@pytest.fixture(scope="module")
def expected(network, images):
    return tg.infer(network, images, kernel="scipy").compute(scheduler="threads").outputs


def in_memory(client):
    """How many results the workers hold."""
    return sum(client.run(lambda dask_worker: len(dask_worker.data)).values())


def known_tasks(client):
    return client.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.tasks))


# Partitions are taken as they finish


@pytest.mark.slow
def test_what_was_finished_before_a_worker_died_is_not_computed_again(network, images, expected, tmp_path):
    with a_cluster(tmp_path) as (client, processes):
        inference = tg.infer(network, images, partitions=40, kernel="scipy", strategy="data", reductions="none")
        keys, events, results = inference.__dask_keys__(), [], []
        with executors.watching(inference.token, events.append):
            run = threading.Thread(target=lambda: results.append(inference.compute()))
            run.start()
            until(lambda: set(keys) & known_tasks(client), tmp_path)
            until(lambda: len(set(keys) - known_tasks(client)) >= 6, tmp_path)
            finished = {key[-1] for key in set(keys) - known_tasks(client)}
            assert len(finished) < 40
            processes[0].kill()
            run.join(120)
        assert equal(results[0].outputs, expected)
        ended = [event.partition for event in events]
        assert all(ended.count(partition) <= 1 for partition in finished)
        until(lambda: not known_tasks(client) and not in_memory(client), tmp_path)


def test_the_cluster_does_not_keep_what_was_taken(client, folder, network, images):
    inference = tg.infer(network, images, partitions=30, kernel="scipy", strategy="data", reductions="none")
    most = []
    run = threading.Thread(target=inference.compute)
    run.start()
    while run.is_alive():
        most.append(finished_partitions(client))
        time.sleep(0.02)
    assert max(most) < 25, most  # not all 30, at the end
    until(lambda: not known_tasks(client) and not in_memory(client), folder)


def finished_partitions(client):
    """How many of them workers hold."""
    states = client.run_on_scheduler(lambda dask_scheduler: {key: ts.state for key, ts in dask_scheduler.tasks.items()})
    return sum(state == "memory" and key[0].startswith("layers-") for key, state in states.items())


def test_a_persisted_inference_keeps_its_partitions(client, folder, network, images, expected):
    persisted = tg.infer(network, images, partitions=5).persist()
    for _ in range(2):
        assert equal(persisted.compute().outputs, expected)
        assert set(persisted.__dask_keys__()) <= known_tasks(client)
    del persisted
    until(lambda: not known_tasks(client), folder)


def test_keywords_reach_the_tasks(client, network, images):
    """No worker has such a thing, so the run waits for ever, until it is found that it does."""
    inference = tg.infer(network, images, partitions=2)
    with (
        dask.config.set({"taskgraph-dnn.cluster.silence": "0.5s"}),
        pytest.raises(
            tg.ClusterError, match=r"no task of the run began or ended for .* 3 no-worker; workers 2 running"
        ),
    ):
        inference.compute(resources={"unobtainium": 1})


# Tasks that nobody waits for


@pytest.fixture(scope="module")
def endless():
    """A single task of 3,000 layers that would go on for minutes."""
    layer = tg.radixnet(1024, 1)[0]
    images = tg.digit_images(4000, 1024)
    inference = tg.infer(
        tg.Network([layer] * 3_000), images, partitions=1, strategy="data", kernel="scipy", reductions="none"
    )
    assert inference.plan.longest_task_seconds > 120
    return inference


def executing(client):
    return sum(client.run(lambda dask_worker: dask_worker.state.executing_count).values())


def test_a_cancelled_job_leaves_its_worker(client, folder, endless):
    jobs.submit(endless, "endless")
    until(lambda: executing(client) == 1, folder)
    jobs.cancel("endless")
    until(lambda: executing(client) == 0, folder, seconds=20)
    assert not known_tasks(client)


INTERRUPTED = """
import sys
import taskgraph_dnn as tg
from distributed import Client
if __name__ == "__main__":
    with Client(sys.argv[1]):
        network = tg.Network([tg.radixnet(1024, 1)[0]] * 3_000)
        images = tg.digit_images(4000, 1024)
        tg.infer(network, images, partitions=1, strategy="data", kernel="scipy", reductions="none").compute()
"""


@pytest.mark.slow
def test_ctrl_c_ends_tasks_that_have_begun(client, folder):
    command = [sys.executable, "-c", INTERRUPTED, client.scheduler.address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: executing(client) == 1, folder)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in error
    until(lambda: executing(client) == 0, folder, seconds=20)
    assert not known_tasks(client)


def test_a_task_that_is_wanted_again_is_run_again(client, folder, network, images, expected):
    """It was released while it ran, and wanted again: it may have ended in between, or go on."""
    inference = tg.infer(network, images, partitions=2, strategy="data", kernel="scipy", reductions="none")
    for _ in range(5):
        started = inference.persist()
        until(lambda: executing(client), folder)
        del started
    assert equal(inference.compute().outputs, expected)


# Settings that tasks look at


def test_workers_get_what_the_client_has_set_until_somebody_sets_something_else(client, network):
    rows = tg.digit_images(10, 1024)
    own = {PACKED: "4GiB", READ: "64MiB"}
    assert seen(client) == own
    for setting, nbytes in ((PACKED, 12_345), (READ, 1_000)):
        with dask.config.set({setting: nbytes}):
            tg.infer(network, rows).compute()
        assert seen(client) == own | {setting: nbytes}
    tg.infer(network, rows).compute()
    assert seen(client) == own


def seen(client):
    """The settings of all workers, which have the same."""
    first, *others = client.run(lambda: {name: dask.config.get(name) for name in (PACKED, READ)}).values()
    assert all(other == first for other in others)
    return first


def test_workers_that_come_later_get_it_too(network):
    rows = tg.digit_images(10, 1024)
    loopback = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, threads_per_worker=1, **loopback) as local, Client(local) as client:
        with dask.config.set({PACKED: 12_345}):
            tg.infer(network, rows).compute()
        local.scale(2)
        client.wait_for_workers(2, timeout=60)
        assert seen(client)[PACKED] == 12_345


def test_the_plugin_is_sent_once(client, network, monkeypatch):
    rows, sent = tg.digit_images(10, 1024), []
    tg.infer(network, rows).compute()
    register = client.register_plugin
    monkeypatch.setattr(client, "register_plugin", lambda plugin: sent.append(plugin) or register(plugin))
    tg.infer(network, rows).compute()
    assert not sent
    with dask.config.set({PACKED: 54_321}):
        tg.infer(network, rows).compute()
        tg.infer(network, rows).compute()
    assert [plugin.settings for plugin in sent] == [{PACKED: 54_321}]


def test_a_client_in_the_same_process_keeps_its_own_settings(network):
    rows = tg.digit_images(10, 1024)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        with dask.config.set({PACKED: "1MiB"}):
            tg.infer(network, rows).compute()
        assert dask.config.get(PACKED) == "4GiB"
        with dask.config.set({PACKED: "2MiB"}):
            client.unregister_worker_plugin("taskgraph-dnn")
            assert dask.config.get(PACKED) == "2MiB"
    assert task_settings() == {}


# Networks and rows that no file holds


@pytest.fixture
def sent(client, monkeypatch):
    """The bytes of the expressions that are sent to the scheduler."""
    sizes, send = [], client._send_to_scheduler

    def measured(message):
        if message["op"] == "update-graph":
            sizes.append(sum(map(len, message["expr_ser"].frames)))
        send(message)

    monkeypatch.setattr(client, "_send_to_scheduler", measured)
    return sizes


@pytest.fixture
def temporary(tmp_path):
    with dask.config.set({"taskgraph-dnn.cluster.temporary": str(tmp_path)}):
        yield tmp_path


@pytest.fixture(scope="module")
def large():
    rng = np.random.default_rng(3)
    layers = [scipy.sparse.random_array((500, 500), density=0.2, rng=rng) for _ in range(30)]
    return tg.Network([tg.Layer(layer, bias=-0.1, cap=1.0) for layer in layers])


@pytest.mark.parametrize("given", ["folder", "none"])
@pytest.mark.parametrize("reductions", ["exact", "none"])
def test_a_network_in_memory_is_not_sent(client, sent, large, tmp_path, given, reductions, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sharing, "_IN_MEMORY", tmp_path / "no such")
    rows = scipy.sparse.random_array((50, 500), density=0.2, format="csr", rng=np.random.default_rng(4))
    expected = tg.infer(large, rows, partitions=4, reductions=reductions).compute(scheduler="threads")
    with dask.config.set({"taskgraph-dnn.cluster.temporary": str(tmp_path) if given == "folder" else None}):
        inference = tg.infer(large, rows, partitions=4, reductions=reductions)
        result = inference.compute()
    assert equal(result.outputs, expected.outputs)
    assert [layer.done for layer in result.layers] == [layer.done for layer in expected.layers]
    assert len(sent) == 1
    assert sent[0] < 200_000 < 10_000_000 < large.nbytes
    assert result.weights.nbytes >= 10_000_000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", ["hybrid", "data", "pipeline"])
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
def test_rows_in_memory_are_not_sent(client, sent, large, temporary, sparse, strategy):
    rng = np.random.default_rng(5)
    rows = (
        scipy.sparse.random_array((4_000, 500), density=0.5, format="csr", rng=rng)
        if sparse
        else rng.random((4_000, 500))
    )
    options = {"partitions": 7, "strategy": strategy, "reductions": "dynamic"}
    expected = tg.infer(large, rows, **options).compute(scheduler="threads")
    assert equal(tg.infer(large, rows, **options).compute().outputs, expected.outputs)
    assert sent[0] < 200_000 < 4_000_000 < (rows.data if sparse else rows).nbytes
    assert list(temporary.iterdir()) == []


def test_files_are_in_memory_where_there_is_much_room(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(sharing, "_IN_MEMORY", tmp_path / "memory")
    assert sharing._own_folder(1) == tmp_path
    (tmp_path / "memory").mkdir()
    assert sharing._own_folder(1) == tmp_path / "memory"
    assert sharing._own_folder(shutil.disk_usage(tmp_path).free // 2) == tmp_path


def test_workers_forget_a_network_with_its_run(client, folder, large, temporary):
    tg.infer(large, np.ones((4, 500))).compute()

    def opened(dask_worker):
        import gc

        from taskgraph_dnn.io import packed

        gc.collect()
        return len(packed._in_use)

    until(lambda: not any(client.run(lambda dask_worker: opened(dask_worker)).values()), folder, seconds=20)


def test_what_a_killed_client_has_left_is_removed_by_the_next_one(client, large, temporary):
    code = """
import os, sys
from pathlib import Path
from taskgraph_dnn.io.atomic import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "network.safetensors").touch()
    os._exit(9)
"""
    subprocess.run([sys.executable, "-c", code, str(temporary)], check=False, timeout=60)
    assert len(list(temporary.iterdir())) == 1
    tg.infer(large, np.ones((4, 500))).compute()
    assert list(temporary.iterdir()) == []


def test_no_file_is_left_when_a_run_fails(client, sent, large, temporary):
    blocks = da.from_array(np.full((10, 500), np.nan), chunks=(5, 500))
    with pytest.raises(tg.InputError):
        tg.infer(large, blocks).compute()
    assert sent[0] < 100_000
    assert list(temporary.iterdir()) == []


def test_where_there_is_no_room_it_is_sent(client, sent, large, temporary, monkeypatch):
    monkeypatch.setattr(sharing, "free_nbytes", lambda folder: large.nbytes)
    rows = np.ones((4, 500))
    expected = tg.infer(large, rows).compute(scheduler="threads")
    assert equal(tg.infer(large, rows).compute().outputs, expected.outputs)
    assert sent[0] > 2_000_000


def test_where_workers_do_not_find_it_it_is_sent(client, sent, large, tmp_path, monkeypatch):
    """A path that leads each process to its own folder, as on machines that share none."""
    monkeypatch.chdir(tmp_path)
    with dask.config.set({"taskgraph-dnn.cluster.temporary": "/proc/self/cwd"}):
        tg.infer(large, np.ones((4, 500))).compute()
    assert sent[0] > 2_000_000
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_before_anything_is_sent(client, sent, large, tmp_path):
    with (
        dask.config.set({"taskgraph-dnn.cluster.temporary": str(tmp_path / "nowhere")}),
        pytest.raises(tg.ClusterError, match="cluster.temporary is .*nowhere, which is no folder"),
    ):
        tg.infer(large, np.ones((4, 500))).compute()
    assert not sent


def test_persist_sends_the_network_because_it_outlives_the_client(client, sent, large, temporary):
    persisted = tg.infer(large, np.ones((4, 500))).persist()
    assert sent[0] > 2_000_000
    assert persisted.compute().samples == 4
    assert list(temporary.iterdir()) == []
