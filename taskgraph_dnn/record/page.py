"""A run on one HTML page: pictures, tables, and a few lines of script to find tasks in them; no network, no library."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from dask.utils import format_bytes
from rich.table import Table

import taskgraph_dnn
from taskgraph_dnn.checks import Check
from taskgraph_dnn.dump.markup import filled_page, xml_text
from taskgraph_dnn.record import timeline
from taskgraph_dnn.record.drawing import STYLE, chart, clock
from taskgraph_dnn.record.figures import held_nbytes, layer_seconds, peak_nbytes, uses
from taskgraph_dnn.record.slices import Slice, closed_up, slices
from taskgraph_dnn.report import check_table, layers_table, result_table
from taskgraph_dnn.result import Result
from taskgraph_dnn.words import counted

_LONGEST = 50


def render(result: Result, checks: Sequence[Check] = ()) -> str:
    """Return the page."""
    tasks = closed_up(slices(result))
    plan = result.plan
    parts = {
        "title": xml_text(f"{counted(plan.depth, 'layer')} on {counted(result.samples, 'sample')}"),
        "style": STYLE,
        "about": xml_text(_about(result)),
        "summary": _table(result_table(result)) + (_table(check_table(list(checks))) if checks else ""),
        "timeline": timeline.render(tasks, style=""),
        "charts": "\n".join(_layer_charts(result)),
        "layers": _table(layers_table(result)),
        "workers": _table(_workers(tasks)),
        "memory": _memory_chart(tasks),
        "memory-table": _table(_memory(result, tasks)),
        "plan": xml_text(str(plan)),
        "tasks": _longest(tasks),
    }
    return filled_page("taskgraph_dnn.record", parts)


def _about(result: Result) -> str:
    program = f"taskgraph-dnn {taskgraph_dnn.__version__}"
    if not result.events:
        return f"{program}; no task was run"
    began = datetime.fromtimestamp(min(event.start for event in result.events)).astimezone()
    machines = sorted({event.worker.rsplit("-", 2)[0] for event in result.events})
    named = ", ".join(machines[:3]) + (f" and {len(machines) - 3:,} more" if len(machines) > 3 else "")
    return f"{program}; first task {began:%Y-%m-%d %H:%M:%S %z}; on {named}"


def _layer_charts(result: Result) -> Iterable[str]:
    layers, plan = result.layers, result.plan
    edges = [layer.layer - 0.5 for layer in layers] + [layers[-1].layer + 0.5]
    alive, distinct = [layer.alive for layer in layers], [layer.distinct for layer in layers]
    yield chart("Samples after each layer", edges, {"alive": alive, "carried, equal ones once": distinct})
    done, skipped = [layer.done for layer in layers], [max(0, layer.skipped) for layer in layers]
    yield chart("Multiply-adds", edges, {"done": done, "left out": skipped})
    yield chart("Time in each layer, all tasks, estimated", edges, {"seconds": layer_seconds(result)}, unit="s")
    densities = [100 * layer.nnz / (layer.inputs * layer.outputs) for layer in plan.layers]
    yield chart("Density of the weights, as computed", edges, {"density": densities}, unit="%")


def _memory_chart(tasks: Sequence[Slice]) -> str:
    times, nbytes = held_nbytes(tasks)
    return chart(
        "Between tasks: what they returned",
        times,
        {"bytes": nbytes},
        unit="B",
        x_title="time since the first task began",
        x_unit="s",
        x_step=0.0,
    )


def _memory(result: Result, tasks: Sequence[Slice]) -> Table:
    table = Table(show_header=False)
    table.add_row("largest task, as planned", format_bytes(result.plan.largest_task_nbytes))
    table.add_row("most that a task returned", format_bytes(max((e.nbytes for e in result.events), default=0)))
    table.add_row("most between tasks", format_bytes(int(held_nbytes(tasks)[1].max())))
    peak = peak_nbytes(result)
    if peak is not None:
        table.add_row("peak of the process, all that it did", format_bytes(peak))
    return table


def _workers(tasks: Sequence[Slice]) -> Table:
    numbers = "tasks", "computing", "preparing", "idle", "busy", "multiply-adds", "weights loaded", "waited for them"
    table = Table("process", "thread", *numbers)
    for column in table.columns[1:]:
        column.justify = "right"
    for use in uses(tasks):
        whole = use.compute_seconds + use.prepare_seconds + use.idle_seconds
        table.add_row(
            use.process,
            f"{use.thread}",
            f"{use.tasks:,}",
            clock(use.compute_seconds),
            clock(use.prepare_seconds),
            clock(use.idle_seconds),
            f"{1 - use.idle_seconds / whole:.1%}" if whole else "",
            f"{use.multiply_adds:,}",
            format_bytes(use.weights_nbytes),
            clock(use.weights_seconds),
        )
    return table


def _longest(tasks: Sequence[Slice]) -> str:
    """Return a table of the tasks that lasted longest, whose rows the page's script finds as it finds bars."""
    longest = sorted(tasks, key=lambda task: task.start - task.end)[:_LONGEST]
    heads = ("task", "began", "lasted", "preparing", "samples", "alive", "returned")
    rows = [_row("th", heads)]
    for task in longest:
        cells = [task.name, *map(clock, (task.start / 1e9, task.seconds, task.prepare_seconds))]
        cells += [f"{task.samples:,}", f"{task.alive:,}", format_bytes(task.nbytes)]
        rows.append(_row("td", cells, f' class="task" data-told="{xml_text(timeline.tooltip(task))}"'))
    return "<table>\n" + "\n".join(rows) + "\n</table>"


def _row(kind: str, cells: Sequence[str], attributes: str = "") -> str:
    first, *others = map(xml_text, cells)
    made = [f"<{kind}>{first}</{kind}>", *(f'<{kind} class="right">{other}</{kind}>' for other in others)]
    return f"<tr{attributes}>{''.join(made)}</tr>"


def _table(table: Table) -> str:
    """Return a table for the terminal as one for a page."""
    kinds = ["right" if column.justify == "right" else "" for column in table.columns]

    def row(tag: str, cells: Iterable[Any]) -> str:
        made = [f'<{tag} class="{kind}">{xml_text(str(cell))}</{tag}>' for kind, cell in zip(kinds, cells, strict=True)]
        return f"<tr>{''.join(made)}</tr>"

    heads = [row("th", (column.header for column in table.columns))] if table.show_header else []
    rows = [row("td", cells) for cells in zip(*(column.cells for column in table.columns), strict=True)]
    return "<table>\n" + "\n".join([*heads, *rows]) + "\n</table>"
