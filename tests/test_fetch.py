"""Downloads of the official files, from a server on this machine that can be as bad as the internet is."""

import gzip
import hashlib
import io
import json
import os
import pty
import resource
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dask.config
import numpy as np
import pytest
from click.testing import CliRunner

import taskgraph_dnn as tg
from taskgraph_dnn.cli.fetch import fetch
from taskgraph_dnn.errors import FileError, MissingDependencyError, PlanError
from taskgraph_dnn.io.download import download
from taskgraph_dnn.io.fetch import (
    OFFICIAL,
    ChallengeFiles,
    cached_challenge_files,
    check_space,
    default_cache,
    fetch_file,
    remote_files,
)

NETWORK, IMAGES, CATEGORIES = remote_files(1024, [120])
COMMAND = [sys.executable, "-c", "from taskgraph_dnn.cli.fetch import fetch; fetch()"]
ONE_LAYER = b"1\t1\t1\n" * (32 * 1024)


def archive(members):
    """A .tar.gz of these names and contents."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def layers(numbers, content=ONE_LAYER):
    return [(f"neuron1024/n1024-l{number}.tsv", content) for number in numbers]


def images(rows, pixel=7):
    return gzip.compress("".join(f"{row}\t{pixel}\t1\n" for row in rows).encode(), compresslevel=1)


def categories(count, last=60_000):
    return "".join(f"{number}\n" for number in [*range(1, count), last]).encode()


@pytest.fixture(scope="module")
def good():
    """Every file of 1,024 x 120 as it should be."""
    return {
        f"/{NETWORK.address}": archive(layers(range(1, 121))),
        f"/{IMAGES.address}": images(range(1, 60_001)),
        f"/{CATEGORIES.address}": categories(1812),
    }


class Remote(ThreadingHTTPServer):
    """A server of files. What it does wrong is an attribute; it remembers what it was asked."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(files)
        self.asked = []  # (method, path, Range) of each request
        self.version = "a"  # goes into the tag
        self.tags = self.ranges = self.heads = True
        self.modified = None
        self.honest = True  # looks at If-Range
        self.cuts = []  # bytes to send of each coming answer before the connection ends; None: all
        self.reset = False  # the end is a reset, not a close
        self.statuses = []  # of each coming GET, before any file is sent
        self.announced = None  # what Content-Length says
        self.chunked = False
        self.s3 = False
        self.moved = {}  # where a path has gone
        self.go_on = threading.Event()  # after the first half of an answer, wait for this
        self.go_on.set()

    @property
    def base(self):
        return f"http://127.0.0.1:{self.server_port}"

    def gets(self):
        return [(path, span) for method, path, span in self.asked if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def version_string(self):
        return "AmazonS3" if self.server.s3 else "test"

    def setup(self):
        super().setup()
        if self.server.chunked:
            self.protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        if not self.server.heads:
            self.send_error(501)
        else:
            self.answer("HEAD")

    def do_GET(self):
        self.answer("GET")

    def answer(self, method):
        server = self.server
        server.asked.append((method, self.path, self.headers.get("Range")))
        if self.path in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[self.path])
            self.end_headers()
            return
        content = server.files.get(self.path)
        status = server.statuses.pop(0) if method == "GET" and server.statuses else None
        if content is None or status:
            self.send_error(status or 404)
            return
        tag = f'"{hashlib.md5(content).hexdigest() if server.s3 else server.version}"' if server.tags else None
        start = self.start(tag, len(content))
        self.send_response(200 if start is None else 206)
        if tag:
            self.send_header("ETag", tag)
        if server.modified:
            self.send_header("Last-Modified", server.modified)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", server.announced or len(content) - (start or 0))
        self.end_headers()
        if method == "GET":
            self.send_content(content[start or 0 :])

    def start(self, tag, nbytes):
        """The byte to begin with; None for an answer with all of the file."""
        asked, condition = self.headers.get("Range"), self.headers.get("If-Range")
        if not (asked and self.server.ranges):
            return None
        if self.server.honest and condition is not None and condition not in (tag, self.server.modified):
            return None
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        return start if start < nbytes else None

    def send_content(self, content):
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        sent = content if cut is None else content[:cut]
        for piece in (sent[: len(sent) // 2], sent[len(sent) // 2 :]):
            if self.server.chunked and piece:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            else:
                self.wfile.write(piece)
            self.server.go_on.wait(60)
        if self.server.chunked and cut is None:
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = True
        if self.server.reset and cut is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@pytest.fixture
def server(good, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Remote(good) as remote:
        thread = threading.Thread(target=remote.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield remote
        remote.go_on.set()
        remote.shutdown()
        thread.join()


def part(folder, file=NETWORK):
    return folder / f"{file.name}.part"


def fetch_with(server, folder, file=NETWORK, pauses=(0, 0), **options):
    return fetch_file(file, folder, server.base, pauses=pauses, **options)


def content(server, file=NETWORK):
    return server.files[f"/{file.address}"]


# What there is


def test_addresses():
    assert [f"{OFFICIAL}/{file.address}" for file in remote_files(4096, [480, 120])] == [
        "https://graphchallenge.s3.amazonaws.com/synthetic/sparsechallenge_2019/dnn/neuron4096.tar.gz",
        "https://graphchallenge.s3.amazonaws.com/synthetic/sparsechallenge_2019/mnist/sparse-images-4096.tsv.gz",
        "https://graphchallenge.s3.amazonaws.com/synthetic/sparsechallenge_2019/dnn/neuron4096-l120-categories.tsv",
        "https://graphchallenge.s3.amazonaws.com/synthetic/sparsechallenge_2019/dnn/neuron4096-l480-categories.tsv",
    ]


@pytest.mark.parametrize(("neurons", "depth"), [(1000, 120), (1024, 7)])
def test_what_is_not_official_is_refused(neurons, depth):
    with pytest.raises(PlanError, match=r"(neurons is 1000|layers is 7), but official networks have"):
        cached_challenge_files(neurons, depth)


def test_the_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache() == tmp_path / "home" / ".cache" / "taskgraph-dnn"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert default_cache() == tmp_path / "home" / ".cache" / "taskgraph-dnn"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert default_cache() == tmp_path / "x" / "taskgraph-dnn"


# Downloads that go well in the end


def test_all_files_arrive_and_are_found_again(server, tmp_path):
    cache = tmp_path / "made" / "for this"
    assert cached_challenge_files(1024, 120, cache) == ChallengeFiles(None, None, None)
    for file in (NETWORK, IMAGES, CATEGORIES):
        found = fetch_with(server, cache, file)
        assert found.path.read_bytes() == content(server, file)
        assert (found.nbytes, found.fresh) == (len(content(server, file)), True)
    there = cached_challenge_files(1024, 120, cache)
    assert (there.network, there.images, there.categories) == tuple(
        cache / file.name for file in (NETWORK, IMAGES, CATEGORIES)
    )
    assert len(list(cache.iterdir())) == 3
    assert cached_challenge_files(1024, 480, cache).categories is None
    assert tg.read_challenge_images(there.images, 1024).shape == (60_000, 1024)
    np.testing.assert_array_equal(tg.read_categories(there.categories)[-2:], [1810, 59_999])


def test_a_whole_file_is_not_downloaded_again(server, tmp_path):
    first = fetch_with(server, tmp_path, CATEGORIES)
    again = fetch_with(server, tmp_path, CATEGORIES)
    assert (again.path, again.nbytes, again.fresh) == (first.path, first.nbytes, False)
    assert len(server.asked) == 1


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_cut_is_gone_on_from(server, tmp_path, reset):
    server.cuts, server.reset = [1000, 500], reset
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    spans = [span for _, span in server.gets()]
    assert spans[0] is None
    assert len(spans) == 3
    if not reset:  # a reset may take bytes with it that had arrived
        assert spans[1:] == ["bytes=1000-", "bytes=1500-"]


def test_many_cuts_do_not_matter_while_each_connection_brings_something(server, tmp_path):
    server.cuts = [700] * 20
    assert fetch_with(server, tmp_path, CATEGORIES, pauses=(0,)).nbytes == len(content(server, CATEGORIES))
    assert len(server.asked) == -(-len(content(server, CATEGORIES)) // 700)


def test_a_later_command_goes_on(server, tmp_path):
    server.cuts = [1000]
    with pytest.raises(FileError, match="the same command goes on from there"):
        fetch_with(server, tmp_path, pauses=())
    assert part(tmp_path).stat().st_size == 1000
    fetch_with(server, tmp_path, pauses=())
    assert server.gets()[-1][1] == "bytes=1000-"


def test_a_server_with_dates_in_place_of_tags(server, tmp_path):
    server.tags, server.modified, server.cuts = False, "Tue, 01 Jan 2019 00:00:00 GMT", [1000]
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert [span for _, span in server.gets()] == [None, "bytes=1000-"]


def test_a_server_without_ranges_begins_again(server, tmp_path):
    server.ranges, server.cuts = False, [1000]
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert len(server.asked) == 2


def test_a_server_that_tells_no_versions_apart_begins_again(server, tmp_path):
    server.tags, server.cuts = False, [1000]
    with pytest.raises(FileError, match="does not tell versions apart, so the same command begins again"):
        fetch_with(server, tmp_path, pauses=())
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert [span for _, span in server.gets()] == [None, None]


@pytest.mark.parametrize(("honest", "answers"), [(True, 1), (False, 2)], ids=["knows If-Range", "does not"])
def test_a_file_that_changed_begins_again(server, tmp_path, honest, answers):
    server.cuts, server.honest = [1000], honest
    with pytest.raises(FileError, match="goes on from there"):
        fetch_with(server, tmp_path, pauses=())
    server.version = "b"
    server.files[f"/{NETWORK.address}"] = archive([("a", os.urandom(5000)), *layers(range(1, 121))])
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert len(server.asked) == 1 + answers


def test_bytes_of_another_address_are_not_gone_on_from(server, tmp_path):
    server.cuts = [1000]
    with pytest.raises(FileError, match="goes on from there"):
        fetch_with(server, tmp_path, pauses=())
    server.files[f"/mirror/{NETWORK.address}"] = content(server)
    fetch_file(NETWORK, tmp_path, f"{server.base}/mirror/")
    assert server.gets() == [(f"/{NETWORK.address}", None), (f"/mirror/{NETWORK.address}", None)]


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"url": 1}', "\xff"])
def test_a_partial_file_with_a_damaged_note_begins_again(server, tmp_path, note):
    part(tmp_path).write_bytes(b"whatever")
    (tmp_path / f"{NETWORK.name}.part.json").write_bytes(note.encode("latin-1"))
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)


def test_a_partial_file_that_is_too_long_begins_again(server, tmp_path):
    server.cuts = [1000]
    with pytest.raises(FileError, match="goes on from there"):
        fetch_with(server, tmp_path, pauses=())
    part(tmp_path).write_bytes(content(server) + b"x")
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert server.gets()[-1][1] is None


def test_a_refused_range_begins_again(server, tmp_path):
    server.cuts, server.statuses = [1000], [None, 416]
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert [span for _, span in server.gets()] == [None, "bytes=1000-", None]


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.statuses = [503, 429]
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert len(server.asked) == 3


def test_a_length_that_nobody_tells(server, tmp_path):
    server.chunked, server.cuts = True, [1000]
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert [span for _, span in server.gets()] == [None, "bytes=1000-"]


def test_a_length_that_is_told_later(server, tmp_path):
    server.chunked, server.cuts = True, [1000, 500]
    with pytest.raises(FileError, match=r"1,000 of unknown bytes are in .* goes on from there"):
        fetch_with(server, tmp_path, pauses=())
    server.chunked = False
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert server.gets()[-1][1] == "bytes=1500-"


def test_a_file_that_has_moved(server, tmp_path):
    server.moved, server.cuts = {f"/old/{NETWORK.address}": f"/{NETWORK.address}"}, [1000]
    found = fetch_file(NETWORK, tmp_path, f"{server.base}/old", pauses=(0, 0))
    assert found.path.read_bytes() == content(server)
    assert server.gets()[-1] == (f"/{NETWORK.address}", "bytes=1000-")


def test_a_server_that_falls_silent(server, tmp_path, monkeypatch):
    monkeypatch.setattr("taskgraph_dnn.io.download._SILENCE_SECONDS", 0.1)
    server.go_on.clear()
    threading.Timer(0.3, server.go_on.set).start()
    assert fetch_with(server, tmp_path, pauses=[0.05] * 100).path.read_bytes() == content(server)
    assert len(server.asked) > 1


# Downloads that fail


def test_a_server_that_never_sends_the_rest(server, tmp_path):
    total = len(content(server))
    server.cuts = [1000, *[0] * 9]
    with pytest.raises(FileError) as error:
        fetch_with(server, tmp_path, pauses=(0, 0, 0))
    assert f"1,000 of {total:,} bytes are in {part(tmp_path)}, and the same command goes on" in str(error.value)
    assert f"{server.base}/{NETWORK.address}" in str(error.value)
    assert len(server.asked) == 4
    assert part(tmp_path).read_bytes() == content(server)[:1000]
    assert not (tmp_path / NETWORK.name).exists()


def test_a_server_without_ranges_that_never_sends_the_rest(server, tmp_path):
    """Each connection brings bytes, but never new ones."""
    server.ranges, server.cuts = False, [1000] * 20
    with pytest.raises(FileError, match="1,000 of"):
        fetch_with(server, tmp_path)
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_that_the_server_does_not_have(server, tmp_path, status):
    server.statuses = [status]
    with pytest.raises(FileError, match=rf"{NETWORK.address}: the server says {status} "):
        fetch_with(server, tmp_path)
    assert len(server.asked) == 1
    assert not list(tmp_path.iterdir())


def test_a_server_that_stays_busy(server, tmp_path):
    server.statuses = [503] * 9
    with pytest.raises(FileError, match=r"the server says 503 .*; nothing of it is there"):
        fetch_with(server, tmp_path)
    assert len(server.asked) == 3
    assert not list(tmp_path.iterdir())


def test_a_server_that_cannot_be_reached(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as nobody:  # bound, but listening to nobody
        nobody.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(FileError, match=r"cannot reach the server: .*refused; nothing of it is there"):
            fetch_file(NETWORK, tmp_path, base, pauses=(3600,))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("base", ["file:///tmp", "ftp://example.org", "example.org", "http://", ""])
def test_an_address_that_is_no_http(tmp_path, base):
    for call in (fetch_file, lambda file, folder, base: check_space([file], folder, base)):
        with pytest.raises(FileError, match="expected an address that begins with http:// or https://"):
            call(CATEGORIES, tmp_path, base)


@pytest.mark.parametrize("base", ["http://127.0.0.1:x", "http://a b"])
def test_an_address_that_is_none(tmp_path, base):
    with pytest.raises(FileError, match="cannot reach the server"):
        fetch_file(CATEGORIES, tmp_path, base)


def test_no_disk_space_is_said_before_the_download(server, tmp_path):
    server.announced = 10**18
    with pytest.raises(FileError, match=r": 1,000,000,000,000,000,000 bytes more are needed, but .* has [0-9,]+ free"):
        fetch_with(server, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_disk_space_for_all_is_said_before_the_first(server, tmp_path):
    missing = tmp_path / "not there yet"
    check_space([NETWORK, IMAGES], missing, server.base)
    server.announced = 10**18
    with pytest.raises(FileError, match=r": 2,000,000,000,000,000,000 bytes more are needed, but .* has [0-9,]+ free"):
        check_space([NETWORK, IMAGES], missing, server.base)
    server.heads = False  # then only each download can tell
    check_space([NETWORK, IMAGES], missing, server.base)
    assert not server.gets()


def test_what_is_there_needs_no_space(server, tmp_path):
    server.cuts = [1000]
    with pytest.raises(FileError, match="goes on from there"):
        fetch_with(server, tmp_path, pauses=())
    server.announced = 10**18
    with pytest.raises(FileError, match=f": {10**18 - 1000:,} bytes more are needed"):
        check_space([NETWORK], tmp_path, server.base)


@pytest.fixture
def limited():
    """No file of this process may be larger than 10,000 bytes, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_keeps_what_is_there(server, tmp_path, limited):
    with pytest.raises(FileError, match=f"cannot write {tmp_path / NETWORK.name}: .*File too large"):
        fetch_with(server, tmp_path)
    assert part(tmp_path).read_bytes() == content(server)[:10_000]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert server.gets()[-1][1] == "bytes=10000-"


@pytest.mark.parametrize("where", ["file/below", "file"])
def test_a_folder_that_cannot_be_written(server, tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=f"cannot write {tmp_path / where / CATEGORIES.name}"):
        fetch_with(server, tmp_path / where, CATEGORIES)
    assert not server.asked


def test_a_folder_in_the_place_of_the_file(server, tmp_path):
    (tmp_path / CATEGORIES.name).mkdir()
    with pytest.raises(FileError, match="it exists and is no regular file"):
        fetch_with(server, tmp_path, CATEGORIES)
    assert cached_challenge_files(1024, 120, tmp_path).categories is None


def test_images_need_their_parser_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match="pyarrow"):
        fetch_with(server, tmp_path, IMAGES)
    assert not server.asked
    fetch_with(server, tmp_path, CATEGORIES)


# Contents


WRONG = [
    (NETWORK, archive(layers(range(1, 120))), r"has 119 layers of 1024 neurons, expected 120: layer 120 is missing"),
    (NETWORK, archive(layers([*range(1, 60), *range(61, 122)])), r"has 120 layers .* layer 60 is missing"),
    (NETWORK, archive(layers([1, 2, 1])), r"neuron1024/n1024-l1.tsv comes twice"),
    (NETWORK, archive(layers([1], ONE_LAYER[6:])), r"n1024-l1.tsv has 32,767 edges, expected 32,768"),
    (NETWORK, archive([("neuron4096/n4096-l1.tsv", ONE_LAYER)]), r"has 0 layers of 1024 neurons"),
    (NETWORK, archive(layers([1, 2]))[:-50], r"cannot read .* as a .tar.gz archive"),
    (NETWORK, b"<html>Log in</html>", r"cannot read .* as a .tar.gz archive"),
    (IMAGES, images(range(1, 60_000)), r"has 59,999 images, expected 60,000"),
    (IMAGES, images(range(1, 60_002)), r"line 60001: image is 60001, expected 1 to 60000"),
    (IMAGES, images(range(1, 60_001), pixel=1025), r"line 1: pixel is 1025, expected 1 to 1024"),
    (IMAGES, images([]), r"has 0 images"),
    (IMAGES, images(range(1, 60_001))[:-9], r"cannot read .*: Compressed file ended"),
    (IMAGES, b"<html>Log in</html>", r"cannot read .*: Not a gzipped file"),
    (CATEGORIES, categories(1811), r"has 1,811 categories, expected 1,812"),
    (CATEGORIES, categories(1813), r"has 1,813 categories, expected 1,812"),
    (CATEGORIES, categories(1812, last=60_001), r"has category 60001, expected at most 60000"),
    (CATEGORIES, b"", r"has 0 categories, expected 1,812"),
    (CATEGORIES, b"<html>Log in</html>", r"line 1: "),
]


@pytest.mark.parametrize(("file", "wrong", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_content_is_refused_and_removed(server, tmp_path, file, wrong, message):
    server.files[f"/{file.address}"] = wrong
    with pytest.raises(FileError, match=message) as error:
        fetch_with(server, tmp_path, file)
    assert "removed, and the same command downloads it again" in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "accepted"), [(0, False), (1, True), (1812, True), (1813, False)])
def test_deeper_networks_have_no_more_categories(server, tmp_path, count, accepted):
    deeper = remote_files(1024, [1920])[2]
    server.files[f"/{deeper.address}"] = categories(count) if count else b""
    if accepted:
        fetch_with(server, tmp_path, deeper)
    else:
        with pytest.raises(FileError, match=f"has {count:,} categories, expected 1 to 1,812"):
            fetch_with(server, tmp_path, deeper)


def test_an_archive_may_hold_more_layers_and_other_files(server, tmp_path):
    server.files[f"/{NETWORK.address}"] = archive([*layers(range(1, 122)), ("neuron1024/README", b"hello")])
    fetch_with(server, tmp_path)


def test_images_may_come_in_any_order(server, tmp_path):
    server.files[f"/{IMAGES.address}"] = gzip.compress(b"60000\t7\t1\n" + b"1\t7\t1\n" * 3_000_000, compresslevel=1)
    fetch_with(server, tmp_path, IMAGES)


def test_the_official_files_pass(official_data):
    for file in (NETWORK, CATEGORIES):
        file.check(official_data / "graph-challenge" / file.name, lambda done, total: None)


def test_a_sha256(server, tmp_path):
    right, wrong = hashlib.sha256(content(server, CATEGORIES)).hexdigest(), "0" * 64
    message = f"has the sha256 {right}, expected {wrong}"
    with pytest.raises(FileError, match=f"{message}; it is removed"):
        fetch_with(server, tmp_path, CATEGORIES, sha256=wrong)
    assert not list(tmp_path.iterdir())
    fetch_with(server, tmp_path, CATEGORIES, sha256=right.upper())
    with pytest.raises(FileError, match=message):  # also of a file that is there; whose it is, is not known
        fetch_with(server, tmp_path, CATEGORIES, sha256=wrong)
    assert (tmp_path / CATEGORIES.name).exists()


def test_the_md5_of_s3(server, tmp_path):
    server.s3 = True
    fetch_with(server, tmp_path, CATEGORIES)
    (tmp_path / CATEGORIES.name).unlink()
    server.cuts = [1000]
    with pytest.raises(FileError, match="goes on from there"):
        fetch_with(server, tmp_path, CATEGORIES, pauses=())
    start = part(tmp_path, CATEGORIES).read_bytes()
    part(tmp_path, CATEGORIES).write_bytes(start.replace(b"7\n", b"8\n", 1))
    right = hashlib.md5(content(server, CATEGORIES)).hexdigest()
    with pytest.raises(FileError, match=rf"has the md5 [0-9a-f]{{32}}, expected {right}; it is removed"):
        fetch_with(server, tmp_path, CATEGORIES)
    assert not list(tmp_path.iterdir())


def test_a_tag_that_only_looks_like_an_md5(server, tmp_path):
    server.version = "0" * 32
    fetch_with(server, tmp_path, CATEGORIES)


def test_an_interrupted_check_is_repeated_without_another_download(server, tmp_path):
    def interrupt(path, report):
        raise KeyboardInterrupt

    url, target = f"{server.base}/{CATEGORIES.address}", tmp_path / CATEGORIES.name
    with pytest.raises(KeyboardInterrupt):
        download(url, target, interrupt)
    assert not target.exists()
    assert download(url, target, CATEGORIES.check).fresh
    assert len(server.asked) == 1


# Processes


def begun(server, tmp_path):
    """Start a process that downloads some of the network, and then waits for the server."""
    server.go_on.clear()
    command = [*COMMAND, "--only", "network", "--layers", "120", "--from", server.base, "--cache", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (part(tmp_path).exists() and part(tmp_path).stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def test_two_processes_do_not_meet_in_one_file(server, tmp_path):
    first = begun(server, tmp_path)
    with pytest.raises(FileError, match="another process is downloading this file"):
        fetch_with(server, tmp_path)
    server.go_on.set()
    output, errors = first.communicate()
    assert (first.returncode, errors) == (0, "")
    assert f"{tmp_path / NETWORK.name}: {len(content(server)):,} bytes, downloaded" in output
    assert (tmp_path / NETWORK.name).read_bytes() == content(server)
    assert not fetch_with(server, tmp_path).fresh


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_ends_leaves_what_the_next_goes_on_from(server, tmp_path, sent):
    process = begun(server, tmp_path)
    process.send_signal(sent)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert "Traceback" not in errors
    server.go_on.set()
    there = part(tmp_path).stat().st_size
    assert there > 0
    assert json.loads((tmp_path / f"{NETWORK.name}.part.json").read_text())["nbytes"] == len(content(server))
    assert fetch_with(server, tmp_path).path.read_bytes() == content(server)
    assert server.gets()[-1][1] == f"bytes={there}-"


def test_a_terminal_gets_a_progress_bar(server, tmp_path):
    leader, follower = pty.openpty()
    command = [*COMMAND, "--only", "network", "--layers", "120", "--from", server.base, "--cache", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower) as process:
        os.close(follower)
        seen = b""
        try:
            while more := os.read(leader, 65536):
                seen += more
        except OSError:  # the other side is closed
            pass
        assert process.wait() == 0
    os.close(leader)
    assert b"neuron1024.tar.gz, MiB" in seen
    assert b"check neuron1024.tar.gz" in seen


# The command


def invoke(server, *arguments):
    return CliRunner().invoke(fetch, ["--from", server.base, "--retries", "0", *map(str, arguments)])


def test_the_command(server, tmp_path):
    outcome = invoke(server, "--layers", 120, "--cache", tmp_path)
    assert outcome.exit_code == 0, outcome.output
    lines = [f"{tmp_path / file.name}: {len(content(server, file)):,} bytes" for file in (NETWORK, IMAGES, CATEGORIES)]
    assert outcome.output.splitlines() == [f"{line}, downloaded" for line in lines]
    outcome = invoke(server, "--layers", 120, "--cache", tmp_path)
    assert outcome.output.splitlines() == [f"{line}, was there already" for line in lines]


def test_the_command_takes_what_it_is_told(server, tmp_path):
    for neurons, depth in ((1024, 480), (1024, 1920), (4096, 120)):
        count = {1024: 1800, 4096: 1801}[neurons]
        server.files[f"/{remote_files(neurons, [depth])[2].address}"] = categories(count)
    outcome = invoke(server, "--only", "categories", "--cache", tmp_path)
    assert outcome.exit_code == 0, outcome.output
    assert len(list(tmp_path.iterdir())) == 3
    outcome = invoke(server, "--only", "categories", "--neurons", "all", "--layers", 120, "--cache", tmp_path)
    assert isinstance(outcome.exception, FileError)
    assert "neuron16384-l120-categories.tsv: the server says 404" in str(outcome.exception)
    assert len(list(tmp_path.iterdir())) == 4  # those before stay


def test_the_command_compares_digests(server, tmp_path):
    options = "--only", "categories", "--layers", 120, "--cache", tmp_path, "--sha256"
    digest = hashlib.sha256(content(server, CATEGORIES)).hexdigest()
    assert invoke(server, *options, f"{CATEGORIES.name}={digest}").exit_code == 0
    wrong = invoke(server, *options, f"{CATEGORIES.name}={'1' * 64}")
    assert isinstance(wrong.exception, FileError)
    for given in (digest, f"{CATEGORIES.name}={digest[1:]}", f"{NETWORK.name}={digest}"):
        with pytest.raises(PlanError, match=rf"--sha256 is '{given}', expected NAME=HEX.*{CATEGORIES.name}"):
            fetch.main(["--from", server.base, *map(str, options), given], standalone_mode=False)


def test_the_command_takes_address_and_folder_from_the_configuration(server, tmp_path):
    with dask.config.set({"taskgraph-dnn.fetch": {"from": server.base, "cache": str(tmp_path)}}):
        outcome = CliRunner().invoke(fetch, ["--only", "categories", "--layers", "120"])
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / CATEGORIES.name).exists()
    with dask.config.set({"taskgraph-dnn.fetch.from": 7}), pytest.raises(PlanError, match="fetch.from is 7"):
        fetch.main([], standalone_mode=False)


def test_the_command_says_first_that_not_all_fits(server, tmp_path):
    server.announced = 10**18
    outcome = invoke(server, "--layers", 120, "--cache", tmp_path)
    assert isinstance(outcome.exception, FileError)
    assert "the files that are missing: 3,000,000,000,000,000,000 bytes more" in str(outcome.exception)
    assert not server.gets()
