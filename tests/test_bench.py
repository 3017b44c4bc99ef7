"""What is made of a benchmark's report: lines, tables, a page with plots, and what changed since another one."""

import json
import platform
import re
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from taskgraph_dnn import machine as this_machine
from taskgraph_dnn.benchmarks import fingerprint
from taskgraph_dnn.benchmarks.harness import run_suites, unfinished
from taskgraph_dnn.benchmarks.report import plots
from taskgraph_dnn.benchmarks.report.compare import CHANCE, compare, comparison_notes, comparison_tables
from taskgraph_dnn.benchmarks.report.page import markdown_table, read_reasons, write_page
from taskgraph_dnn.benchmarks.report.races import races, within
from taskgraph_dnn.benchmarks.report.records import Measurement, Report, read_report
from taskgraph_dnn.benchmarks.suite import EFFORTS, Suite, Table, amount
from taskgraph_dnn.benchmarks.suites import SUITES
from taskgraph_dnn.benchmarks.timing import summary
from taskgraph_dnn.cli import bench as command
from taskgraph_dnn.cli import main
from taskgraph_dnn.errors import FileError, MissingDependencyError

MACHINE = fingerprint.machine()
BASELINE = Path(__file__).parent / "data" / "smoke.jsonl"
QUIET = 1.0, 1.01, 1.02, 1.03, 1.04


def measured(contender, seconds, kind="ours", *, rounds=QUIET, suite="end-to-end", case="a network", **others):
    others = {"work": 1e9, "work_unit": "edges", "threads": 2, "formulation": "as it is"} | others
    return Measurement(suite, case, contender, kind, tuple(seconds * each for each in rounds), **others)


def ceiling(seconds, contender="sgemm", rounds=QUIET):
    return measured(contender, seconds, "ceiling", rounds=rounds, suite="ceilings", case="multiply-adds")


def report(*measurements, machine=MACHINE, missing=None):
    others = dict.fromkeys((each.suite for each in measurements), 0.01)
    return Report("2026-11-21T12:00:00+00:00", "short", machine, missing or {}, measurements, others)


def written(folder, found, name="report.jsonl"):
    path = folder / name
    path.write_text(found.lines())
    return path


def called(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


# Reports.


def test_a_report_is_read_as_it_was_written(tmp_path):
    found = report(
        measured("exact", 0.1, counted={"tasks": 4.0}, details={"default": True}),
        Measurement("end-to-end", "a network", "torch dense", "peer", left_out="too large"),
        missing={"mkl": "not installed"},
    )
    assert read_report(written(tmp_path, found)) == found


def test_suites_that_were_measured_again_take_the_place_of_others(tmp_path):
    first = report(ceiling(1.0), measured("exact", 0.1), measured("exact", 0.3, suite="latency"))
    pools = [{"internal_api": "mkl", "version": "1", "num_threads": 2}]
    machine = MACHINE | {"code": "another", "thread_pools": pools}
    later = report(ceiling(2.0), measured("exact", 0.2), machine=machine, missing={"mkl": "not installed"})
    later = replace(later, date="2026-11-22T13:00:00+00:00")
    path = written(tmp_path, first)
    assert called("renew", path, written(tmp_path, later, "later.jsonl")).exit_code == 0
    found = read_report(path)
    assert {(each.suite, each.rounds[0]) for each in found.measurements} == {
        ("ceilings", 1.0),
        ("latency", 0.3),
        ("end-to-end", 0.2),
    }
    assert found.again == {"end-to-end": {"date": later.date, "code": "another"}}
    assert found.machine == MACHINE | {"thread_pools": MACHINE["thread_pools"] + pools}
    assert found.missing == {"mkl": "not installed"}
    assert replace(found, machine=MACHINE, missing={}, measurements=first.measurements, again={}) == first
    assert found.with_suites_of(later) == found
    write_page(found, path, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| measured again, after the others | end-to-end (2026-11-22 13:00, by other code) |" in page


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": MACHINE | {"cores": 96}}, f"cores is {MACHINE['cores']}, then 96"),
        ({"machine": MACHINE | {"python": "2.7"}}, f"python is {MACHINE['python']!r}, then '2.7'"),
        ({"effort": "all"}, "effort is 'short', then 'all'"),
        ({"used_by_others": {}}, "end-to-end was broken off in the later report"),
    ],
)
def test_suites_of_another_machine_or_effort_do_not(tmp_path, changes, message):
    first = report(measured("exact", 0.1))
    path, later = written(tmp_path, first), written(tmp_path, replace(first, **changes), "later.jsonl")
    result = called("renew", path, later)
    assert (result.exit_code, message in result.output) == (1, True)
    assert read_report(path) == first


def test_a_report_that_was_broken_off_within_a_line_is_read_up_to_that_case(tmp_path):
    rows = measured("exact", 0.1), *(measured(name, 1.0, case="another") for name in ("exact", "scipy"))
    found = report(*rows)
    path = written(tmp_path, found)
    whole = path.read_text()
    path.write_text(whole[: whole.rindex('"scipy"')])
    assert read_report(path) == replace(found, measurements=found.measurements[:1], used_by_others={})


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (1, '{"format": "something else"}', "line 1: no report of benchmarks"),
        (1, '{"format": "taskgraph-dnn benchmarks", "version": 99}', "line 1: a report of version 99, expected 1"),
        (2, "exact took 0.1 s", "line 2: no JSON"),
        (2, "[1, 2]", "line 2: a list, expected an object"),
        (2, '{"suite": "a", "case": "b", "contender": "c", "kind": "ours", "colour": "red"}', "line 2: .*colour"),
        (2, '{"suite": "a", "case": "b", "contender": "c", "kind": "ours", "rounds": ["x"]}', "line 2: rounds are"),
    ],
)
def test_what_is_no_report_is_refused_with_the_line(tmp_path, number, line, message):
    path = written(tmp_path, report(measured("exact", 0.1)))
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(FileError, match=message):
        read_report(path)


def test_a_report_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileError, match="nothing"):
        read_report(tmp_path / "nothing")


# Running.


def suite_of(*measurements, name="end-to-end", missing=None, then=None):
    def measure(effort, say):
        for each in measurements:
            say(each.contender)
            yield each
        if then is not None:
            then()

    return Suite(name, name.title(), "", measure, lambda found: [], lambda: missing or {})


def test_each_measurement_is_a_line_as_soon_as_it_is_there(tmp_path):
    output, lines, said = tmp_path / "report.jsonl", [], []
    first, second = measured("exact", 0.1), measured("scipy", 1.0, "peer")
    watching = suite_of(name="later", then=lambda: lines.extend(unfinished(output).read_text().splitlines()))
    found = run_suites(
        [suite_of(first, second, missing={"mkl": "not here"}), watching], EFFORTS["smoke"], output, say=said.append
    )
    assert [json.loads(line).get("contender") for line in lines] == [None, "exact", "scipy", None]
    assert found.measurements == (first, second)
    assert found.missing == {"mkl": "not here"}
    assert [text.partition(", ")[2] for text in said] == ["end-to-end: exact", "end-to-end: scipy"]
    assert read_report(output) == found
    assert found.used_by_others.keys() == {"end-to-end", "later"}
    assert not unfinished(output).exists()


def test_a_run_that_is_broken_off_keeps_its_lines_and_the_report_of_before(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    output, said = tmp_path / "report.jsonl", []
    output.write_text("of before")
    with pytest.raises(KeyboardInterrupt):
        run_suites([suite_of(measured("exact", 0.1), then=interrupted)], EFFORTS["smoke"], output, say=said.append)
    assert output.read_text() == "of before"
    assert [each.contender for each in read_report(unfinished(output)).measurements] == ["exact"]
    assert said[-1].endswith(str(unfinished(output)))


def test_a_file_that_cannot_be_written_is_refused_before_work(tmp_path):
    begun = []
    with pytest.raises(FileError, match="no/such"):
        run_suites([suite_of(then=lambda: begun.append(1))], EFFORTS["smoke"], tmp_path / "no/such", say=begun.append)
    assert begun == []


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_makes_tables_of_nothing(name):
    """A report may lack a suite, or end within it."""
    for table in SUITES[name].tables(report()):
        assert {len(row) for row in table.rows} == {len(table.rows[0])}


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_makes_tables_of_what_there_is_wherever_it_was_broken_off(name):
    whole = read_report(BASELINE).of(name)
    for count in (n for n, (last, each) in enumerate(pairwise(whole), 1) if last.case != each.case):
        for table in SUITES[name].tables(replace(report(), measurements=whole[:count])):
            assert {len(row) for row in table.rows} == {len(table.rows[0])}


def test_suites_are_called_what_they_are_asked_for_by():
    assert [suite.name for suite in SUITES.values()] == list(SUITES)
    assert len({suite.title for suite in SUITES.values()}) == len(SUITES)


def test_the_baseline_is_a_smoke_run_of_every_suite():
    baseline = read_report(BASELINE)
    assert baseline.effort == "smoke"
    assert baseline.used_by_others.keys() == SUITES.keys()
    assert sum(len(each.counted) for each in baseline.measurements) > 100
    assert compare(baseline, baseline).worse_counts == []


# The machine.


def test_processes_that_were_started_here_are_not_others():
    """Neither while they run, nor after their end; nor those that they have started."""
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(1, flush=True)\ninput()"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    before = fingerprint._descendants_seconds()
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert fingerprint._descendants_seconds() - before > 0.25
        child.communicate(b"\n", timeout=60)
    assert fingerprint._descendants_seconds() - before > 0.25


def test_a_machine_is_known_but_not_whose_it_is():
    found = json.loads(json.dumps(fingerprint.machine()))
    assert found.keys() == MACHINE.keys()
    assert found["cores"] * found["threads_per_core"] <= psutil.cpu_count()
    assert re.fullmatch("[0-9a-f]{12}", found["code"])
    assert "/" not in json.dumps(found)
    assert f'"{platform.node()}"' not in json.dumps(found)


@pytest.fixture
def _forgotten():
    this_machine.caches.cache_clear()
    yield
    this_machine.caches.cache_clear()


@pytest.mark.usefixtures("_forgotten")
def test_caches_are_read_as_linux_has_them(tmp_path, monkeypatch):
    monkeypatch.setattr(this_machine, "_CACHES", tmp_path)
    assert this_machine.caches() == {}
    assert this_machine.last_cache() == this_machine.Cache(2**25, 8)
    for number, (level, kind, size, shared) in enumerate(
        [("3", "Unified", "32768K", "0-7"), ("1", "Data", "48K", "0"), ("1", "Instruction", "32K", "0")]
    ):
        folder = tmp_path / f"index{number}"
        folder.mkdir()
        for name, text in zip(("level", "type", "size", "shared_cpu_list"), (level, kind, size, shared), strict=True):
            (folder / name).write_text(f"{text}\n")
    this_machine.caches.cache_clear()
    assert list(this_machine.caches()) == ["L1d", "L1i", "L3"]
    assert this_machine.caches()["L1d"] == this_machine.Cache(48 * 2**10, 1)
    assert this_machine.last_cache() == this_machine.Cache(2**25, 8)


# Races.


def test_ours_is_what_nobody_asks_for_and_a_peer_is_its_fastest_way():
    found = races(
        report(
            measured("exact", 2.0, details={"default": True}),
            measured("none", 1.0),
            measured("torch", 8.0, "peer", formulation="rows"),
            measured("torch", 4.0, "peer", formulation="columns"),
            measured("scipy", 1.0, "peer"),
            measured("mkl", 2.0, "peer", rounds=(0.5, 2.0, 0.5, 2.0, 1.0)),
            measured("exact", 1.0, case="nobody else's"),
        ),
        "end-to-end",
    )
    assert [(race.ours.contender, race.peer.contender, race.peer.formulation) for race in found] == [
        ("exact", "torch", "columns"),
        ("exact", "scipy", "as it is"),
        ("exact", "mkl", "as it is"),
    ]
    assert [race.verdict for race in found] == ["ahead", "behind", "open"]
    assert found[0].times.median == pytest.approx(2.0)


def test_whoever_needs_less_memory_is_ahead_in_a_race_of_its_own():
    found = races(
        report(
            measured("exact", 100.0, unit="bytes"),
            measured("scipy", 300.0, "peer", unit="bytes"),
            measured("exact", 2.0),
            measured("scipy", 1.0, "peer"),
        ),
        "end-to-end",
    )
    assert [(race.ours.unit, race.verdict) for race in found] == [("bytes", "ahead"), ("seconds", "behind")]


@pytest.mark.parametrize(
    ("rounds", "verdict"), [((1.0, 1.4), "reached"), ((1.4, 1.6), "open"), ((1.6, 1.7), "missed"), ((1.5,), "reached")]
)
def test_a_goal_is_open_where_the_spread_is_wider_than_the_claim(rounds, verdict):
    assert within(summary(rounds), 1.5) == verdict


# Comparing.


def test_two_equal_reports_have_nothing_to_tell():
    same = report(ceiling(0.1), measured("exact", 0.1, counted={"tasks": 4}), measured("scipy", 1.0, "peer"))
    found = compare(same, same)
    assert comparison_tables(found) == []
    assert comparison_notes(found) == [
        "3 measurements compared, 0 changed; of 2 of peers and ceilings 0. By chance alone, up to 0.0 would.",
        "1 count compared, 0 changed.",
    ]
    assert found.worse_counts == []


@pytest.mark.parametrize(
    ("seconds", "rounds", "verdict"),
    [
        (1.2, QUIET, "slower"),
        (0.8, QUIET, "faster"),
        (1.04, QUIET, None),  # so little may be where memory lies
        (1.2, (0.7, 1.3, 0.9, 1.1, 1.0), None),  # wider than what changed
        (2.0, QUIET[:4], None),  # too few to know their spread
    ],
)
def test_a_time_has_changed_beyond_both_spreads(seconds, rounds, verdict):
    found = compare(report(measured("exact", 1.0)), report(measured("exact", seconds, rounds=rounds)))
    assert [change.verdict for change in found.changes] == ([] if verdict is None else [verdict])


def test_the_largest_change_comes_first_whichever_way_it_goes():
    before = report(*(measured("exact", 1.0, case=case) for case in "abc"))
    after = report(*(measured("exact", s, case=case) for case, s in zip("abc", (1.2, 0.2, 3.0), strict=True)))
    assert [change.after.case for change in compare(before, after).changes] == ["b", "c", "a"]


def test_what_a_slower_machine_explains_is_no_change():
    before = report(ceiling(1.0), ceiling(1.0, "copy"), *(measured("exact", 1.0, case=case) for case in "abc"))
    after = report(
        ceiling(2.0),
        ceiling(3.0, "copy"),
        *(measured("exact", seconds, case=case) for case, seconds in zip("abc", (2.5, 1.0, 4.0), strict=True)),
    )
    found = compare(before, after)
    assert found.drift == (pytest.approx(2.0), pytest.approx(3.0))
    ours = {change.after.case: change.verdict for change in found.changes if change.after.kind == "ours"}
    assert ours == {"b": "faster", "c": "slower"}
    assert "Ceilings took 2.00 to 3.00 times" in "\n".join(comparison_notes(found))


def test_ceilings_say_nothing_of_memory():
    before = report(ceiling(1.0), measured("exact", 100.0, unit="bytes"))
    after = report(ceiling(2.0), measured("exact", 200.0, unit="bytes"))
    assert [change.verdict for change in compare(before, after).changes if change.after.kind == "ours"] == ["more"]


def test_equal_programs_seem_to_differ_no_more_often_than_is_said(rng):
    def drawn():
        return report(*(measured("exact", 1, case=str(n), rounds=rng.lognormal(0, 0.2, 5)) for n in range(1000)))

    found = compare(drawn(), drawn())
    assert len(found.compared) == 1000
    assert 0 < len(found.changes) <= 1.5 * CHANCE * 1000


def test_work_that_is_counted_is_compared_to_the_last_one():
    before = report(
        measured("more", 1.0, counted={"tasks": 4, "bytes": 7}),
        measured("less", 1.0, counted={"tasks": 4}),
        measured("gone", 1.0, counted={"tasks": 4}),
        measured("uncounted", 1.0, counted={"tasks": 4}),
        measured("a peer, not installed here", 1.0, "peer", counted={"tasks": 4}),
        measured("counted since", 1.0),
    )
    after = report(
        measured("more", 1.0, counted={"tasks": 5, "bytes": 7}),
        measured("less", 1.0, counted={"tasks": 3}),
        measured("uncounted", 1.0),
        measured("counted since", 1.0, counted={"tasks": 4}),
    )
    found = compare(before, after)
    assert [(each.measurement.contender, each.what, *each.values) for each in found.counts] == [
        ("more", "tasks", 4, 5),
        ("less", "tasks", 4, 3),
        ("uncounted", "tasks", 4, None),
        ("counted since", "tasks", None, 4),
    ]
    assert [each.measurement.contender for each in found.worse_counts] == ["more", "uncounted", "gone"]
    (table,) = comparison_tables(found)
    assert table.rows[3][1:] == ["tasks", "4", "not counted"]


def test_ours_in_another_way_is_still_compared_and_the_way_is_told():
    found = compare(
        report(measured("exact", 1.0, formulation="2 spans"), measured("torch", 1, "peer", formulation="rows")),
        report(measured("exact", 2.0, formulation="3 spans"), measured("mkl", 1, "peer", formulation="rows")),
    )
    assert [change.verdict for change in found.changes] == ["slower"]
    assert ([each.contender for each in found.lost], [each.contender for each in found.new]) == (["torch"], ["mkl"])
    notes = comparison_notes(found)
    assert "end-to-end: a network, exact, threads: 2: was 2 spans, is 3 spans" in notes
    assert notes[-2:] == [
        "no more: end-to-end: a network, torch, threads: 2, rows",
        "new: end-to-end: a network, mkl, threads: 2, rows",
    ]


def test_other_work_is_not_compared():
    found = compare(report(measured("exact", 1.0)), report(measured("exact", 9.0, work=9e9)))
    assert not found.changes
    assert "1 measurement of other work than before, or on other threads: times not compared." in comparison_notes(
        found
    )


def test_what_uses_all_threads_of_another_machine_is_the_same_but_its_times_are_not_compared():
    before = report(measured("tsv", 1.0, threads=2, counted={"entries": 7}), measured("all", 1.0, threads=2))
    after = report(measured("tsv", 0.1, threads=4, counted={"entries": 8}), measured("all", 0.1, threads=4))
    found = compare(before, after)
    assert (list(found.lost), list(found.new), list(found.changes)) == ([], [], [])
    assert [each.values for each in found.worse_counts] == [(7, 8)]


def test_contenders_on_one_thread_and_on_two_are_not_taken_for_one_another():
    before = report(*(measured("exact", 1.0, threads=threads) for threads in (1, 2)))
    found = compare(before, report(*(measured("exact", 1.0, threads=threads) for threads in (2, 4))))
    assert [(first.threads, second.threads) for first, second in found.pairs] == [(2, 2)]
    assert [[each.threads for each in alone] for alone in (found.lost, found.new)] == [[1], [4]]


def test_it_is_told_what_differs_between_two_machines():
    other = MACHINE | {"processor": "another one", "packages": MACHINE["packages"] | {"numpy": "1.0"}}
    notes = comparison_notes(compare(report(), report(machine=other)))
    assert f"processor: {MACHINE['processor']}, then another one" in notes
    assert f"packages, numpy: {np.__version__}, then 1.0" in notes
    assert notes[2:] == [
        "No times compared: that takes the same work, and 5 rounds, in both.",
        "0 counts compared, 0 changed.",
    ]


# The page.


def whole_report():
    rows = [
        ceiling(0.01),
        ceiling(0.02, "copy"),
        measured("exact", 0.1, details={"default": True}),
        measured("scipy", 1.0, "peer"),
        measured("torch", 0.05, "peer"),
        measured("exact", 0.1, case="another", details={"default": True}),
        measured("scipy", 0.05, "peer", case="another"),
        Measurement("kernels", "random-1024", "torch dense", "peer", left_out="too large"),
    ]
    for samples in (100, 1000, 10_000):
        details = {"axis": "samples"}
        given = {"suite": "growth", "case": f"samples: {samples}", "parameters": {"samples": samples}}
        rows.append(measured("none", samples / 1e4, **given, details=details))
        rows.append(measured("none", 1e3 * samples, **given, details=details, unit="bytes", formulation="memory"))
    kernel = {"weight bytes": 1e6, "activation bytes": 1e7, "gathered bytes": 4e9, "neurons": 1024, "density": 1.0}
    for case, seconds in (("random-1024", 0.05), ("radix-1024", 0.02)):
        given = {"suite": "kernels", "case": case, "parameters": kernel, "work_unit": "multiply-adds"}
        rows.append(measured("tile", seconds, **given, details={"default": True, "why": "it is fast"}))
        rows.append(measured("torch", 2 * seconds, "peer", **given, formulation="one call"))
    return report(*rows, missing={"mkl": "pip install mkl"})


@pytest.fixture
def page(tmp_path):
    folder = tmp_path / "docs" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "reasons.yaml").write_text("end-to-end:\n  a network: torch is\n    written in C\n  long gone: it was\n")
    return folder.parent / "benchmarks.md"


def test_the_page_tells_good_and_bad_alike(page):
    found = whole_report()
    notes = write_page(found, written(page.parent / "benchmarks", found), page)
    text = page.read_text()
    assert notes == ["no reason is known: end-to-end, another", "a reason without a row: end-to-end, long gone"]
    assert "[report.jsonl](benchmarks/report.jsonl)" in text
    assert "on 2026-11-21" in text
    assert "smoke run" not in text
    assert "then 5 rounds" in " ".join(text.split())
    assert MACHINE["processor"] in text
    assert "- mkl: pip install mkl" in text
    ahead, behind = text[: text.index("## How it is measured")].split("## Where we are not ahead")
    assert "Of 5 comparisons" in ahead
    assert "| End to end | 3 | 1 | 0 | 2 | 0.50 | 0.50 | 10.00 |" in ahead
    row = "| end-to-end: a network | 102 ms | torch, as it is, 51 ms: 0.50 (0.50 to 0.50), behind |"
    assert f"{row} torch is written in C |" in behind
    assert re.search(r"\| end-to-end: another \| 102 ms \| scipy, .* \| no reason known \|", behind)
    assert "- random-1024: torch dense: too large" in text
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (page.parent / target).exists(), target


def test_a_page_and_its_plots_are_the_same_when_made_again(page):
    found = whole_report()
    source = written(page.parent / "benchmarks", found)
    files = []
    for _ in range(2):
        write_page(found, source, page)
        files.append({path.name: path.read_bytes() for path in page.parent.rglob("*") if path.is_file()})
    assert files[0] == files[1]
    assert files[0].keys() == {
        *("benchmarks.md", "reasons.yaml", "report.jsonl", "end-to-end.svg", "roofline.svg", "growth.svg")
    }


def test_what_makes_a_report_less_than_it_should_be_is_on_its_page(page):
    found = replace(whole_report(), effort="smoke", used_by_others={"ceilings": 0.2, "kernels": 0.0})
    write_page(found, written(page.parent, found), page)
    text = page.read_text()
    assert "**Broken off** after 6 measurements" in text[text.index("## Growth") :]
    assert "Others used the processors meanwhile" in text
    assert "This was a smoke run" in text


def test_of_what_needs_less_memory_bytes_are_told(page):
    memory = {"suite": "memory", "unit": "bytes"}
    estimate = {"activations": 1, "weights": 1, "result": 1}
    ours = measured("exact", 2**20, **memory, details={"estimate": estimate, "default": True})
    found = report(ours, measured("scipy", 2**19, "peer", **memory))
    write_page(found, written(page.parent, found), page)
    row = "| memory: a network | 1.02 MiB | scipy, as it is, 522 KiB: 0.50 (0.50 to 0.50), behind | no reason known |"
    assert row in page.read_text()


def test_who_is_missing_for_the_same_reason_is_named_together(page):
    found = replace(whole_report(), missing={"torch": "get it", "mkl": "pip install mkl", "torch CSR": "get it"})
    write_page(found, written(page.parent, found), page)
    assert "- torch, torch CSR: get it\n- mkl: pip install mkl\n" in page.read_text()


def test_a_long_table_is_folded_and_has_every_row(page):
    peers = [measured(f"peer <{number}>", 1.0, "peer", case=f"case {number}") for number in range(70)]
    found = report(measured("exact", 0.1), *peers)
    write_page(found, written(page.parent, found), page)
    text = page.read_text()
    assert "<details><summary>71 rows</summary>" in text
    assert text.count('<td align="left">peer &lt;') == 70


def test_a_report_from_elsewhere_is_named_without_its_folder(page, tmp_path):
    write_page(found := whole_report(), written(tmp_path, found, "mine.jsonl"), page)
    assert "of mine.jsonl," in page.read_text()
    assert str(tmp_path) not in page.read_text()


@pytest.mark.parametrize("text", ["- a list", "end-to-end: a text", "end-to-end: {a network: [1]}", "{"])
def test_reasons_that_cannot_be_read_are_refused(tmp_path, text):
    path = tmp_path / "reasons.yaml"
    path.write_text(text)
    with pytest.raises(FileError, match=r"reasons\.yaml"):
        read_reasons(path)


def test_a_table_keeps_its_columns_whatever_is_in_a_cell():
    table = Table("", [["case", "seconds", "note"], ["a|b", "**1.5**", "as|is"]])
    assert markdown_table(table).splitlines() == [
        "| case | seconds | note |",
        "| --- | ---: | --- |",
        "| a\\|b | **1.5** | as\\|is |",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        *(
            (1.5, "seconds", "1.5 s"),
            (0.00123, "seconds", "1.23 ms"),
            (4e-7, "seconds", "400 ns"),
            (0, "seconds", "0 ns"),
        ),
        *(
            (12345, "seconds", "12,345 s"),
            (2**20, "bytes", "1 MiB"),
            (0, "bytes", "0 bytes"),
            (2e13, "bytes", "18,626 GiB"),
        ),
        (1234567, "edges", "1,234,567"),
    ],
)
def test_amounts_have_their_units(value, unit, text):
    assert amount(value, unit) == text


# Plots.


def luminance(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("paper", [plots.PAPER, plots.DARK[plots.PAPER]])
def test_colours_stand_out_on_light_and_dark_paper(paper):
    for colour in plots.SERIES:
        assert contrast(colour, paper) >= 3, colour
    ink = plots.INK if paper == plots.PAPER else plots.DARK[plots.INK]
    assert contrast(ink, paper) >= 7


def test_plots_are_pictures_with_units_that_turn_dark():
    drawn = {plot.name: plot for plot in plots.plots(whole_report())}
    assert drawn.keys() == {"end-to-end", "roofline", "growth"}
    for plot in drawn.values():
        root = ElementTree.fromstring(plot.svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert "@media (prefers-color-scheme: dark)" in plot.svg
        assert plot.alt
    texts = {name: " ".join(ElementTree.fromstring(plot.svg).itertext()) for name, plot in drawn.items()}
    assert "0.50x (behind)" in texts["end-to-end"] or "0.5x (behind)" in texts["end-to-end"]
    assert "10x" in texts["end-to-end"]
    assert "1e9 multiply-adds a second" in texts["roofline"]
    assert "none: 1.00" in texts["growth"]


def test_a_report_without_what_a_plot_shows_has_no_plot():
    assert plots.plots(report(ceiling(1.0))) == []


def test_it_is_said_what_plots_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"taskgraph-dnn\[plots\]"):
        plots.plots(report())


# The command.


def test_the_command_measures_and_shows_what_it_has_measured(tmp_path):
    output = tmp_path / "report.jsonl"
    first = called("--suites", "ceilings", "--effort", "smoke", "--output", output)
    assert first.exit_code == 0, first.output
    assert "What the machine can do" in first.stdout
    assert "ceilings: " in first.stderr
    assert read_report(output).effort == "smoke"
    again = called("show", output)
    assert again.stdout.splitlines()[:5] == first.stdout.splitlines()[:5]
    assert "0 changed" in called("compare", output, output, "--counted").stdout


def test_an_unknown_suite_is_refused_with_those_that_are_known():
    result = called("--suites", "ceilings,nonsense")
    assert result.exit_code == 2
    assert "nonsense" in result.stderr
    assert "ceilings, kernels" in result.stderr


def test_an_output_that_cannot_be_written_is_refused_in_one_line(tmp_path):
    result = called("--suites", "ceilings", "--output", tmp_path / "no" / "such.jsonl")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


def test_missing_peers_are_named(tmp_path):
    shown = called("show", written(tmp_path, report(ceiling(1.0), missing={"mkl": "pip install mkl"})))
    assert "mkl is missing: pip install mkl" in shown.stdout


def test_more_counted_work_is_a_failure_where_it_is_asked_for(tmp_path):
    few = written(tmp_path, report(measured("exact", 1.0, counted={"tasks": 4})), "few.json")
    many = written(tmp_path, report(measured("exact", 1.0, counted={"tasks": 5})), "many.json")
    assert called("compare", few, many).exit_code == 0
    assert called("compare", many, few, "--counted").exit_code == 0
    failed = called("compare", few, many, "--counted")
    assert failed.exit_code == 1
    assert "first end-to-end: a network, exact, threads: 2: tasks 4, then 5" in failed.stderr


def test_the_command_makes_the_page(page):
    source = written(page.parent / "benchmarks", whole_report())
    result = called("page", source, page)
    assert result.exit_code == 0, result.output
    assert "no reason is known: end-to-end, another" in result.stderr
    assert page.exists()


def test_a_table_that_is_too_wide_is_shown_in_parts_that_fit():
    for widths in ([10, 8, 8, 8, 40, 8], [70, 20, 20, 20], [5], [30, 200, 5]):
        parts = list(command._parts(widths, 60))
        assert [column for part in parts for column in part if column] == list(range(1, len(widths)))
        assert all(part[0] == 0 for part in parts)
        for part in parts:
            assert len(part) <= 2 or 1 + min(widths[0], 30) + sum(widths[each] for each in part[1:]) <= 60


def test_ctrl_c_says_where_the_lines_are(tmp_path):
    """In a process of its own, as a user presses it."""
    output = tmp_path / "report.jsonl"
    arguments = [sys.executable, "-m", "taskgraph_dnn", "bench", "--suites", "ceilings", "--output", str(output)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        give_up = time.monotonic() + 120
        while not (unfinished(output).exists() and '"sgemm"' in unfinished(output).read_text()):
            assert time.monotonic() < give_up
            assert process.poll() is None
            time.sleep(0.01)
        psutil.Process(process.pid).send_signal(2)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"broken off; what was measured until then: taskgraph-dnn bench show {unfinished(output)}\n" in said
    assert not output.exists()
    shown = called("show", unfinished(output))
    assert shown.exit_code == 0
    assert "ceilings was broken off after " in shown.stdout
    assert "sgemm" in shown.stdout
