"""The same on `distributed`: in this process, in worker processes, and by address."""

import asyncio
import os
from contextlib import contextmanager

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
import scipy.sparse
from dask.sizeof import sizeof
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, SchedulerPlugin, wait

import taskgraph_dnn as tg
from taskgraph_dnn import executors
from taskgraph_dnn.errors import InputError, PlanError
from taskgraph_dnn.executors import cluster
from tests.conftest import random_layer
from tests.test_inference import equal


@pytest.fixture(scope="module")
def address():
    """A cluster of two worker processes."""
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as local:
        yield local.scheduler_address


@pytest.fixture(params=["worker processes", "this process"])
def client(request, address):
    if request.param == "worker processes":
        with Client(address) as client:
            yield client
    else:
        with Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0") as client:
            yield client


@pytest.fixture
def network(rng):
    return tg.Network([random_layer(rng, 20, 30, cap=1.0), random_layer(rng, 30, 30), random_layer(rng, 30, 8)])


@pytest.fixture
def rows(rng):
    return scipy.sparse.random_array((60, 20), density=0.5, rng=rng, format="csr")


@pytest.fixture
def expected(network, rows):
    return tg.infer(network, rows).compute(scheduler="synchronous").outputs


@pytest.mark.parametrize("strategy", ["hybrid", "data", "pipeline"])
@pytest.mark.parametrize("kernel", ["auto", "csr", "scipy"])
def test_bits_are_those_of_the_threads(client, network, rows, strategy, kernel):
    local = tg.infer(network, rows, partitions=4, kernel=kernel).compute(scheduler="synchronous")
    result = tg.infer(network, rows, partitions=4, kernel=kernel, strategy=strategy).compute()
    assert equal(result.outputs, local.outputs)
    workers = {event.worker for event in result.events}
    if len(client.scheduler_info()["workers"]) == 2:
        assert not any(f"-{os.getpid()}-" in worker for worker in workers)


@pytest.mark.parametrize(
    "finished", [tg.Inference.compute, lambda inference: wait(inference.persist())], ids=["compute", "persist"]
)
@pytest.mark.parametrize("strategy", ["data", "pipeline"])
def test_tasks_prefer_their_workers(address, network, rows, strategy, finished):
    with Client(address) as client, dask.config.set({"taskgraph-dnn.task-seconds": 1e-9}):
        inference = tg.infer(network, rows, strategy=strategy, partitions=6, reductions="none")
        workers, plan = executors.resources().workers, inference.plan
        assert (len(workers), plan.workers) == (2, 2)
        assert len(plan.spans) == {"data": 1, "pipeline": 2}[strategy]
        expected = {
            (f"layers-{inference.token}", stop, p): {workers[plan.worker(number, p)]}
            for number, (_, stop) in enumerate(plan.spans)
            for p in range(6)
        }
        with _restrictions(client) as seen:
            finished(inference)
            found = seen()
        assert found == {key: (where, True) for key, where in expected.items()}


@contextmanager
def _restrictions(client):
    """Watch which workers tasks are to run on, and whether others will do, while a graph is submitted."""

    class Watch(SchedulerPlugin):
        name = "watch"

        def start(self, scheduler):
            self.scheduler, self.seen = scheduler, {}

        def update_graph(self, scheduler, *, tasks, **_):
            states = [scheduler.tasks[key] for key in tasks]
            self.seen |= {ts.key: (ts.worker_restrictions, ts.loose_restrictions) for ts in states}

    def seen(dask_scheduler):
        return dask_scheduler.plugins["watch"].seen

    client.register_plugin(Watch())
    yield lambda: {key: found for key, found in client.run_on_scheduler(seen).items() if found[0]}
    client.unregister_scheduler_plugin("watch")


def test_workers_that_are_gone_hold_nobody_up(client, network, rows, expected):
    inference = tg.infer(network, rows, strategy="pipeline", partitions=4)
    gone = ("tcp://127.0.0.1:1",) * inference.plan.workers
    elsewhere = tg.Inference(inference.expr.substitute_parameters({"workers": gone}))
    assert equal(elsewhere.compute().outputs, expected)


def test_a_packed_network_is_read_by_the_workers(client, network, rows, expected, tmp_path):
    tg.write_packed(network, tmp_path / "network.safetensors")
    packed = tg.read_packed(tmp_path / "network.safetensors")
    inference = tg.infer(packed, rows, partitions=3)
    assert not any(str(key).startswith("network-") for key in inference.__dask_graph__())
    assert equal(inference.compute().outputs, expected)


def test_persist_and_dask_arrays(client, network, rows, expected):
    array = da.from_array(rows.toarray(), chunks=(25, 20))
    persisted = tg.infer(network, array).persist()
    assert equal(persisted.compute().outputs, expected)
    assert equal(tg.infer(network, array.persist()).compute().outputs, expected)


def test_futures_of_the_client(client, network, rows, expected):
    assert equal(client.compute(tg.infer(network, rows)).result().outputs, expected)


def test_no_samples(client, network):
    assert tg.infer(network, np.zeros((0, 20))).compute().outputs.shape == (0, 8)


def test_errors_of_workers_are_ours(client, network):
    array = da.from_array(np.full((10, 20), np.nan), chunks=(5, 20))
    with pytest.raises(InputError, match=r"sample [05], input 0 is nan"):
        tg.infer(network, array).compute()


def test_events_reach_the_client(client, network, rows):
    for partitions in (3, 4):  # the second run must not hear anything twice
        inference, other = tg.infer(network, rows, partitions=partitions), tg.infer(network, rows, partitions=7)
        outer, inner = [], []
        with executors.watching(inference.token, outer.append), executors.watching(inference.token, inner.append):
            other.compute()
            result = inference.compute()
            client.sync(_until_long, inner, partitions)
        for seen in (outer, inner):
            assert sorted(map(repr, seen)) == sorted(map(repr, result.events))


def test_several_workers_of_a_process_tell_everything_once(network, rows):
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as client:
        inference, seen = tg.infer(network, rows, partitions=5), []
        with executors.watching(inference.token, seen.append):
            inference.compute()
            tg.infer(network, rows, partitions=2).compute()
            client.sync(_until_long, seen, 5)
        assert sorted(event.partition for event in seen) == [0, 1, 2, 3, 4]


def test_threads_beside_a_client_are_heard(address, network, rows):
    inference, seen = tg.infer(network, rows, partitions=3), []
    with Client(address), executors.watching(inference.token, seen.append):
        inference.compute(scheduler="threads")
    assert len(seen) == 3


async def _until_long(events, length):
    for _ in range(3000):
        if len(events) >= length:
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(f"{len(events)} events, expected {length}")


def test_plans_are_for_the_clusters_threads(client, network, rows):
    assert tg.infer(network, rows).plan.threads == 2


def test_large_data_gives_no_warning(address):
    rows = np.ones((4000, 1000), np.float32)
    network = tg.Network([tg.Layer(np.eye(1000))])
    with Client(address):
        assert tg.infer(network, rows).compute().outputs.nnz == rows.size


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
def test_connected(scheduler, network, rows, expected):
    with executors.connected(scheduler) as where:
        assert equal(tg.infer(network, rows).compute(**where).outputs, expected)
    assert executors.resources().threads == CPU_COUNT


def test_connected_by_address(address, network, rows, expected):
    with executors.connected(address) as where:
        assert executors.resources().threads == 2
        assert equal(tg.infer(network, rows).compute(**where).outputs, expected)


@pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:1", "127.0.0.1:1", "bogus://127.0.0.1:1", "tls://127.0.0.1:1"])
def test_nobody_at_the_address(scheduler, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with pytest.raises(PlanError, match="cannot reach a Dask scheduler at"), executors.connected(scheduler):
        pass
    assert executors.resources().threads == CPU_COUNT  # no half-made client is left behind


@pytest.mark.parametrize("scheduler", ["thread", "bogus", "127.0.0.1", "", "tcp://127.0.0.1", "tcp://127.0.0.1:x"])
def test_unknown_schedulers_are_refused_with_the_valid_ones(scheduler):
    with pytest.raises(PlanError) as caught, executors.connected(scheduler):
        pass
    assert str(caught.value).startswith(
        f"unknown scheduler {scheduler!r}, expected threads, synchronous, processes, or"
    )


def test_our_clusters_listen_on_loopback_only():
    with executors.connected("processes"):
        us = psutil.Process()
        listening = [
            connection.laddr.ip
            for process in (us, *us.children(recursive=True))
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
    assert set(listening) == {"127.0.0.1"}
    assert len(listening) >= 2 + 2 * CPU_COUNT


def test_dask_knows_what_our_types_weigh(network, rows):
    csr = rows.astype(np.float32)
    assert sizeof(csr) == csr.data.nbytes + csr.indices.nbytes + csr.indptr.nbytes
    assert network.nbytes <= sizeof(network) < network.nbytes + 200
    assert network[0].nbytes <= sizeof(network[0]) < network[0].nbytes + 200


def test_a_client_of_the_user_stays_the_default(address, network, rows, expected):
    with Client(address) as client:
        assert equal(tg.infer(network, rows).compute().outputs, expected)
        assert cluster.active_client() is client
