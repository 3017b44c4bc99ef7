"""Packed layers: made once, kept within `packed-bytes`, and forgotten with their layers."""

import gc

import dask
import numpy as np
import pytest

import taskgraph_dnn as tg
from taskgraph_dnn.kernels import load_kernel, packing
from taskgraph_dnn.kernels.packing import packed_layer
from tests.conftest import random_layer

SCIPY, DENSE = load_kernel("scipy"), load_kernel("dense")
FLOAT32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def nothing_kept():
    """Each test counts from nothing."""
    with dask.config.set({"taskgraph-dnn.packed-bytes": "1 B"}):
        gc.collect()
        last = random_layer(np.random.default_rng(0), 2, 2)
        packed_layer(last, DENSE, FLOAT32)
        assert len(packing._kept) == 1
        del last
    gc.collect()
    assert (packing._nbytes, len(packing._kept)) == (0, 0)


def layers(rng, count):
    """Layers that the dense kernel makes 4,000 bytes of."""
    return [random_layer(rng, 40, 25) for _ in range(count)]


def test_a_layer_is_packed_once_for_each_kernel_and_type(rng):
    (layer,) = layers(rng, 1)
    first = packed_layer(layer, DENSE, FLOAT32)
    assert packed_layer(layer, DENSE, FLOAT32) is first
    assert packed_layer(layer, DENSE, np.dtype(np.float64)) is not first
    assert packed_layer(layer, SCIPY, FLOAT32) is not first
    assert set(layer.packed) == {"dense f", "dense d", "scipy f"}
    assert packing._nbytes >= 4000 + 8000


def test_no_more_is_kept_than_there_is_room_for(rng):
    made = layers(rng, 5)
    with dask.config.set({"taskgraph-dnn.packed-bytes": 12_000}):
        first = [packed_layer(layer, DENSE, FLOAT32) for layer in made[:3]]
        assert packing._nbytes == 12_000
        packed_layer(made[0], DENSE, FLOAT32)  # is used again, so the second is the oldest
        packed_layer(made[3], DENSE, FLOAT32)
        assert [bool(layer.packed) for layer in made] == [True, False, True, True, False]
        assert packing._nbytes == 12_000
        assert packed_layer(made[0], DENSE, FLOAT32) is first[0]
        again = packed_layer(made[1], DENSE, FLOAT32)
        assert again is not first[1]
        np.testing.assert_array_equal(DENSE.unpack(again).toarray(), DENSE.unpack(first[1]).toarray())


def test_what_is_larger_than_the_room_is_kept_while_it_is_the_last(rng):
    made = layers(rng, 3)
    with dask.config.set({"taskgraph-dnn.packed-bytes": "1 B"}):
        for layer in made:
            packed_layer(layer, DENSE, FLOAT32)
            assert [bool(other.packed) for other in made] == [other is layer for other in made]
            assert packing._nbytes == 4000


def test_collected_layers_are_forgotten(rng):
    made = layers(rng, 4)
    for layer in made:
        packed_layer(layer, DENSE, FLOAT32)
    assert packing._nbytes == 16_000
    del made[1:], layer
    gc.collect()
    assert (packing._nbytes, len(packing._kept)) == (4000, 1)
    made.clear()
    gc.collect()
    assert (packing._nbytes, len(packing._kept)) == (0, 0)


@pytest.mark.parametrize("kernel", ["auto", "csr", "quads", "tile", "ell", "dense", "scipy"])
def test_results_are_right_where_everything_is_dropped_all_the_time(rng, kernel):
    network = tg.Network([random_layer(rng, 30, 30, density=0.5, cap=1.0) for _ in range(8)])
    rows = rng.random((200, 30), dtype=np.float32)
    expected = tg.infer(network, rows, kernel=kernel, reductions="none").compute().outputs
    twin = tg.Network([tg.Layer(y.weights, bias=y.bias, cap=y.cap) for y in network])
    with dask.config.set({"taskgraph-dnn.packed-bytes": "1 B", "taskgraph-dnn.task-seconds": 1e-7}):
        result = tg.infer(twin, rows, kernel=kernel, partitions=7, reductions="none").compute(num_workers=4)
    assert (result.outputs != expected).nnz == 0
    packed = [name for layer in twin for name in layer.packed]
    assert len(packed) == (8 if kernel == "scipy" else 1)  # scipy takes the layer as it is, which needs no room


def test_old_networks_give_way_to_new_ones(rng):
    """In a process that runs one network after the other nothing grows, whether they are files or in memory."""
    rows = rng.random((20, 25), dtype=np.float32)
    room = 5 * 2500
    with dask.config.set({"taskgraph-dnn.packed-bytes": room}):
        networks = []
        for number in range(30):
            network = tg.Network([random_layer(rng, 25, 25, bias=float(number)) for _ in range(3)])
            tg.infer(network, rows, kernel="dense", reductions="none").compute(scheduler="synchronous")
            networks.append(network)  # somebody may still hold them
            assert 3 * 2500 <= packing._nbytes <= room
        assert [sum(bool(layer.packed) for layer in network) for network in networks] == [0] * 28 + [2, 3]
    networks.clear()
    del network
    gc.collect()
    assert (packing._nbytes, len(packing._kept)) == (0, 0)


def test_files_that_are_run_one_after_the_other_leave_only_what_there_is_room_for(rng, tmp_path):
    rows, room = rng.random((20, 25), dtype=np.float32), 20_000
    with dask.config.set({"taskgraph-dnn.packed-bytes": room}):
        for number in range(30):
            path = tmp_path / f"{number}.safetensors"
            tg.write_packed(tg.Network([random_layer(rng, 25, 25, bias=float(number)) for _ in range(3)]), path)
            source = tg.read_packed(path).source
            tg.infer(source.open(), rows, kernel="dense", reductions="none").compute(scheduler="synchronous")
            assert 3 * 2500 <= packing._nbytes <= room


def test_a_stored_layer_that_a_kernel_works_on_itself_is_counted_and_released(rng, tmp_path):
    made = tg.Network([random_layer(rng, 25, 25) for _ in range(4)])
    tg.write_packed(made, tmp_path / "net.safetensors")
    network = tg.read_packed(tmp_path / "net.safetensors")
    rows = rng.random((20, 25), dtype=np.float32)
    with dask.config.set({"taskgraph-dnn.packed-bytes": 2 * max(layer.nbytes for layer in network)}):
        result = tg.infer(network, rows, kernel="scipy", reductions="none").compute(scheduler="synchronous")
    expected = tg.infer(made, rows, kernel="scipy", reductions="none").compute(scheduler="synchronous")
    assert (result.outputs != expected.outputs).nnz == 0
    assert [bool(layer.packed) for layer in network] == [False, False, True, True]
    assert [layer._arrays is not None for layer in network] == [False, False, True, True]
    assert packing._nbytes == network[2].nbytes + network[3].nbytes


def test_what_getting_at_weights_took_is_counted(rng, tmp_path):
    tg.write_packed(tg.Network([random_layer(rng, 25, 25) for _ in range(4)]), tmp_path / "net.safetensors")
    network = tg.read_packed(tmp_path / "net.safetensors")
    rows = rng.random((20, 25), dtype=np.float32)

    def run():
        inference = tg.infer(network, rows, kernel="csr", reductions="none", partitions=1)
        return inference.compute(scheduler="synchronous").weights

    first, second = run(), run()
    assert first[:3] == (0, 4, network.nbytes)
    assert first.stall_seconds > 0
    assert second == (4, 0, 0, 0.0)
    with dask.config.set({"taskgraph-dnn.packed-bytes": "1 B"}):
        (random, _) = layers(rng, 2)
        packed_layer(random, DENSE, FLOAT32)  # the others have to go
    assert run()[:3] == (0, 4, network.nbytes)
