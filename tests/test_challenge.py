"""The challenge command: real networks, small ones, found, made, run, verified and compared."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from click.testing import CliRunner

import taskgraph_dnn as tg
from taskgraph_dnn.benchmarks.challenge.files import Size, read_stored_images
from taskgraph_dnn.benchmarks.challenge.oracle import Oracle
from taskgraph_dnn.benchmarks.challenge.published import PUBLISHED, SYSTEMS
from taskgraph_dnn.benchmarks.challenge.rows import Row
from taskgraph_dnn.benchmarks.challenge.runs import Configuration, Effort, Images
from taskgraph_dnn.benchmarks.challenge.tables import challenge_table, markdown
from taskgraph_dnn.benchmarks.challenge.verify import Verifier
from taskgraph_dnn.benchmarks.memory import peak_nbytes, reset_peak
from taskgraph_dnn.cli import main
from taskgraph_dnn.errors import FileError, NetworkError
from taskgraph_dnn.io.download import quiet
from taskgraph_dnn.reductions.names import EXACT
from taskgraph_dnn.reference import mismatch, reference_outputs
from tests.conftest import random_layer

ISSUE_FIELDS = (
    *("neurons", "layers", "samples", "reductions", "read_seconds", "prepare_seconds", "infer_seconds"),
    *("edges_per_second", "peak_bytes", "categories", "verified"),
)


def invoke(*arguments, code=0):
    outcome = CliRunner().invoke(main, ["challenge", *map(str, arguments)])
    assert outcome.exit_code == code, outcome.output
    return outcome


def rows_of(folder, *arguments, code=0):
    """Run the command with --repeats 1, and return its output and the rows of its JSON file."""
    file = folder / "rows.json"
    outcome = invoke("--data", folder, "--json", file, "--repeats", 1, *arguments, code=code)
    return outcome, json.loads(file.read_text())


def size_in(folder, **changes):
    return Size(
        **{"neurons": 256, "layers": 24, "samples": 300, "seed": 1, "folder": folder, "official": (), **changes}
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with all that a small configuration needs, and the configuration."""
    folder = tmp_path_factory.mktemp("small")
    size = size_in(folder)
    stored = size.make(quiet)
    images = Images.read(size, stored.images)
    effort = Effort(repeats=1, none_seconds=60, check_seconds=60)
    return Configuration(size, 24, stored, images, effort, {"scheduler": "synchronous"})


def verifier_of(configuration):
    return Verifier(configuration, Oracle(configuration.images.rows[configuration.images.compared]))


def test_every_configuration_has_its_rows(tmp_path):
    outcome, rows = rows_of(tmp_path, "--neurons", "1024", "--layers", "60,12", "--samples", 500)
    assert [(row["layers"], row["reductions"]) for row in rows] == [
        (layers, name) for layers in (12, 60) for name in ("none", "dynamic", "exact")
    ]
    images = tg.digit_images(500, 1024)
    for row in rows:
        assert set(ISSUE_FIELDS) < row.keys()
        expected = tg.infer(tg.radixnet(1024, row["layers"]), images, reductions="none").compute()
        assert row["categories"] == len(expected.categories)
        assert row["edges_per_second"] == pytest.approx(expected.edges / row["infer_seconds"])
        assert row["verified"] is True
        assert row["verified_layers"] == row["layers"]
        assert (row["samples"], row["samples_run"], row["official_network"]) == (500, 500, False)
        assert row["infer_seconds_all"] == [row["infer_seconds"]]
        assert row["peak_bytes"] > 2**20
        assert f"{row['layers']} layers" in " ".join(check["name"] for check in row["checks"])
    assert rows[0]["multiply_adds_share"] == 1.0
    assert rows[0]["multiply_adds"] > rows[1]["multiply_adds"] > rows[2]["multiply_adds"]
    assert "1,024 x 60" in outcome.stdout
    assert "prepare s" in outcome.stderr


def test_files_are_made_once_and_serve_shallower_networks(tmp_path):
    first = rows_of(tmp_path, "--neurons", 64, "--layers", 24, "--samples", 200, "--reductions", "exact")[1]
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "rows.json"}
    assert sorted(path.name for path in files) == ["images-64-200-seed0.npz", "network-64x24-seed0.safetensors"]
    assert first[0]["convert_seconds"] > 0
    assert first[0]["make_images_seconds"] > 0
    again = rows_of(tmp_path, "--neurons", 64, "--layers", "8,24", "--samples", 100, "--reductions", "exact")[1]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "rows.json"} == files
    assert [row["convert_seconds"] for row in again] == [None, None]
    assert [row["make_images_seconds"] for row in again] == [None, None]
    assert all(row["verified"] for row in again)
    other = rows_of(tmp_path, "--neurons", 64, "--layers", 30, "--samples", 100, "--seed", 3, "--reductions", "none")[1]
    assert other[0]["convert_seconds"] > 0
    assert {"network-64x30-seed3.safetensors", "images-64-100-seed3.npz"} < {path.name for path in tmp_path.iterdir()}


def test_a_row_has_the_reductions_that_it_names(tmp_path):
    rows = rows_of(
        tmp_path, "--neurons", 64, "--layers", 12, "--samples", 200, "--reductions", "dead-samples+fixed-point,none"
    )[1]
    assert [row["reductions"] for row in rows] == ["dead-samples+fixed-point", "none"]
    assert rows[0]["reductions_used"] == ["dead-samples", "fixed-point"]
    assert rows[1]["reductions_used"] == []


def test_rows_without_reductions_are_cut_short(tmp_path):
    outcome, rows = rows_of(tmp_path, "--neurons", 256, "--layers", 24, "--samples", 1000, "--none-seconds", "1e-6")
    assert [row["samples_run"] for row in rows] == [256, 1000, 1000]
    assert [row["samples"] for row in rows] == [1000] * 3
    assert all(row["verified"] for row in rows)
    assert rows[0]["multiply_adds"] == 256 * rows[0]["edges"]
    assert 0 < rows[0]["categories"] < rows[1]["categories"]
    # Its categories were drawn at random, and are still compared.
    assert "categories of none" in [check["name"] for check in rows[1]["checks"]]
    assert "(256 images)" in outcome.stdout
    assert "on so many only" in outcome.stdout


def test_how_deep_the_reference_went_is_said(tmp_path):
    options = "--neurons", 64, "--layers", "30,60", "--samples", 200, "--check-seconds", 0, "--none-seconds", "1e-6"
    outcome, rows = rows_of(tmp_path, *options)
    assert [row["verified_layers"] for row in rows] == [30] * 3 + [40] * 3
    assert all(row["verified"] for row in rows)
    assert "yes, 40 layers" in outcome.stdout


@pytest.fixture
def official(official_data, tmp_path):
    """A folder as `fetch` leaves it, with the first 1,200 images."""
    for name, there in (
        ("neuron1024.tar.gz", "neuron1024.tar.gz"),
        ("sparse-images-1024.tsv.gz", "sparse-images-1024-first1200.tsv.gz"),
    ):
        (tmp_path / name).symlink_to(official_data / "graph-challenge" / there)
    shutil.copy(official_data / "graph-challenge" / "neuron1024-l120-categories.tsv", tmp_path)
    return tmp_path


def test_official_files_are_taken_where_they_are(official):
    _, rows = rows_of(official, "--neurons", 1024, "--layers", 120, "--samples", 1200)
    assert [row["categories"] for row in rows] == [19] * 3
    for row in rows:
        assert (row["verified"], row["official_network"], row["official_images"]) == (True, True, True)
        assert (row["checks"][0]["name"], row["checks"][0]["passed"]) == ("official categories", True)
        assert row["verified_layers"] == 120
    names = {path.name for path in official.iterdir()}
    assert {"network-1024x120-official.safetensors", "images-1024-1200-official.npz"} < names


def test_a_wrong_answer_is_said_and_the_exit_status_is_1(official):
    categories = official / "neuron1024-l120-categories.tsv"
    lines = categories.read_text().splitlines(keepends=True)
    categories.write_text("".join(lines[1:]))
    options = "--neurons", 1024, "--layers", 120, "--samples", 1200, "--reductions", "exact"
    outcome, rows = rows_of(official, *options, code=1)
    assert [row["verified"] for row in rows] == [False]
    assert "NO" in outcome.stdout
    assert "official categories: 18 categories, 0 are missing, 1 are wrong" in outcome.stdout


def test_too_few_official_images(official):
    outcome = invoke("--data", official, "--neurons", 1024, "--layers", 120, "--samples", 1201, code=1)
    assert "has 1,200 images, expected 1,201" in outcome.output


@pytest.mark.parametrize("reductions", [(), EXACT], ids=["none", "exact"])
def test_verification_sees_a_wrong_value_and_a_wrong_category(small, reductions):
    run = small.run(reductions)
    assert all(check.passed for check in verifier_of(small).checks("right", run, reductions))
    distinct = run.result.distinct.copy()
    distinct.data *= np.float32(1.01)
    off = replace(run, result=replace(run.result, distinct=distinct))
    failed = [check for check in verifier_of(small).checks("off", off, reductions) if not check.passed]
    assert [check.name for check in failed] == ["float32 against the float64 reference, 24 layers"]
    assert "1.0e-02" in failed[0].detail

    verifier = verifier_of(small)
    verifier.checks("right", run, reductions)
    lost = run.result.rows.copy()
    lost[run.result.categories[-1]] = -1
    found = verifier.checks("lost", replace(run, result=replace(run.result, rows=lost)), reductions)
    assert [check.detail for check in found if check.name == "categories of right"] == [
        f"{len(run.categories):,} categories, 1 are missing, 0 are wrong"
    ]
    assert not all(check.passed for check in found)


def test_the_reference_goes_on_where_it_stopped(rng):
    layers = [random_layer(rng, 30, 30, bias=-np.abs(rng.normal(0, 0.1, 30)), cap=2.0) for _ in range(60)]
    network, images = tg.Network(layers), tg.digit_images(50, 64)[:, :30].tocsr()
    oracle = Oracle(images)
    found = oracle.references(network.head(20), 60)
    assert [reference.layers for reference in found] == [10, 20]
    found += oracle.references(network, 0)
    assert [reference.layers for reference in found] == [10, 20, 10, 40]
    found += oracle.references(network, 60)
    assert [reference.layers for reference in found[-3:]] == [10, 40, 60]
    for reference in found:
        expected = reference_outputs(network.head(reference.layers), images)
        assert mismatch(reference.outputs, expected) < 1e-12
    assert found[0].outputs.nnz > 0


def test_the_reference_refuses_what_could_revive_a_sample(rng):
    images = scipy.sparse.csr_array((3, 8), dtype=np.float32)
    layers = [random_layer(rng, 8, 8, bias=-0.1), random_layer(rng, 8, 8, bias=0.1)]
    with pytest.raises(NetworkError, match=r"layer 2 has relu and biases up to 0\.1"):
        Oracle(images).references(tg.Network(layers), 1)


def test_images_are_kept_as_they_are(small):
    path = small.size.images
    images, expected = read_stored_images(path, 120, 256), tg.digit_images(120, 256, seed=1)
    assert images.dtype == np.float32
    assert (images.indptr.tolist(), images.indices.tolist()) == (expected.indptr.tolist(), expected.indices.tolist())
    assert (images.data == 1).all()


def test_damaged_files_are_refused(small, tmp_path):
    content = small.size.images.read_bytes()
    damaged = tmp_path / "images-256-300-seed1.npz"
    for wrong in (content[: len(content) // 2], b"", content.replace(content[2000:2004], b"\xff\xff\xff\xff", 1)):
        damaged.write_bytes(wrong)
        with pytest.raises(FileError, match=r"images-256-300-seed1\.npz"):
            read_stored_images(damaged, 300, 256)
    damaged.write_bytes(content)
    with pytest.raises(FileError, match=r"shape \(300, 256\), expected at least 301 x 256"):
        read_stored_images(damaged, 301, 256)
    np.savez(damaged, shape=np.array([2, 256]), indptr=np.array([0, 1, 2]), columns=np.array([3, 256]))
    with pytest.raises(FileError, match="out of range"):
        read_stored_images(damaged, 2, 256)


def test_a_network_that_is_not_what_its_name_says(small, tmp_path):
    shutil.copy(small.stored.network, tmp_path / "network-64x30-seed0.safetensors")
    outcome = invoke("--data", tmp_path, "--neurons", 64, "--layers", 24, "--samples", 10, code=1)
    assert "has 256 neurons, expected 64" in outcome.output
    outcome = invoke("--data", tmp_path, "--neurons", 64, "--layers", 30, "--samples", 10, code=1)
    assert "has 24 layers, expected at least 30" in outcome.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--neurons", "1000"], "neurons is 1000, expected 1024, 4096, 16384, 65536"),
        (["--neurons", "512"], "neurons is 512, expected"),
        (["--neurons", "16"], "neurons is 16, expected"),
        (["--neurons", "64,many"], "neurons has 'many', expected \"all\", or some of 1024, 4096, 16384, 65536"),
        (["--layers", "0"], "layers is 0, expected 120, 480, 1920"),
        (["--layers", "12,"], "layers has ''"),
        (["--reductions", "none,quick"], "unknown reduction 'quick'"),
        (["--samples", "0"], "samples is 0, expected at least 1"),
        (["--scheduler", "nowhere"], "unknown scheduler 'nowhere'"),
        (["--json", "no/such/folder/rows.json"], "there is no folder"),
        (["--markdown", "/dev/null"], "no regular file"),
        (["--layers", "1000000000"], "bytes more are needed, but"),
    ],
)
def test_bad_input_is_said_before_any_work(tmp_path, options, message):
    outcome = invoke("--data", tmp_path, "--neurons", 64, "--layers", 2, "--samples", 2, *options, code=1)
    assert message in outcome.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_interrupted_it_keeps_the_rows_that_are_done(tmp_path):
    file = tmp_path / "rows.json"
    options = "--neurons 1024 --layers 120 --samples 20000 --repeats 30 --none-seconds 1000 --reductions exact,none"
    command = [sys.executable, "-m", "taskgraph_dnn", "challenge", "--data", tmp_path, "--json", file, *options.split()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        while "120: none" not in run.stderr.readline():
            assert run.poll() is None
        time.sleep(0.5)
        os.killpg(run.pid, signal.SIGINT)
        output, errors = run.communicate()
    assert run.returncode == 1
    assert "Aborted!" in errors
    assert "Traceback" not in errors
    assert "1,024 x 120" in output
    assert [row["reductions"] for row in json.loads(file.read_text())] == ["exact"]
    assert not list(tmp_path.glob(".draft*"))


def made_row(**changes):
    fields = dict.fromkeys(Row.__dataclass_fields__, 0)
    machine = {"processor": "P", "cores": 2, "memory_nbytes": 2**34, "python": "3", "packages": {"numpy": "2"}}
    of_the_challenge = {"neurons": 1024, "layers": 120, "samples": 60000, "samples_run": 60000, "verified_layers": 120}
    texts = {"reductions": "exact", "scheduler": "threads", "machine": machine, "checks": (), "convert_seconds": None}
    return Row(**{**fields, **of_the_challenge, **texts, "verified": True, **changes})


def test_published_times_stand_beside():
    rate = 60000 * 32 * 1024 * 120 / 0.4
    head, official, sampled, other = challenge_table(
        [
            made_row(infer_seconds=0.4, edges_per_second=rate),
            made_row(edges_per_second=rate, samples_run=640),
            made_row(layers=480, edges_per_second=rate),
        ]
    )
    assert head[-5:] == [*SYSTEMS, "rate / SNIG, 1 GPU"]
    assert official[-5:] == ["0.8", "0.19", "1.43", "0.013", "2"]
    assert sampled[-1] == "~2"
    assert other[-5:] == [""] * 5
    assert all(sorted(times.seconds)[0] == times.snicit for times in PUBLISHED.values())


def test_the_page_names_hardware_and_what_was_cut_short():
    page = markdown([made_row(samples_run=640, verified_layers=40, convert_seconds=12.0)], "make challenge")
    assert "on P, 2 cores, 16 GiB" in page
    assert "one NVIDIA RTX 2080 Ti" in page
    assert "(640 images)" in page
    assert "yes, 40 layers" in page
    assert "1,024 neurons 12 s" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the peak anew")
def test_peak_memory_is_of_the_work_that_was_done():
    reset_peak()
    before = peak_nbytes()
    np.ones(2**27, np.uint8).sum()
    assert peak_nbytes() >= before + 2**26
    reset_peak()
    assert peak_nbytes() < before + 2**26
