"""`read_network` and `read_images` choose the format by what a path is."""

import subprocess
import sys
import tarfile

import numpy as np
import pytest

import taskgraph_dnn as tg
from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io import (
    convert_network,
    read_images,
    read_network,
    read_packed,
    write_challenge_images,
    write_challenge_network,
    write_matrix_market,
    write_packed,
)

FORMATS = ["packed", "folder", "archive", "matrix market", "one matrix"]


@pytest.fixture
def network(rng):
    weights = rng.standard_normal((4, 4)) + 5
    return tg.Network([tg.Layer(weights, bias=-0.25, cap=8)])


def write(network, tmp_path, kind):
    match kind:
        case "packed":
            write_packed(network, tmp_path / "net.safetensors")
            return tmp_path / "net.safetensors"
        case "folder":
            write_challenge_network(network, tmp_path / "net")
            return tmp_path / "net"
        case "archive":
            with tarfile.open(tmp_path / "net.tgz", "w:gz") as archive:
                archive.add(write(network, tmp_path, "folder"), "net")
            return tmp_path / "net.tgz"
        case "matrix market":
            write_matrix_market(network, tmp_path / "net")
            return tmp_path / "net"
        case "one matrix":
            return write(network, tmp_path, "matrix market") / "layer-1.mtx"


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_known(tmp_path, network, kind):
    path = write(network, tmp_path, kind)
    options = {} if kind == "packed" else {"bias": -0.25, "cap": 8.0, "activation": "relu"}
    assert read_network(str(path), neurons=4, layers=1, **options).digest == network.digest


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_converted(tmp_path, network, kind):
    path, target = write(network, tmp_path, kind), tmp_path / "converted.safetensors"
    options = {} if kind == "packed" else {"bias": -0.25, "cap": 8.0}
    calls = []
    converted = convert_network(
        str(path), target, neurons=4, layers=1, **options, progress=lambda *call: calls.append(call)
    )
    assert converted.digest == network.digest
    assert converted.source == read_packed(target, verify=True).source
    assert calls[-1] == (3, 3)


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_converted_that_is_not_what_was_asked_for(tmp_path, network, kind):
    path, target = write(network, tmp_path, kind), tmp_path / "converted.safetensors"
    for wrong in ({"neurons": 5}, {"layers": 2}):
        with pytest.raises((FileError, NetworkError)):
            convert_network(path, target, **wrong)
    assert not target.exists()


def test_a_changed_packed_file_is_not_converted(tmp_path, network):
    path = write(network, tmp_path, "packed")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FileError, match="has the digest|were changed"):
        convert_network(path, tmp_path / "converted.safetensors")


@pytest.mark.parametrize("kind", FORMATS)
def test_sizes_that_differ_are_named(tmp_path, network, kind):
    path = write(network, tmp_path, kind)
    with pytest.raises(FileError, match="has 4 neurons, expected 5|n5-l1.tsv is missing"):
        read_network(path, neurons=5)
    with pytest.raises((FileError, NetworkError), match="l.*2.* is missing|cannot take 2 layers|expected at least 2"):
        read_network(path, layers=2)


@pytest.mark.parametrize(
    ("kind", "bias", "cap"),
    [("packed", -0.25, 8), ("folder", -0.3 + 0.05 * 4, 32), ("archive", -0.1, 32), ("matrix market", 0, None)],
)
def test_each_format_has_its_defaults(tmp_path, network, kind, bias, cap):
    layer = read_network(write(network, tmp_path, kind))[0]
    assert layer.bias.tolist() == pytest.approx([bias] * 4)
    assert (layer.activation, layer.cap) == ("relu", cap)


@pytest.mark.parametrize("kind", ["folder", "archive", "matrix market"])
def test_no_cap_can_be_asked_for(tmp_path, network, kind):
    assert read_network(write(network, tmp_path, kind), cap=None)[0].cap is None


@pytest.mark.parametrize(("name", "value"), [("bias", 0), ("activation", "relu"), ("cap", None), ("cap", 32.0)])
def test_a_packed_file_has_its_own(tmp_path, network, name, value):
    path = write(network, tmp_path, "packed")
    with pytest.raises(NetworkError, match=f"holds its own {name}, so {name}={value} cannot be given"):
        read_network(path, **{name: value})


def test_a_challenge_network_has_relu(tmp_path, network):
    with pytest.raises(NetworkError, match="activation is 'identity', but a Graph Challenge network has relu"):
        read_network(write(network, tmp_path, "folder"), activation="identity")


def test_edges_of_an_official_size_need_not_be_checked(tmp_path):
    network = tg.Network([tg.Layer(np.eye(1024))])
    path = write(network, tmp_path, "folder")
    with pytest.raises(FileError, match="has 1024 edges, expected 32768"):
        read_network(path)
    assert read_network(path, check_edges=False).nnz == 1024


@pytest.mark.parametrize("kind", ["folder", "matrix market"])
def test_progress_is_told(tmp_path, network, kind):
    calls = []
    read_network(write(network, tmp_path, kind), progress=lambda *call: calls.append(call))
    assert calls == [(1, 1)]


def test_what_nobody_reads_lists_what_can_be_read(tmp_path):
    (tmp_path / "net.npz").touch()
    (tmp_path / "net.h5").touch()
    for name in ("absent", "absent.safetensors", "absent.tar.gz", "absent.mtx"):
        with pytest.raises(FileError, match=f"^{tmp_path / name} does not exist, expected .*safetensors.*tar.gz"):
            read_network(tmp_path / name)
    for name in ("net.h5", ""):
        with pytest.raises(FileError, match=f"^{tmp_path / name} is of no known format, expected .*tsv.*mtx"):
            read_network(tmp_path / name)
    for name in ("absent", "absent.tsv"):
        with pytest.raises(FileError, match=f"{name} does not exist, expected .*tsv.gz.*mtx.gz"):
            read_images(tmp_path / name, 3)
    with pytest.raises(FileError, match=r"net.npz is of no known format, expected .*tsv.gz"):
        read_images(tmp_path / "net.npz", 3)


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz", "net/layer-1.mtx"])
def test_images_of_every_format_are_read(tmp_path, name):
    dense = np.array([[1, 0, 2], [0, 0, 3]], np.float32)
    write_matrix_market(tg.Network([tg.Layer(dense)]), tmp_path / "net")
    if name.startswith("a"):
        write_challenge_images(dense, tmp_path / name)
    np.testing.assert_array_equal(read_images(tmp_path / name, 3).toarray(), dense)
    assert read_images(str(tmp_path / name), 3, samples=2).shape == (2, 3)
    with pytest.raises(FileError, match="expected"):
        read_images(tmp_path / name, 2)
    with pytest.raises(FileError, match="expected"):
        read_images(tmp_path / name, 3, samples=1)


def test_importing_loads_no_optional_package():
    optional = {"pyarrow", "scipy.io", "numba", "torch", "onnx", "sklearn"}
    code = f"import sys, taskgraph_dnn.io; print(sorted({optional} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"
