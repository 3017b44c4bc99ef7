"""Many runs in one cluster leave nothing behind: neither memory nor tasks, in none of its processes."""

import random
import sys
import time

import dask.array as da
import dask.config
import msgpack
import numpy as np
import psutil
import pytest
from distributed import Client

import taskgraph_dnn as tg
from taskgraph_dnn import executors, jobs
from taskgraph_dnn.errors import InputError
from tests.clusters import address, command_cluster, until
from tests.conftest import random_layer
from tests.test_inference import equal

RUNS, WARM = 200, 40
SAMPLES, NEURONS, PARTITIONS = 512, 256, 2

#: By how much a process may grow over the runs after the first ones. If each of them left behind its input, its
#: activations or its result, of one partition, it would grow by more.
GROWTH = 16 * 2**20
assert (RUNS - WARM) * SAMPLES // PARTITIONS * NEURONS * 4 > 2 * GROWTH

#: How many of the last messages and events each process of Dask keeps in its logs. With the 1,000 that it keeps where
#: nobody says otherwise, these would not be full before the runs end.
LOGGED = 20


def computed(inference):
    with executors.watching(inference.token, lambda event: None):
        return inference.compute()


def persisted(inference):
    return inference.persist().compute()


def submitted(inference):
    jobs.submit(inference, "soak")
    result = jobs.result("soak", timeout=60)
    jobs.cancel("soak")
    return result


def a_run(number, packed):
    """Run one network in one of the ways there are, and look whether the answer is that of this process."""
    rng, choose = np.random.default_rng(number), random.Random(number).choice
    density = choose([0.3, 1.0])  # a network in memory is sent to workers, a larger one is shared with them by a file
    network = tg.Network([random_layer(rng, NEURONS, NEURONS, density=density, cap=1.0) for _ in range(3)])
    rows = rng.random((SAMPLES, NEURONS), np.float32)
    inference = tg.infer(
        choose([network, packed]),
        choose([rows, da.from_array(rows, chunks=(SAMPLES // PARTITIONS, NEURONS))]),
        partitions=PARTITIONS,
        kernel=choose(["auto", "csr", "scipy"]),
        strategy=choose(["hybrid", "data", "pipeline"]),
        reductions=choose(["exact", "dynamic", "none"]),
    )
    way = submitted if number % 10 == 4 else choose([computed, persisted])  # jobs are looked at twice a second
    result = way(inference)
    assert equal(result.outputs, inference.compute(scheduler="synchronous").outputs)


def a_run_that_fails(number, packed):
    rows = da.full((SAMPLES, NEURONS), np.nan, chunks=(SAMPLES // PARTITIONS, NEURONS))
    with pytest.raises(InputError):
        tg.infer(packed, rows).compute()


def looked(client, processes):
    """Return each process's bytes of memory, threads and open files, once it has put away what it can."""

    def tidy():
        import ctypes
        import gc

        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)

    for everywhere in (client.run, client.run_on_scheduler, lambda function: function()):
        everywhere(tidy)
    looks = []
    for _ in range(5):
        time.sleep(0.2)
        looks.append([(process.memory_info().rss, process.num_threads(), process.num_fds()) for process in processes])
    return np.median(looks, axis=0)


def left(client):
    """Count what the client, the scheduler and the workers still hold of runs."""

    def on_the_scheduler(dask_scheduler):
        datasets = dask_scheduler.extensions["publish"].datasets
        wanted = [key for state in dask_scheduler.clients.values() for key in state.wants_what]
        held = dask_scheduler.tasks, dask_scheduler.task_groups, dask_scheduler.queued, datasets, wanted
        return [len(each) for each in held]

    def on_a_worker(dask_worker):
        return [len(dask_worker.data), len(dask_worker.state.tasks)]

    return [len(client.futures), client.run_on_scheduler(on_the_scheduler), *client.run(on_a_worker).values()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is given back to the system by glibc's malloc_trim")
def test_two_hundred_runs_in_one_cluster_leave_nothing_behind(tmp_path, rng):
    tg.write_packed(tg.Network([random_layer(rng, NEURONS, NEURONS, cap=1.0)] * 3), tmp_path / "network.safetensors")
    packed = tg.read_packed(tmp_path / "network.safetensors")
    env = {"DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": str(LOGGED)}
    with (
        command_cluster(tmp_path, worker=["--no-nanny"], env=env) as (scheduler, workers),
        dask.config.set({"distributed.admin.low-level-log-length": LOGGED}),
        Client(address(tmp_path)) as client,
    ):
        processes = [psutil.Process(), *(psutil.Process(process.pid) for process in (scheduler, *workers))]
        before = None
        for number in range(RUNS):
            if number == WARM:
                before = looked(client, processes)
            (a_run_that_fails if number % 10 == 9 else a_run)(number, packed)
        after = looked(client, processes)
        until(lambda: left(client) == [0, [0] * 5, [0, 0], [0, 0]], tmp_path)
    growth = after - before
    assert (growth[:, 0] < GROWTH).all(), growth
    assert (growth[:, 1:] <= 8).all(), growth  # pools of threads and of connections may still fill


def test_the_events_of_a_deep_network_are_small():
    """Dask keeps the last thousand of them in the scheduler, in each worker and in each client that watches."""
    network, rows = tg.Network([tg.Layer(np.eye(16))] * 1920), np.ones((100, 16), np.float32)
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        inference, seen = tg.infer(network, rows, partitions=1, strategy="data", reductions="none"), []
        with executors.watching(inference.token, seen.append):
            result = inference.compute()
            until(lambda: seen)
        ((_, told),) = client.get_events("taskgraph-dnn")
    assert repr(seen) == repr(list(result.events))
    assert seen[0].counts.nbytes > 40_000
    assert len(msgpack.dumps(told)) < 4_000
