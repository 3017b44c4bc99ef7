"""The same on `distributed`: in this process, in worker processes, and by address."""

import asyncio
import os

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
import scipy.sparse
from distributed import Client, LocalCluster

import taskgraph_dnn as tg
from taskgraph_dnn import executors
from taskgraph_dnn.errors import InputError, PlanError
from tests.conftest import random_layer
from tests.test_inference import equal


@pytest.fixture(scope="module")
def address():
    """A cluster of two worker processes."""
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


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


@pytest.mark.parametrize("strategy", ["hybrid", "data"])
@pytest.mark.parametrize("kernel", ["numba", "scipy"])
def test_bits_are_those_of_the_threads(client, network, rows, strategy, kernel):
    local = tg.infer(network, rows, partitions=4, kernel=kernel).compute(scheduler="synchronous")
    result = tg.infer(network, rows, partitions=4, kernel=kernel, strategy=strategy).compute()
    assert equal(result.outputs, local.outputs)
    workers = {event.worker for event in result.events}
    if len(client.scheduler_info()["workers"]) == 2:
        assert not any(f"-{os.getpid()}-" in worker for worker in workers)


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
        seen = []
        with executors.watching(seen.append):
            result = tg.infer(network, rows, partitions=partitions).compute()
            client.sync(_until_long, seen, partitions)
        assert sorted(map(repr, seen)) == sorted(map(repr, result.events))


async def _until_long(events, length):
    while len(events) < length:
        await asyncio.sleep(0.01)


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
    assert executors.thread_count() == os.cpu_count()


def test_connected_by_address(address, network, rows, expected):
    with executors.connected(address) as where:
        assert executors.thread_count() == 2
        assert equal(tg.infer(network, rows).compute(**where).outputs, expected)


@pytest.mark.parametrize("scheduler", ["tcp://127.0.0.1:1", "bogus"])
def test_nobody_at_the_address(scheduler):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(PlanError, match="cannot reach a scheduler at"),
        executors.connected(scheduler),
    ):
        pass
    assert executors.thread_count() == os.cpu_count()  # no half-made client is left behind


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
    assert len(listening) >= 2 + 2 * os.cpu_count()
