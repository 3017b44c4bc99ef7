"""`predict`, from files to files: what is written, by whom, how much at a time, and what is left when it ends early."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
from click.testing import CliRunner
from distributed import Client, LocalCluster

import taskgraph_dnn as tg
from taskgraph_dnn import prediction
from taskgraph_dnn.cli import main
from taskgraph_dnn.data.stored import StoredPart
from taskgraph_dnn.errors import CheckpointError, FileError, InputError, MissingDependencyError, PlanError
from tests.clusters import until
from tests.conftest import random_layer
from tests.test_data import damage, parquet, table
from tests.test_inference import oracle

pq = pytest.importorskip("pyarrow.parquet", reason="Parquet and CSV need pyarrow")
SAMPLES, INPUTS, OUTPUTS = 100, 12, 5
SUFFIXES = [".parquet", ".csv", ".npz", ".zarr"]


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(7).standard_normal((SAMPLES, INPUTS)).astype(np.float32)


@pytest.fixture
def network(rng):
    return tg.Network([random_layer(rng, INPUTS, 20), random_layer(rng, 20, OUTPUTS)])


@pytest.fixture
def files(tmp_path, rows):
    """Five Parquet files of 20 samples each."""
    return tmp_path / parquet(tmp_path, rows)


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes."""
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as local:
        yield local


def arrays(path):
    """Return what a file of predictions holds, by name, whatever its format."""
    if path.suffix == ".npz":
        return dict(np.load(path))
    if path.suffix == ".zarr":
        zarr = pytest.importorskip("zarr")
        return {name: array[:] for name, array in zarr.open_group(str(path), mode="r").arrays()}
    if path.suffix == ".parquet":
        columns = pq.read_table(path).to_pydict()
    else:
        text = [line.split(",") for line in path.read_text().splitlines()]
        columns = {name: list(map(float, values)) for name, *values in zip(*text, strict=True)}
    plural = {"label": "labels", "value": "values", "index": "indices", "output": "outputs"}
    found = {}
    for name, column in columns.items():
        kind, _, number = name.partition("_")
        found.setdefault(plural[kind], []).append(column)
        assert int(number or 0) == len(found[plural[kind]]) - 1
    return {name: np.array(kept[0] if name == "labels" else kept).T for name, kept in found.items()}


def needs(suffix):
    if suffix == ".zarr":
        pytest.importorskip("zarr")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("where", ["threads", "worker processes"])
def test_all_formats_hold_what_infer_gives(request, tmp_path, network, rows, files, suffix, where):
    needs(suffix)
    expected = tg.infer(network, rows).compute()
    options = {"outputs": True, "labels": True, "top": 2, "partitions": 7}
    if where == "threads":
        written = tg.predict(network, files, tmp_path / f"y{suffix}", **options)
    else:
        with Client(request.getfixturevalue("cluster")):
            written = tg.predict(network, files, tmp_path / f"y{suffix}", **options)
    found = arrays(tmp_path / f"y{suffix}")
    assert found.keys() == {"outputs", "labels", "values", "indices"}
    np.testing.assert_array_equal(found["outputs"].astype(np.float32), expected.outputs.toarray())
    np.testing.assert_allclose(found["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["labels"], expected.labels)
    np.testing.assert_array_equal(found["values"].astype(np.float32), expected.top(2).values)
    np.testing.assert_array_equal(found["indices"], expected.top(2).indices)
    assert (written.samples, written.partitions, written.resumed) == (SAMPLES, 7, 0)
    assert not list(tmp_path.glob(".predict-*"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_written_can_be_read_as_samples(tmp_path, network, rows, suffix):
    needs(suffix)
    tg.predict(network, rows, tmp_path / f"y{suffix}", partitions=4)
    expected = tg.infer(network, rows).compute().outputs.toarray()
    np.testing.assert_array_equal(tg.read_samples(tmp_path / f"y{suffix}").compute(), expected)


def test_a_folder_of_parquet_needs_no_links(tmp_path, network, rows, monkeypatch):
    def refuse(self, target):
        raise OSError("links are not supported")

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    tg.predict(network, rows, tmp_path / "y.parquet", partitions=3)
    assert sorted(path.name for path in (tmp_path / "y.parquet").iterdir()) == [
        f"part-{number:05}.parquet" for number in range(3)
    ]
    np.testing.assert_allclose(arrays(tmp_path / "y.parquet")["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["sparse", "dask", "tsv"])
def test_any_samples_will_do(tmp_path, network, rows, kind):
    samples = {"sparse": scipy.sparse.csr_array(rows), "dask": da.from_array(rows, chunks=(30, 6))}.get(kind)
    if kind == "tsv":
        samples = tmp_path / "x.tsv"
        tg.write_challenge_images(rows, samples)
    tg.predict(network, samples, tmp_path / "y.npz")
    np.testing.assert_allclose(arrays(tmp_path / "y.npz")["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_samples_make_an_empty_file(tmp_path, network, rows, suffix):
    needs(suffix)
    written = tg.predict(network, rows[:0], tmp_path / f"y{suffix}", labels=True, top=3)
    found = arrays(tmp_path / f"y{suffix}")
    assert {name: len(array) for name, array in found.items()} == {"labels": 0, "values": 0, "indices": 0}
    assert written.samples == 0


def test_a_reduced_network_gives_all_outputs(tmp_path, rng, rows):
    weights = rng.standard_normal((INPUTS, 3))
    first = tg.Layer(np.hstack([weights, weights, np.zeros((INPUTS, 2))]), bias=[0.1] * 6 + [-1.0] * 2)
    network = tg.Network([first, tg.Layer(np.eye(8))])
    assert tg.infer(network, rows).expr.places is not None
    tg.predict(network, rows, tmp_path / "y.npz", partitions=3)
    np.testing.assert_allclose(arrays(tmp_path / "y.npz")["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)


def test_columns_are_chosen_by_name(tmp_path, network, rows):
    names = [f"f{number}" for number in range(INPUTS)]
    pq.write_table(table(rows[:, ::-1], names[::-1]), tmp_path / "x.parquet")
    tg.predict(network, tmp_path / "x.parquet", tmp_path / "y.npz", columns=names)
    np.testing.assert_allclose(arrays(tmp_path / "y.npz")["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)


# How much at a time, and who does it.


def most_at_once(intervals):
    """Return how many of these (first, last) moments there were at one time at most."""
    moments = sorted([(first, 1) for first, _ in intervals] + [(last, -1) for _, last in intervals])
    return int(np.cumsum([change for _, change in moments]).max())


@pytest.mark.parametrize("threads", [1, 3])
def test_no_more_partitions_are_begun_than_threads_write(tmp_path, network, files, threads, monkeypatch):
    lock, now, most = threading.Lock(), set(), []
    read, write = StoredPart.read, prediction.Parts.write

    def begun(self):
        with lock:
            now.add(self.number - 1)
            most.append(len(now))
        time.sleep(0.005)
        return read(self)

    def written(self, partition, scores):
        write(self, partition, scores)
        with lock:
            now.remove(partition)

    monkeypatch.setattr(StoredPart, "read", begun)
    monkeypatch.setattr(prediction.Parts, "write", written)
    import dask

    with dask.config.set(num_workers=threads):
        tg.predict(network, files, tmp_path / "y.csv", partitions=50)
    assert len(most) == 50
    assert max(most) <= threads
    assert not now


def test_no_more_partitions_are_begun_than_workers_write_on_a_cluster(tmp_path, network, files, cluster, monkeypatch):
    begun = {}

    def reporter(progress, partitions):
        return lambda event: begun.setdefault(event.partition, event.start)

    monkeypatch.setattr(prediction, "_reporter", reporter)
    with Client(cluster):
        tg.predict(network, files, tmp_path / "y.parquet", partitions=40)
    written = {number: (tmp_path / "y.parquet" / f"part-{number:05}.parquet").stat().st_mtime for number in range(40)}
    until(lambda: len(begun) == 40)
    assert most_at_once([(begun[number], max(begun[number], written[number])) for number in range(40)]) <= 2


def test_workers_read_and_write_and_the_client_does_not(tmp_path, network, rows, files, cluster, monkeypatch):
    def refuse(*_):
        raise AssertionError("the client does it")

    monkeypatch.setattr("taskgraph_dnn.data.parquet.opened", refuse)  # workers are other processes
    monkeypatch.setattr(prediction.Parts, "write", refuse)
    monkeypatch.setattr("taskgraph_dnn.data.sinks._arrow_table", refuse)
    with Client(cluster):
        tg.predict(network, files, tmp_path / "y.parquet")
    np.testing.assert_allclose(arrays(tmp_path / "y.parquet")["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)


def test_finished_partitions_bring_no_rows_to_the_client(tmp_path, network, files, monkeypatch):
    collected, finish = [], prediction._finish
    monkeypatch.setattr(
        prediction,
        "_finish",
        lambda parts, places, result, target: collected.append(result) or finish(parts, places, result, target),
    )
    tg.predict(network, files, tmp_path / "y.csv")
    assert collected[0].distinct.shape == (0, OUTPUTS)


def test_progress_is_told_partition_by_partition(tmp_path, network, files):
    seen = []
    tg.predict(network, files, tmp_path / "y.csv", partitions=5, progress=lambda *done: seen.append(done))
    assert sorted(seen) == [(number, 5) for number in range(1, 6)]


# What is left when it ends early.


@contextmanager
def a_full_disk(monkeypatch, parts=2):
    """Let nothing more be written after so many parts, and whoever predicts fail of it."""
    written, write = [], prediction.Parts.write

    def fail(self, number, scores):
        if len(written) == parts:
            raise FileError("the disk is full")
        write(self, number, scores)
        written.append(number)

    with monkeypatch.context() as patch:
        patch.setattr(prediction.Parts, "write", fail)
        with pytest.raises(CheckpointError, match="cannot write what partition . came to: the disk is full"):
            yield written


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_partition_does_not_spoil_finished_ones(tmp_path, network, rows, files, suffix, monkeypatch):
    needs(suffix)
    target = tmp_path / f"y{suffix}"
    options = {"partitions": 5, "scheduler": "synchronous"}
    with a_full_disk(monkeypatch) as done:
        tg.predict(network, files, target, **options)
    assert not target.exists()
    with pytest.raises(CheckpointError, match=r"\.predict-y.* is the checkpoint of a run that began on .*: resume it"):
        tg.predict(network, files, target, **options)
    assert len(list((tmp_path / f".predict-y{suffix}").glob("part-*.sha256"))) == len(done) == 2
    written = tg.predict(network, files, target, **options, resume=True)
    assert written.resumed == 2
    np.testing.assert_allclose(arrays(target)["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)
    assert not list(tmp_path.glob(".predict-*"))


def test_finished_parts_are_not_made_again_but_damaged_ones_are(tmp_path, network, rows, files, monkeypatch):
    target, made, write = tmp_path / "y.npz", [], prediction.Parts.write
    with a_full_disk(monkeypatch, parts=3) as done:
        tg.predict(network, files, target, partitions=5, scheduler="synchronous")
    part = tmp_path / ".predict-y.npz" / f"part-{done[0]:05}.npz"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    (tmp_path / ".predict-y.npz" / f"part-{done[1]:05}.npz").unlink()
    monkeypatch.setattr(
        prediction.Parts, "write", lambda self, number, scores: made.append(number) or write(self, number, scores)
    )
    tg.predict(network, files, target, partitions=5, resume=True)
    assert sorted(made) == sorted(set(range(5)) - {done[2]})
    np.testing.assert_allclose(arrays(target)["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)


def test_a_damaged_file_is_named_and_can_be_replaced(tmp_path, network, rows, files):
    third, target = tmp_path / "parts" / "part-9.parquet", tmp_path / "y.parquet"
    whole = third.read_bytes()
    damage(third)
    options = {"partitions": 5, "scheduler": "synchronous"}
    with pytest.raises(FileError, match=r"cannot read partition 3 of 5, samples from 40 on, of .*part-9\.parquet"):
        tg.predict(network, files, target, **options)
    with pytest.raises(FileError, match=r"cannot read partition 3 of 5, samples from 40 on, of .*part-9\.parquet"):
        tg.predict(network, files, target, **options, resume=True)
    assert not target.exists()
    third.write_bytes(whole)
    written = tg.predict(network, files, target, **options, resume=True)
    assert 0 < written.resumed < 5
    np.testing.assert_allclose(arrays(target)["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)


def test_parts_of_samples_that_have_changed_are_made_again(tmp_path, network, rows, files, monkeypatch):
    options = {"partitions": 5, "scheduler": "synchronous"}
    with a_full_disk(monkeypatch, parts=4) as done:
        tg.predict(network, files, tmp_path / "y.npz", **options)
    other, changed = rows.copy(), slice(20 * done[0], 20 * done[0] + 20)
    other[changed] = rows[changed][::-1]
    pq.write_table(table(other[changed]), tmp_path / "parts" / f"part-{done[0] + 7}.parquet", row_group_size=9)
    written = tg.predict(network, files, tmp_path / "y.npz", **options, resume=True)
    assert written.resumed == 3
    np.testing.assert_allclose(arrays(tmp_path / "y.npz")["outputs"], oracle(network, other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("change", [{"labels": True}, {"dtype": "float64"}, {"reductions": "none"}])
def test_another_run_does_not_go_on_with_what_one_has_left(tmp_path, network, files, change, monkeypatch):
    options = {"partitions": 5, "scheduler": "synchronous"}
    with a_full_disk(monkeypatch):
        tg.predict(network, files, tmp_path / "y.npz", **options)
    with pytest.raises(CheckpointError, match="is the checkpoint of another run, with (asked|dtype|reductions)"):
        tg.predict(network, files, tmp_path / "y.npz", **options, **change, resume=True)


def test_to_resume_where_nothing_is_left_is_to_begin(tmp_path, network, rows, files):
    written = tg.predict(network, files, tmp_path / "y.csv", resume=True)
    assert written.resumed == 0
    np.testing.assert_allclose(arrays(tmp_path / "y.csv")["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)


def test_a_lost_worker_costs_no_more_than_what_it_was_at(tmp_path):
    network = tg.radixnet(1024, 20, seed=0)
    rows = (np.random.default_rng(0).random((3_200, 1024)) < 0.2).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    made = {"kernel": "scipy", "reductions": "none"}
    local = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(silence_logs=logging.CRITICAL, **local) as cluster, Client(cluster) as client:
        victim = next(iter(client.run(os.getpid).values()))
        receipts = (tmp_path / ".predict-y.npz").glob

        def kill():
            until(lambda: len(list(receipts("partition-*"))) >= 2)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        tg.predict(network, tmp_path / "x.npy", tmp_path / "y.npz", partitions=50, **made)
        killer.join()
        assert victim not in client.run(os.getpid).values()
    expected = tg.infer(network, rows, **made).compute().outputs.toarray()
    np.testing.assert_array_equal(arrays(tmp_path / "y.npz")["outputs"], expected)


# On the command line.


@pytest.fixture
def large(tmp_path):
    """A network and samples that take a while."""
    tg.write_packed(tg.radixnet(1024, 20, seed=0), tmp_path / "network.safetensors")
    np.save(tmp_path / "x.npy", (np.random.default_rng(0).random((6_400, 1024)) < 0.2).astype(np.float32))
    options = [
        "--network",
        "network.safetensors",
        "--input",
        "x.npy",
        "--partitions",
        "100",
        "--kernel",
        "scipy",
        "--reductions",
        "none",
    ]
    return [sys.executable, "-m", "taskgraph_dnn", "predict", *options, "--top", "1", "--output", "y.npz"]


@pytest.mark.parametrize(
    ("scheduler", "end"),
    [("threads", signal.SIGKILL), ("threads", signal.SIGINT), ("processes", signal.SIGKILL)],
    ids=["threads killed", "threads interrupted", "processes killed"],
)
def test_a_command_that_was_ended_goes_on_where_it_was(tmp_path, large, end, scheduler):
    command, draft = [*large, "--scheduler", scheduler], tmp_path / ".predict-y.npz"
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        until(lambda: len(list(draft.glob("partition-*.safetensors"))) >= 2)
        if end == signal.SIGINT:
            process.send_signal(end)
        else:
            os.killpg(process.pid, end)
        said = process.stderr.read()
    assert process.returncode != 0
    assert ("--resume goes on from there" in said) == (end == signal.SIGINT)
    assert not (tmp_path / "y.npz").exists()
    done = list(draft.glob("partition-*.safetensors"))
    assert 2 <= len(done) < 100
    again = subprocess.run(
        [*command, "--resume"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120
    )
    resumed = int(again.stdout.split("100 partitions, ")[1].split(" ")[0])
    assert len(done) <= resumed < 100
    network = tg.read_packed(tmp_path / "network.safetensors")
    expected = tg.infer(network, np.load(tmp_path / "x.npy"), kernel="scipy", reductions="none").compute().top(1)
    np.testing.assert_array_equal(arrays(tmp_path / "y.npz")["values"], expected.values)
    np.testing.assert_array_equal(arrays(tmp_path / "y.npz")["indices"], expected.indices)
    assert not draft.exists()


def test_the_command_says_what_it_has_written(tmp_path, network, rows, files):
    tg.write_packed(network, tmp_path / "n.safetensors")
    said = run(
        *("--network", tmp_path / "n.safetensors", "--input", files, "--output", tmp_path / "y.csv"),
        *("--labels", "--columns", ",".join(f"f{number}" for number in range(INPUTS)), "--partitions", 4),
    )
    assert "y.csv: 100 samples, 4 partitions, 0 of them from before; read " in said
    np.testing.assert_array_equal(arrays(tmp_path / "y.csv")["labels"], tg.infer(network, rows).compute().labels)


def run(*arguments, status=0):
    result = CliRunner().invoke(main, ["predict", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == status, result.output
    return result.output


def test_an_output_may_be_a_url_of_a_file(tmp_path, network, rows, files):
    tg.write_packed(network, tmp_path / "n.safetensors")
    said = run("--network", tmp_path / "n.safetensors", "--input", files, "--output", f"file://{tmp_path}/y y.npz")
    assert said.startswith(f"{tmp_path}/y y.npz: 100 samples")
    np.testing.assert_allclose(arrays(tmp_path / "y y.npz")["outputs"], oracle(network, rows), rtol=1e-5, atol=1e-5)
    with pytest.raises(FileError, match="y y.npz: it exists already"):
        tg.predict(network, files, f"file://{tmp_path}/y y.npz")


def test_a_url_that_the_command_cannot_write_is_named_as_it_was_given(tmp_path, network, files):
    tg.write_packed(network, tmp_path / "n.safetensors")
    command = "--network", tmp_path / "n.safetensors", "--input", files, "--output", "memory://bucket/y.csv"
    assert "cannot write memory://bucket/y.csv: an output appears at once" in run(*command, status=1)


def test_the_command_says_where_the_rest_waits_of_an_output_behind_a_link(tmp_path, network, files):
    tg.write_packed(network, tmp_path / "n.safetensors")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "y.csv").symlink_to(tmp_path / "elsewhere" / "z.csv")
    damage(tmp_path / "parts" / "part-9.parquet")
    command = "--network", tmp_path / "n.safetensors", "--input", files, "--output", tmp_path / "y.csv"
    assert f"kept in {tmp_path}/elsewhere/.predict-z.csv: --resume goes on" in run(*command, status=1)
    assert (tmp_path / "elsewhere" / ".predict-z.csv").is_dir()


def test_the_command_refuses_to_replace_a_file(tmp_path, network, files):
    tg.write_packed(network, tmp_path / "n.safetensors")
    (tmp_path / "y.csv").write_text("mine")
    command = "--network", tmp_path / "n.safetensors", "--input", files, "--output", tmp_path / "y.csv"
    assert "y.csv: it exists already" in run(*command, status=1)
    assert (tmp_path / "y.csv").read_text() == "mine"
    assert "there is no network: give --network" in run(*command[2:], status=1)


# Bad input, before any work.


@pytest.mark.parametrize(
    ("output", "options", "error", "message"),
    [
        ("y.txt", {}, FileError, r"y\.txt is of no known format, expected a name in \.parquet, \.csv, \.npz, \.zarr"),
        ("absent/y.csv", {}, FileError, "there is no folder"),
        (
            "s3://bucket/y.csv",
            {},
            FileError,
            "s3://bucket/y.csv: an output .* is a path that all workers see, not a URL",
        ),
        ("y.csv", {"top": 0}, PlanError, "top is 0, expected a whole number of at least 1"),
        ("y.csv", {"top": 6}, PlanError, "top is 6, but the network has 5 outputs"),
        ("y.csv", {"columns": ["a"]}, InputError, "columns are of files, but samples are a ndarray"),
        ("y.csv", {"partitions": 0}, PlanError, "partitions is 0"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path, network, rows, output, options, error, message):
    with pytest.raises(error, match=message):
        tg.predict(network, rows, output if "://" in output else tmp_path / output, **options)
    assert not list(tmp_path.iterdir())


def test_something_else_than_a_network_is_refused(tmp_path, rows):
    with pytest.raises(InputError, match="network is a list, expected a Network"):
        tg.predict([np.eye(3)], rows, tmp_path / "y.csv")


def test_samples_that_do_not_fit_leave_nothing_behind(tmp_path, network, rows):
    with pytest.raises(InputError, match="11 values wide, but the network has 12 inputs"):
        tg.predict(network, rows[:, 1:], tmp_path / "y.csv")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, network, rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(
        MissingDependencyError, match=r"Zarr needs zarr, which is not installed: .*taskgraph-dnn\[zarr\]"
    ):
        tg.predict(network, rows, tmp_path / "y.zarr")
    with pytest.raises(MissingDependencyError, match="Zarr needs zarr"):
        tg.read_samples(tmp_path / "x.zarr")


def test_what_is_kept_is_said_in_plain_values(tmp_path, network, files, monkeypatch):
    with a_full_disk(monkeypatch):
        tg.predict(network, files, tmp_path / "y.csv", partitions=5, labels=True, scheduler="synchronous")
    manifest = json.loads((tmp_path / ".predict-y.csv" / "manifest.json").read_text())
    assert manifest["about"]["asked"] == "Asked(outputs=False, labels=True, top=None)"
    assert manifest["about"]["output"] == ".csv"
    assert len(json.loads((tmp_path / ".predict-y.csv" / "versions.json").read_text())) == 5
