"""Packed files: they open with the safetensors library, are never copied, and no damage goes unseen."""

import json
import mmap
import os
import pickle
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.activation_functions import ACTIVATIONS
from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io import PackedFile, read_challenge_network, read_packed, write_packed
from taskgraph_dnn.network import network_digest
from tests.conftest import random_layer


@pytest.fixture
def network(rng) -> tg.Network:
    return tg.Network(
        [
            random_layer(rng, 7, 5, cap=2.5),
            random_layer(rng, 5, 6, activation="identity"),
            random_layer(rng, 6, 3, bias=np.zeros(3)),
        ]
    )


@pytest.fixture
def path(tmp_path, network) -> Path:
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
        assert file.metadata().keys() == {"format", "version", "digest", "layers"}
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
    weights = tg.Layer.from_csc_arrays(
        (2**31 + 5, 3),
        np.array([0, 1, 1, 2]),
        np.array([2**31 + 1, 7]),
        np.array([1, 2], np.float32),
        bias=np.zeros(3, np.float32),
        activation="relu",
        cap=None,
    )
    network = tg.Network([weights, tg.Layer(np.eye(3))])
    write_packed(network, tmp_path / "net.safetensors")
    back = read_packed(tmp_path / "net.safetensors")
    assert back.digest == network.digest
    assert back[0].weights.indices.tolist() == [2**31 + 1, 7]
    assert all(layer.weights.indptr.flags.aligned for layer in back)


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


def test_only_leaky_relu_has_a_slope_in_the_file(path, tmp_path):
    """So older versions read what they know, and their files, which have no slope, are read (`path` is such a file)."""
    with safetensors.safe_open(path, framework="numpy") as file:
        layers = json.loads(file.metadata()["layers"])
    assert all(layer.keys() == {"shape", "nnz", "activation", "cap", "digest"} for layer in layers)
    assert [layer.negative_slope for layer in read_packed(path)] == [None] * 3


@pytest.mark.parametrize("slope", [0.2, 2, float("nan"), "0.1"])
def test_a_changed_slope_is_seen(tmp_path, slope):
    path = tmp_path / "net"
    write_packed(tg.Network([tg.Layer(np.eye(2), activation="leaky_relu")]), path)
    rewrite(path, lambda metadata, layers, tensors: layers[0].update(negative_slope=slope))
    with pytest.raises(FileError, match=f"{path}.*(has the digest|negative_slope is {slope!r})"):
        read_packed(path)


def test_progress_is_told_each_layer(tmp_path, network):
    calls = []
    write_packed(network, tmp_path / "net", progress=lambda *call: calls.append(call))
    assert calls == [(1, 3), (2, 3), (3, 3)]


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


def rewrite(path: Path, change) -> None:
    """Write the file again after `change(metadata, layers, tensors)`, by the safetensors library."""
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = {name: array.copy() for name, array in safetensors.numpy.load_file(path).items()}
    layers = json.loads(metadata["layers"])
    change(metadata, layers, tensors)
    if "layers" in metadata:
        metadata["layers"] = json.dumps(layers)
        metadata["digest"] = network_digest(str(layer.get("digest")) for layer in layers)
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
            read_packed(path)


def test_a_changed_weight_names_layer_and_digests(path, network):
    def change(metadata, layers, tensors):
        tensors["layers.1.data"][0] += 1

    rewrite(path, change)
    with pytest.raises(
        FileError, match=f"layer 2 has the digest [0-9a-f]{{64}}, expected {network[1].digest}"
    ) as error:
        read_packed(path)
    assert str(error.value).count(network[1].digest) == 1
    assert len(read_packed(path, layers=1)) == 1
    assert len(read_packed(path, verify=False)) == 3


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
            read_packed(path)


def test_pointers_that_do_not_start_at_zero_are_refused(path):
    def change(metadata, layers, tensors):
        tensors["layers.0.indptr"][0] = 1

    rewrite(path, change)
    for verify in (True, False):
        with pytest.raises(FileError, match=str(path)):
            read_packed(path, verify=verify)


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
        (tag("version", "2"), "has version 2, this package reads version 1"),
        (lambda metadata, layers, tensors: metadata.pop("format"), "has format None, this package"),
        (lambda metadata, layers, tensors: metadata.pop("layers"), "does not describe its layers: KeyError"),
        (describe("shape", [5]), r"does not describe its layers: .*\(5,\) and \d+ are no sizes of a layer"),
        (describe("shape", [5, -6]), r"does not describe its layers: .*\(5, -6\) and \d+ are no sizes of a layer"),
        (describe("shape", [5, "6"]), r"does not describe its layers: .*\(5, '6'\) and \d+ are no sizes of a layer"),
        (describe("nnz", -1), r"does not describe its layers: .*\(5, 6\) and -1 are no sizes of a layer"),
        (describe("nnz", 7), r"tensor layers.1.indices is I32 of shape \[\d+\], expected I32 of shape \[7\]"),
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
    assert read_packed(path).digest == network.digest
    assert path.stat().st_size < network.nbytes * 1.1


def test_structure_is_checked_even_without_hashing(path):
    """A kernel follows row numbers without looking, also in a process that trusts the digest."""

    def row_out_of_range(indices, **_):
        indices[-1] = 7

    forge(path, 0, row_out_of_range)
    with pytest.raises(FileError, match=f"{path}: layer 1: row numbers 0 to 7, expected 0 to 6"):
        read_packed(path, verify=False)


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
