"""The Graph Challenge's layout: folders and archives, good and bad."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn import challenge
from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io import read_challenge_network, write_challenge_layers, write_challenge_network, write_packed
from taskgraph_dnn.synthetic import radixnet_layers
from tests.conftest import random_layer

LAYERS = {"n4-l1.tsv": "1\t1\t0.5\n2\t1\t-1\n4\t3\t2\n", "n4-l2.tsv": "3\t1\t1\n", "n4-l3.tsv": "1\t4\t0.25\n2\t2\t1\n"}


def put(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        content = text.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def pack(path: Path, files: dict[str, str], *members: tarfile.TarInfo, prefix: str = "net/") -> Path:
    """An archive with `members` and then the files."""
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
        for name, text in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture(params=["folder", "compressed layers", "archive", "archive without a folder", "archive in odd order"])
def layout(request, tmp_path):
    """A function that puts layer files somewhere and returns the path to read."""
    match request.param:
        case "folder":
            return lambda files: put(tmp_path / "net", files)
        case "compressed layers":
            return lambda files: put(tmp_path / "net", {name + ".gz": text for name, text in files.items()})
        case "archive":
            return lambda files: pack(tmp_path / "net.tar.gz", files)
        case "archive without a folder":
            return lambda files: pack(tmp_path / "net.tgz", files, prefix="./")
        case "archive in odd order":
            return lambda files: pack(tmp_path / "net.tar.gz", dict(reversed(files.items())))


def dense(network: tg.Network) -> list[np.ndarray]:
    return [layer.weights.toarray() for layer in network]


def test_a_network_is_read(layout):
    network = read_challenge_network(
        layout({**LAYERS, "README": "no layer", "n4-l0.tsv": "nor this", "._n4-l1.tsv": ""})
    )
    first, second, third = dense(network)
    np.testing.assert_array_equal(first, [[0.5, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 0]])
    assert (second[2, 0], second.sum()) == (1, 1)
    assert (third[0, 3], third[1, 1], third.sum()) == (0.25, 1, 1.25)
    for layer in network:
        np.testing.assert_array_equal(layer.bias, np.full(4, challenge.bias(4), np.float32))
        assert (layer.activation, layer.cap) == ("relu", 32)
    assert network.read_seconds > 0
    assert network.source is None


def test_a_read_layer_is_like_one_that_was_made(layout):
    layer = read_challenge_network(layout(LAYERS), bias=-0.5, cap=None)[0]
    made = tg.Layer(layer.weights.toarray(), bias=-0.5)
    assert layer.digest == made.digest


def test_bias_and_cap_can_be_given(layout):
    network = read_challenge_network(layout(LAYERS), bias=0.25, cap=7)
    assert {layer.cap for layer in network} == {7}
    assert {float(value) for layer in network for value in layer.bias} == {0.25}


def test_neurons_and_layers_choose(layout):
    path = layout({**LAYERS, "n2-l1.tsv": "1\t2\t1\n"})
    assert [len(read_challenge_network(path, 4, layers)) for layers in (None, 1, 2, 3)] == [3, 1, 2, 3]
    assert read_challenge_network(path, 2).inputs == 2
    with pytest.raises(FileError, match=r"holds more than one network: n[24]-l... and n[24]-l..."):
        read_challenge_network(path)


def test_progress_is_told_each_layer(layout):
    path = layout(LAYERS)
    calls = []
    read_challenge_network(path, layers=2, progress=lambda *call: calls.append(call))
    assert calls == [(1, 2), (2, 2)]
    calls.clear()
    read_challenge_network(path, progress=lambda *call: calls.append(call))
    total = 3 if path.is_dir() else None  # an archive does not say what it holds
    assert calls == [(1, total), (2, total), (3, total)]


def test_a_missing_layer_is_named(layout):
    path = layout({name: text for name, text in LAYERS.items() if name != "n4-l2.tsv"})
    assert len(read_challenge_network(path, layers=1)) == 1
    for layers in (None, 2, 3):
        with pytest.raises(FileError, match=f"{path}: n4-l2.tsv is missing"):
            read_challenge_network(path, layers=layers)
    with pytest.raises(FileError, match=f"{path}: n8-l1.tsv is missing"):
        read_challenge_network(path, 8)


def test_a_layer_missing_at_the_end_is_named(layout):
    with pytest.raises(FileError, match="n4-l4.tsv is missing"):
        read_challenge_network(layout(LAYERS), layers=4)


def test_nothing_to_read_says_what_was_looked_for(layout):
    with pytest.raises(FileError, match="holds no file like n1024-l1.tsv"):
        read_challenge_network(layout({"a.tsv": ""}))


def test_a_folder_with_a_missing_layer_is_not_read(tmp_path):
    path = put(tmp_path / "net", {"n4-l1.tsv": "no table", "n4-l3.tsv": ""})
    with pytest.raises(FileError, match="n4-l2.tsv is missing"):
        read_challenge_network(path)


def test_a_bad_line_is_named(layout):
    with pytest.raises(FileError, match="^n4-l3.tsv(.gz)? line 2: column is 5, expected 1 to 4$"):
        read_challenge_network(layout({**LAYERS, "n4-l3.tsv": "1\t4\t0.25\n2\t5\t1\n"}))


def test_an_edge_that_comes_twice_is_named(layout):
    with pytest.raises(FileError, match="^n4-l2.tsv(.gz)? line 3: the same row and column as line 1$"):
        read_challenge_network(layout({**LAYERS, "n4-l2.tsv": "1\t4\t1\n2\t3\t1\n1\t4\t1\n"}))


@pytest.mark.parametrize("text", ["", "1\t1\t0\n"])
def test_a_layer_without_edges_is_refused(layout, text):
    with pytest.raises(FileError, match="^n4-l2.tsv(.gz)? has no edges$"):
        read_challenge_network(layout({**LAYERS, "n4-l2.tsv": text}))


def test_an_official_size_must_have_its_edges(layout):
    path = layout({"n1024-l1.tsv": "1\t1\t1\n2\t1\t1\n"})
    with pytest.raises(FileError, match="n1024-l1.tsv(.gz)? has 2 edges, expected 32768"):
        read_challenge_network(path)
    assert read_challenge_network(path, check_edges=False).nnz == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"layers": 0}, "cannot read 0 layers, expected at least 1"),
        ({"bias": float("nan")}, "bias is nan, expected a finite float32"),
        ({"bias": 1e300}, "bias is 1e\\+300, expected a finite float32"),
        ({"cap": -1.0}, "cap is -1.0"),
    ],
)
def test_bad_arguments_are_named(layout, options, named):
    with pytest.raises(NetworkError, match=named):
        read_challenge_network(layout(LAYERS), **options)


def test_a_layer_in_two_files_is_refused(tmp_path):
    path = put(tmp_path / "net", {**LAYERS, "n4-l2.tsv.gz": LAYERS["n4-l2.tsv"]})
    with pytest.raises(FileError, match=r"holds layer 2 twice: n4-l2.tsv and n4-l2.tsv.gz"):
        read_challenge_network(path)


def test_a_damaged_compressed_layer_is_named(tmp_path):
    path = put(tmp_path / "net", {"n4-l1.tsv.gz": "1\t1\t1\n"})
    file = path / "n4-l1.tsv.gz"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(FileError, match=f"cannot read {file}"):
        read_challenge_network(path)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (member("net/../../n4-l9.tsv"), r"'net/../../n4-l9.tsv' points out of the archive"),
        (member("../note"), r"'../note' points out of the archive"),
        (member("/etc/n4-l9.tsv"), r"'/etc/n4-l9.tsv' points out of the archive"),
        (member("net/n4-l9.tsv", tarfile.SYMTYPE, "/etc/passwd"), "'net/n4-l9.tsv' is neither a file nor a folder"),
        (member("net/n4-l9.tsv", tarfile.LNKTYPE, "net/n4-l1.tsv"), "'net/n4-l9.tsv' is neither a file nor a folder"),
        (member("net/other", tarfile.SYMTYPE, "n4-l1.tsv"), "'net/other' is neither a file nor a folder"),
        (member("net/pipe", tarfile.FIFOTYPE), "'net/pipe' is neither a file nor a folder"),
        (member("net/disk", tarfile.BLKTYPE), "'net/disk' is neither a file nor a folder"),
    ],
)
def test_a_member_that_no_network_needs_is_refused(tmp_path, bad, named):
    path = pack(tmp_path / "net.tar.gz", LAYERS, bad)
    with pytest.raises(FileError, match=f"{path}: member {named}"):
        read_challenge_network(path, 4, 3)


def test_a_bad_member_after_all_layers_is_refused(tmp_path):
    path = tmp_path / "net.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in LAYERS.items():
            info = member(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
        archive.addfile(member("link", tarfile.SYMTYPE, "x"))
    with pytest.raises(FileError, match="'link' is neither a file nor a folder"):
        read_challenge_network(path, 4, 3)


def test_an_archive_has_one_folder_and_each_layer_once(tmp_path):
    other = member("old/n4-l1.tsv")
    with pytest.raises(FileError, match="holds layers in two folders, old and net"):
        read_challenge_network(pack(tmp_path / "a.tar.gz", LAYERS, other))
    again = member("net/n4-l1.tsv")
    with pytest.raises(FileError, match=r"holds layer 1 twice: n4-l1.tsv and n4-l1.tsv"):
        read_challenge_network(pack(tmp_path / "b.tar.gz", LAYERS, again), layers=1)


def test_an_archive_cut_anywhere_is_refused(tmp_path):
    path = pack(tmp_path / "net.tar.gz", LAYERS)
    content = path.read_bytes()
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(FileError, match=f"{path}"):
            read_challenge_network(path, 4, 3)


def test_an_archive_cut_before_it_was_compressed_is_refused(tmp_path):
    path = pack(tmp_path / "net.tar.gz", LAYERS)
    content = gzip.decompress(path.read_bytes())
    end = 6 * 512  # three headers and three files of less than a block each
    assert not any(content[end:])
    for size in [*range(0, end, 100), end, end + 511]:
        path.write_bytes(gzip.compress(content[:size]))
        with pytest.raises(FileError, match=f"cannot read {path} as a .tar.gz archive"):
            read_challenge_network(path)
    path.write_bytes(gzip.compress(content[: end + 512]))
    assert len(read_challenge_network(path)) == 3


def test_an_archive_may_end_in_many_zeros(tmp_path):
    path = pack(tmp_path / "net.tar.gz", LAYERS)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**20)))
    assert len(read_challenge_network(path)) == 3


def test_a_flipped_checksum_is_refused(tmp_path):
    path = pack(tmp_path / "net.tar.gz", LAYERS)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"as a .tar.gz archive: CRC check failed"):
        read_challenge_network(path, layers=1)


@pytest.mark.parametrize("content", [b"no archive", gzip.compress(b"no archive"), None])
def test_what_is_no_archive_is_named(tmp_path, content):
    path = tmp_path / "net.tar.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=f"cannot read {path} as a .tar.gz archive"):
        read_challenge_network(path)


def test_a_packed_file_is_read_too(tmp_path, rng):
    path = tmp_path / "net.safetensors"
    network = tg.Network([random_layer(rng, 4, 4), random_layer(rng, 4, 4)])
    write_packed(network, path)
    assert read_challenge_network(path, 4, 2).digest == network.digest
    assert len(read_challenge_network(path, layers=1)) == 1
    with pytest.raises(FileError, match=r"net.safetensors has 4 neurons, expected 8"):
        read_challenge_network(path, 8)
    with pytest.raises(FileError, match="has 2 layers, expected at least 3"):
        read_challenge_network(path, 4, 3)
    with pytest.raises(NetworkError, match="holds its own bias, so bias=-1 cannot be given"):
        read_challenge_network(path, bias=-1)


@st.composite
def networks(draw) -> tg.Network:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    neurons, scale = draw(st.integers(1, 12)), 10.0 ** draw(st.integers(-44, 38))
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        weights = rng.uniform(-3, 3, (neurons, neurons)) * scale * (rng.random((neurons, neurons)) < 0.4)
        weights[0, 0] = 0.0625
        layers.append(tg.Layer(weights, bias=-0.3, cap=32))
    return tg.Network(layers)


@given(networks())
def test_any_network_survives_a_folder(tmp_path_factory, network):
    folder = tmp_path_factory.mktemp("network") / "net"
    write_challenge_network(network, folder)
    back = read_challenge_network(folder, bias=-0.3, cap=32)
    assert back.digest == network.digest


def test_the_official_network_survives(official_data, tmp_path):
    source = official_data / "graph-challenge" / "neuron1024.tar.gz"
    network = read_challenge_network(source)
    assert (len(network), network.inputs, network.nnz) == (120, 1024, 3_932_160)
    assert {float(weight) for layer in network for weight in layer.weights.data[:1]} == {challenge.WEIGHT}
    assert network[0].bias[0] == np.float32(-0.3)
    write_challenge_network(network.head(3), tmp_path / "net")
    assert read_challenge_network(tmp_path / "net").digest == network.head(3).digest
    with tarfile.open(source) as archive:
        for number in (1, 2, 3):
            official = archive.extractfile(f"neuron1024/n1024-l{number}.tsv").read()
            assert (tmp_path / "net" / f"n1024-l{number}.tsv").read_bytes() == official


def test_written_files_are_sorted_and_look_like_the_official_ones(tmp_path):
    weights = scipy.sparse.coo_array(([0.0625, 0.1, 1.0], ([2, 0, 1], [0, 1, 0])), shape=(3, 3))
    calls = []
    network = tg.Network([tg.Layer(weights)])
    write_challenge_network(network, tmp_path / "net", progress=lambda *call: calls.append(call))
    text = (tmp_path / "net" / "n3-l1.tsv").read_text()
    assert text == "2\t1\t1.000000e+00\n3\t1\t6.250000e-02\n1\t2\t1.00000001e-01\n"
    assert calls == [(1, 1)]


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([{"bias": -1}, {"bias": -0.5}], r"layer 2 has bias -0.5, but the first neuron of layer 1 has -1.0"),
        ([{"bias": [1, 1, 2]}], r"layer 1 has bias 2.0, but the first neuron of layer 1 has 1.0"),
        ([{"cap": 3}, {"cap": None}], r"layer 2 is Layer\(.*, relu\), but layer 1 is Layer\(.*, relu, cap=3\)"),
        ([{}, {"activation": "identity"}], r"layer 2 is Layer\(.*, identity\), but layer 1 is Layer\(.*, relu\)"),
        ([{"activation": "identity"}], "the activation is identity"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused(tmp_path, layers, named):
    network = tg.Network([tg.Layer(np.eye(3), **layer) for layer in layers])
    with pytest.raises(NetworkError, match=f"{named}.*: write a packed file"):
        write_challenge_network(network, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_shapes_and_empty_layers_that_the_layout_cannot_hold_are_refused(tmp_path):
    with pytest.raises(NetworkError, match="layer 2 is 3 x 2, expected 3 neurons everywhere.*: write a packed file"):
        write_challenge_network(tg.Network([tg.Layer(np.eye(3)), tg.Layer(np.ones((3, 2)))]), tmp_path / "net")
    with pytest.raises(NetworkError, match="layer 1 has no edges.*: write a packed file"):
        write_challenge_network(tg.Network([tg.Layer(np.zeros((3, 3)))]), tmp_path / "net")


def test_a_crash_while_writing_leaves_nothing(tmp_path):
    def crash(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_challenge_network(tg.Network([tg.Layer(np.eye(3))] * 2), tmp_path / "net", progress=crash)
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_is_left_alone(tmp_path):
    put(tmp_path / "net", LAYERS)
    with pytest.raises(FileError, match="net: it exists and is no empty folder"):
        write_challenge_network(tg.Network([tg.Layer(np.eye(3))]), tmp_path / "net")
    assert len(list((tmp_path / "net").iterdir())) == 3


@pytest.mark.parametrize("neurons", [2**31, 10**30])
def test_a_file_name_of_too_many_neurons_is_refused(tmp_path, neurons):
    (tmp_path / f"n{neurons}-l1.tsv").write_text("1\t1\t1\n")
    with pytest.raises(FileError, match=f"names {neurons} neurons, expected less than {2**31}"):
        read_challenge_network(tmp_path)


@pytest.mark.parametrize("given", [{"cap": 1.0}, {"cap": None}, {"bias": 0.5}])
def test_a_packed_file_says_everything_itself(tmp_path, given):
    tg.write_packed(tg.radixnet(neurons=64, layers=2), tmp_path / "n.safetensors")
    name, value = next(iter(given.items()))
    with pytest.raises(tg.NetworkError, match=f"holds its own {name}, so {name}={value} cannot be given"):
        read_challenge_network(tmp_path / "n.safetensors", **given)


def test_layers_are_written_as_they_are_made(tmp_path):
    write_challenge_layers(radixnet_layers(64, 5), tmp_path / "net", 5)
    assert read_challenge_network(tmp_path / "net", bias=-0.3).digest == tg.radixnet(64, 5, bias=-0.3).digest


def test_no_room_for_all_layers_is_said_after_the_first(tmp_path):
    with pytest.raises(FileError, match="cannot write .*: .* bytes more are needed"):
        write_challenge_layers(radixnet_layers(64, 10**12), tmp_path / "net", 10**12)
    assert list(tmp_path.iterdir()) == []
