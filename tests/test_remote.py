"""Networks behind a URL: read by ranges, ahead, within bounds, and never wrongly."""

import json
import pickle
import re
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dask
import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client
from distributed.protocol.pickle import dumps
from fsspec.implementations.memory import MemoryFileSystem

import taskgraph_dnn as tg
from taskgraph_dnn.cli import main
from taskgraph_dnn.errors import FileError, MissingDependencyError, NetworkError
from taskgraph_dnn.io import convert_network, read_packed, remote
from taskgraph_dnn.kernels import load_kernel
from tests.conftest import random_layer

DEPTH = 6


class Remote(ThreadingHTTPServer):
    """A server of one file, by ranges. What it does wrong is an attribute; it remembers what happened, in order."""

    daemon_threads = True

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tag = content, "a"
        self.log = []  # ranges that were asked for, and what tests add
        self.happened = threading.Condition()
        self.ranges = self.sizes = True
        self.cut = None  # bytes after which answers end

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/net.safetensors"

    def say(self, what):
        with self.happened:
            self.log.append(what)
            self.happened.notify_all()

    def wait_for(self, what):
        """Wait until this was said; False where it is not within a minute."""
        with self.happened:
            return self.happened.wait_for(lambda: what in self.log, 60)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(self.server.content)

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        content = server.content
        if asked and server.ranges:
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            server.say((first, last + 1))
            content = content[first : last + 1]
        self.answer(content, 206 if asked and server.ranges else 200)
        self.wfile.write(content[: server.cut])

    def answer(self, content, status=200):
        if self.path != "/net.safetensors":
            self.send_error(404)
            return
        self.send_response(status)
        self.send_header("ETag", self.server.tag)
        if self.server.sizes:
            self.send_header("Content-Length", len(content))
        self.end_headers()


@pytest.fixture
def network(rng):
    return tg.Network([random_layer(rng, 20, 20, bias=float(k)) for k in range(DEPTH)])


@pytest.fixture
def path(network, tmp_path):
    tg.write_packed(network, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.fixture
def rows(rng):
    return rng.random((40, 20), dtype=np.float32)


@pytest.fixture
def server(path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Remote(path.read_bytes()) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def http(server):
    pytest.importorskip("aiohttp")
    return server.url


@pytest.fixture
def memory(path):
    """The file as memory://, which needs nothing more than fsspec."""
    return put(path.read_bytes())


def put(content):
    MemoryFileSystem.store.clear()
    MemoryFileSystem().pipe("/net.safetensors", content)
    return "memory://net.safetensors"


@pytest.fixture(autouse=True)
def nothing_known():
    """Each test begins with nothing read."""
    yield
    remote._CACHE.forget(list(remote._CACHE._kept))
    remote._seen.clear()
    assert remote._CACHE.nbytes == 0


def ranges(path, k):
    """The bytes that layer `k`, from 0, takes in the file, tensor by tensor."""
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    described = json.loads(header["__metadata__"]["layers"])[k].get("stored", {})
    names = [described.get(part, f"layers.{k}.{part}") for part in ("indptr", "indices", "data", "bias")]
    return {tuple(start + offset for offset in header[name]["data_offsets"]) for name in names}


def used(layer):
    """Load the layer's arrays, and let them go."""
    arrays = layer.weights.toarray(), layer.bias
    layer.release()
    return arrays


def assert_equal(found, expected):
    for layer, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(layer.weights.toarray(), other.weights.toarray())
        np.testing.assert_array_equal(layer.bias, other.bias)


# What is read, and when


@pytest.mark.parametrize("verify", [True, False])
def test_a_network_behind_a_url_is_the_same(memory, path, network, verify):
    found = read_packed(memory, verify=verify)
    assert found.digest == network.digest
    assert_equal(found, network)
    assert_equal(tg.read_network(memory, layers=2), network.head(2))
    target = path.parent / "again.safetensors"
    assert_equal(convert_network(memory, target), network)


def test_a_file_url_is_mapped(path, network):
    found = tg.read_network(f"file://{path}")
    assert_equal(found, network)
    assert found.source.path == str(path)
    assert remote._CACHE.nbytes == 0


@pytest.mark.parametrize("kernel", ["auto", "csr", "scipy"])
def test_results_are_those_of_the_file(memory, path, rows, kernel):
    expected = tg.infer(read_packed(path), rows, kernel=kernel).compute(scheduler="synchronous").outputs
    result = tg.infer(read_packed(memory), rows, kernel=kernel, partitions=4).compute(num_workers=4)
    assert (result.outputs != expected).nnz == 0


def test_opening_reads_the_header_only(http, server, path):
    network = read_packed(http)
    assert [first for first, _ in server.log] == [0, 8]
    server.log.clear()
    used(network[3])
    assert set(server.log) == ranges(path, 3)


def test_what_was_read_is_kept_while_there_is_room(http, server, path):
    network = read_packed(http)
    used(network[0]), used(network[1])
    server.log.clear()
    used(network[0]), used(network[1])
    assert server.log == []
    assert remote._CACHE.nbytes == sum(stop - first for first, stop in ranges(path, 0) | ranges(path, 1))
    room = sum(stop - first for first, stop in ranges(path, 0))
    with dask.config.set({"taskgraph-dnn.read-bytes": room}):
        for layer in network:
            used(layer)
            assert remote._CACHE.nbytes <= room
        server.log.clear()
        used(network[0])
    assert set(server.log) == ranges(path, 0)


def test_threads_read_a_layer_once(http, server, path):
    network = read_packed(http)
    twin = pickle.loads(pickle.dumps(network.source)).open()
    assert twin is network
    other = read_packed(http)
    server.log.clear()
    threads = [threading.Thread(target=used, args=[layer]) for layer in (network[0], other[0]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(server.log) == sorted(ranges(path, 0))


def watched(server, monkeypatch, path, ahead):
    """A kernel that says what it computes, and if `ahead` first waits until the server was asked for the next layer."""
    scipy_kernel = load_kernel("scipy")
    numbers, arrived = {}, []

    def pack(layer, dtype):
        packed = scipy_kernel.pack(layer, dtype)
        numbers[id(packed)] = len(numbers)
        return packed

    def run(packed, inputs, outputs, alive):
        k = numbers[id(packed)]
        if ahead and k + 1 < DEPTH:
            arrived.append(all(server.wait_for(wanted) for wanted in ranges(path, k + 1)))
        server.say(k)
        scipy_kernel.run(packed, inputs, outputs, alive)

    watching = replace(scipy_kernel, name="watching", pack=pack, run=run)
    monkeypatch.setattr("taskgraph_dnn.spans.load_kernel", lambda name: watching)
    return arrived


@pytest.mark.parametrize("tasks", [1, DEPTH])
def test_the_next_layers_are_read_while_one_is_computed(http, server, path, rows, monkeypatch, tasks):
    """Also those of the next span: here a span may be a single layer."""
    arrived = watched(server, monkeypatch, path, ahead=True)
    seconds = 1e-9 if tasks == DEPTH else 1e9
    with dask.config.set({"taskgraph-dnn.task-seconds": seconds}):
        inference = tg.infer(read_packed(http), rows, kernel="scipy", partitions=1, reductions="none")
    assert len(inference.plan.spans) == tasks
    inference.compute(scheduler="synchronous")
    assert arrived == [True] * (DEPTH - 1)


def test_nothing_is_read_ahead_where_there_is_no_room(http, server, path, rows, monkeypatch):
    watched(server, monkeypatch, path, ahead=False)
    network = read_packed(http)
    server.log.clear()
    with dask.config.set({"taskgraph-dnn.read-bytes": "1 B"}):
        tg.infer(network, rows, kernel="scipy", partitions=1, reductions="none").compute(scheduler="synchronous")
    steps = [what for what in server.log if isinstance(what, int)]
    assert steps == list(range(DEPTH))
    for k in range(1, DEPTH):
        own = ranges(path, k) - set.union(*(ranges(path, other) for other in range(DEPTH) if other != k))
        assert own
        assert all(server.log.index(wanted) > server.log.index(k - 1) for wanted in own)


def test_read_ahead_takes_no_more_than_half_of_the_room(http, server, path):
    network = read_packed(http)
    server.log.clear()
    largest = max(sum(stop - first for first, stop in ranges(path, k)) for k in range(DEPTH))
    with dask.config.set({"taskgraph-dnn.read-bytes": 2 * largest}):
        for layer in network:
            layer.read_ahead()
        assert 0 < sum(piece.nbytes for piece in remote._CACHE._ahead) <= largest
        for layer, other in zip(network, read_packed(path), strict=True):
            np.testing.assert_array_equal(used(layer)[0], used(other)[0])
    assert not remote._CACHE._ahead


def test_workers_read_the_url(http, rows, network):
    expected = tg.infer(network, rows, kernel="scipy").compute(scheduler="synchronous").outputs
    with Client(n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address="127.0.0.1:0"):
        result = tg.infer(read_packed(http), rows, partitions=4, kernel="scipy", reductions="none").compute()
    assert (result.outputs != expected).nnz == 0
    assert result.weights.nbytes >= network.nbytes


def test_tasks_carry_the_url_in_place_of_the_weights(memory, path, rng):
    rows = np.zeros((0, 20), np.float32)
    sizes = {
        where: len(dumps(tg.infer(read_packed(where), rows, reductions="none").expr)) for where in (memory, str(path))
    }
    larger = tg.Network([tg.Layer(np.ones((20, 20)) + rng.random((20, 20))) for _ in range(DEPTH)])
    sent = len(dumps(tg.infer(larger, rows, reductions="none").expr))
    assert max(sizes.values()) < 10_000 < larger.nbytes < sent


def test_the_command_line_takes_a_url(path, tmp_path):
    digits = tg.radixnet(neurons=64, layers=3)
    tg.write_packed(digits, path)
    arguments = ["--network", put(path.read_bytes()), "--samples", "20", "--json", str(tmp_path / "r.json")]
    ended = CliRunner().invoke(main, ["run", *arguments])
    assert ended.exit_code == 0, ended.output
    assert re.search(r"weights .* [\d.]+ k?i?B loaded in [\d.]+ s; packed \d+ times, found packed \d+", ended.output)
    told = json.loads((tmp_path / "r.json").read_text())["weights"]
    assert told["misses"] >= 1
    assert told["nbytes"] > 0


# What goes wrong


def test_what_is_not_there_is_named(http, server):
    with pytest.raises(FileError, match=rf"cannot read {http}x as a safetensors file: \w+Error: "):
        read_packed(f"{http}x")
    with pytest.raises(FileError, match=r"cannot read memory://nothing as a safetensors file: FileNotFoundError"):
        read_packed("memory://nothing")
    with pytest.raises(FileError, match=r"cannot read nowhere://x as a safetensors file: .*nowhere"):
        tg.read_network("nowhere://x")


def test_nobody_answers(http, server):
    with pytest.raises(FileError, match=r"cannot read http://127.0.0.1:1/x as a safetensors file: .*[Cc]onnect"):
        read_packed("http://127.0.0.1:1/x")


def test_a_missing_package_is_named():
    code = """
import sys
sys.modules["aiohttp"] = None
import taskgraph_dnn as tg
try:
    tg.read_network("http://127.0.0.1:1/x")
except tg.MissingDependencyError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "cannot read http://127.0.0.1:1/x: " in ended.stdout
    assert "pip install 'taskgraph-dnn[http]'" in ended.stdout
    assert issubclass(MissingDependencyError, tg.TaskgraphError)


def test_what_a_packed_file_says_itself_cannot_be_given(memory):
    with pytest.raises(NetworkError, match=f"{memory} holds its own bias"):
        tg.read_network(memory, bias=1.0)
    with pytest.raises(FileError, match=f"{memory} has 20 neurons, expected 21"):
        tg.read_network(memory, neurons=21)


def test_a_lost_connection_is_an_error_and_the_next_try_goes_on(http, server, network):
    found = read_packed(http)
    server.cut = 10
    for layer in (found[2], found[2]):
        with pytest.raises(FileError, match=rf"cannot read {http}: layer 3: \w+Error: "):
            layer.weights  # noqa: B018
    found[4].read_ahead()
    with pytest.raises(FileError, match=f"cannot read {http}: layer 5: "):
        found[4].weights  # noqa: B018
    server.cut = None
    assert_equal(found, network)


def test_a_server_without_ranges_or_sizes_is_refused(http, server):
    server.ranges = False
    with pytest.raises(FileError, match=rf"bytes 0 to 8 came as {len(server.content):,} bytes, expected 8"):
        read_packed(http)
    server.sizes = False
    with pytest.raises(FileError, match="its size is not known"):
        read_packed(http)


@pytest.mark.parametrize("larger", [True, False])
def test_a_changed_file_is_an_error_until_it_is_opened_again(http, server, network, larger):
    found, content = read_packed(http), server.content
    used(found[0])
    if larger:
        server.content = content + b"0"
    server.tag = "b"
    with pytest.raises(FileError, match=f"{http}: layer 2: the file has changed: it has .*ETag b.*but had .*ETag a"):
        found[1].weights  # noqa: B018
    server.content = content
    assert_equal(read_packed(http), network)


def test_a_source_opens_a_changed_file_again(memory, path, network):
    source = read_packed(memory).source
    first = source.open()
    assert source.open() is first
    put(path.read_bytes())  # with another time
    with pytest.raises(FileError, match=f"cannot read {memory}: layer 1: the file has changed"):
        first[0].weights  # noqa: B018
    assert_equal(source.open(), network)
    put(path.read_bytes()[:-1])
    with pytest.raises(FileError):
        read_packed(memory)


def test_damage_is_named(path):
    content = path.read_bytes()
    for size in (0, 4, 8, 100):
        with pytest.raises(FileError, match=r"cannot read memory://net.safetensors as a safetensors file: "):
            read_packed(put(content[:size]))
    with pytest.raises(FileError, match=r"memory://net.safetensors: tensor .* takes bytes .*, which cannot be"):
        read_packed(put(content[:-1]))
    start = 8 + struct.unpack("<Q", content[:8])[0]
    where = re.search(rb'"layers.2.data":[^}]*"data_offsets":\[(\d+)', content)
    place = start + int(where[1])
    with pytest.raises(FileError, match=r"memory://net.safetensors: layer 3: a weight is not finite"):
        used(read_packed(put(content[:place] + struct.pack("<f", np.nan) + content[place + 4 :]))[2])
    with pytest.raises(FileError, match=r"memory://net.safetensors: layer 3 has the digest"):
        read_packed(put(content[:place] + struct.pack("<f", 0.125) + content[place + 4 :]), verify=True)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        (b"[" * 100_000, "recursion|Expecting"),
        (b"[]", "its header is no table of tensors"),
        (b'{"__metadata__": 3}', "its header is no table of tensors"),
        (b'{"__metadata__": {"format": 3}}', "its header is no table of tensors"),
        (b'{"x": 3}', "its header does not say where tensor x is"),
        (b'{"x": {"data_offsets": [0, "8"]}}', "its header does not say where tensor x is"),
        (b'{"x": {"data_offsets": [0, 8]}}', "its header does not say what tensor x is"),
        (b"\xff{}", "codec"),
    ],
)
def test_a_header_that_is_none_is_named(header, named):
    with pytest.raises(FileError, match=rf"cannot read memory://net.safetensors as a safetensors file: .*({named})"):
        read_packed(put(struct.pack("<Q", len(header)) + header))


@pytest.mark.parametrize("nbytes", [0, 10**6, 2**63])
def test_a_header_larger_than_its_file_is_not_asked_for(nbytes):
    with pytest.raises(FileError, match=rf"it has 10 bytes, and a header of {nbytes:,}"):
        read_packed(put(struct.pack("<Q", nbytes) + b"{}"))
