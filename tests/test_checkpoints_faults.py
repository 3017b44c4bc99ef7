"""Checkpointed runs whose client, scheduler, workers or disk fail: the right answer afterwards, nothing done twice."""

import os
import re
import signal
import subprocess
import sys
from itertools import count

import dask
import pytest
from distributed import Client

import taskgraph_dnn as tg
from taskgraph_dnn import executors
from taskgraph_dnn.errors import CheckpointError, ClusterError
from tests.clusters import address, command_cluster, until
from tests.test_checkpoints import cut_off
from tests.test_inference import equal

COMMAND = [sys.executable, "-m", "taskgraph_dnn"]
FINE = {"taskgraph-dnn.task-seconds": 1e-9, "taskgraph-dnn.checkpoint.every": 0}
FINE_ENV = {"DASK_TASKGRAPH_DNN__TASK_SECONDS": "1e-9", "DASK_TASKGRAPH_DNN__CHECKPOINT__EVERY": "0"}
LAYERS, PARTITIONS = 60, 6
JOB = ["--neurons", "256", "--layers", LAYERS, "--samples", "3000", "--seed", "3"]
CHOICES = ["--partitions", PARTITIONS, "--reductions", "none", "--kernel", "scipy"]


@pytest.fixture(autouse=True)
def fine():
    with dask.config.set(FINE):
        yield


@pytest.fixture(scope="module")
def network():
    return tg.radixnet(256, LAYERS, seed=3)


@pytest.fixture(scope="module")
def images():
    return tg.digit_images(3000, 256, seed=3)


@pytest.fixture(scope="module")
def expected(network, images):
    return tg.infer(network, images, reductions="none", kernel="scipy").compute(scheduler="threads")


@pytest.fixture
def begin(network, images, tmp_path):
    """Return the checkpointed inference that the commands run, too."""

    def infer(**options):
        choices = {"partitions": PARTITIONS, "reductions": "none", "kernel": "scipy"}
        return tg.infer(network, images, checkpoint=tmp_path / "kept", **choices | options)

    return infer


def kept(folder):
    """How far each partition is, by its files."""
    found = {}
    for file in (folder / "kept").glob("partition-*"):
        match = re.fullmatch(r"partition-(\d+)-layer-(\d+)\.safetensors", file.name)
        found[int(match[1])] = max(found.get(int(match[1]), 0), int(match[2]))
    return found


def in_the_middle(folder):
    """Whether a partition is finished, and another one on its way."""
    reached = kept(folder).values()
    return LAYERS in reached and any(5 < layers < LAYERS for layers in reached)


def resumed(inference, expected, compute=tg.Inference.compute):
    """Compute the rest of an inference: the right answer, without anything that was kept."""
    reached = inference.expr.reached
    result = compute(inference)
    assert equal(result.outputs, expected.outputs)
    assert result.layers == expected.layers
    earlier = sum(event.attempt < inference.plan.attempt for event in result.events)
    assert earlier == sum(reached.values()) > LAYERS  # each layer is a task
    assert len(result.events) == LAYERS * PARTITIONS
    assert result.resumed.finished == list(reached.values()).count(LAYERS)
    return result


def with_fault(inference, tasks, fault):
    """Compute an inference, and do something when so many of this attempt's tasks have ended."""
    ended = count(1)

    def look(event):
        if event.attempt == inference.plan.attempt and next(ended) == tasks:
            fault()

    with executors.watching(inference.token, look):
        result = inference.compute()
    assert next(ended) > tasks
    return result


@pytest.mark.slow
def test_a_client_that_is_killed(begin, expected, tmp_path):
    command = [*COMMAND, "run", *JOB, *CHOICES, "--checkpoint", tmp_path / "kept"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(list(map(str, command)), env={**os.environ, **FINE_ENV}, stdout=log, stderr=log)
        until(lambda: in_the_middle(tmp_path), tmp_path)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    before = kept(tmp_path)
    inference = begin(resume=True)
    assert inference.expr.reached == before
    assert resumed(inference, expected).resumed.finished >= 1


@pytest.mark.slow
def test_a_scheduler_that_is_killed_and_then_a_worker(begin, expected, tmp_path):
    """What the worker had is made again from what the attempt began with."""
    cut_off(begin(), 100)
    assert LAYERS in kept(tmp_path).values()
    one = command_cluster(tmp_path, worker=["--no-nanny"], workers=1)
    lost = pytest.raises(ClusterError, match="the connection to the scheduler was lost")
    with one as (scheduler, _), Client(address(tmp_path), timeout=2), lost:
        with_fault(begin(resume=True), 100, scheduler.kill)
    with command_cluster(tmp_path, worker=["--nanny"]), Client(address(tmp_path)) as client:
        victim = min(client.run(os.getpid).values())
        inference = begin(resume=True)
        assert (inference.plan.attempt, inference.plan.workers) == (2, 2)
        assert sum(inference.expr.reached.values()) > 150
        resumed(inference, expected, lambda left: with_fault(left, 30, lambda: os.kill(victim, signal.SIGKILL)))


@pytest.mark.slow
def test_a_job_that_is_cancelled(begin, expected, tmp_path):
    def call(*arguments):
        command = [*COMMAND, *map(str, arguments), "--scheduler", str(tmp_path / "scheduler.json")]
        env = {**os.environ, **FINE_ENV}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr

    with command_cluster(tmp_path, worker=["--no-nanny"]):
        call("submit", *JOB, *CHOICES, "--checkpoint", tmp_path / "kept", "--name", "first")
        until(lambda: sum(kept(tmp_path).values()) > 2 * LAYERS, tmp_path)
        call("cancel", "first")
        resumed(begin(resume=True), expected)  # on threads, whatever the workers still do


@pytest.fixture
def disk(tmp_path):
    """A disk of 1 MiB, at `kept`; remounted by what it is called with."""
    folder = tmp_path / "kept"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done = mount("size=1m")
    if done.returncode:
        pytest.skip(f"nobody may mount a disk here: {done.stderr.strip()}")
    try:
        yield lambda options: mount(f"remount,{options}").check_returncode()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(begin, expected, disk, tmp_path):
    inference = begin()
    with pytest.raises(
        CheckpointError, match=r"cannot keep partition \d after layer \d+: cannot write .*No space left"
    ):
        inference.compute(scheduler="synchronous")
    before = kept(tmp_path)
    assert before
    assert not list((tmp_path / "kept").glob(".draft*"))
    disk("size=100m")
    inference = begin(resume=True)
    assert inference.expr.reached == before
    result = inference.compute(scheduler="threads")
    assert equal(result.outputs, expected.outputs)
    assert sum(event.attempt == 0 for event in result.events) == sum(before.values())


def test_a_disk_that_is_read_only(begin, expected, disk):
    disk("ro")
    with pytest.raises(
        CheckpointError, match="cannot keep checkpoints at .*: cannot write .*: no permission to write in .*kept"
    ):
        begin()
    disk("rw,size=100m")
    inference = begin()
    disk("ro")
    with pytest.raises(CheckpointError, match=r"cannot keep partition \d after layer 1: .*no permission"):
        inference.compute(scheduler="synchronous")
    with pytest.raises(CheckpointError, match="cannot keep checkpoints at .*: no permission"):
        begin(resume=True)
    disk("rw")
    assert equal(begin(resume=True).compute(scheduler="threads").outputs, expected.outputs)


LIMITED = """
import resource, sys
import taskgraph_dnn as tg
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
inference = tg.infer(tg.radixnet(256, 4), tg.digit_images(3000, 256), kernel="scipy", reductions="none", partitions=3,
                     checkpoint=sys.argv[1])
try:
    inference.compute(scheduler="synchronous")
except tg.CheckpointError as error:
    print(error)
"""


def test_a_file_that_cannot_be_as_large(tmp_path):
    """Anybody's disk can be full in this way."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path / "kept"],
        env={**os.environ, **FINE_ENV},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert re.match(r"cannot keep partition \d after layer 1: cannot write .*File too large", done.stdout)
    assert {file.name for file in (tmp_path / "kept").iterdir()} == {"manifest.json"}
