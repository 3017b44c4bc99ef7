"""How far a run is: the front that its events make, on terminals of any size and in a pipe."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
from dataclasses import replace

import dask
import pytest
from rich.console import Console

import taskgraph_dnn as tg
from taskgraph_dnn import executors
from taskgraph_dnn.cli import watch

RUN = [sys.executable, "-m", "taskgraph_dnn", "run", "--neurons", "64", "--layers", "8", "--watch"]
SHOW_CURSOR, HIDE_CURSOR = b"\x1b[?25h", b"\x1b[?25l"


@pytest.fixture(scope="module")
def result():
    """A run of several spans and partitions, whose last samples meet in a merged one."""
    network, images = tg.radixnet(neurons=64, layers=8, seed=5), tg.digit_images(samples=200, neurons=64, seed=5)
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-5, "taskgraph-dnn.partitions": 3}):
        made = tg.infer(network, images, kernel="scipy").compute(scheduler="synchronous")
    assert made.plan.merged
    return made


def test_a_front_ends_where_the_run_does_whatever_the_order_of_events(result, rng):
    front = watch.Front(result.plan)
    assert (front.tasks, front.seconds_left, front.edges_per_second) == (0, None, 0)
    events = [*result.events, *result.events[:3]]  # a lost worker's tasks are run again
    for number in rng.permutation(len(events)):
        front.add(events[number])
    assert front.tasks == result.plan.tasks
    assert (front.layers == 8).all()
    assert front.seconds_left == 0
    assert front.alive.sum() == len(result.categories)
    assert front.edges_per_second * front.seconds == pytest.approx(result.edges, rel=0.5)
    assert f"{result.plan.tasks} of {result.plan.tasks} tasks, layers 8 to 8 of 8" in str(front)
    assert str(front).endswith("so far, done")
    assert str(watch.Front(replace(result.plan, partitions=(), merged=0))).endswith("so far, done")


def test_a_front_knows_how_far_each_partition_is(result, monkeypatch):
    plan = result.plan
    front = watch.Front(plan)
    (first,) = [event for event in result.events if event.partition == 1 and event.first_layer == 1]
    front.add(first)
    assert front.tasks == 1
    assert front.layers.tolist() == [0, first.last_layer - plan.folds_inputs, 0, 0]
    sizes = [stop - start for start, stop in plan.partitions]
    assert front.alive.tolist() == [sizes[0], first.alive, sizes[2], 0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: front.began + 10.0)
    share = plan.task_seconds[1, 0] / plan.task_seconds.sum()
    assert front.seconds_left == pytest.approx(10 * (1 - share) / share)
    edges = sizes[1] * sum(layer.edges for layer in plan.layers[: first.last_layer])
    assert front.edges_per_second == pytest.approx(edges / 10)


def test_what_earlier_attempts_did_counts_as_done_but_not_as_fast(result):
    front = watch.Front(replace(result.plan, attempt=1))
    for event in result.events:
        front.add(event)  # of attempt 0
    assert front.tasks == result.plan.tasks
    assert (front.seconds_left, front.edges_per_second) == (0, 0)
    assert front.alive.sum() == len(result.categories)


def test_events_reach_a_front_while_the_run_goes_on(result):
    network, images = tg.radixnet(neurons=64, layers=8, seed=5), tg.digit_images(samples=200, neurons=64, seed=5)
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-5, "taskgraph-dnn.partitions": 3}):
        inference = tg.infer(network, images, kernel="scipy")
    front = watch.Front(inference.plan)
    seen = []
    with (
        executors.watching(inference.token, front.add),
        executors.watching(inference.token, lambda e: seen.append(front.tasks)),
    ):
        inference.compute(scheduler="synchronous")
    assert seen == list(range(1, inference.plan.tasks + 1))


def picture(front, width, height, encoding="utf-8"):
    console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding), width=width, height=height)
    return watch._picture(front, console).plain.splitlines()


@pytest.mark.parametrize("partitions", [1, 7, 1000])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 10)])
def test_a_picture_fits_its_terminal(result, rng, width, height, partitions):
    plan = replace(result.plan, partitions=tuple((n, n + 1) for n in range(partitions)))
    front = watch.Front(plan)
    front.reached = rng.integers(0, len(plan.layers) + 1, len(front.reached))
    words, *rows = picture(front, width, height)
    assert len(rows) <= height - -(-len(words) // width) or len(rows) == 1
    assert all(len(row) <= width for row in rows)
    assert len(rows) == min(partitions + plan.merged, max(1, height - 4))
    assert len({row.index(" ", 8) for row in rows}) == 1  # blocks are of one length


def test_a_row_tells_the_slowest_partition_from_the_fastest(result):
    assert watch._blocks(0, 0, 8, 16, "#=.") == "." * 16
    assert watch._blocks(2, 5, 8, 16, "#=.") == "####======......"
    assert watch._blocks(8, 8, 8, 16, "#=.") == "#" * 16
    assert len(watch._blocks(1, 1919, 1920, 7, "#=.")) == 7


def test_a_terminal_without_unicode_gets_letters(result):
    front = watch.Front(result.plan)
    for event in result.events[:5]:
        front.add(event)
    assert all("".join(picture(front, 80, 24, "ascii")).isascii() for _ in range(1))
    assert any(glyph in "".join(picture(front, 80, 24)) for glyph in "█▒·")


def test_a_pipe_gets_lines():
    done = subprocess.run([*RUN, "--samples", "200"], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 3
    line = re.compile(
        r"\d+ of \d+ tasks, layers \d+ to \d+ of 8, [\d,]+ of 200 samples alive, \d+ threads?, \S+ edges/s, "
        r".+ so far, (.+ left|time left unknown|done)"
    )
    assert all(line.fullmatch(each) for each in lines), lines
    tasks = re.match(r"(\d+) of (\d+) tasks", lines[-1])
    assert tasks[1] == tasks[2]
    assert "samples with a nonzero output" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def watched(*options, until=None):
    """Run with standard error on a terminal; end it with Ctrl-C when that has shown `until`."""
    leader, follower = pty.openpty()
    seen, stopped = b"", False
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    streams = {"stdout": subprocess.PIPE, "stderr": follower, "env": environment, "start_new_session": True}
    with subprocess.Popen([*RUN, *options], **streams) as process:
        os.close(follower)
        while select.select([leader], [], [], 60)[0]:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
            if until is not None and not stopped and until in seen:
                os.killpg(process.pid, signal.SIGINT)
                stopped = True
        process.stdout.read()
        code = process.wait(60)
    os.close(leader)
    return code, seen


def test_a_terminal_gets_a_moving_front_and_is_left_whole():
    code, seen = watched("--samples", "2000")
    assert code == 0
    assert b"samples alive" in seen
    assert "█".encode() in seen or "·".encode() in seen
    assert seen.rfind(SHOW_CURSOR) > seen.rfind(HIDE_CURSOR) > 0


def test_ctrl_c_leaves_the_terminal_whole():
    slow = ["--samples", "60000", "--kernel", "scipy", "--reductions", "none", "--layers", "1920"]
    code, seen = watched(*slow, until=b"samples alive")
    assert code == 1
    assert b"Aborted!" in seen
    assert b"Traceback" not in seen
    assert seen.rfind(SHOW_CURSOR) > seen.rfind(HIDE_CURSOR) > 0
