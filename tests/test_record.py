"""Traces, timelines and pages say what the events of a run say, and are whole files of their formats."""

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from itertools import groupby, pairwise
from pathlib import Path

import dask
import numpy as np
import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

import taskgraph_dnn as tg
from taskgraph_dnn.checks import Check
from taskgraph_dnn.cli import main
from taskgraph_dnn.errors import FileError
from taskgraph_dnn.record import draw_trace, trace, write_timeline
from taskgraph_dnn.record.drawing import short, ticks
from taskgraph_dnn.record.figures import held_nbytes, layer_seconds, peak_nbytes, uses
from taskgraph_dnn.record.slices import by_track, closed_up, slices

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "\"<script>alert(1)</script>&'é\u2028\x00-1-2"


def run(reductions="dynamic", samples=200, **compute):
    """A run of several spans and partitions, whose last samples meet in a merged one."""
    network, images = tg.radixnet(neurons=64, layers=8, seed=5), tg.digit_images(samples=samples, neurons=64, seed=5)
    with dask.config.set({"taskgraph-dnn.task-seconds": 1e-5, "taskgraph-dnn.partitions": 3}):
        return tg.infer(network, images, kernel="scipy", reductions=reductions).compute(**compute)


@pytest.fixture(scope="module")
def result():
    made = run(scheduler="threads")
    assert len(made.plan.spans) > 1
    assert made.plan.merged
    return made


def check_trace(path):
    """What the Trace Event Format asks for, and what viewers ask for beyond that. Returns the tasks' events."""
    found = json.loads(path.read_text())
    assert found["displayTimeUnit"] in ("ms", "ns")
    named = set()
    for event in found["traceEvents"]:
        assert type(event["name"]) is str
        assert type(event["pid"]) is int
        assert type(event["args"]) is dict
        assert event["ts"] >= 0
        match event["ph"]:
            case "M":
                assert event["name"] in ("process_name", "thread_name")
                assert type(event["args"]["name"]) is str
                assert ("tid" in event) == (event["name"] == "thread_name")
                named.add((event["pid"], event.get("tid")))
            case "X":
                assert type(event["cat"]) is str
                assert event["dur"] >= 0
                assert {(event["pid"], None), (event["pid"], event["tid"])} <= named
            case "C":
                assert all(type(value) in (int, float) for value in event["args"].values())
            case other:
                pytest.fail(f"unexpected phase {other!r}")
    processes, threads = {pid for pid, tid in named if tid is None}, {tid for _, tid in named if tid is not None}
    assert len(threads) == sum(tid is not None for _, tid in named)  # Perfetto wants them to be unique
    assert not processes & threads
    assert 0 not in processes | threads
    tasks = [event for event in found["traceEvents"] if event["ph"] == "X"]
    of_thread = sorted(tasks, key=lambda event: (event["tid"], event["ts"]))
    for _, group in groupby(of_thread, key=lambda event: event["tid"]):
        for before, after in pairwise(group):  # Perfetto drops tasks that overlap
            assert round(before["ts"] * 1000) + round(before["dur"] * 1000) <= round(after["ts"] * 1000)
    return tasks


def test_a_trace_has_each_task_on_its_thread(result, tmp_path):
    assert tg.write_trace(result, tmp_path / "trace.json") == tmp_path / "trace.json"
    tasks = check_trace(tmp_path / "trace.json")
    assert len(tasks) == len(result.events) == result.plan.tasks
    told = {(task["args"]["partition"], task["args"]["last_layer"]): task for task in tasks}
    began = min(event.start for event in result.events)
    for event in result.events:
        task = told[event.partition, event.last_layer]
        assert task["ts"] == pytest.approx(1e6 * (event.start - began), abs=1)
        assert task["dur"] == pytest.approx(1e6 * (event.end - event.start), abs=1)
        known = event.samples, event.alive, event.multiply_adds, event.nbytes, event.worker
        assert tuple(task["args"][name] for name in ("samples", "alive", "multiply_adds", "nbytes", "worker")) == known
    assert len({task["tid"] for task in tasks}) == len({event.worker for event in result.events})
    assert any("merged partition 3" in task["name"] for task in tasks)
    about = json.loads((tmp_path / "trace.json").read_text())["otherData"]
    assert about["samples"] == 200
    assert about["infer_seconds"] == result.seconds.infer


@pytest.fixture(scope="module")
def cluster():
    local = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=2, **local) as cluster:
        yield cluster


def test_a_trace_of_a_cluster_has_a_process_for_each_worker(cluster, tmp_path):
    with Client(cluster):
        made = run()
    tg.write_trace(made, tmp_path / "trace.json")
    tasks = check_trace(tmp_path / "trace.json")
    assert len(tasks) == made.plan.tasks
    workers = {event.worker for event in made.events}
    assert {task["args"]["worker"] for task in tasks} == workers
    assert len({task["pid"] for task in tasks}) == len({worker.rpartition("-")[0] for worker in workers})


def test_a_clock_that_was_set_back_makes_no_tasks_that_overlap(result, tmp_path):
    events = sorted(result.events, key=lambda event: event.start)
    events = [
        replace(event, worker="host-1-1", start=10.0 + 0.5 * n, end=11.0 + 0.5 * n) for n, event in enumerate(events)
    ]
    tg.write_trace(replace(result, events=tuple(events)), tmp_path / "trace.json")
    assert len(check_trace(tmp_path / "trace.json")) == len(events)


def test_what_a_trace_holds_is_read_back(result, tmp_path):
    tg.write_trace(result, tmp_path / "trace.json")
    assert trace.read(tmp_path / "trace.json") == slices(result)
    draw_trace(tmp_path / "trace.json", tmp_path / "drawn.svg")
    write_timeline(result, tmp_path / "timeline.svg")
    assert (tmp_path / "drawn.svg").read_text() == (tmp_path / "timeline.svg").read_text()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text[:-20], "JSONDecodeError"),
        (lambda text: text.replace("taskgraph-dnn", "another"), "another"),
        (lambda text: '{"traceEvents": []}', "otherData"),
        (lambda text: "[1, 2]", "TypeError"),
        (lambda text: text.replace('"nbytes": ', '"bytes": '), "bytes"),
        (lambda text: re.sub(r'"samples": (\d+), "alive"', r'"samples": "\1", "alive"', text), "samples is '"),
        (lambda text: re.sub(r'"dur": [0-9.]+', '"dur": NaN', text), "NaN"),
        (lambda text: text.replace('"process_name"', '"process"'), "KeyError"),
    ],
)
def test_a_trace_that_is_none_of_ours_is_refused(result, tmp_path, change, problem):
    tg.write_trace(result, tmp_path / "trace.json")
    (tmp_path / "trace.json").write_text(change((tmp_path / "trace.json").read_text()))
    with pytest.raises(FileError, match=r"trace\.json: found no trace that `taskgraph-dnn run --trace` wrote") as error:
        draw_trace(tmp_path / "trace.json", tmp_path / "drawn.svg")
    assert problem in str(error.value)
    assert not (tmp_path / "drawn.svg").exists()


def bars(path):
    root = ElementTree.parse(path).getroot()
    return root, [group for group in root.iter(f"{SVG}g") if group.get("class") == "task"]


def test_a_timeline_has_a_bar_for_each_task_within_the_picture(result, tmp_path):
    write_timeline(result, tmp_path / "timeline.svg")
    root, found = bars(tmp_path / "timeline.svg")
    told = [
        int(n.replace(",", "")) if (n := bar.find(f"{SVG}title").text.partition(" tasks, ")[0]).isdigit() else 1
        for bar in found
    ]
    assert sum(told) == result.plan.tasks
    width, height = float(root.get("width")), float(root.get("height"))
    for bar in found:
        for rect in bar.findall(f"{SVG}rect"):
            assert 0 <= float(rect.get("x")) <= width - float(rect.get("width"))
            assert 0 <= float(rect.get("y")) <= height - float(rect.get("height"))
    assert f"{result.plan.tasks} tasks on" in "".join(root.itertext())


def test_bars_of_a_track_do_not_overlap_however_many_tasks_there_are(result, tmp_path):
    """A day of tasks of a millisecond is as large as a picture of a few, and counts all of them."""
    event = result.events[0]
    many = [replace(event, worker=f"host-1-{n % 3}", start=n * 0.001, end=n * 0.001 + 0.003) for n in range(30_000)]
    write_timeline(replace(result, events=tuple(many)), tmp_path / "timeline.svg")
    _, found = bars(tmp_path / "timeline.svg")
    assert len(found) < 3 * 1200
    assert sum(int(bar.find(f"{SVG}title").text.partition(" ")[0].replace(",", "")) for bar in found) == 30_000
    rects = [bar.find(f"{SVG}rect") for bar in found]
    for _, group in groupby(rects, key=lambda rect: rect.get("y")):
        for before, after in pairwise(group):
            assert float(before.get("x")) + float(before.get("width")) <= float(after.get("x")) + 0.5


def test_a_run_that_was_resumed_is_drawn_without_the_pause(result):
    half = len(result.events) // 2
    events = sorted(result.events, key=lambda event: event.start)
    later = [
        replace(e, start=e.start + 3600, end=e.end + 3600, attempt=1, worker="on-" + e.worker) for e in events[half:]
    ]
    resumed = slices(replace(result, events=(*events[:half], *later)))
    first, second = ([task for task in resumed if task.attempt == attempt] for attempt in (0, 1))
    lasted = [max(task.end for task in own) - min(task.start for task in own) for own in (first, second)]
    closed = closed_up(resumed)
    assert max(task.end for task in resumed) > 3600e9
    assert max(task.end for task in closed) == sum(lasted)
    assert [task.end - task.start for task in closed] == [task.end - task.start for task in resumed]
    assert sum(use.idle_seconds for use in uses(closed)) < 60


def test_figures_of_a_run_add_up(result):
    tasks = slices(result)
    assert layer_seconds(result).sum() == pytest.approx(sum(max(0.0, event.seconds) for event in result.events))
    assert layer_seconds(result).shape == (len(result.plan.layers),)
    found = uses(tasks)
    assert sum(use.tasks for use in found) == len(tasks)
    assert sum(use.multiply_adds for use in found) == result.multiply_adds
    whole = max(task.end for task in tasks) / 1e9
    for use in found:
        assert use.compute_seconds + use.prepare_seconds + use.idle_seconds == pytest.approx(whole)
    times, nbytes = held_nbytes(tasks)
    assert (np.diff(times) >= 0).all()
    assert len(times) == len(nbytes) + 1
    last = {event.partition: event.nbytes for event in sorted(result.events, key=lambda event: event.end)}
    assert nbytes[-1] == sum(last.values())
    assert nbytes.max() >= max(event.nbytes for event in result.events)


def test_seconds_of_a_task_are_shared_among_its_layers_by_multiply_adds(result):
    counts = np.array([[9, 9, 300], [9, 9, 100]])
    first = replace(
        result.events[0], first_layer=1, last_layer=2, start=5.0, end=7.5, prepare_seconds=0.5, counts=counts
    )
    dead = replace(first, first_layer=3, last_layer=4, start=8.0, end=9.0, prepare_seconds=0.0, counts=0 * counts)
    found = layer_seconds(replace(result, events=(first, dead)))
    np.testing.assert_allclose(found[:5], [1.5, 0.5, 0.5, 0.5, 0.0])


def test_the_peak_is_told_of_this_process_only(result):
    assert peak_nbytes(result) > 2**20
    elsewhere = replace(result.events[0], worker="elsewhere-1-1")
    assert peak_nbytes(replace(result, events=(*result.events, elsewhere))) is None


def test_tracks_are_numbered_by_process_and_thread(result):
    names = ["b-1-7", "a-2-9", "b-1-5", "a-2-9"]
    events = [replace(result.events[0], worker=name, start=n, end=n + 0.5) for n, name in enumerate(names)]
    tracks = by_track(slices(replace(result, events=tuple(events))))
    assert {track: len(tasks) for track, tasks in tracks.items()} == {("b-1", 1): 1, ("b-1", 2): 1, ("a-2", 1): 2}
    assert list(tracks) == [("b-1", 1), ("b-1", 2), ("a-2", 1)]


@pytest.mark.parametrize(
    ("value", "letters"),
    [(0, "0"), (0.0321, "0.0321"), (7, "7"), (1500, "1.5k"), (20_000_000, "20M"), (3.21e9, "3.21G"), (999.9, "1e+03")],
)
def test_numbers_on_axes_are_short(value, letters):
    assert short(value) == letters


@pytest.mark.parametrize(
    ("most", "found"), [(0, [0]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (120, [0, 20, 40, 60, 80, 100, 120])]
)
def test_ticks_are_round(most, found):
    assert ticks(most, 6) == pytest.approx(found)


class Page(HTMLParser):
    """What a page loads, and whether each of its elements ends."""

    VOID = ("meta", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.words, self.seen = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.seen.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [known[name] for name in ("src", "srcset") if name in known]
        self.loads += [known["href"]] if tag == "link" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page(result, path, checks=()):
    tg.write_report(result, path, checks)
    text = path.read_text()
    found = Page(text)
    assert found.loads == []
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp|import\(|\{\{", text)
    return found


def test_a_report_is_one_page_that_loads_nothing(result, tmp_path):
    found = page(result, tmp_path / "run.html", [Check("float64 reference", True, "200 samples")])
    words = "".join(found.words)
    assert "8 layers on 200 samples" in words
    assert f"{len(result.categories):,} samples with a nonzero output" in words
    assert "float64 reference" in words
    assert "merge-partitions" in words  # the plan's note
    assert "peak of the process" in words
    for layer in result.layers:
        assert f"{layer.done:,}" in words
    assert found.seen.count("svg") == 6
    assert words.count("hybrid, for") == 1


def test_hostile_names_are_text_everywhere(result, tmp_path):
    events = tuple(replace(event, worker=HOSTILE) for event in result.events)
    hostile = replace(result, events=events, plan=replace(result.plan, notes=(("<b>", HOSTILE),)))
    found = page(hostile, tmp_path / "run.html", [Check("<i>", True, HOSTILE)])
    assert found.seen.count("script") == 1
    assert not {"b", "i"} & set(found.seen)
    write_timeline(hostile, tmp_path / "timeline.svg")
    root, _ = bars(tmp_path / "timeline.svg")
    assert any("<script>alert(1)</script>&'é" in text for text in root.itertext())
    tg.write_trace(hostile, tmp_path / "trace.json")
    assert {task["args"]["worker"] for task in check_trace(tmp_path / "trace.json")} == {HOSTILE}


def test_a_run_of_no_samples_is_on_record_too(tmp_path):
    nothing = run(samples=0, scheduler="synchronous")
    tg.write_trace(nothing, tmp_path / "trace.json")
    assert check_trace(tmp_path / "trace.json") == []
    write_timeline(nothing, tmp_path / "timeline.svg")
    assert bars(tmp_path / "timeline.svg")[1] == []
    assert "no task was run" in "".join(page(nothing, tmp_path / "run.html").words)


def invoke(*arguments, code=0):
    outcome = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert outcome.exit_code == code, outcome.output
    return outcome.output


SMALL = ["--neurons", "64", "--layers", "8", "--samples", "200"]


def test_a_run_is_recorded_by_the_command_and_drawn_from_its_trace(tmp_path):
    files = tmp_path / "trace.json", tmp_path / "run.html"
    invoke("run", *SMALL, "--trace", files[0], "--report", files[1], "--check", 20)
    assert len(check_trace(files[0])) > 0
    assert "float64 reference" in files[1].read_text()
    invoke("timeline", files[0], tmp_path / "run.svg")
    assert len(bars(tmp_path / "run.svg")[1]) > 0


def test_a_job_is_recorded_too(cluster, tmp_path):
    where = ["--scheduler", cluster.scheduler_address]
    invoke("submit", *SMALL, "--name", "recorded", *where)
    files = tmp_path / "trace.json", tmp_path / "run.html"
    invoke("result", "recorded", *where, "--trace", files[0], "--report", files[1])
    invoke("cancel", "recorded", *where)
    assert len(check_trace(files[0])) > 0
    assert "8 layers on 200 samples" in files[1].read_text()


@pytest.mark.parametrize("option", ["--trace", "--report"])
def test_files_that_cannot_be_written_are_refused_before_work(tmp_path, option):
    assert "there is no folder" in invoke("run", *SMALL, option, tmp_path / "no" / "file", code=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trace", "a.txt"), "cannot write a trace as 'a.txt', expected a name that ends in .json"),
        (("--report", "a.pdf"), "cannot write a report as 'a.pdf', expected a name that ends in .html"),
        (("--trace", "a.json", "--json", "./a.json"), "cannot write two outputs to one file: "),
    ],
)
def test_files_that_would_not_be_what_they_are_called_are_refused_before_work(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in invoke("run", *SMALL, *options, code=1)
    assert not list(tmp_path.iterdir())


def test_a_timeline_is_svg_and_does_not_replace_its_trace(result, tmp_path):
    trace = tg.write_trace(result, tmp_path / "trace.json")
    written = trace.read_bytes()
    message = "cannot write a timeline as 'trace.json', expected a name that ends in .svg"
    assert message in invoke("timeline", trace, trace, code=1)
    assert trace.read_bytes() == written


def test_a_file_that_is_no_text_is_refused_in_a_line(tmp_path):
    (tmp_path / "run.json").write_bytes(bytes(range(256)) * 100)
    output = invoke("timeline", tmp_path / "run.json", tmp_path / "run.svg", code=1)
    assert "run.json: found no trace" in output
    assert len(output) < 300 + len(str(tmp_path))


def test_a_trace_that_is_not_there_is_one_line(tmp_path):
    output = invoke("timeline", tmp_path / "no.json", tmp_path / "run.svg", code=1)
    assert "no.json: cannot read the trace: No such file or directory" in output
    assert len(output.strip().splitlines()) == 1


def test_the_gallery_has_what_make_graphs_draws(tmp_path):
    graphs = Path(__file__).resolve().parents[1] / "graphs"
    assert len(check_trace(graphs / "timeline.json")) == 12
    draw_trace(graphs / "timeline.json", tmp_path / "timeline.svg")
    assert (tmp_path / "timeline.svg").read_text() == (graphs / "timeline.svg").read_text()


def test_dask_reports_beside_ours(tmp_path):
    """Dask's own report of the same run; it needs bokeh, which we do not."""
    pytest.importorskip("bokeh")
    from distributed import performance_report

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
        performance_report(filename=str(tmp_path / "dask.html")),
    ):
        made = run()
    tg.write_report(made, tmp_path / "ours.html")
    assert "layers-" in (tmp_path / "dask.html").read_text()
