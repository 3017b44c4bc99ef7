"""What reading takes is measured on contents that are compared, and every form holds the same content."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from taskgraph_dnn.benchmarks.cases import contents
from taskgraph_dnn.benchmarks.cases.contents import NEURONS, Case, Content, generated
from taskgraph_dnn.benchmarks.report.races import races
from taskgraph_dnn.benchmarks.report.records import Report
from taskgraph_dnn.benchmarks.suite import Effort
from taskgraph_dnn.benchmarks.suites import reading

ONCE = Effort("smoke", 1, 1e-6)


@pytest.fixture(scope="module")
def report():
    return Report("now", "smoke", {}, {}, tuple(reading.measure(ONCE, lambda text: None)))


def test_content_tells_matrices_apart(rng):
    weights = scipy.sparse.random_array((20, 30), density=0.2, rng=rng).tocsr()
    content = Content.of_matrices([weights])
    assert content.entries == 120
    assert content.difference(Content.of_matrices([weights.tocsc()])) < 1e-12
    for other in (weights[::-1], weights[:, ::-1], weights * 2, weights.astype(bool)):
        assert content.difference(Content.of_matrices([other])) > 1e-4
    assert content.difference(Content.of_matrices([weights[:10], weights[10:]])) > 1e-4  # places are of their matrix


def test_a_way_is_right_where_it_finds_the_content():
    content = Content.of([1, 2], [3, 4], [0.5, 0.25])
    case = Case("case", 100, content)
    for found, difference in ((content, 0), (Content.of([1, 2], [4, 3], [0.5, 0.25]), pytest.approx(1 / 11))):
        way = case.way("ours", "this package", "some way", lambda: "read", lambda _, found=found: found)
        way.run(1)
        assert way.difference() == difference
        assert way.counted() == {"entries": 2}
    for moved, difference in ((100, 0), (101, 0), (99, np.inf)):
        way = case.way("ceiling", "bytes", "moved", lambda moved=moved: moved, int)
        way.run(1)
        assert way.difference() == difference
        assert way.counted() == {}


def test_every_case_has_this_package_and_what_it_is_compared_with(report):
    cases = {}
    for each in report.measurements:
        cases.setdefault(each.case, set()).add(each.kind)
    assert len(cases) == 5
    assert all("ours" in kinds and kinds & {"peer", "ceiling"} for kinds in cases.values())
    assert {each.contender for each in report.measurements} >= {"pyarrow", "numpy", "scipy", "safetensors"}


def test_what_was_read_is_counted(report):
    counted = {each.formulation: each.counted for each in report.measurements if each.kind == "ours"}
    entries = 2 * 32 * NEURONS
    assert {counted[name]["entries"] for name in ("folder", ".tar.gz", "open", "TSV to packed")} == {entries}
    assert all(not each.counted for each in report.measurements if each.kind != "ours")


def test_ours_that_do_less_than_peers_are_not_those_that_are_compared(report):
    found = [(race.ours.formulation, race.peer.contender) for race in races(report, "reading")]
    assert ("open, and all weights", "safetensors") in found
    assert ("packed, with facts and reductions", "safetensors") in found


def test_tables_compare_with_the_first_peer(report):
    tables = reading.tables(report)
    assert len(tables) == 5
    network = tables[0]
    assert network.rows[0][-1] == "time to pyarrow, parse of each file's bytes"
    assert network.rows[1][-1] == "1"
    beside = {row[1]: row[-1] for row in network.rows if row[0] == "this package"}
    assert beside.keys() == {"folder", ".tar.gz"}
    assert all(text.endswith((", reached", ", open", ", missed")) for text in beside.values())
    assert all(len(row) == 7 for table in tables for row in table.rows)


def test_a_case_without_a_peer_is_compared_with_nothing(report):
    ours = [each for each in report.measurements if each.kind == "ours"]
    (first, *_) = reading.tables(Report("now", "smoke", {}, {}, tuple(ours)))
    assert {row[-1] for row in first.rows} == {""}


def test_without_pyarrow_the_package_is_not_compared_with_it(tmp_path, monkeypatch):
    files = generated(tmp_path / "few", 1)
    monkeypatch.setattr(reading, "missing", lambda: {"pyarrow": "it is not installed"})
    assert {each.name for each in reading._parsed(files)} == {
        "this package",
        "bytes of the folder",
        "bytes of the .tar.gz",
    }


def test_the_official_network_is_taken_where_it_is_found(tmp_path, monkeypatch):
    files = generated(tmp_path / "made", 2)
    (tmp_path / "graph-challenge").mkdir()
    shutil.copy(files.archive, tmp_path / "graph-challenge" / f"neuron{NEURONS}.tar.gz")
    assert Path(__file__).resolve().parents[2] / "shared" / "data" == contents._BESIDE
    monkeypatch.setenv("TASKGRAPH_DNN_DATA", str(tmp_path))
    found = contents.official(tmp_path / "unpacked")
    assert found is not None
    assert found.name == "official network of 1,024 neurons x 2 layers"
    assert found.texts == files.texts
    assert found.content == files.content
    monkeypatch.setenv("TASKGRAPH_DNN_DATA", str(tmp_path / "nowhere"))
    assert contents.official(tmp_path / "again") is None


def test_decompressed_bytes_are_all_of_them(tmp_path):
    path = tmp_path / "zeros.gz"
    path.write_bytes(gzip.compress(bytes(3 * reading._CHUNK_NBYTES + 1)))
    assert reading._decompressed(path) == 3 * reading._CHUNK_NBYTES + 1
