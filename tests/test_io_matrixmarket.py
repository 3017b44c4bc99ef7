"""Matrix Market files, good and bad."""

import gzip
import io
from itertools import pairwise

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io import read_matrix_market, read_matrix_market_images, write_matrix_market
from tests.conftest import random_layer

HEAD = "%%MatrixMarket matrix coordinate real general\n% a comment with words\n"
LAYER = HEAD + "2 3 3\n1 1 0.5\n2 1 -1e-3\n2 3 7\n"
DENSE = np.array([[0.5, 0, 0], [-1e-3, 0, 7]], np.float32)


@pytest.mark.parametrize("name", ["a.mtx", "a.mtx.gz"])
def test_one_file_is_one_layer(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(LAYER.encode()) if name.endswith("gz") else LAYER.encode())
    network = read_matrix_market(path, bias=0.25, activation="identity", cap=4)
    assert len(network) == 1
    np.testing.assert_array_equal(network[0].weights.toarray(), DENSE)
    np.testing.assert_array_equal(network[0].bias, [0.25] * 3)
    assert (network[0].activation, network[0].cap) == ("identity", 4)
    assert network.read_seconds > 0
    with pytest.raises(NetworkError, match="cannot take 2 layers of a network that has 1"):
        read_matrix_market(path, 2)


@pytest.mark.parametrize(
    ("text", "dense"),
    [
        ("%%MatrixMarket matrix coordinate pattern general\n2 2 1\n2 1\n", [[0, 0], [1, 0]]),
        ("%%MatrixMarket matrix coordinate integer symmetric\n2 2 1\n2 1 3\n", [[0, 3], [3, 0]]),
        ("%%MatrixMarket matrix array real general\n2 2\n1\n2\n0\n4\n", [[1, 0], [2, 4]]),
        (HEAD + "2 2 2\r\n1 1 0\r\n1 2 4\r\n", [[0, 4], [0, 0]]),
    ],
)
def test_all_real_matrices_are_read(tmp_path, text, dense):
    (tmp_path / "a.mtx").write_bytes(text.encode())
    layer = read_matrix_market(tmp_path / "a.mtx")[0]
    np.testing.assert_array_equal(layer.weights.toarray(), dense)
    assert layer.nnz == np.count_nonzero(dense)
    images = read_matrix_market_images(tmp_path / "a.mtx")
    np.testing.assert_array_equal(images.toarray(), dense)
    assert images.nnz == np.count_nonzero(dense)


BAD = {
    HEAD + "2 3 2\n1 1 0.5\n": "Truncated file",
    HEAD + "2 3 1\n1 1 0.5\n1 2 1\n": "Too many lines",
    HEAD + "2 3 1\n1 1 0.5": "is cut off after .*0.5', expected a newline at its end",
    HEAD + "2 3 1\n3 1 0.5\n": "Line 4: Row index out of bounds",
    HEAD + "2 3 1\n0 1 0.5\n": "Line 4: Row index out of bounds",
    HEAD + "2 3 1\n1 4 0.5\n": "Line 4: Column index out of bounds",
    HEAD + "2 3 1\n1 1\n": "Line 4",
    HEAD + "2 3 1\n1 1 nan\n": "line 4: b'1 1 nan', expected numbers",
    HEAD + "2 3 1\n1 1 inf\n": "line 4: b'1 1 inf', expected numbers",
    HEAD + "2 3 1\n1 1 1,5\n": "line 4: b'1 1 1,5', expected numbers",
    HEAD + "2 3 1\n1 1 0x10\n": "line 4: b'1 1 0x10', expected numbers",
    HEAD + "2 3 1\n1 1 abc\n": "line 4: b'1 1 abc', expected numbers",
    HEAD + "2 3 1\n1 1 1e999\n": "row 1, column 1 is inf, expected a finite float32",
    HEAD + "2 3 1\n1 1 1e39\n": "row 1, column 1 is inf, expected a finite float32",
    HEAD + "2 3 2\n1 1 1\n1 1 2\n": "has 2 entries, of which only 1 are at different places",
    HEAD + "0 3 0\n": r"of shape \(0, 3\), expected a matrix of real numbers",
    HEAD + "99999999999999999999 3 1\n1 1 1\n": "out of range",
    HEAD + "-2 3 1\n1 1 1\n": "negative",
    "%%MatrixMarket matrix coordinate complex general\n2 2 1\n2 1 1 2\n": "is complex128",
    "%%MatrixMarket vector coordinate real general\n2 1\n2 1\n": "Vector",
    "2 3 1\n1 1 1\n": "Not a Matrix Market file",
    "\n": "Not a Matrix Market file",
    "": "is cut off",
}


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("read", [read_matrix_market, read_matrix_market_images])
def test_a_bad_file_is_named(tmp_path, text, read):
    (tmp_path / "a.mtx").write_text(text)
    with pytest.raises(FileError, match=f"(?s)^a.mtx.*{BAD[text]}"):
        read(tmp_path / "a.mtx")


def test_a_missing_or_damaged_file_is_named(tmp_path):
    with pytest.raises(FileError, match=f"cannot read {tmp_path}/a.mtx"):
        read_matrix_market(tmp_path / "a.mtx")
    (tmp_path / "a.mtx.gz").write_bytes(gzip.compress(LAYER.encode())[:-2])
    with pytest.raises(FileError, match=f"cannot read {tmp_path}/a.mtx.gz"):
        read_matrix_market_images(tmp_path / "a.mtx.gz")


def put(folder, *names):
    folder.mkdir()
    square = io.BytesIO()
    for number, name in enumerate(names, start=1):
        square = io.BytesIO()
        scipy.io.mmwrite(square, scipy.sparse.coo_array(np.eye(2) * number))
        content = square.getvalue()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return folder


@pytest.mark.parametrize(
    "names", [("layer-1.mtx", "layer-2.mtx.gz", "layer-3.mtx", "README"), ("my-l1.mtx", "my-l2.mtx", "my-l3.mtx.gz")]
)
def test_a_folder_is_a_network(tmp_path, names):
    folder = put(tmp_path / "net", *names)
    calls = []
    network = read_matrix_market(folder, progress=lambda *call: calls.append(call))
    assert [float(layer.weights.data[0]) for layer in network] == [1, 2, 3]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert len(read_matrix_market(folder, 2)) == 2


def test_layers_are_in_the_order_of_their_numbers(tmp_path):
    folder = put(tmp_path / "net", *(f"layer-{number}.mtx" for number in range(1, 12)))
    assert [float(layer.weights.data[0]) for layer in read_matrix_market(folder)] == list(range(1, 12))


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (("layer-1.mtx", "layer-3.mtx"), "layer-2.mtx is missing"),
        (("my-l2.mtx",), "my-l1.mtx is missing"),
        (("my-l1.mtx", "my-l1.mtx.gz"), "holds layer 1 twice: my-l1.mtx and my-l1.mtx.gz"),
        (("my-l1.mtx", "your-l2.mtx"), r"holds more than one network: my-l... and your-l..."),
        (("a.mtx",), "holds no file like layer-1.mtx"),
    ],
)
def test_a_folder_that_is_no_network_is_named(tmp_path, names, named):
    folder = put(tmp_path / "net", *names)
    with pytest.raises(FileError, match=f"{folder}.*{named}"):
        read_matrix_market(folder)


def test_layers_that_do_not_fit_are_named(tmp_path):
    folder = put(tmp_path / "net", "layer-1.mtx")
    (folder / "layer-2.mtx").write_text(LAYER.replace("2 3 3", "4 3 3"))
    with pytest.raises(NetworkError, match="layer 2 has 4 inputs, but layer 1 has 2 outputs"):
        read_matrix_market(folder)


@st.composite
def networks(draw) -> tg.Network:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    scale = np.float32(10.0 ** draw(st.integers(-44, 38)))
    layers = []
    for inputs, outputs in pairwise(sizes):
        weights = random_layer(rng, inputs, outputs, density=draw(st.floats(0, 1))).weights
        layers.append(tg.Layer(np.clip(weights.toarray(), -3, 3) * scale, bias=0.5, cap=3))
    return tg.Network(layers)


@given(networks())
def test_any_network_survives_a_folder(tmp_path_factory, network):
    folder = tmp_path_factory.mktemp("network") / "net"
    write_matrix_market(network, folder)
    assert read_matrix_market(folder, bias=0.5, cap=3).digest == network.digest


def test_scipy_reads_what_is_written(tmp_path, rng):
    layer = random_layer(rng, 6, 6, bias=0)
    calls = []
    write_matrix_market(tg.Network([layer]), tmp_path / "net", progress=lambda *call: calls.append(call))
    back = scipy.io.mmread(tmp_path / "net" / "layer-1.mtx", spmatrix=False)
    np.testing.assert_array_equal(back.toarray().astype(np.float32), layer.weights.toarray())
    assert calls == [(1, 1)]


def test_a_bias_that_the_layout_cannot_hold_is_refused(tmp_path, rng):
    with pytest.raises(NetworkError, match="layer 1 has bias .* a folder of Matrix Market files cannot hold: write a"):
        write_matrix_market(tg.Network([random_layer(rng, 3, 3)]), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_writing_leaves_nothing(tmp_path):
    def crash(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_matrix_market(tg.Network([tg.Layer(np.eye(3))]), tmp_path / "net", progress=crash)
    assert list(tmp_path.iterdir()) == []


def test_images_are_read(tmp_path):
    (tmp_path / "a.mtx").write_text(LAYER)
    images = read_matrix_market_images(tmp_path / "a.mtx")
    np.testing.assert_array_equal(images.toarray(), DENSE)
    assert (images.format, images.dtype, images.has_sorted_indices) == ("csr", np.float32, True)
    assert images.read_seconds > 0
