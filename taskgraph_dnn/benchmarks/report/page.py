"""The page of a report, with its plots: what was measured where, and what it says, good and bad alike."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import median

import yaml

from taskgraph_dnn.benchmarks.report.plots import Plot, plots
from taskgraph_dnn.benchmarks.report.races import VERDICTS, Race, races
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import EFFORTS, Table, amount
from taskgraph_dnn.benchmarks.suites import SUITES
from taskgraph_dnn.benchmarks.timing import summary
from taskgraph_dnn.errors import FileError
from taskgraph_dnn.io.atomic import write_text
from taskgraph_dnn.words import counted

#: Whoever uses a larger part of the processors disturbs what is timed.
QUIET = 0.05

#: Why a peer is ahead: for each suite and case a text, written by hand.
REASONS = "reasons.yaml"

#: A table of more rows is folded.
_LONG = 60

#: As they are read: for each suite and case a text.
Reasons = Mapping[str, Mapping[str, str]]

_METHOD = """\
All contenders of a case run in one process, or each in processes of its own where it says so: first once, when their
answers are compared with a reference, and a wrong one ends the run; then to warm up; then {rounds} rounds, in each of
which every contender runs once, in random order: a pass that is not timed, which fills caches and has memory at hand,
and then {milliseconds:g} ms or longer. What else the machine does meets all of them alike. Numbers are medians of
rounds, with the 10th and 90th percentile; ratios are taken within rounds, and then their median and percentiles. Peers
are what a user of theirs would write at best: of several formulations the fastest counts; MKL and torch, which are
slower with other arrays, have such as begin on cache lines. Work per second is the work that was asked for, whatever a
format or a shortcut makes of it."""


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
    parts = [*_head(report, link), *_ahead(report), *_not_ahead(report, reasons), *_circumstances(report)]
    broken_off = report.unfinished()
    for suite in SUITES.values():
        if not report.has(suite.name):
            continue
        parts += [f"## {suite.title}", suite.about]
        if suite.name in broken_off:
            parts.append(f"**Broken off** after {counted(broken_off[suite.name], 'measurement')}: there is more to it.")
        parts += [f"![{plot.alt}]({folder}/{plot.name}.svg)" for plot in drawn if plot.suite == suite.name]
        for table in suite.tables(report):
            parts += [f"### {table.title}", _folded(table) if len(table.rows) > _LONG else markdown_table(table)]
        parts += _left_out(report, suite.name)
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table as lines of a page."""
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
    ruler = "".join(" ---: |" if table.has_numbers(column) else " --- |" for column in range(len(table.rows[0])))
    return "\n".join([head, f"|{ruler}", *body])


def _folded(table: Table) -> str:
    """Return a long table as one that opens where it is clicked; within it, Markdown is not read everywhere."""
    sides = ["right" if table.has_numbers(column) else "left" for column in range(len(table.rows[0]))]
    head, *body = (
        "<tr>" + "".join(f'<{tag} align="{side}">{escape(cell)}</{tag}>' for cell, side in zip(row, sides, strict=True))
        for row, tag in zip(table.rows, ["th", *["td"] * len(table.rows)], strict=False)
    )
    summary = f"<details><summary>{counted(len(body), 'row')}</summary>"
    return "\n".join([summary, f"<table><thead>{head}</thead><tbody>", *body, "</tbody></table>", "</details>"])


def _head(report: Report, link: str) -> Iterator[str]:
    yield "# Benchmarks"
    yield (
        f"Made by `taskgraph-dnn bench page` of {link}, which `taskgraph-dnn bench --effort {report.effort}` has "
        f"measured on {report.date[:10]}. `taskgraph-dnn bench compare` says what changed between two such files."
    )
    if report.effort == "smoke":
        yield "**This was a smoke run**, of small cases and few rounds: its counts are right, its times say little."
    if max(report.used_by_others.values(), default=0.0) > QUIET:
        yield "**Others used the processors meanwhile**: times are longer than they need to be, and spreads wider."
    if report.missing:
        yield "Not installed, or not usable here, and so not compared with:"
        yield "\n".join(f"- {peers}: {why}" for why, peers in _by_reason(report.missing.items()).items())


def _by_reason(left_out: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return who is left out, for each reason."""
    found: dict[str, list[str]] = {}
    for who, why in dict.fromkeys(left_out):
        found.setdefault(why, []).append(who)
    return {why: ", ".join(who) for why, who in found.items()}


def _circumstances(report: Report) -> Iterator[str]:
    effort = EFFORTS[report.effort]
    yield "## How it is measured"
    yield _METHOD.format(rounds=effort.rounds, milliseconds=1000 * effort.seconds)
    yield "## The machine"
    yield markdown_table(Table("", [["", ""], *_machine_rows(report)]))


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
    if report.again:
        yield ["measured again, after the others", ", ".join(_again(report))]


def _again(report: Report) -> Iterator[str]:
    for suite, run in report.again.items():
        code = "" if run["code"] == report.machine.get("code") else ", by other code"
        yield f"{suite} ({run['date'][:16].replace('T', ' ')}{code})"


def _every_race(report: Report) -> list[Race]:
    suites = dict.fromkeys(each.suite for each in report.measurements)
    return [race for suite in suites for race in races(report, suite)]


def _ahead(report: Report) -> Iterator[str]:
    """Yield for each suite how often ours is ahead."""
    every = _every_race(report)
    yield "## Who is ahead"
    yield (
        f"Of {len(every):,} comparisons of ours with a peer on the same case; *open* means that the spread is wider "
        "than the claim: rounds disagree on who is ahead."
    )
    rows = [["", "comparisons", *VERDICTS, "times as fast, median", "least", "most"]]
    for suite in SUITES.values():
        found = [race for race in every if race.ours.suite == suite.name]
        if found:
            verdicts = Counter(race.verdict for race in found)
            times = sorted(race.times.median for race in found)
            ratios = (f"{each:.2f}" for each in (median(times), times[0], times[-1]))
            rows.append([suite.title, f"{len(found):,}", *(f"{verdicts[each]:,}" for each in VERDICTS), *ratios])
    if every:
        yield markdown_table(Table("", rows))


def _not_ahead(report: Report, reasons: Reasons) -> Iterator[str]:
    """Yield every case in which a peer is ahead, or rounds disagree on it, and why."""
    yield "## Where we are not ahead"
    cases: dict[tuple[str, str], list[Race]] = {}
    for race in _every_race(report):
        if race.verdict != "ahead":
            cases.setdefault((race.ours.suite, race.ours.case), []).append(race)
    rows = [["case", "ours", "peers: how many times as fast ours is", "why"]]
    for (suite, case), found in cases.items():
        why = reasons.get(suite, {}).get(case, "no reason known")
        peers = "<br>".join(map(_against, sorted(found, key=lambda race: race.times.median)))
        rows.append([f"{suite}: {case}", _amount(found[0].ours), peers, " ".join(why.split())])
    yield markdown_table(Table("", rows)) if cases else "Nowhere."


def _against(race: Race) -> str:
    return f"{race.peer.contender}, {race.peer.formulation}, {_amount(race.peer)}: {race.cell}"


def _amount(each: Measurement) -> str:
    return amount(summary(each.rounds).median, each.unit)


def _left_out(report: Report, suite: str) -> Iterator[str]:
    """Yield what a suite has left out, a line for each case and reason."""
    cases: dict[str, list[tuple[str, str]]] = {}
    for each in report.of(suite):
        if each.left_out:
            cases.setdefault(each.case, []).append((each.contender, each.left_out))
    if cases:
        yield "Left out:"
        by_reason = ((case, _by_reason(left_out)) for case, left_out in cases.items())
        yield "\n".join(f"- {case}: {who}: {why}" for case, reasons in by_reason for why, who in reasons.items())


def _link(source: Path, page: Path) -> str:
    """Return how the page names its report: by a link if that lies below the page's folder, else by its name."""
    relative = Path(os.path.relpath(source.resolve(), page.resolve().parent))
    return source.name if ".." in relative.parts else f"[{source.name}]({relative.as_posix()})"
