"""What happens to a run when parts of its cluster die, stop or are missing: the right answer, or an error of ours."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import dask.array as da
import dask.config
import numpy as np
import psutil
import pytest
from distributed import Client, Future, LocalCluster, WorkerPlugin

import taskgraph_dnn as tg
from taskgraph_dnn import executors
from taskgraph_dnn.events import subscribed
from tests.clusters import address, command_cluster, until
from tests.test_inference import equal

SILENCE = {"taskgraph-dnn.cluster.silence": "3s"}


@pytest.fixture(scope="module")
def network():
    return tg.radixnet(1024, 60)


@pytest.fixture(scope="module")
def images():
    return tg.digit_images(1000, 1024)


@pytest.fixture(scope="module")
def expected(network, images):
    return tg.infer(network, images, kernel="scipy").compute(scheduler="threads").outputs


def many_tasks(network, images, partitions=5):
    """An inference of so many tasks, that what happens after the first one happens in the middle."""
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-3}):
        inference = tg.infer(network, images, partitions=partitions, kernel="scipy", reductions="none")
    assert inference.plan.tasks >= 200
    return inference


def computed(inference, fault):
    """Compute an inference, and do something when its first task has ended."""
    once = threading.Lock()

    def first(event):
        if once.acquire(blocking=False):
            fault()

    with executors.watching(inference.token, first):
        result = inference.compute()
    assert once.locked()
    return result


class Killer:
    """Kills the workers that tell of a task: each once, a few, with seconds between them, and never the spared one."""

    def __init__(self, times=1000, pause=0.0, spared=None):
        self.times, self.pause, self.spared = times, pause, spared
        self.killed, self.next = [], 0.0

    def __call__(self, event):
        pid = process_of(event)
        if pid in {self.spared, *self.killed} or len(self.killed) == self.times or time.monotonic() < self.next:
            return
        os.kill(pid, signal.SIGKILL)
        self.killed.append(pid)
        self.next = time.monotonic() + self.pause


def process_of(event):
    return int(event.worker.rsplit("-", 2)[1])


def told(function):
    """A plugin for workers, who call a function with the event of each task, in its thread."""

    class Told(WorkerPlugin):  # in here, because workers cannot import this module
        def setup(self, worker):  # noqa: ARG002
            self.open = subscribed(function)
            self.open.__enter__()

    return Told()


def workers_tasks(client):
    return client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))


@contextmanager
def commands(folder, **options):
    """Workers without nannies: nobody starts them again."""
    with command_cluster(folder, worker=["--no-nanny"], **options) as (_, workers), Client(address(folder)) as client:
        yield client, workers


@pytest.mark.slow
def test_a_worker_that_is_killed_once_changes_nothing(network, images, expected, tmp_path):
    with command_cluster(tmp_path, worker=["--nanny"]), Client(address(tmp_path)) as client:
        pids = set(client.run(os.getpid).values())
        victim = min(pids)
        result = computed(many_tasks(network, images), lambda: os.kill(victim, signal.SIGKILL))
        assert equal(result.outputs, expected)
        until(lambda: len(client.run(os.getpid)) == 2, tmp_path)
        assert victim not in client.run(os.getpid).values()


@pytest.mark.slow
def test_three_kills_in_one_run_change_nothing(network, images, expected, tmp_path):
    """There are two workers, so one of these was started meanwhile."""
    with command_cluster(tmp_path, worker=["--nanny"]), Client(address(tmp_path)):
        inference, killer = many_tasks(network, images), Killer(times=3)
        with executors.watching(inference.token, killer):
            result = inference.compute()
    assert equal(result.outputs, expected)
    assert len(killer.killed) == 3


@pytest.mark.slow
def test_a_kill_every_two_seconds_changes_nothing(network, images, tmp_path):
    """One of three workers is spared, and tasks take their time, so that the run ends, but only after some kills."""
    inference = many_tasks(network.head(20), images, partitions=10)

    env = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1000"}  # no task is to blame
    with command_cluster(tmp_path, worker=["--nanny"], workers=3, env=env), Client(address(tmp_path)) as client:
        client.register_plugin(told(lambda event: time.sleep(0.08)))
        killer = Killer(pause=2.0, spared=min(client.run(os.getpid).values()))
        with executors.watching(inference.token, killer):
            result = inference.compute()
    assert equal(result.outputs, inference.compute(scheduler="threads").outputs)
    assert len(killer.killed) >= 3


@pytest.mark.slow
def test_a_task_that_takes_more_memory_than_its_worker_has_is_named(tmp_path):
    """The rows of the result come on top of the estimate. The nanny ends a worker that takes too much."""
    network = tg.Network([tg.Layer(np.ones((16, 2048)))])
    rows = np.ones((30_000, 16), np.float32)
    env = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    options = ["--nanny", "--memory-limit", "300MiB"]
    with command_cluster(tmp_path, worker=options, workers=1, env=env), Client(address(tmp_path)) as client:
        inference = tg.infer(network, rows, partitions=1, strategy="data", kernel="scipy", reductions="none")
        with pytest.raises(tg.ClusterError) as caught:
            inference.compute()
        until(lambda: workers_tasks(client) == 0, tmp_path)
    need = inference.plan.largest_task_nbytes / 2**20
    assert str(caught.value).startswith("workers died 2 times while they ran layers 1 to 1 of partition 0, the last")
    assert f"a task of this plan needs up to {need:.2f} MiB for activations" in str(caught.value)
    assert "exceeded 95% memory budget" in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_without_workers_a_run_ends_with_an_error(network, images, tmp_path):
    with commands(tmp_path) as (client, workers), dask.config.set(SILENCE):

        def kill():
            for worker in workers:
                worker.kill()

        with pytest.raises(tg.ClusterError) as caught:
            computed(many_tasks(network, images), kill)
        assert "no task of the run began or ended for 3.00 s (taskgraph-dnn.cluster.silence)" in str(caught.value)
        assert "workers none; start workers" in str(caught.value)
        until(lambda: workers_tasks(client) == 0, tmp_path)


@pytest.mark.slow
def test_others_take_over_from_a_worker_that_has_stopped(network, images, expected, tmp_path):
    env = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "2s"}
    with commands(tmp_path, env=env) as (_, workers):
        result = computed(many_tasks(network, images), lambda: os.kill(workers[0].pid, signal.SIGSTOP))
        assert equal(result.outputs, expected)
        assert psutil.Process(workers[0].pid).status() == psutil.STATUS_STOPPED


@pytest.mark.slow
def test_a_run_that_waits_for_a_stopped_worker_ends_with_an_error(network, images, expected, tmp_path):
    with commands(tmp_path) as (client, workers), dask.config.set(SILENCE):
        inference = many_tasks(network, images)
        with pytest.raises(tg.ClusterError) as caught:
            computed(inference, lambda: os.kill(workers[0].pid, signal.SIGSTOP))
        assert "workers 2 running; paused workers wait for memory" in str(caught.value)
        until(lambda: workers_tasks(client) == 0, tmp_path)
        os.kill(workers[0].pid, signal.SIGCONT)
        assert equal(inference.compute().outputs, expected)


@pytest.mark.slow
def test_paused_workers_get_no_tasks_and_without_others_a_run_ends_with_an_error(network, images, expected, tmp_path):
    def pause_at(client, fraction, status, workers=None):
        def pause(dask_worker):
            dask_worker.memory_manager.memory_pause_fraction = fraction

        client.run(pause, workers=workers)
        until(lambda: set(client.run(state, workers=workers).values()) == {status}, tmp_path)

    def state(dask_worker):
        return dask_worker.status.name

    with commands(tmp_path) as (client, _), dask.config.set(SILENCE):
        inference = many_tasks(network, images)
        pids = client.run(os.getpid)
        paused = min(pids)
        pause_at(client, 1e-6, "paused", [paused])
        result = inference.compute()
        assert equal(result.outputs, expected)
        assert {process_of(event) for event in result.events} == set(pids.values()) - {pids[paused]}
        pause_at(client, 1e-6, "paused")
        with pytest.raises(tg.ClusterError, match="workers 2 paused; paused workers wait for memory"):
            inference.compute()
        until(lambda: workers_tasks(client) == 0, tmp_path)
        pause_at(client, 0.99, "running")
        assert equal(inference.compute().outputs, expected)


def test_long_tasks_are_no_silence(network, images, expected):
    """However short the silence, a task may take ten times as long as expected."""
    with (
        dask.config.set({"taskgraph-dnn.cluster.silence": 1e-3}),
        Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0"),
    ):
        inference = tg.infer(network, images, partitions=1, kernel="scipy", strategy="data", reductions="none")
        assert equal(inference.compute().outputs, expected)


@pytest.mark.slow
def test_a_task_that_kills_its_workers_is_named(network, images):
    loopback = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=1, threads_per_worker=1, silence_logs=50, **loopback) as local,
        Client(local) as client,
    ):
        client.register_plugin(told(lambda event: os._exit(1)))
        inference = tg.infer(network, images, partitions=1, strategy="data", kernel="scipy", reductions="none")
        with pytest.raises(tg.ClusterError) as caught:
            inference.compute()
    need = inference.plan.largest_task_nbytes / 2**20
    assert str(caught.value).startswith("workers died 2 times while they ran layers 1 to 60 of partition 0, the last")
    assert f"a task of this plan needs up to {need:.2f} MiB for activations" in str(caught.value)


@pytest.mark.slow
def test_a_scheduler_that_ends_is_an_error(network, images, tmp_path):
    with command_cluster(tmp_path, worker=["--no-nanny"]) as (scheduler, _), Client(address(tmp_path), timeout=2):
        inference = many_tasks(network, images)
        with pytest.raises(tg.ClusterError, match="the connection to the scheduler was lost, and the run with it"):
            computed(inference, scheduler.kill)


@pytest.mark.slow
def test_a_scheduler_that_has_stopped_is_an_error(network, images, tmp_path):
    with (
        command_cluster(tmp_path, worker=["--no-nanny"]) as (scheduler, _),
        Client(address(tmp_path), timeout=2),
        dask.config.set(SILENCE),
    ):
        inference = many_tasks(network, images)
        with pytest.raises(tg.ClusterError, match="the scheduler does not answer: see whether it still runs"):
            computed(inference, lambda: os.kill(scheduler.pid, signal.SIGSTOP))
        os.kill(scheduler.pid, signal.SIGCONT)


@pytest.fixture
def client():
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        yield client


def test_no_memory_is_an_error_of_the_cluster(client, network):
    blocks = da.ones((10, 1024), chunks=(5, 1024)).map_blocks(lambda block: np.empty(2**55), dtype=float)
    with pytest.raises(tg.ClusterError, match="a task ran out of memory.*Use more partitions") as caught:
        tg.infer(network, blocks).compute()
    assert isinstance(caught.value.__cause__, MemoryError)


def test_a_run_that_somebody_cancels_is_an_error(client, network, images):
    def cancel():
        client.cancel([Future(key, client) for key in tuple(client.futures)], reason="lunch")

    canceller = threading.Thread(target=cancel)
    with pytest.raises(tg.ClusterError, match="the run was cancelled on the cluster: lunch"):
        computed(many_tasks(network, images), canceller.start)
    canceller.join()


def test_other_errors_of_tasks_stay_as_they_are(client, network):
    blocks = da.ones((10, 1024), chunks=(5, 1024)).map_blocks(lambda block: 1 / 0, dtype=float)
    with pytest.raises(ZeroDivisionError):
        tg.infer(network, blocks).compute()


INTERRUPTED = """
import os, signal, sys
import dask, taskgraph_dnn as tg
from distributed import Client
from taskgraph_dnn import executors
from taskgraph_dnn.events import subscribed
if __name__ == "__main__":
    with Client(sys.argv[1]):
        with dask.config.set({"taskgraph-dnn.task-seconds": 1e-3}):
            inference = tg.infer(
                tg.radixnet(1024, 60), tg.digit_images(1000, 1024), partitions=5, kernel="scipy", reductions="none"
            )
        with executors.watching(inference.token, lambda event: os.kill(os.getpid(), signal.SIGINT)):
            inference.compute()
"""


@pytest.mark.slow
def test_ctrl_c_leaves_no_tasks_on_the_cluster(tmp_path):
    with commands(tmp_path) as (client, _):
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, address(tmp_path)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode != 0
        assert "KeyboardInterrupt" in done.stderr
        until(lambda: workers_tasks(client) == 0, tmp_path)
