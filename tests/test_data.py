"""Samples in files, Dask arrays and dataframes: against a dense float64 oracle, on threads and on worker processes."""

import datetime
import decimal
import json
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import dask
import numpy as np
import pytest
import scipy.io
import scipy.sparse
from click.testing import CliRunner
from distributed import Client, LocalCluster

import taskgraph_dnn as tg
from taskgraph_dnn.cli import main
from taskgraph_dnn.data import files, open_samples
from taskgraph_dnn.data.stored import StoredPart
from taskgraph_dnn.errors import FileError, InputError
from tests.conftest import random_layer
from tests.test_inference import oracle
from tests.test_remote import Handler, Remote

pq = pytest.importorskip("pyarrow.parquet", reason="Parquet and CSV need pyarrow")
SAMPLES, INPUTS = 100, 12
NAMES = [f"f{number}" for number in range(INPUTS)]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(7)
    return np.where(rng.random((SAMPLES, INPUTS)) < 0.6, rng.random((SAMPLES, INPUTS)), 0).astype(np.float32)


@pytest.fixture
def network(rng):
    return tg.Network([random_layer(rng, INPUTS, 20), random_layer(rng, 20, 5, activation="identity")])


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes."""
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as local:
        yield local


@pytest.fixture(params=["threads", "worker processes"])
def where(request):
    if request.param == "threads":
        yield
        return
    with Client(request.getfixturevalue("cluster")):
        yield


def table(rows, names=NAMES):
    import pyarrow

    return pyarrow.table({name: rows[:, number] for number, name in enumerate(names)})


def parquet(folder, rows):
    (folder / "parts").mkdir()
    for number, part in enumerate(np.array_split(rows, 5)):
        pq.write_table(table(part), folder / "parts" / f"part-{number + 7}.parquet", row_group_size=9)
    return "parts/part-*.parquet"


def one_parquet(folder, rows):
    pq.write_table(table(rows), folder / "x.parquet")
    return "x.parquet"


def parquet_folder(folder, rows):
    parquet(folder, rows)
    (folder / "parts" / "_SUCCESS").touch()
    return "parts"


def npy(folder, rows):
    np.save(folder / "x.npy", rows)
    return "x.npy"


def fortran_npy(folder, rows):
    np.save(folder / "x.npy", np.asfortranarray(rows))
    return "x.npy"


def npz(folder, rows):
    np.savez(folder / "x.npz", y=np.arange(3), x=rows.astype(np.float64))
    return "x.npz"


def compressed_npz(folder, rows):
    np.savez_compressed(folder / "x.npz", features=rows)
    return "x.npz"


def sparse_npz(folder, rows):
    scipy.sparse.save_npz(folder / "x.npz", scipy.sparse.csr_array(rows), compressed=False)
    return "x.npz"


def compressed_sparse_npz(folder, rows):
    scipy.sparse.save_npz(folder / "x.npz", scipy.sparse.csr_matrix(rows))
    return "x.npz"


def csv(folder, rows):
    np.savetxt(folder / "x.csv", rows, "%.9g", ",", header=",".join(NAMES[: rows.shape[1]]), comments="")
    return "x.csv"


def csv_without_names(folder, rows):
    for number, part in enumerate(np.array_split(rows, 3)):
        np.savetxt(folder / f"x-{number}.csv", part, "%.9g", ",", newline="\r\n")
    return "x-*.csv"


def compressed_csv(folder, rows):
    names = ",".join(NAMES[: rows.shape[1]])
    np.savetxt(folder / "x.csv.gz", rows, "%.9g", ",", header=names, comments="")
    return "x.csv.gz"


def challenge(folder, rows):
    tg.write_challenge_images(rows, folder / "x.tsv")
    return "x.tsv"


def compressed_challenge(folder, rows):
    tg.write_challenge_images(rows, folder / "x.tsv.gz")
    return "x.tsv.gz"


def matrix_market(folder, rows):
    scipy.io.mmwrite(folder / "x.mtx", scipy.sparse.coo_array(rows), precision=9)
    return "x.mtx"


def zarr(folder, rows):
    zarr = pytest.importorskip("zarr")
    zarr.create_array(str(folder / "x.zarr"), data=rows, chunks=(13, 5))
    return "x.zarr"


def zarr_in_a_group(folder, rows):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(folder / "x.zarr"), mode="w")
    group.create_array("features", data=rows, chunks=(40, INPUTS))
    group.create_array("labels", data=np.arange(SAMPLES))
    return "x.zarr/features"


FORMATS = [
    *(parquet, one_parquet, parquet_folder, npy, fortran_npy, npz, compressed_npz, sparse_npz, compressed_sparse_npz),
    *(csv, csv_without_names, compressed_csv, challenge, compressed_challenge, matrix_market, zarr, zarr_in_a_group),
]


@pytest.mark.parametrize("write", FORMATS)
def test_files_against_the_oracle(where, tmp_path, network, rows, write):
    path = tmp_path / write(tmp_path, rows)
    expected = oracle(network, rows)
    for partitions in ("auto", 7):
        inference = tg.infer(network, path, partitions=partitions)
        assert partitions in ("auto", len(inference.plan.partitions))
        result = inference.compute()
        np.testing.assert_allclose(result.outputs.toarray(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("write", FORMATS)
def test_files_as_a_dask_array(tmp_path, network, rows, write):
    array = tg.read_samples(tmp_path / write(tmp_path, rows), inputs=INPUTS)
    assert (array.shape, array.dtype) == (rows.shape, np.float32)
    blocks = [block.compute() for block in array.blocks]
    dense = [block.toarray() if scipy.sparse.issparse(block) else block for block in blocks]
    np.testing.assert_array_equal(np.vstack(dense), rows)
    np.testing.assert_allclose(tg.infer(network, array).compute().outputs.toarray(), oracle(network, rows), atol=1e-5)


def test_arrays_of_files_can_be_computed_with(tmp_path, network, rows):
    path = tmp_path / parquet(tmp_path, rows)
    array = tg.read_samples(path)
    scaled = (array - array.mean(axis=0)) / array.std(axis=0)
    result = tg.infer(network, scaled.astype(np.float32)).compute()
    by_hand = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    np.testing.assert_allclose(result.outputs.toarray(), oracle(network, by_hand), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("write", [parquet, csv, npz, sparse_npz])
def test_files_behind_a_url(tmp_path, network, rows, write):
    import fsspec

    pattern = write(tmp_path, rows)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/bucket", recursive=True)
    try:
        found = tg.infer(network, f"memory://bucket/{pattern}").compute().outputs.toarray()
    finally:
        memory.rm("/bucket", recursive=True)
    np.testing.assert_allclose(found, oracle(network, rows), rtol=1e-5, atol=1e-5)


class Anywhere(Handler):
    """Serves the one file whatever is asked of the server."""

    def answer(self, content, status=200):
        if self.command == "GET" and not self.headers.get("Range"):
            self.server.say("all of it")
        self.path = "/net.safetensors"
        super().answer(content, status)


def test_a_url_is_read_by_ranges_whatever_is_asked_of_the_server(tmp_path, network, rows, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / one_parquet(tmp_path, rows)).rename(tmp_path / "x")
    with Remote((tmp_path / "x").read_bytes()) as server:
        server.RequestHandlerClass = Anywhere
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/folder/x.parquet?signature=a%2Fb"
        found = tg.infer(network, url).compute().outputs.toarray()
        server.shutdown()
        thread.join()
    np.testing.assert_allclose(found, oracle(network, rows), rtol=1e-5, atol=1e-5)
    assert server.log
    assert "all of it" not in server.log


def test_zarr_behind_a_server_of_files(tmp_path, network, rows, monkeypatch):
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("no_proxy", "*")
    name = zarr(tmp_path, rows)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found = tg.infer(network, f"http://127.0.0.1:{server.server_port}/{name}").compute().outputs.toarray()
        server.shutdown()
        thread.join()
    np.testing.assert_allclose(found, oracle(network, rows), rtol=1e-5, atol=1e-5)


def test_columns_are_taken_by_name_in_their_order(tmp_path, network, rows):
    order = np.random.default_rng(3).permutation(INPUTS)
    wide = np.hstack([np.full((SAMPLES, 1), 5, np.float32), rows[:, order]])
    names = ["ignored", *(NAMES[number] for number in order)]
    pq.write_table(table(wide, names), tmp_path / "x.parquet")
    np.savetxt(tmp_path / "x.csv", wide, "%.9g", ",", header=",".join(names), comments="")
    for name in ("x.parquet", "x.csv"):
        np.testing.assert_array_equal(tg.read_samples(tmp_path / name, columns=NAMES).compute(), rows)


def test_the_index_of_pandas_is_no_column(tmp_path, rows):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows, columns=NAMES, index=np.arange(SAMPLES)[::-1] + 0.5)
    frame.to_parquet(tmp_path / "x.parquet")
    np.testing.assert_array_equal(tg.read_samples(tmp_path / "x.parquet").compute(), rows)


def test_dask_dataframes(where, network, rows):
    pandas = pytest.importorskip("pandas")
    dataframes = pytest.importorskip("dask.dataframe")
    frame = pandas.DataFrame(rows, columns=NAMES)
    frame["f3"] = frame["f3"].astype("Float64")
    frame["f4"] = (frame["f4"] > 0.5).astype("boolean")
    expected = oracle(network, frame.astype("float32").to_numpy())
    collection = dataframes.from_pandas(frame, npartitions=4)
    inference = tg.infer(network, collection[collection["f0"] >= 0])  # nobody knows how long these partitions are
    assert len(inference.plan.partitions) == 4
    np.testing.assert_allclose(inference.compute().outputs.toarray(), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="samples have 11 columns, but the network has 12 inputs"):
        tg.infer(network, collection[NAMES[1:]])
    with pytest.raises(InputError, match="column 'f2' of the samples is of type str.*, expected real numbers"):
        tg.infer(network, collection.assign(f2="a"))


# Who reads what, and when.


def test_the_client_reads_no_rows(tmp_path, network, rows, cluster, monkeypatch):
    path = tmp_path / parquet(tmp_path, rows)

    def refuse(*_):
        raise AssertionError("the client reads")

    monkeypatch.setattr("taskgraph_dnn.data.parquet.opened", refuse)  # workers are other processes
    with Client(cluster):
        found = tg.infer(network, path).compute().outputs.toarray()
        blocks = tg.read_samples(path).mean().compute()
    np.testing.assert_allclose(found, oracle(network, rows), rtol=1e-5, atol=1e-5)
    assert blocks == pytest.approx(rows.mean())


@pytest.mark.parametrize("write", [parquet, npy, csv])
def test_the_graph_holds_names_and_no_rows(tmp_path, network, write):
    large = np.random.default_rng(0).random((8_000, INPUTS), dtype=np.float32)
    inference = tg.infer(network, tmp_path / write(tmp_path, large), partitions=50)
    packed = tg.infer(network, large, partitions=50)
    inputs = [node for key, node in inference.expr._layer().items() if key[0].startswith("inputs-")]
    assert len(inputs) == 50
    assert max(len(pickle.dumps(node)) for node in inputs) < 10_000
    assert len(pickle.dumps(inference.expr.inputs)) < large.nbytes / 4
    assert len(pickle.dumps(packed.expr.inputs)) > large.nbytes


def test_looking_at_files_reads_no_rows(tmp_path, rows, monkeypatch):
    path = tmp_path / parquet(tmp_path, rows)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("rows are read"))
    with dask.config.set(scheduler="synchronous"):
        assert open_samples(path).shape == (SAMPLES, INPUTS)


def test_partitions_end_where_row_groups_do(tmp_path, network, rows):
    pq.write_table(table(np.tile(rows, (50, 1))), tmp_path / "x.parquet", row_group_size=70)
    samples = open_samples(tmp_path / "x.parquet")
    bounds = samples.bounds(200)
    assert bounds[:2] == ((0, 140), (140, 280))
    assert bounds[-1][1] == 5_000
    small = samples.bounds(30)
    assert small[:4] == ((0, 23), (23, 46), (46, 70), (70, 93))
    assert samples.bounds(1)[:2] == ((0, 17), (17, 35))  # a row group is read four times at most
    np.save(tmp_path / "x.npy", rows)
    assert open_samples(tmp_path / "x.npy").bounds(30) == ((0, 25), (25, 50), (50, 75), (75, 100))


def test_only_the_groups_that_are_needed_are_read(tmp_path, rows, monkeypatch):
    pq.write_table(table(rows), tmp_path / "x.parquet", row_group_size=10)
    read, original = [], pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, size, groups, *a, **k: read.extend(groups) or original(self, size, groups, *a, **k),
    )
    (part,) = open_samples(tmp_path / "x.parquet").parts([(25, 42)])
    np.testing.assert_array_equal(part.read(), rows[25:42])
    assert read == [2, 3, 4]


def test_a_large_row_group_is_decoded_some_rows_at_a_time_and_no_further_than_needed(tmp_path, rows, monkeypatch):
    pq.write_table(table(rows), tmp_path / "x.parquet", row_group_size=70)
    monkeypatch.setattr("taskgraph_dnn.data.parquet._BATCH_NBYTES", 8 * 4 * INPUTS)
    decoded, original = [], pq.ParquetFile.iter_batches

    def counted(*given, **options):
        for batch in original(*given, **options):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    samples = open_samples(tmp_path / "x.parquet")
    for first, stop in [(0, 100), (0, 1), (20, 30), (60, 80), (99, 100)]:
        decoded.clear()
        (part,) = samples.parts([(first, stop)])
        np.testing.assert_array_equal(part.read(), rows[first:stop])
        begun = 70 if first >= 70 else 0
        assert max(decoded) <= 8
        assert stop - begun <= sum(decoded) < stop - begun + 8


def test_a_row_of_csv_may_lie_across_blocks(tmp_path, rows, monkeypatch):
    monkeypatch.setattr("taskgraph_dnn.data.csvs._BLOCK_NBYTES", 100)
    samples = open_samples(tmp_path / csv(tmp_path, rows))
    assert len(samples.files[0].groups) > 20
    for first, stop in [(0, 100), (3, 4), (17, 60), (99, 100)]:
        (part,) = samples.parts([(first, stop)])
        np.testing.assert_array_equal(part.read(), rows[first:stop])


def test_equal_files_give_equal_keys_and_changed_ones_others(tmp_path, network, rows):
    path = tmp_path / npy(tmp_path, rows)
    first = tg.infer(network, path).__dask_keys__()
    assert tg.infer(network, path).__dask_keys__() == first
    np.save(path, rows[:90])
    assert tg.infer(network, path).__dask_keys__() != first


def test_a_checkpointed_run_goes_on_with_files(tmp_path, network, rows):
    path = tmp_path / parquet(tmp_path, rows)
    expected = tg.infer(network, path).compute().outputs
    kept = {"partitions": 5, "checkpoint": tmp_path / "kept"}
    first = tg.infer(network, path, **kept)
    first.compute()
    (tmp_path / "kept" / "partition-00003-layer-00002.safetensors").unlink()
    again = tg.infer(network, path, **kept, resume=True).compute()
    assert again.resumed.finished == 4
    assert (again.outputs != expected).nnz == 0


# What comes next.


@pytest.mark.parametrize("seconds", [0.1, 1e-9])
@pytest.mark.parametrize("reductions", ["exact", "none"])
def test_outputs_as_a_dask_array(where, rng, seconds, reductions):
    """With spans of one layer, partitions are merged, and samples end in another one than they began in."""
    network = tg.Network([random_layer(rng, INPUTS, INPUTS, bias=-0.3) for _ in range(5)])
    sparse = scipy.sparse.random_array((200, INPUTS), density=0.3, rng=rng, format="csr", dtype=np.float32)
    rows = scipy.sparse.vstack([sparse, sparse[::-1]], format="csr")
    with dask.config.set({"taskgraph-dnn.task-seconds": seconds}):
        inference = tg.infer(network, rows, partitions=9, reductions=reductions)
    assert bool(inference.plan.merged) == (seconds < 0.1 and reductions == "exact")
    array = inference.to_dask_array()
    assert (array.shape, array.dtype) == ((400, INPUTS), np.float32)
    assert array.chunks[0] == tuple(stop - first for first, stop in inference.plan.partitions)
    expected = inference.compute().outputs.toarray()
    assert expected.any()
    np.testing.assert_array_equal(array.compute(), expected)
    np.testing.assert_array_equal((array + 1).sum(axis=1).compute(), (expected + 1).sum(axis=1))
    np.testing.assert_array_equal(array[100:150].compute(), expected[100:150])


def test_outputs_go_into_another_network(network, rows, rng):
    second = tg.Network([random_layer(rng, 5, 3)])
    outputs = tg.infer(network, rows, partitions=4).to_dask_array()
    found = tg.infer(second, outputs).compute().outputs.toarray()
    np.testing.assert_allclose(found, oracle(second, oracle(network, rows)), rtol=1e-4, atol=1e-4)


def test_outputs_of_a_persisted_inference_and_of_nothing(network, rows):
    kept = tg.infer(network, rows, partitions=3).persist()
    np.testing.assert_array_equal(kept.to_dask_array().compute(), kept.compute().outputs.toarray())
    assert tg.infer(network, rows[:0]).to_dask_array().compute().shape == (0, 5)


# Bad input.


def test_a_wrong_width_is_refused_before_any_row_is_read(tmp_path, network, rows, monkeypatch):
    monkeypatch.setattr(StoredPart, "read", lambda _: pytest.fail("rows are read"))
    for write in (npz, csv):
        path = tmp_path / write(tmp_path, rows[:, 1:])
        with pytest.raises(InputError, match=r"x\.\w+ are 11 values wide, but the network has 12 inputs"):
            tg.infer(network, path)


def test_a_missing_column_is_named(tmp_path, rows):
    path = tmp_path / one_parquet(tmp_path, rows)
    with pytest.raises(
        InputError, match=r"x\.parquet has no column 'age' \(1 of 2 are missing\), but f0, f1, .* and 4 more"
    ):
        tg.read_samples(path, columns=["f0", "age"])
    with pytest.raises(InputError, match="column 'f0' comes twice"):
        tg.read_samples(path, columns=["f0", "f0"])
    with pytest.raises(InputError, match="columns is 'f0', expected a list of names"):
        tg.read_samples(path, columns="f0")
    with pytest.raises(InputError, match="columns of an array have no names, but f0 are wanted"):
        tg.read_samples(tmp_path / npy(tmp_path, rows), columns=["f0"])


def test_files_that_differ_are_refused(tmp_path, rows):
    pattern = tmp_path / parquet(tmp_path, rows)
    pq.write_table(table(rows[:, ::-1], NAMES[::-1]), tmp_path / "parts" / "part-9.parquet")
    with pytest.raises(InputError, match=r"part-9.parquet has column 'f11' at place 0, but .*part-7.parquet has 'f0'"):
        tg.read_samples(pattern)
    assert tg.read_samples(pattern, columns=NAMES).shape == (SAMPLES + 80, INPUTS)
    pq.write_table(table(rows[:, :4], NAMES[:4]), tmp_path / "parts" / "part-9.parquet")
    with pytest.raises(InputError, match=r"part-9.parquet has samples of 4 values, but .*part-7.parquet of 12"):
        tg.read_samples(pattern)


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (None, "nan"), (1e300, "inf")])
def test_a_value_that_is_no_number_is_named_by_sample_and_input(tmp_path, network, rows, value, shown):
    columns = {name: rows[:, number].astype(float).tolist() for number, name in enumerate(NAMES)}
    columns["f3"][77] = value
    import pyarrow

    pq.write_table(pyarrow.table(columns), tmp_path / "x.parquet", row_group_size=20)
    with pytest.raises((InputError, FileError), match=rf"x\.parquet: sample 77, input 3 is {shown}"):
        tg.infer(network, tmp_path / "x.parquet").compute()


def test_of_many_files_the_one_with_a_value_that_is_no_number_is_named(where, tmp_path, network, rows):
    path = tmp_path / parquet(tmp_path, rows)
    damaged = rows[60:80].copy()
    damaged[3, 5] = -np.inf
    pq.write_table(table(damaged), tmp_path / "parts" / "part-10.parquet", row_group_size=9)
    with pytest.raises(InputError, match=r"part-10\.parquet: sample 63, input 5 is -inf, expected a finite float32"):
        tg.infer(network, path, partitions=2).compute()


def test_a_column_of_words_is_refused(tmp_path, rows):
    import pyarrow

    words = table(rows).append_column("name", pyarrow.array(["a"] * SAMPLES))
    pq.write_table(words, tmp_path / "x.parquet")
    with pytest.raises(FileError, match="column 'name' holds string, expected numbers"):
        tg.read_samples(tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3,x\n")
    with pytest.raises(FileError, match=r"cannot read partition 1 of 1, samples from 0 on, of .*x\.csv.*'x'"):
        tg.read_samples(tmp_path / "x.csv").compute()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a"], r"dictionary<.*>"),
        ([[1.0]], r"list<.*>"),
        ([datetime.date(2026, 11, 22)], "date32.*"),
        ([decimal.Decimal("1.5")], "decimal128.*"),
        ([None], "null"),
    ],
)
def test_columns_of_other_types_are_named(tmp_path, rows, values, kind):
    import pyarrow

    column = pyarrow.array(values * SAMPLES)
    column = column.dictionary_encode() if values == ["a"] else column
    pq.write_table(table(rows).set_column(3, "f3", column), tmp_path / "x.parquet")
    with pytest.raises(FileError, match=rf"x\.parquet: column 'f3' holds {kind}, expected numbers"):
        tg.read_samples(tmp_path / "x.parquet")


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint64, np.float16, np.float64])
def test_columns_of_any_numbers_are_read(tmp_path, kind):
    numbers = np.arange(SAMPLES * INPUTS).reshape(SAMPLES, INPUTS) % 2
    pq.write_table(table(numbers.astype(kind)), tmp_path / "x.parquet")
    np.testing.assert_array_equal(tg.read_samples(tmp_path / "x.parquet").compute(), numbers)


def test_a_damaged_file_is_named_with_its_partition(where, tmp_path, network, rows):
    path = tmp_path / parquet(tmp_path, rows)
    damage(tmp_path / "parts" / "part-9.parquet")
    inference = tg.infer(network, path, partitions=5)
    with pytest.raises(FileError, match=r"cannot read partition 3 of 5, samples from 40 on, of .*part-9\.parquet"):
        inference.compute()


def test_a_file_that_is_no_parquet_is_named_before_any_work(tmp_path, network, rows):
    path = tmp_path / parquet(tmp_path, rows)
    (tmp_path / "parts" / "part-9.parquet").write_bytes(b"something else")
    with pytest.raises(FileError, match=r"file 3 of 5: cannot read .*part-9\.parquet as Parquet"):
        tg.infer(network, path)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path, network, rows):
    path = tmp_path / npy(tmp_path, rows)
    inference = tg.infer(network, path)
    np.save(path, np.zeros((SAMPLES + 1, INPUTS), np.float32))
    with pytest.raises(FileError, match=r"x\.npy: .*the file has changed"):
        inference.compute()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.parquet", None, r"cannot find samples at .*absent\.parquet"),
        ("absent-*.csv", None, r"absent-\*\.csv: there is no file of samples"),
        ("absent", None, r"cannot find samples at .*absent"),
        ("x.txt", "1 2", r"x\.txt is of no known format: expected .*\.parquet"),
        ("x.csv", "", r"x\.csv: the first line is empty"),
        ("x.csv", "1,2\n3\n", r"x\.csv"),
        ("x.csv", "1,2\n\n3,4\n", r"x\.csv"),
        ("x.npy", "nothing", r"cannot read .*x\.npy as numpy"),
        ("x.npz", "nothing", r"cannot read .*x\.npz as numpy"),
        ("bucket://x.csv", None, "bucket"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(FileError, match=message):
        tg.read_samples(name if "://" in name else tmp_path / name).compute()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.zeros((2, 2)), "b": np.zeros(2)}, "holds the arrays a, b, expected one, or one called x"),
        ({"x": np.zeros(4)}, r"holds an array of shape \(4,\), expected 2 dimensions"),
        ({"x": np.zeros((2, 2), object)}, "objects"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(FileError, match=message):
        tg.read_samples(tmp_path / "x.npz").compute()


def test_other_sparse_formats_are_refused(tmp_path, rows):
    for form in ("csc", "coo", "bsr"):
        scipy.sparse.save_npz(tmp_path / "x.npz", scipy.sparse.coo_array(rows).asformat(form))
        with pytest.raises(FileError, match=rf"in the format {form}, expected csr: save matrix.tocsr\(\)"):
            tg.read_samples(tmp_path / "x.npz")


def test_folders_of_folders_take_a_pattern(tmp_path, rows):
    parquet(tmp_path, rows)
    with pytest.raises(FileError, match=r"there is no file of samples \(a pattern with \*\* finds those in folders"):
        tg.read_samples(tmp_path)
    np.testing.assert_array_equal(tg.read_samples(tmp_path / "**" / "*.parquet").compute(), rows)


def test_a_tsv_file_needs_the_number_of_inputs(tmp_path, rows):
    with pytest.raises(InputError, match="does not say how wide its samples are: give the number of inputs"):
        tg.read_samples(tmp_path / challenge(tmp_path, rows))


def test_files_of_two_formats_are_refused(tmp_path, rows):
    parquet(tmp_path, rows)
    (tmp_path / "parts" / "x.csv").write_text("1,2\n")
    with pytest.raises(FileError, match=r"holds .*x\.csv among files of Parquet"):
        tg.read_samples(tmp_path / "parts")


def damage(file):
    """Overwrite pages of a Parquet file, and leave its footer as it is."""
    content = bytearray(file.read_bytes())
    content[4:400] = b"\xff" * 396
    file.write_bytes(content)


def test_many_files_are_looked_at_by_fewer_tasks(tmp_path, rows, monkeypatch):
    for number, row in enumerate(rows):
        np.save(tmp_path / f"{number}.npy", row[None])
    monkeypatch.setattr("taskgraph_dnn.data._MOST_LOOKS", 9)
    np.testing.assert_array_equal(tg.read_samples(tmp_path).compute(), rows)


def test_files_are_found_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 9, 1):
        (tmp_path / f"part-{number}.csv").touch()
    assert [url.rsplit("-", 1)[1] for url in files.listed(str(tmp_path))] == ["1.csv", "9.csv", "10.csv"]


@pytest.mark.parametrize("write", [parquet_folder, sparse_npz, csv, zarr, matrix_market])
def test_run_takes_the_images_that_predict_takes(tmp_path, network, rows, write):
    tg.write_packed(network, tmp_path / "n.safetensors")
    command = "run", "--network", tmp_path / "n.safetensors", "--images", tmp_path / write(tmp_path, rows)
    said = CliRunner().invoke(main, [*map(str, command), "--check", "50", "--json", str(tmp_path / "r.json")])
    assert said.exit_code == 0, said.output
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["checks"][0]["passed"]
    assert result["samples"] == SAMPLES


def test_run_refuses_images_of_another_width_before_it_reads_them(tmp_path, network, rows, monkeypatch):
    tg.write_packed(network, tmp_path / "n.safetensors")
    monkeypatch.setattr(StoredPart, "read", lambda _: pytest.fail("rows are read"))
    for images, message in (
        (rows[:, 1:], "are 11 values wide, but the network has 12 inputs"),
        (rows[:0], "no samples"),
    ):
        np.save(tmp_path / "x.npy", images)
        command = "run", "--network", tmp_path / "n.safetensors", "--images", tmp_path / "x.npy"
        said = CliRunner().invoke(main, [*map(str, command)])
        assert said.exit_code == 1
        assert message in said.output
