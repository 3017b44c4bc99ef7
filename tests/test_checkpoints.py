"""Runs that are cut off and resumed: every bit as if they had not been, nothing done twice, nothing foreign taken."""

import hashlib
import json
import shutil
import time
from dataclasses import replace
from importlib.util import find_spec
from itertools import count, pairwise

import dask
import dask.array as da
import numpy as np
import pytest
import safetensors.numpy
import scipy.sparse
from distributed import Client, LocalCluster
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.activations import Activations
from taskgraph_dnn.checkpoints import rows_digest
from taskgraph_dnn.config import checkpoint_settings, make_job
from taskgraph_dnn.errors import CheckpointError, FileError, MissingDependencyError, PlanError
from taskgraph_dnn.events import TaskEvent, subscribed
from taskgraph_dnn.flow import Budget, Span
from taskgraph_dnn.io.places import Place
from taskgraph_dnn.io.sealed import sealed, unsealed
from taskgraph_dnn.spans import Progressed
from taskgraph_dnn.strategies import checkpoint_stops
from tests.conftest import random_layer
from tests.test_cli import SMALL, invoke
from tests.test_inference import equal

#: As many tasks, and as many files, as there can be.
FINE = {"taskgraph-dnn.task-seconds": 1e-9, "taskgraph-dnn.checkpoint.every": 0}


@pytest.fixture(autouse=True)
def fine():
    with dask.config.set(FINE):
        yield


@pytest.fixture
def network(rng):
    """Samples die on the way, and some become equal."""
    first = random_layer(rng, 30, 40, bias=-0.1, cap=1.0)
    square = [random_layer(rng, 40, 40, density=0.2, bias=-0.3, cap=1.0) for _ in range(6)]
    return tg.Network([first, *square, random_layer(rng, 40, 10, bias=-0.1)])


@pytest.fixture
def rows(rng):
    return scipy.sparse.random_array((200, 30), density=0.3, rng=rng, format="csr", dtype=np.float32)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "kept"


def cut_off(inference, tasks):
    """Compute an inference until so many of its tasks have ended and are kept; the next one's end is the run's."""
    ended = count()

    def stop(event):
        if next(ended) == tasks:
            raise KeyboardInterrupt

    with subscribed(stop), pytest.raises(KeyboardInterrupt):
        inference.compute(scheduler="synchronous")


def same(found, expected):
    """Every bit, and what was done for it."""
    assert equal(found.outputs, expected.outputs)
    assert found.outputs.dtype == expected.outputs.dtype
    np.testing.assert_array_equal(found.categories, expected.categories)
    assert found.layers == expected.layers
    assert [e.partition for e in found.events] == [e.partition for e in expected.events]
    return True


def resumed_equals(network, samples, place, tasks, **options):
    """Whether a run that is cut off after so many tasks ends as one that is not, and does only what was left."""
    expected = tg.infer(network, samples, checkpoint=place / "whole", **options).compute(scheduler="threads")
    cut_off(tg.infer(network, samples, checkpoint=place / "cut", **options), tasks)
    inference = tg.infer(network, samples, checkpoint=place / "cut", resume=True, **options)
    found = inference.compute(scheduler="threads")
    assert sum(event.attempt == 0 for event in found.events) == tasks
    assert all(event.run == inference.token for event in found.events)
    assert equal(found.outputs, tg.infer(network, samples, **options).compute(scheduler="threads").outputs)
    return same(found, expected)


@pytest.mark.parametrize("strategy", ["hybrid", "data", "pipeline"])
@pytest.mark.parametrize("reductions", ["none", "dynamic", "exact"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_resumed_run_has_every_bit_of_one_that_was_not_cut_off(network, rows, place, strategy, reductions, dtype):
    options = {"strategy": strategy, "reductions": reductions, "dtype": dtype}
    tasks = 5 * len(tg.infer(network, rows, partitions=5, **options).plan.spans)
    for done in (tasks // 2, tasks - 1):
        assert resumed_equals(network, rows, place / str(done), done, partitions=5, **options)


@pytest.mark.parametrize("eagerly", [False, True])
def test_wherever_a_run_is_cut_off_only_the_rest_is_done(network, rows, place, eagerly, request):
    if eagerly:
        request.getfixturevalue("eager")
    options = {"partitions": 3, "kernel": "csr", "reductions": "dynamic"}
    tasks = 3 * len(tg.infer(network, rows, **options).plan.spans)
    for done in range(0, tasks, 4 if eagerly else 1):
        assert resumed_equals(network, rows, place / str(done), done, **options)


def test_samples_are_looked_at_where_they_would_have_been(place):
    """What may be spent on that is a part of what is kept, too."""
    network, images = tg.radixnet(1024, 30), tg.digit_images(1000, 1024)
    options = {"partitions": 1, "kernel": "csr", "reductions": "dynamic"}
    spans = tg.infer(network, images, **options).plan.spans
    for done in range(2, len(spans), 3):
        assert resumed_equals(network, images, place / str(done), done, **options)
    counts = tg.infer(network, images, **options).compute(scheduler="threads").layers
    assert any(after.distinct < before.alive for before, after in pairwise(counts))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("samples", [0, 1, 16, 37])
def test_what_is_kept_comes_back(network, rows, place, rng, dtype, samples):
    checkpoint = tg.infer(network, rows, checkpoint=place).expr.checkpoint
    values = rng.random((-(-samples // 16), 40, 16)).astype(dtype)
    numbers, copies, twins = (rng.integers(0, 200, size) for size in (samples, samples, (2, samples // 3)))
    event = TaskEvent("other", 2, 1, 3, "me", 0.1, 3.5, 4.25, 9, 77, np.arange(9).reshape(3, 3), 1, 2, 3, 0.5)
    for budget in (Budget(12.3456789012345, 1e9), Budget(0.0, np.inf)):
        before = Progressed(Activations(values, numbers, copies), twins, budget, (event,))
        span = Span("run", 2, 0, 2, 3, ("csr",), 16, 1, dtype, ())
        checkpoint.keep(before, span, None)
        after = checkpoint.kept(span, 40, last=False)
        assert after.activations.values.dtype == dtype
        for name in ("values", "samples", "copies"):
            np.testing.assert_array_equal(getattr(after.activations, name), getattr(before.activations, name))
            assert getattr(after.activations, name).flags.writeable
        np.testing.assert_array_equal(after.twins, twins)
        assert after.budget == budget
        assert after.events == (replace(event, run="run"),)
        np.testing.assert_array_equal(after.events[0].counts, event.counts)


@pytest.mark.parametrize("samples", [0, 1, 17])
def test_few_samples(network, rows, place, samples):
    few = rows[:samples]
    expected = tg.infer(network, few).compute(scheduler="threads")
    tg.infer(network, few, checkpoint=place)
    result = tg.infer(network, few, checkpoint=place, resume=True).compute(scheduler="threads")
    again = tg.infer(network, few, checkpoint=place, resume=True).compute(scheduler="threads")
    assert equal(result.outputs, expected.outputs)
    assert same(again, result)


def test_partitions_of_which_nothing_is_left(network, place):
    rows = np.zeros((64, 30), np.float32)
    dead = tg.Network([tg.Layer(layer.weights, bias=-1.0) for layer in network])
    assert resumed_equals(dead, rows, place, 5, partitions=4, reductions="dynamic")


def test_a_finished_run_is_read_and_nothing_of_it_is_done(network, rows, place):
    first = tg.infer(network, rows, partitions=4, checkpoint=place).compute(scheduler="threads")
    inference = tg.infer(network, rows, partitions=4, checkpoint=place, resume=True)
    assert inference.expr.inputs.shape == (0, 30)
    assert len(inference.__dask_graph__()) == 4 + 1  # the partitions, and the network that nobody asks for
    again = inference.compute(scheduler="threads")
    assert {event.attempt for event in again.events} == {0}
    assert again.resumed == (4, 0)
    assert first.resumed == (0, 0)
    assert again.seconds.infer == pytest.approx(first.seconds.infer)
    assert same(again, first)


def test_a_run_may_be_cut_off_again_and_again(network, rows, place):
    options = {"partitions": 4, "reductions": "dynamic", "checkpoint": place}
    attempts = 0
    cut_off(tg.infer(network, rows, **options), 5)
    while True:
        attempts += 1
        inference = tg.infer(network, rows, **options, resume=True)
        assert inference.plan.attempt == attempts
        left = inference.plan.tasks - 5 * attempts
        if left < 10:
            break
        ended = count()

        def stop(event, ended=ended, now=attempts):
            if event.attempt == now and next(ended) == 5:
                raise KeyboardInterrupt

        with subscribed(stop), pytest.raises(KeyboardInterrupt):
            inference.compute(scheduler="synchronous")
    result = inference.compute(scheduler="threads")
    assert attempts > 3
    done = [sum(event.attempt == attempt for event in result.events) for attempt in range(attempts + 1)]
    assert done == [5] * attempts + [left]
    assert equal(result.outputs, tg.infer(network, rows, reductions="dynamic").compute(scheduler="threads").outputs)


def test_the_blocks_of_a_dask_array_are_made_only_where_they_are_needed(network, rows, place):
    dense = rows.toarray()
    made = []

    def block(values, block_info=None):
        made.append(block_info[None]["chunk-location"][0])
        return values

    def samples():
        array = da.from_array(dense, chunks=(50, 30))
        return array.map_blocks(block, dtype=np.float32, meta=np.empty((0, 0), np.float32), name="same")

    expected = tg.infer(network, dense).compute(scheduler="threads")
    cut_off(tg.infer(network, samples(), checkpoint=place), 12)
    made.clear()
    inference = tg.infer(network, samples(), checkpoint=place, resume=True)
    reached = set(inference.expr.reached)
    assert reached
    result = inference.compute(scheduler="synchronous")
    assert set(made) == set(range(4)) - reached
    assert equal(result.outputs, expected.outputs)
    with pytest.raises(CheckpointError, match="of another run, with inputs '"):
        tg.infer(network, da.from_array(dense, chunks=(40, 30)), checkpoint=place, resume=True)


def test_a_run_goes_on_with_its_partitions_whatever_runs_it_now(network, rows, place):
    with dask.config.set(num_workers=3):
        first = tg.infer(network, rows, checkpoint=place, strategy="pipeline")
        cut_off(first, 4)
    with dask.config.set(num_workers=7):
        inference = tg.infer(network, rows, checkpoint=place, strategy="pipeline", resume=True)
        assert (inference.plan.threads, inference.plan.workers) == (7, 7)
        assert (inference.plan.partitions, inference.plan.spans) == (first.plan.partitions, first.plan.spans)
        result = inference.compute(scheduler="threads")
    assert equal(result.outputs, tg.infer(network, rows).compute(scheduler="threads").outputs)


def test_the_time_when_nobody_ran_does_not_count(network, rows, place):
    cut_off(tg.infer(network, rows, checkpoint=place), 3)
    time.sleep(1)
    result = tg.infer(network, rows, checkpoint=place, resume=True).compute(scheduler="threads")
    passed = max(event.end for event in result.events) - min(event.start for event in result.events)
    assert passed > 1
    assert 0 < result.seconds.infer < passed - 1


# What is kept


def test_there_is_one_file_of_each_partition_at_the_end(network, rows, place):
    inference = tg.infer(network, rows, partitions=3, checkpoint=place)
    inference.compute(scheduler="threads")
    last = len(inference.plan.layers)
    expected = {"manifest.json", *(f"partition-0000{p}-layer-{last:05}.safetensors" for p in range(3))}
    assert {file.name for file in place.iterdir()} == expected


def test_what_an_attempt_began_with_stays_until_the_next_one(network, rows, place):
    """A worker that is lost takes what came of it along."""
    options = {"partitions": 1, "reductions": "none", "checkpoint": place}
    cut_off(tg.infer(network, rows, **options), 3)
    inference = tg.infer(network, rows, **options, resume=True)
    (began,) = place.glob("partition-00000-layer-00003*")
    inference.compute(scheduler="synchronous")
    assert sorted(file.name for file in place.glob("partition*")) == [
        began.name,
        "partition-00000-layer-00008.safetensors",
    ]
    inference.compute(scheduler="synchronous")  # once more, from there
    tg.infer(network, rows, **options, resume=True)
    assert not began.exists()


def test_an_attempt_that_goes_on_takes_nothing_from_the_next_one(network, rows, place):
    options = {"partitions": 2, "reductions": "none", "checkpoint": place}
    first = tg.infer(network, rows, **options)
    cut_off(first, 3)
    second = tg.infer(network, rows, **options, resume=True)
    expected = first.compute(scheduler="threads")  # all of it, from the beginning
    assert same(second.compute(scheduler="threads"), expected)
    third = tg.infer(network, rows, **options, resume=True)
    assert third.compute(scheduler="threads").resumed == (2, 0)


@pytest.mark.parametrize(("every", "stops"), [(0, (2, 5, 6, 9)), (1.5, (5, 9)), (3.0, (6, 9)), (np.inf, (9,))])
def test_checkpoints_are_so_far_apart(every, stops):
    assert checkpoint_stops(((0, 2), (2, 5), (5, 6), (6, 9)), (1.0, 1.0, 1.0, 1.0), every) == stops


@given(seconds=st.lists(st.floats(0, 10), min_size=1, max_size=20), every=st.floats(0, 30))
def test_the_end_is_always_kept(seconds, every):
    spans = tuple((number, number + 1) for number in range(len(seconds)))
    stops = checkpoint_stops(spans, seconds, every)
    assert stops[-1] == len(seconds)
    assert list(stops) == sorted(set(stops))


def test_a_run_without_a_checkpoint_has_none(network, rows):
    inference = tg.infer(network, rows)
    assert (inference.plan.checkpoints, inference.plan.attempt) == ((), 0)
    assert inference.expr.checkpoint is None


def test_partitions_are_not_merged_in_a_checkpointed_run(network, rows, place):
    options = {"partitions": 4, "reductions": "dynamic"}
    merging = tg.infer(network, rows, **options)
    kept = tg.infer(network, rows, **options, checkpoint=place)
    assert merging.plan.merged
    assert not kept.plan.merged
    assert ("merge-partitions", "off: a checkpointed run goes on partition by partition") in kept.plan.notes
    assert f"checkpoints after {len(kept.plan.spans)} of the spans" in str(kept.plan)
    assert equal(kept.compute(scheduler="threads").outputs, merging.compute(scheduler="threads").outputs)


# What is refused


def test_a_run_that_is_there_is_not_begun_anew(network, rows, place):
    tg.infer(network, rows, checkpoint=place)
    with pytest.raises(CheckpointError, match=r"kept is the checkpoint of a run that began on 20\d\d-.*: resume it"):
        tg.infer(network, rows, checkpoint=place)


def test_another_run_is_not_gone_on_with(network, rows, place, monkeypatch):
    tg.infer(network, rows, checkpoint=place)
    other = tg.Network([*network.layers[:-1], random_layer(np.random.default_rng(1), 40, 10)])
    changed = rows.copy()
    changed.data[7] += 1

    def refused(message, *given, **options):
        with pytest.raises(CheckpointError, match=message):
            tg.infer(*given, checkpoint=place, resume=True, **options)

    digests = f"with network '{network.digest}'; this one has '{other.digest}'"
    refused(digests, other, rows)
    refused(f"with inputs '{rows_digest(rows)}'; this one has '", network, changed)
    refused("with partitions 'auto'; this one has 7", network, rows, partitions=7)
    refused("with kernel 'auto'; this one has 'scipy'", network, rows, kernel="scipy")
    refused("with strategy 'hybrid'; this one has 'data'", network, rows, strategy="data")
    refused("with dtype 'float32'; this one has 'float64'", network, rows, dtype="float64")
    refused(r"with reductions \[.*\]; this one has \[\]", network, rows, reductions="none")
    monkeypatch.setattr(tg, "__version__", "0.0.7")
    refused("with version '.*'; this one has '0.0.7'", network, rows)
    monkeypatch.undo()
    assert tg.infer(network, rows, checkpoint=place, resume=True).plan.attempt == 1


def test_equal_rows_are_the_same_input(rows):
    """Whatever was done with them before, and whatever their indices' type."""
    used = scipy.sparse.csr_array((rows.data, rows.indices.astype(np.int64), rows.indptr.astype(np.int64)), rows.shape)
    used.read_seconds = 3.0
    assert used.has_canonical_format
    assert rows_digest(used) == rows_digest(rows)
    assert rows_digest(rows.toarray()) != rows_digest(rows.toarray().reshape(30, 200))


def test_a_place_with_something_else_is_left_alone(network, rows, place):
    place.mkdir()
    (place / "thesis.tex").write_text("42")
    with pytest.raises(CheckpointError, match=r"kept holds thesis.tex, but no checkpoint: take an empty place"):
        tg.infer(network, rows, checkpoint=place, resume=True)
    assert [file.name for file in place.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_place_that_cannot_be_is_refused_before_work(network, rows, tmp_path, resume):
    (tmp_path / "file").write_text("")
    for where, reason in (
        (tmp_path / "file", "File exists"),
        (tmp_path / "file" / "below", "Not a directory"),
        ("nowhere://x", "nowhere"),
        ("/proc/checkpoint", "No such file or directory"),
    ):
        with pytest.raises(CheckpointError, match=rf"cannot keep checkpoints at {where}: .*{reason}"):
            tg.infer(network, rows, checkpoint=where, resume=resume)


@pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_url_that_needs_a_package_names_it(network, rows):
    with pytest.raises(MissingDependencyError, match="s3://bucket/run: Install s3fs"):
        tg.infer(network, rows, checkpoint="s3://bucket/run")


@pytest.mark.parametrize("where", ["", 7, b""])
def test_a_place_is_a_folder_or_a_url(network, rows, where):
    with pytest.raises(PlanError, match="checkpoint is .*, expected a folder or a URL"):
        tg.infer(network, rows, checkpoint=where)


def test_nothing_is_resumed_from_nowhere(network, rows):
    with pytest.raises(PlanError, match="resume needs a checkpoint"):
        tg.infer(network, rows, resume=True)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 10**5])
def test_a_manifest_that_is_none(network, rows, place, content):
    place.mkdir()
    (place / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"manifest.json is damaged: .*; take another place"):
        tg.infer(network, rows, checkpoint=place, resume=True)


def test_a_manifest_with_another_plan(network, rows, place):
    tg.infer(network, rows, checkpoint=place, partitions=2)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["plan"]["partitions"][0][1] -= 1
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="it has SHA-256 .*, but was written with .*; take another place"):
        tg.infer(network, rows, checkpoint=place, partitions=2, resume=True)


def test_a_manifest_of_another_format(network, rows, place):
    tg.infer(network, rows, checkpoint=place)
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["about"]["format"] = 7
    seal = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (place / "manifest.json").write_text(json.dumps({**manifest, "sha256": seal}))
    with pytest.raises(CheckpointError, match="of another run, with format 7; this one has 1"):
        tg.infer(network, rows, checkpoint=place, resume=True)


# Damage


@pytest.fixture
def half_done(network, rows, place):
    """A run that was cut off: how to resume it, its expected outputs, and the file of the partition on its way."""
    options = {"partitions": 3, "reductions": "none", "kernel": "scipy"}
    cut_off(tg.infer(network, rows, checkpoint=place, **options), 11)
    expected = tg.infer(network, rows, **options).compute(scheduler="synchronous").outputs
    on_its_way = [file for file in place.glob("partition*") if not file.name.endswith("-layer-00008.safetensors")]
    return lambda: tg.infer(network, rows, checkpoint=place, resume=True, **options), expected, on_its_way[0]


def refuses(resume, file, what, *, damaged=True):
    with pytest.raises(CheckpointError, match=what) as caught:
        resume().compute(scheduler="synchronous")
    assert f"cannot go on with partition {int(file.name[10:15])} after layer " in str(caught.value)
    assert str(file) in str(caught.value)
    assert damaged == ("remove this file and resume once more" in str(caught.value))


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("part", ["length", "header", "numbers", "end"])
def test_a_flipped_bit_is_found(half_done, place, finished, part):
    resume, expected, file = half_done
    if finished:
        file = next(place.glob("*-layer-00008.safetensors"))
    content = bytearray(file.read_bytes())
    at = {"length": 0, "header": 40, "numbers": len(content) // 2, "end": len(content) - 1}[part]
    content[at] ^= 1
    file.write_bytes(content)
    refuses(resume, file, "SHA-256|header")
    file.unlink()
    assert equal(resume().compute(scheduler="threads").outputs, expected)


def test_a_file_that_was_cut_short_is_found(half_done):
    resume, expected, file = half_done
    content = file.read_bytes()
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        refuses(resume, file, "SHA-256|header|bytes")
    file.write_bytes(content)
    assert equal(resume().compute(scheduler="threads").outputs, expected)


def test_a_file_under_another_name_is_found(half_done, place):
    resume, _, file = half_done
    finished = next(place.glob("*-layer-00008.safetensors"))
    other = file.with_name(file.name[:16] + finished.name[16:])
    shutil.copy(finished, other)
    refuses(resume, other, f"its partition is {int(finished.name[10:15])}, expected {int(file.name[10:15])}")


def test_a_file_of_another_run_is_found(half_done, network, rows, place):
    resume, _, file = half_done
    elsewhere = place.with_name("elsewhere")
    cut_off(tg.infer(network, rows, checkpoint=elsewhere, partitions=3, reductions="none", kernel="scipy"), 11)
    shutil.copy(elsewhere / file.name, file)
    refuses(resume, file, "its run is [0-9a-f]{32}, expected [0-9a-f]{32}")


def test_a_file_that_cannot_be_of_the_run_is_found(half_done, place):
    resume, _, file = half_done
    shutil.copy(file, place / "partition-00077-layer-00002.safetensors")
    with pytest.raises(CheckpointError, match="partition-00077-layer-00002.safetensors cannot be of this run"):
        resume()


def test_a_file_that_goes_in_the_meantime_is_found(half_done):
    resume, _, file = half_done
    inference = resume()
    file.unlink()
    refuses(lambda: inference, file, "FileNotFoundError", damaged=False)


def test_drafts_of_killed_writers_are_removed(half_done, place):
    resume, expected, _ = half_done
    draft = place / ".draft-0-1-00000000-partition-00001-layer-00008.safetensors"
    draft.write_bytes(b"half")
    assert equal(resume().compute(scheduler="threads").outputs, expected)
    assert not draft.exists()


# Files


def test_sealed_files_are_what_they_were(rng):
    arrays = {
        "a": rng.random((3, 4, 5)).astype(np.float32),
        "b": rng.random(7),
        "none": np.empty((0, 9), np.float32),
        "c": np.arange(5, dtype=np.int32),
        "d": np.arange(12, dtype=np.int64).reshape(3, 4).T,
    }
    content = b"".join(sealed(arrays, {"text": "ä\n"}))
    found, texts = unsealed(content)
    assert texts == {"text": "ä\n"}
    others = safetensors.numpy.load(content)
    for name, array in arrays.items():
        assert (found[name].dtype, others[name].dtype) == (array.dtype, array.dtype)
        np.testing.assert_array_equal(found[name], array)
        np.testing.assert_array_equal(others[name], array)


def test_no_damage_to_a_sealed_file_goes_unseen():
    content = b"".join(sealed({"a": np.arange(6.0), "b": np.arange(3)}, {"text": "b"}))
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(ValueError):
            unsealed(bytes(damaged))
        with pytest.raises(ValueError):
            unsealed(content[:at])


@pytest.fixture
def memory():
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return "memory://run/kept"


def test_a_checkpoint_behind_a_url(network, rows, memory):
    options = {"partitions": 4, "reductions": "dynamic"}
    expected = tg.infer(network, rows, **options).compute(scheduler="threads")
    cut_off(tg.infer(network, rows, **options, checkpoint=memory), 13)
    with pytest.raises(CheckpointError, match="memory://run/kept is the checkpoint of a run that began on"):
        tg.infer(network, rows, **options, checkpoint=memory)
    result = tg.infer(network, rows, **options, checkpoint=memory, resume=True).compute(scheduler="threads")
    assert sum(event.attempt == 0 for event in result.events) == 13
    assert equal(result.outputs, expected.outputs)
    damaged = MemoryFileSystem.store["/run/kept/partition-00002-layer-00008.safetensors"]
    damaged.seek(400)
    damaged.write(b"x")
    with pytest.raises(
        CheckpointError, match="memory://run/kept/partition-00002-layer-00008.safetensors is damaged, its"
    ):
        tg.infer(network, rows, **options, checkpoint=memory, resume=True).compute(scheduler="threads")


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_a_place_holds_what_was_written(where, tmp_path, memory):
    place = Place(tmp_path / "a" / "b" if where == "folder" else memory)
    assert place.names() == set()
    place.make()
    place.make()
    assert place.names() == set()
    place.write("x", [b"12", memoryview(np.arange(3, dtype=np.uint8))])
    place.write("x", [b"34"])
    place.write("y", [])
    assert (place.read("x"), place.read("y")) == (b"34", b"")
    assert place.names() == {"x", "y"}
    assert (place.holds("x"), place.holds("z")) == (True, False)
    place.remove("x")
    place.remove("x")
    assert place.names() == {"y"}
    with pytest.raises(FileError, match=f"cannot read {place.name}/x: "):
        place.read("x")
    assert Place(place.name).names() == {"y"}


# Settings, commands, clusters


def test_settings_of_checkpoints():
    for value, every in ((0, 0.0), ("2 minutes", 120.0), (None, np.inf)):
        with dask.config.set({"taskgraph-dnn.checkpoint.every": value}):
            assert checkpoint_settings().every == every
    for wrong in (-1, "soon", [1], np.nan):
        with dask.config.set({"taskgraph-dnn.checkpoint.every": wrong}), pytest.raises(PlanError) as caught:
            checkpoint_settings()
        assert "taskgraph-dnn.checkpoint.every is " in str(caught.value)
        assert "expected a time like" in str(caught.value)
    assert make_job().checkpoint is None
    assert make_job(checkpoint="s3://bucket/run").checkpoint == "s3://bucket/run"


def test_the_command_resumes(tmp_path):
    place, json_file = tmp_path / "kept", tmp_path / "result.json"
    options = (*SMALL, "--seed", 5, "--partitions", 3, "--checkpoint", place)
    assert "resumed" not in invoke("run", *options, "--json", json_file)
    first = json.loads(json_file.read_text())
    assert "is the checkpoint of a run that began on" in invoke("run", *options, code=1)
    for file in place.glob("partition-00001-*"):
        file.unlink()
    output = invoke("run", *options, "--resume", "--json", json_file)
    assert "2 partitions finished before, 0 under way; attempt 2" in " ".join(output.split())
    again = json.loads(json_file.read_text())
    assert again["categories"] == first["categories"]
    assert again["layer_counts"] == first["layer_counts"]
    assert (first["resumed"], again["resumed"]) == (
        {"finished": 0, "under_way": 0},
        {"finished": 2, "under_way": 0},
    )
    assert "resume needs a checkpoint" in invoke("run", *SMALL, "--resume", code=1)


@pytest.mark.slow
def test_every_worker_has_to_see_the_checkpoint(network, rows, memory, place):
    loopback = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, threads_per_worker=1, **loopback) as cluster, Client(cluster):
        unseen = tg.infer(network, rows, checkpoint=memory)
        for run in (unseen.compute, unseen.persist):
            with pytest.raises(CheckpointError, match=r"worker tcp://127.0.0.1:\d+: the checkpoint is not to be seen"):
                run()
        seen = tg.infer(network, rows, checkpoint=place, partitions=4)
        expected = seen.compute()
        again = tg.infer(network, rows, checkpoint=place, partitions=4, resume=True).persist().compute()
        assert again.resumed == (4, 0)
        assert same(again, expected)
