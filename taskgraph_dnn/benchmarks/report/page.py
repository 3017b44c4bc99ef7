"""The page of a report, with its plots: what was measured where, and what it says, good and bad alike."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from taskgraph_dnn.benchmarks.report.plots import Plot, plots
from taskgraph_dnn.benchmarks.report.races import Race, races
from taskgraph_dnn.benchmarks.report.records import Report
from taskgraph_dnn.benchmarks.suite import EFFORTS, Table, amount
from taskgraph_dnn.benchmarks.suites import SUITES
from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io.atomic import write_text
from taskgraph_dnn.words import counted

#: Whoever uses a larger part of the processors disturbs what is timed.
QUIET = 0.05

#: Why a peer is ahead: for each suite and case a text, written by hand.
REASONS = "reasons.yaml"

#: As they are read: for each suite and case a text.
Reasons = Mapping[str, Mapping[str, str]]

_METHOD = """\
All contenders of a case run in one process, or each in processes of its own where it says so: first once, when their
answers are compared with a reference, and a wrong one ends the run; then to warm up; then {rounds} rounds, in each of
which every contender runs once, in random order, for {milliseconds:g} ms or longer. What else the machine does meets
all of them alike. Numbers are medians of rounds, with the 10th and 90th percentile; ratios are taken within rounds, and
then their median and percentiles. Peers are what a user of theirs would write at best: of several formulations the
fastest counts. Work per second is the work that was asked for, whatever a format or a shortcut makes of it."""


def write_page(report: Report, source: Path, page: Path) -> list[str]:
    """Write the page of a report, and its plots to the folder beside it that is named like it.

    Args:
        report: what was measured.
        source: the file of the report; the page has a link to it where it lies below the page's folder.
        page: the file to write, Markdown.

    Returns:
        What whoever writes reasons should know: of rows that have none, and reasons that have no row.

    Raises:
        FileError: a file cannot be written, or the reasons cannot be read.
        MissingDependencyError: matplotlib is not installed.
    """
    folder = page.with_suffix("")
    drawn, reasons = plots(report), read_reasons(folder / REASONS)
    folder.mkdir(exist_ok=True)
    for plot in drawn:
        write_text(folder / f"{plot.name}.svg", plot.svg)
    write_text(page, markdown(report, drawn, folder.name, _link(source, page), reasons))
    known = {(suite, case) for suite, cases in reasons.items() for case in cases}
    rows = {(race.ours.suite, race.ours.case) for race in _every_race(report) if race.verdict != "ahead"}
    return [f"no reason is known: {', '.join(row)}" for row in sorted(rows - known)] + [
        f"a reason without a row: {', '.join(row)}" for row in sorted(known - rows)
    ]


def read_reasons(path: Path) -> Reasons:
    """Return why peers are ahead, by suite and case; none where there is no such file.

    Raises:
        FileError: the file is not what it should be.
    """
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FileError(f"{path} cannot be read: {error}") from error
    for suite, cases in found.items() if isinstance(found, dict) else [("", found)]:
        if not isinstance(cases, dict) or not all(isinstance(why, str) for why in cases.values()):
            raise FileError(f"{path}: {suite or 'it'} has {cases!r}, expected a text for each case of each suite")
    return found


def markdown(report: Report, drawn: Sequence[Plot], folder: str, link: str, reasons: Reasons) -> str:
    """Return the page of a report whose plots lie in a folder beside it."""
    parts = [*_head(report, link), *_not_ahead(report, reasons)]
    for suite in SUITES.values():
        if suite.name not in report.used_by_others:
            continue
        parts += [f"## {suite.title}", suite.about]
        parts += [f"![{plot.alt}]({folder}/{plot.name}.svg)" for plot in drawn if plot.suite == suite.name]
        for table in suite.tables(report):
            parts += [f"### {table.title}", markdown_table(table)]
        parts += _left_out(report, suite.name)
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table as lines of a page."""
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    ruler = "".join(" ---: |" if table.has_numbers(column) else " --- |" for column in range(len(table.rows[0])))
    return "\n".join([head, f"|{ruler}", *body])


def _head(report: Report, link: str) -> Iterator[str]:
    effort = EFFORTS[report.effort]
    yield "# Benchmarks"
    yield (
        f"Made by `taskgraph-dnn bench page` of {link}, which `taskgraph-dnn bench --effort {report.effort}` has "
        f"measured on {report.date[:10]}. `taskgraph-dnn bench compare` says what changed between two such files."
    )
    if report.effort == "smoke":
        yield "**This was a smoke run**, of small cases and few rounds: its counts are right, its times say little."
    yield "## How it is measured"
    yield _METHOD.format(rounds=effort.rounds, milliseconds=1000 * effort.seconds)
    yield "## The machine"
    yield markdown_table(Table("", [["", ""], *_machine_rows(report)]))
    if max(report.used_by_others.values(), default=0.0) > QUIET:
        yield "**Others used the processors meanwhile**: times are longer than they need to be, and spreads wider."
    for suite, count in report.unfinished().items():
        yield f"The suite {suite} was broken off after {counted(count, 'measurement')}, and is not shown."
    if report.missing:
        yield "Not installed, or not usable here, and so not compared with:"
        yield "\n".join(f"- {peer}: {why}" for peer, why in report.missing.items())


def _machine_rows(report: Report) -> Iterator[list[str]]:
    machine = report.machine
    virtual = ", virtual" if machine.get("virtual") else ""
    yield ["processor", f"{machine['processor']}{virtual}"]
    cores = f"{machine['cores']}, threads on each: {machine.get('threads_per_core', '?')}"
    yield ["cores", f"{cores}, usable threads: {machine.get('usable_threads', '?')}"]
    frequency, governor = machine.get("megahertz"), machine.get("governor")
    yield ["frequency", f"{frequency or 'unknown'} MHz, governor: {governor or 'unknown'}"]
    yield ["vector instructions", ", ".join(machine.get("vector_instructions", ()))]
    caches = machine.get("caches", {}).items()
    yield ["caches", ", ".join(f"{name} {amount(c['nbytes'], 'bytes')} (cores: {c['cores']})" for name, c in caches)]
    memory, pages = amount(machine["memory_nbytes"], "bytes"), machine.get("huge_pages")
    yield ["memory", f"{memory}, transparent huge pages: {pages or 'unknown'}"]
    yield ["system", machine.get("system", "")]
    yield ["Python", machine["python"]]
    yield ["packages", ", ".join(f"{name} {found}" for name, found in machine["packages"].items() if found)]
    pools = [
        f"{pool.get('internal_api')} {pool.get('version') or ''}".strip() + f": {pool['num_threads']}"
        for pool in machine["thread_pools"]
    ]
    variables = [f"{name}={value}" for name, value in machine["thread_variables"].items()]
    yield ["threads of libraries", ", ".join(dict.fromkeys(pools + variables))]
    parts = ", ".join(f"{suite} {part:.0%}" for suite, part in report.used_by_others.items())
    yield ["processors used by others meanwhile", parts]


def _every_race(report: Report) -> list[Race]:
    suites = dict.fromkeys(each.suite for each in report.measurements)
    return [race for suite in suites for race in races(report, suite)]


def _not_ahead(report: Report, reasons: Reasons) -> Iterable[str]:
    """Yield every row in which a peer is ahead, or rounds disagree on it, and why."""
    every = _every_race(report)
    behind = [race for race in every if race.verdict != "ahead"]
    yield "## Where we are not ahead"
    yield (
        f"Of {len(every):,} comparisons of ours with a peer on the same case, these {len(behind):,} are behind, or "
        "open: the spread is wider than the claim, from slower to faster."
    )
    rows = [["case", "peer", "times as fast", "", "ours", "theirs", "why"]]
    for race in behind:
        why = reasons.get(race.ours.suite, {}).get(race.ours.case, "no reason known")
        times = f"{race.times.median:.2f} ({race.times.low:.2f} to {race.times.high:.2f})"
        seconds = [amount(sorted(each.rounds)[len(each.rounds) // 2], "seconds") for each in (race.ours, race.peer)]
        peer = f"{race.peer.contender}, {race.peer.formulation}"
        rows.append(
            [f"{race.ours.suite}: {race.ours.case}", peer, times, race.verdict, *seconds, " ".join(why.split())]
        )
    yield markdown_table(Table("", rows)) if behind else "There are none."


def _left_out(report: Report, suite: str) -> Iterator[str]:
    left = [f"- {each.case}: {each.contender}, {each.left_out}" for each in report.of(suite) if each.left_out]
    if left:
        yield "Left out:"
        yield "\n".join(dict.fromkeys(left))


def _link(source: Path, page: Path) -> str:
    """Return how the page names its report: by a link if that lies below the page's folder, else by its name."""
    relative = Path(os.path.relpath(source.resolve(), page.resolve().parent))
    return source.name if ".." in relative.parts else f"[{source.name}]({relative.as_posix()})"
