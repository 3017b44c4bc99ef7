"""Packed files: they open with the safetensors library, are never copied, and no damage goes unseen."""

import json
import mmap
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.activation_functions import ACTIVATIONS
from taskgraph_dnn.config import settings
from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io import PackedFile, read_challenge_network, read_packed, write_packed, write_packed_layers
from taskgraph_dnn.io.described import seal
from taskgraph_dnn.io.pack import _prepared, _put
from taskgraph_dnn.io.tensors import TensorWriter
from taskgraph_dnn.kernels import automatic_kernels
from taskgraph_dnn.network import network_digest
from taskgraph_dnn.plan import make_plan
from taskgraph_dnn.reductions.certificates import certify
from taskgraph_dnn.reductions.choice import choose_reductions
from taskgraph_dnn.reductions.static import STATIC, reduce_network
from taskgraph_dnn.reference import reference_outputs
from taskgraph_dnn.synthetic import radixnet_layers
from tests.conftest import random_layer


@pytest.fixture
def network(rng) -> tg.Network:
    return tg.Network(
        [
            random_layer(rng, 7, 5, density=0.8, cap=2.5),
            random_layer(rng, 5, 6, density=0.8, activation="identity"),
            random_layer(rng, 6, 3, density=0.8, bias=np.zeros(3)),
        ]
    )


@pytest.fixture
def path(tmp_path, network) -> Path:
    """The network in a file that holds each of its tensors, as no two are equal, and no reduced network."""
    path = tmp_path / "net.safetensors"
    write_packed(network, path)
    return path


def assert_equal(network: tg.Network, other: tg.Network) -> None:
    assert [layer.digest for layer in network] == [layer.digest for layer in other]
    for layer, twin in zip(network, other, strict=True):
        np.testing.assert_array_equal(layer.weights.toarray(), twin.weights.toarray())
        np.testing.assert_array_equal(layer.bias, twin.bias)
        assert (layer.activation, layer.cap) == (twin.activation, twin.cap)
        assert layer.negative_slope == twin.negative_slope


@pytest.mark.parametrize("verify", [True, False])
def test_a_network_survives(path, network, verify):
    back = read_packed(path, verify=verify)
    assert_equal(back, network)
    assert back.digest == network.digest
    assert back.read_seconds > 0


def test_the_safetensors_library_opens_it(path, network):
    with safetensors.safe_open(path, framework="numpy") as file:
        assert len(file.keys()) == 4 * 3
        assert file.metadata().keys() == {"format", "version", "digest", "layers", "seal"}
    tensors = safetensors.numpy.load_file(path)
    for k, layer in enumerate(network):
        np.testing.assert_array_equal(tensors[f"layers.{k}.indptr"], layer.weights.indptr)
        np.testing.assert_array_equal(tensors[f"layers.{k}.indices"], layer.weights.indices)
        np.testing.assert_array_equal(tensors[f"layers.{k}.data"], layer.weights.data)
        np.testing.assert_array_equal(tensors[f"layers.{k}.bias"], layer.bias)


def test_a_file_that_the_safetensors_library_saved_again_is_read(path, network):
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    again = path.with_name("again.safetensors")
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), again, metadata)
    assert_equal(read_packed(again), network)


def test_arrays_are_aligned_views_of_the_file(path):
    for layer in read_packed(path):
        for array in (layer.weights.indptr, layer.weights.indices, layer.weights.data, layer.bias):
            assert not array.flags.owndata
            assert not array.flags.writeable
            assert array.flags.aligned
            while isinstance(array, np.ndarray):
                array = array.base
            assert isinstance(array, mmap.mmap)


def test_tensors_start_at_a_cache_line(path):
    (size,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert (8 + size) % 64 == 0


def test_64_bit_row_numbers_survive(tmp_path):
    """Written by hand: what else is found out of a layer needs memory for each of its inputs."""
    weights = tg.Layer.from_csc_arrays(
        (2**31 + 5, 3),
        np.array([0, 1, 1, 2]),
        np.array([2**31 + 1, 7]),
        np.array([1, 2], np.float32),
        bias=np.zeros(3, np.float32),
        activation="relu",
        cap=None,
    )
    network, path = tg.Network([weights, tg.Layer(np.eye(3))]), tmp_path / "net"
    with TensorWriter.open(path, 100) as writer:
        described = [_put(writer, f"layers.{k}", _prepared(network[k])) for k in (1, 0)][::-1]
        texts = {"layers": json.dumps([layer.values for layer in described])}
        fixed = {"format": "taskgraph-dnn", "version": "2", "digest": network.digest, "seal": seal(texts)}
        writer.finish(fixed | texts)
    back = read_packed(path, verify=True)
    assert back.digest == network.digest
    assert back[0].weights.indices.tolist() == [2**31 + 1, 7]
    assert all(layer.weights.indptr.flags.aligned for layer in back)
    assert any(name.startswith("padding") for name in safetensors.numpy.load_file(path))


@st.composite
def networks(draw) -> tg.Network:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=5))
    cap = st.none() | st.floats(0.1, 1e30)
    return tg.Network(
        random_layer(
            rng,
            inputs,
            outputs,
            density=draw(st.floats(0, 1)),
            activation=draw(st.sampled_from([name for name in ACTIVATIONS if name != "softmax"])),
            cap=draw(cap),
        )
        for inputs, outputs in pairwise(sizes)
    )


@given(networks())
def test_any_network_survives(tmp_path_factory, network):
    path = tmp_path_factory.mktemp("packed") / "net.safetensors"
    write_packed(network, path)
    for verify in (True, False):
        assert_equal(read_packed(path, verify=verify), network)


@pytest.mark.parametrize("verify", [True, False])
def test_every_activation_survives(tmp_path, rng, verify):
    given = [{"activation": name, "cap": 0.5} for name in ACTIVATIONS if name != "softmax"]
    given += [{"activation": "leaky_relu", "negative_slope": 0.1}, {"activation": "softmax"}]
    network = tg.Network(tg.Layer(rng.standard_normal((4, 4)), **options) for options in given)
    write_packed(network, tmp_path / "net")
    back = read_packed(tmp_path / "net", verify=verify)
    assert_equal(back, network)
    assert [layer.negative_slope for layer in back] == [None, None, 0.01, None, None, 0.1, None]


def test_only_leaky_relu_has_a_slope_in_the_file(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        layers = json.loads(file.metadata()["layers"])
    assert all(layer.keys() == {"shape", "nnz", "activation", "cap", "digest", "facts"} for layer in layers)
    assert [layer.negative_slope for layer in read_packed(path)] == [None] * 3


def test_a_file_of_version_1_is_read(path, network):
    """It holds every tensor, and neither facts nor a reduced network nor a seal."""

    def to_version_1(metadata, layers, tensors):
        metadata["version"] = "1"
        for layer in layers:
            del layer["facts"]

    rewrite(path, to_version_1, sealed=False)
    back = read_packed(path, verify=True)
    assert_equal(back, network)
    assert back.reduced is None
    assert back[0].facts == {}


@pytest.mark.parametrize("slope", [0.2, 2, float("nan"), "0.1"])
def test_a_changed_slope_is_seen(tmp_path, slope):
    path = tmp_path / "net"
    write_packed(tg.Network([tg.Layer(np.eye(2), activation="leaky_relu")]), path)
    rewrite(path, lambda metadata, layers, tensors: layers[0].update(negative_slope=slope))
    with pytest.raises(FileError, match=f"{path}.*(has the digest|negative_slope is {slope!r})"):
        read_packed(path, verify=True)


def told(write) -> list[tuple[int, int | None]]:
    calls = []
    write(lambda *call: calls.append(call))
    return calls


def test_progress_is_told_of_all_passes(tmp_path, network):
    calls = told(lambda progress: write_packed(network, tmp_path / "net", progress=progress))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[:6] == [(done, 9) for done in range(1, 7)]
    assert calls[-1] == (9, 9)
    reducible = tg.radixnet(64, 5)
    calls = told(lambda progress: write_packed(reducible, tmp_path / "net", progress=progress))
    assert calls == [(done, 15) for done in range(1, 16)]
    layers = enumerate(reducible)
    calls = told(lambda progress: write_packed_layers(layers, tmp_path / "net", progress=progress))
    assert calls == [(done, None if done <= 5 else 15) for done in range(1, 16)]


def test_a_crash_while_writing_keeps_the_old_file(path, network):
    def crash(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_packed(network.head(1), path, progress=crash)
    assert_equal(read_packed(path), network)
    assert list(path.parent.iterdir()) == [path]


def test_the_first_layers_alone(path, network):
    head = read_packed(path, 2)
    assert_equal(head, network.head(2))
    assert head.digest == network.head(2).digest
    assert head.source == PackedFile(str(path), head.digest, 2)
    with pytest.raises(FileError, match=f"{path} has 3 layers, expected at least 4"):
        read_packed(path, 4)
    with pytest.raises(NetworkError, match="cannot read 0 layers, expected at least 1"):
        read_packed(path, 0)


def test_a_source_opens_the_same_network_once(path, network):
    source = pickle.loads(pickle.dumps(read_packed(path).source))
    assert source.open().digest == network.digest
    assert_equal(source.open(), network)
    assert source.open() is source.open()
    assert source.open().source == source


def test_a_source_has_an_absolute_path(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    assert read_packed(path.name).source.path == str(path)


def test_a_source_sees_that_its_file_changed(path, network):
    source = read_packed(path).source
    source.open()
    write_packed(network.head(2), path)
    with pytest.raises(FileError, match=f"{path} has 2 layers, expected at least 3"):
        source.open()
    other = tg.Network([tg.Layer(np.eye(7))] * 3)
    write_packed(other, path)
    with pytest.raises(FileError, match=f"holds the network {other.digest}, expected {network.digest}"):
        source.open()
    path.unlink()
    with pytest.raises(FileError, match=f"cannot read {path}"):
        source.open()


def rewrite(path: Path, change, *, sealed: bool = True) -> None:
    """Write the file again after `change(metadata, layers, tensors)`, by the safetensors library."""
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = {name: array.copy() for name, array in safetensors.numpy.load_file(path).items()}
    layers = json.loads(metadata["layers"])
    change(metadata, layers, tensors)
    if "layers" in metadata:
        metadata["layers"] = json.dumps(layers)
        metadata["digest"] = network_digest(str(layer.get("digest")) for layer in layers)
    metadata.pop("seal")
    if sealed:
        metadata["seal"] = seal(metadata)
    safetensors.numpy.save_file(tensors, path, metadata)


def forge(path: Path, k: int, change) -> None:
    """Change the arrays of layer `k`, and its digest to the one that fits: damage that only the structure shows."""

    def change_and_sign(metadata, layers, tensors):
        parts = {name: tensors[f"layers.{k}.{name}"] for name in ("indptr", "indices", "data", "bias")}
        change(**parts)
        layer = layers[k]
        shape = tuple(layer["shape"])
        bias = parts.pop("bias")
        forged = tg.Layer.from_csc_arrays(shape, **parts, bias=bias, activation=layer["activation"], cap=layer["cap"])
        layer["digest"] = forged.digest

    rewrite(path, change_and_sign)


def test_any_flipped_bit_of_a_tensor_is_seen(path, network):
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    for position in range(8 + size, len(content), 11):
        damaged = bytearray(content)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=str(path)):
            read_packed(path, verify=True)


def test_a_changed_weight_names_layer_and_digests(path, network):
    def change(metadata, layers, tensors):
        tensors["layers.1.data"][0] += 1

    rewrite(path, change)
    with pytest.raises(
        FileError, match=f"layer 2 has the digest [0-9a-f]{{64}}, expected {network[1].digest}"
    ) as error:
        read_packed(path, verify=True)
    assert str(error.value).count(network[1].digest) == 1
    assert len(read_packed(path, layers=1, verify=True)) == 1
    assert len(read_packed(path)) == 3


def test_a_changed_digest_is_seen_without_hashing(path):
    content = path.read_bytes()
    with safetensors.safe_open(path, framework="numpy") as file:
        digest = file.metadata()["digest"]
    path.write_bytes(content.replace(digest.encode(), b"0" * 64))
    with pytest.raises(FileError, match=f"has the digest {'0' * 64}, but its layers have {digest}"):
        read_packed(path, verify=False)


def test_wrong_structure_is_seen_although_digests_fit(path):
    def swap_rows(indptr, indices, **_):
        column = int(np.flatnonzero(np.diff(indptr) > 1)[0])
        first = indptr[column]
        indices[first : first + 2] = indices[first : first + 2][::-1]

    def row_out_of_range(indices, **_):
        indices[-1] = 7

    def negative_row(indices, **_):
        indices[0] = -1

    def falling_pointers(indptr, **_):
        indptr[2] = indptr[1] - 1 if indptr[1] else indptr[-1]
        indptr[3] = 0

    def not_finite(data, **_):
        data[0] = np.nan

    def zero(data, **_):
        data[0] = 0

    def infinite_bias(bias, **_):
        bias[0] = np.inf

    content = path.read_bytes()
    for change, named in (
        (swap_rows, "the row numbers of a column are not sorted"),
        (row_out_of_range, "row numbers 0 to 7, expected 0 to 6"),
        (negative_row, "row numbers -1 to 6, expected 0 to 6"),
        (falling_pointers, "the column pointers do not rise from 0 to "),
        (not_finite, "a weight is not finite or is 0, or a bias is not finite"),
        (zero, "a weight is not finite or is 0, or a bias is not finite"),
        (infinite_bias, "a weight is not finite or is 0, or a bias is not finite"),
    ):
        path.write_bytes(content)
        forge(path, 0, change)
        with pytest.raises(FileError, match=f"{path}: layer 1: {named}"):
            read_packed(path, verify=True)
        first = read_packed(path)[0]
        for _ in range(2):
            with pytest.raises(FileError, match=f"{path}: layer 1: {named}"):
                first.weights  # noqa: B018


def test_pointers_that_do_not_start_at_zero_are_refused(path):
    def change(metadata, layers, tensors):
        tensors["layers.0.indptr"][0] = 1

    rewrite(path, change)
    with pytest.raises(FileError, match=str(path)):
        read_packed(path, verify=True)
    with pytest.raises(FileError, match="the column pointers do not rise from 0"):
        read_packed(path)[0].bias  # noqa: B018


def drop(name):
    return lambda metadata, layers, tensors: tensors.pop(name)


def put(name, array):
    return lambda metadata, layers, tensors: tensors.update({name: array})


def describe(key, value):
    return lambda metadata, layers, tensors: layers[1].update({key: value})


def tag(key, value):
    return lambda metadata, layers, tensors: metadata.update({key: value})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop("layers.1.indices"), "tensor layers.1.indices is missing"),
        (drop("layers.2.bias"), "tensor layers.2.bias is missing"),
        (put("layers.1.bias", np.zeros(6)), r"tensor layers.1.bias is F64 of shape \[6\], expected F32 of shape \[6\]"),
        (put("layers.1.bias", np.zeros(5, "f4")), r"layers.1.bias is F32 of shape \[5\], expected F32 of shape \[6\]"),
        (put("layers.1.bias", np.zeros((6, 1), "f4")), r"layers.1.bias is F32 of shape \[6, 1\], expected F32"),
        (put("layers.0.indptr", np.zeros(6, "f4")), r"layers.0.indptr is F32 of shape \[6\], expected I32 of shape"),
        (put("layers.0.indptr", np.zeros(6, "i8")), r"layers.0.indptr is I64 of shape \[6\], expected I32 of sh"),
        (put("layers.0.data", np.zeros(1, "f4")), r"layers.0.data is F32 of shape \[1\], expected F32 of shape"),
        (tag("format", "pt"), "has format pt, this package reads format taskgraph-dnn"),
        (tag("version", "3"), "has version 3, this package reads versions 1 and 2"),
        (lambda metadata, layers, tensors: metadata.pop("format"), "has format None, this package"),
        (lambda metadata, layers, tensors: metadata.pop("layers"), "does not describe its layers: KeyError"),
        (describe("shape", [5]), r"does not describe its layers: .*\(5,\) and \d+ are no sizes of a layer"),
        (describe("shape", [5, -6]), r"does not describe its layers: .*\(5, -6\) and \d+ are no sizes of a layer"),
        (describe("shape", [5, "6"]), r"does not describe its layers: .*\(5, '6'\) and \d+ are no sizes of a layer"),
        (describe("nnz", -1), r"does not describe its layers: .*\(5, 6\) and -1 are no sizes of a layer"),
        (describe("nnz", 7), r"tensor layers.1.indices is I32 of shape \[\d+\], expected I32 of shape \[7\]"),
        (describe("facts", 3), "does not describe its layers: .*facts and stored are not given by name"),
        (describe("stored", {"bias": "nowhere"}), "tensor nowhere is missing"),
        (describe("surprise", 1), "does not describe its layers: TypeError"),
        (describe("activation", "elu"), "unknown activation 'elu'"),
        (describe("activation", "softmax"), "layer 2 has softmax, which only the last layer can have"),
        (describe("negative_slope", 0.1), "negative_slope is 0.1, but identity has none"),
        (describe("cap", -1), "cap is -1"),
        (describe("cap", "much"), "cap is 'much'"),
        (describe("shape", [9, 6]), "layer 2 has 9 inputs, but layer 1 has 5 outputs"),
    ],
)
def test_what_the_file_should_not_say_is_named(path, change, named):
    rewrite(path, change)
    with pytest.raises(FileError, match=f"^{path}.*{named}"):
        read_packed(path, verify=False)


def test_metadata_that_are_no_json_are_named(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    metadata["layers"] = "[{"
    metadata["seal"] = seal(metadata)
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, metadata)
    with pytest.raises(FileError, match="does not describe its layers: JSONDecodeError"):
        read_packed(path)


def test_a_file_without_metadata_is_of_another_format(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(FileError, match=f"{path} has format None, this package reads format taskgraph-dnn"):
        read_packed(path)


def test_a_truncated_file_is_refused(path):
    content = path.read_bytes()
    for size in (0, 4, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(FileError, match=f"cannot read {path} as a safetensors file"):
            read_packed(path, verify=False)


def test_a_file_cut_short_while_it_is_open_is_an_error(path):
    """Reading what is not there any more would kill the process."""
    network = read_packed(path)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(FileError, match=f"{path}: layer 1: the file has .* bytes, but had .* when it was opened"):
        _ = network[0].weights


@pytest.mark.parametrize("content", [b"n1024-l1.tsv and such", b"\xff" * 200, None])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=f"cannot read {path} as a safetensors file"):
        read_packed(path)


def test_a_folder_is_no_packed_file(tmp_path):
    with pytest.raises(FileError, match="as a safetensors file"):
        read_packed(tmp_path)


def test_the_official_network_survives(official_data, tmp_path):
    network = read_challenge_network(official_data / "graph-challenge" / "neuron1024.tar.gz")
    path = tmp_path / "net.safetensors"
    write_packed(network, path)
    assert read_packed(path, verify=True).digest == network.digest
    assert path.stat().st_size < network.nbytes * 0.6  # its layers differ in their row numbers only


def test_threads_open_a_file_once_between_them(path, monkeypatch):
    source, opened = read_packed(path).source, []

    def slowly(*arguments, **options):
        opened.append(arguments)
        time.sleep(0.05)
        return read_packed(*arguments, **options)

    monkeypatch.setattr("taskgraph_dnn.io.packed.read_packed", slowly)
    with ThreadPoolExecutor(4) as pool:
        networks = list(pool.map(lambda _: source.open(), range(4)))
    assert len(opened) == 1
    assert all(network is networks[0] for network in networks)


def test_what_this_process_has_read_is_not_opened_again(path):
    network = read_packed(path)
    assert network.source.open() is network
    os.utime(path, ns=(0, 0))  # as if it were another file
    assert network.source.open() is not network


def test_the_head_of_a_packed_network_is_read_from_its_file(path, network):
    head = read_packed(path).head(2)
    assert head.digest == network.head(2).digest
    assert_equal(head.source.open(), network.head(2))


# Opened without reading


def pages(path: Path) -> int:
    """How many bytes of the file are in this process's memory."""
    found, here = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            here = line.endswith(str(path))
        elif here and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


@pytest.fixture
def large(tmp_path) -> Path:
    """A network of 4,096 neurons, 512 KiB of row numbers a layer, and its reduced one."""
    path = tmp_path / "large.safetensors"
    write_packed(tg.radixnet(4096, 12), path)
    return path


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says what is mapped")
def test_opening_and_planning_read_no_weights(large):
    network = read_packed(large)
    certify(network)
    certify(network.reduced.network)
    for known in (network, network.reduced.network):
        for kernel in automatic_kernels():
            for layer in known:
                kernel.seconds(layer, 16, 0.3)
    make_plan(network, 50, settings(), threads=2)
    header = 8 + struct.unpack("<Q", large.read_bytes()[:8])[0]
    assert pages(large) < header + 2**18  # the system reads some pages around those that are asked for
    assert network.nbytes > 2**23


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system takes no advice")
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux says what is mapped")
def test_released_layers_leave_memory(large):
    network = read_packed(large)
    before = pages(large)
    sums = [int(layer.weights.indices.sum()) for layer in network]
    assert pages(large) > before + 12 * 2**19
    for layer in network:
        layer.release()
    assert pages(large) < before + 2**20
    assert [int(layer.weights.indices.sum()) for layer in network] == sums


def test_reading_ahead_changes_nothing(large):
    network = read_packed(large)
    for layer in network:
        layer.read_ahead()
    for layer, twin in zip(network, tg.radixnet(4096, 12), strict=True):
        np.testing.assert_array_equal(layer.weights.indices, twin.weights.indices)


def test_any_change_of_the_descriptions_is_seen(path):
    """Facts decide what a run leaves out, so a file that was not written so must not be believed."""
    content = path.read_bytes()
    assert content.count(b"keeps zero") == 3
    path.write_bytes(content.replace(b"keeps zero", b"keeps hero", 1))
    with pytest.raises(FileError, match=f"{path}: what it says of its layers was changed"):
        read_packed(path)


# Written as layers come


def test_layers_come_in_any_order(tmp_path, network):
    for count in (3, None):
        write_packed_layers([(2, network[2]), (0, network[0]), (1, network[1])], tmp_path / "net", count)
        assert_equal(read_packed(tmp_path / "net", verify=True), network)


@pytest.mark.parametrize(
    ("numbers", "count", "message"),
    [
        ([0, 2], 3, "layer 2 is missing"),
        ([0, 2], None, "layer 2 is missing"),
        ([], None, "layer 1 is missing"),
        ([0, 1, 1], 3, "layer 2 comes twice"),
        ([1, 0, 2], 2, "layer 3 is one too many, expected 2"),
        ([0, 1], None, "layer 2 has 7 inputs, but layer 1 has 5 outputs"),
    ],
)
def test_layers_that_make_no_network_are_refused(tmp_path, network, numbers, count, message):
    layers = [(number, network[0]) for number in numbers]
    with pytest.raises(NetworkError, match=message):
        write_packed_layers(layers, tmp_path / "net", count)
    assert list(tmp_path.iterdir()) == []


def test_only_a_few_layers_are_held(tmp_path):
    """However many there are: the generator sees that those it made before are gone."""
    alive = []

    def layers():
        for number in range(40):
            layer = tg.Layer(np.eye(30), bias=number)
            alive.append(weakref.ref(layer))
            yield number, layer
            del layer
            held.append(sum(ref() is not None for ref in alive))

    held: list[int] = []
    write_packed_layers(layers(), tmp_path / "net")
    assert max(held) <= 12
    assert len(read_packed(tmp_path / "net")) == 40


def test_equal_tensors_are_stored_once(tmp_path):
    network = tg.radixnet(1024, 9)
    write_packed(network, tmp_path / "net")
    tensors = safetensors.numpy.load_file(tmp_path / "net")
    for part, count in (("indptr", 1), ("data", 1), ("bias", 1), ("indices", 9)):
        assert sum(name.startswith("layers.") and name.endswith(part) for name in tensors) == count
    contents = [array.dtype.str.encode() + array.tobytes() for array in tensors.values()]
    assert len(set(contents)) == len(contents)
    assert_equal(read_packed(tmp_path / "net", verify=True), network)


def test_a_tensor_can_be_weights_here_and_bias_there(tmp_path):
    """A bias may be 0 and a weight may not: what was found right as the one is looked at again as the other."""
    network = tg.Network([tg.Layer(np.eye(4), bias=[1, 1, 1, 1]), tg.Layer(np.eye(4))])
    path = tmp_path / "net"
    write_packed(network, path)
    assert_equal(read_packed(path, verify=True), network)

    def zero(metadata, layers, tensors):
        assert "layers.0.bias" not in tensors
        tensors["layers.0.data"][0] = 0

    rewrite(path, zero)
    with pytest.raises(FileError, match="a weight is not finite or is 0"):
        read_packed(path)[0].bias  # noqa: B018


def test_a_large_file_keeps_its_room_for_the_header(tmp_path, monkeypatch):
    """Its tensors stay where they are, unless the header does not fit before them."""
    monkeypatch.setattr("taskgraph_dnn.io.tensors._MOVED_NBYTES", 0)
    network = tg.radixnet(64, 30)
    sizes = []
    for room in (3072, 16):
        monkeypatch.setattr("taskgraph_dnn.io.pack._HEADER_NBYTES", room)
        write_packed(network, tmp_path / "net")
        assert_equal(read_packed(tmp_path / "net", verify=True), network)
        safetensors.numpy.load_file(tmp_path / "net")
        sizes.append((tmp_path / "net").stat().st_size)
    assert sizes[1] < sizes[0]


def test_no_room_on_the_disk_is_said_at_once(tmp_path):
    made = []

    def layers():
        for number, layer in enumerate(radixnet_layers(1024, 10**12)):
            made.append(number)
            yield number, layer

    with pytest.raises(FileError, match=r"cannot write .*net: [\d,]+ bytes more are needed, but .* has [\d,]+ free"):
        write_packed_layers(layers(), tmp_path / "net", 10**12)
    assert len(made) < 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="only POSIX kills so")
def test_a_killed_process_leaves_nothing_that_looks_whole(tmp_path):
    path = tmp_path / "net.safetensors"
    code = """
import os, signal, sys, taskgraph_dnn as tg
def kill(done, total):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
tg.write_packed(tg.radixnet(256, 4), sys.argv[1], progress=kill)
"""
    for step in (1, 6, 12):
        done = subprocess.run([sys.executable, "-c", code, path, str(step)], check=False)
        assert done.returncode == -signal.SIGKILL
        assert not path.exists()
        (draft,) = tmp_path.iterdir()
        with pytest.raises(FileError, match="as a safetensors file"):
            read_packed(draft)
        draft.unlink()


# The reduced network


def unfolded(outputs: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.where(places < 0, 0, outputs[:, places])


def assert_reduction_of(network: tg.Network, reduced, rng) -> None:
    """The reduced network has the answers of the network, by the float64 oracle."""
    inputs = scipy.sparse.csr_array(rng.random((20, network.inputs)) < 0.3, dtype=np.float32)
    expected, found = reference_outputs(network, inputs), reference_outputs(reduced.network, inputs)
    np.testing.assert_allclose(unfolded(found, reduced.places), expected, rtol=1e-5)


def test_the_reduced_network_is_kept(tmp_path, rng):
    network = tg.radixnet(256, 10)
    write_packed(network, tmp_path / "net")
    packed = read_packed(tmp_path / "net", verify=True)
    expected = reduce_network(network, STATIC)
    assert packed.reduced.names == STATIC
    assert packed.reduced.folds_inputs == expected.folds_inputs
    assert_equal(packed.reduced.network, expected.network)
    np.testing.assert_array_equal(packed.reduced.places, expected.places)
    assert packed.reduced.network.nnz < network.nnz / 4
    assert_reduction_of(network, packed.reduced, rng)


def test_heads_of_the_reduced_network(tmp_path, rng):
    network = tg.radixnet(256, 10)
    write_packed(network, tmp_path / "net")
    expected = reduce_network(network, STATIC)
    for packed in (read_packed(tmp_path / "net"), pickle.loads(pickle.dumps(read_packed(tmp_path / "net")))):
        for layers in range(1, 10):
            head = packed.head(layers)
            if expected.head(layers) is None:
                assert head.reduced is None
            else:
                assert_reduction_of(head, head.reduced, rng)
                assert len(head.reduced.earlier) == layers
                assert len(head.reduced.earlier[1:]) == layers - 1
    assert read_packed(tmp_path / "net", 10).reduced is not None


def test_a_head_whose_outputs_are_not_all_there_is_not_reduced(tmp_path, rng):
    first = random_layer(rng, 20, 20, density=0.9)
    reads_half = scipy.sparse.vstack([random_layer(rng, 10, 8, density=1).weights, scipy.sparse.csc_array((10, 8))])
    network = tg.Network([first, tg.Layer(reads_half), random_layer(rng, 8, 8, density=1)])
    write_packed(network, tmp_path / "net")
    packed = read_packed(tmp_path / "net", verify=True)
    assert packed.reduced.network[0].outputs == 10
    assert packed.head(1).reduced is None
    (_, note), _ = choose_reductions(packed.head(1), STATIC).notes
    assert note == "off: its file has no smaller network that ends after the same layer"
    assert_reduction_of(packed, packed.reduced, rng)
    assert_reduction_of(packed.head(2), packed.head(2).reduced, rng)


def test_a_reduction_that_brings_nothing_is_not_kept(tmp_path, rng):
    network = tg.Network(random_layer(rng, 30, 30, density=0.8) for _ in range(3))
    write_packed(network, tmp_path / "net")
    assert read_packed(tmp_path / "net").reduced is None
    assert not any(name.startswith("reduced") for name in safetensors.numpy.load_file(tmp_path / "net"))


def test_the_reduced_network_has_a_source(tmp_path):
    write_packed(tg.radixnet(256, 10), tmp_path / "net")
    network = read_packed(tmp_path / "net").reduced.network
    source = pickle.loads(pickle.dumps(network.source))
    assert source.open() is network
    os.utime(tmp_path / "net", ns=(0, 0))  # as if it were another file
    again = source.open()
    assert again is not network
    assert_equal(again, network)
    assert_equal(network.head(4).source.open(), network.head(4))
    write_packed(tg.radixnet(256, 10, seed=1), tmp_path / "net")
    with pytest.raises(FileError, match=f"holds the network .*, expected {network.digest}"):
        source.open()
    write_packed(tg.Network([tg.Layer(np.eye(3))]), tmp_path / "net")
    with pytest.raises(FileError, match="holds no reduced network of 1[01] layers any more"):
        source.open()


def test_wrong_places_are_refused(tmp_path):
    """A kernel follows them, too."""
    path = tmp_path / "net"
    for wrong in (-2, 10**6):
        write_packed(tg.radixnet(256, 3), path)

        def change(metadata, layers, tensors, wrong=wrong):
            last = json.loads(metadata["reduced"])["layers"][-1]
            name = last.get("stored", {}).get("places", f"reduced.{len(layers)}.places")
            tensors[name][0] = wrong

        rewrite(path, change)
        with pytest.raises(FileError, match="has places .*, expected -1 to"):
            read_packed(path)


@given(networks())
def test_any_file_is_right_in_every_byte(tmp_path_factory, network):
    """Verified, and as the safetensors library sees it: no gaps, no tensor beyond the end."""
    path = tmp_path_factory.mktemp("packed") / "net.safetensors"
    write_packed(network, path)
    read_packed(path, verify=True)
    safetensors.numpy.load_file(path)
    for layer in read_packed(path):
        w = layer.weights
        assert all(array.flags.aligned for array in (w.indptr, w.indices, w.data, layer.bias))
