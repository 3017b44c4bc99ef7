"""What is drawn: the graph of a plan as nodes with attributes and edges between them, whatever the format.

    input, p  ->  layer 1, p  ->  layer 2, p  ->  ...  ->  output, p

Every view is a grid of layers (columns) by partitions (rows); views differ in how these are cut. Merged partitions are
rows behind the others: they begin with the second span, and get an edge from each partition that may leave samples to
them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from taskgraph_dnn.errors import DumpError
from taskgraph_dnn.network import NETWORK_INPUT
from taskgraph_dnn.plan import Plan, even_ranges
from taskgraph_dnn.words import counted, plural

#: Groups of layers, of partitions and of merged ones in the collapsed view: what a screen, a page and Mermaid can show.
_LAYER_GROUPS, _PARTITION_GROUPS, _MERGED_GROUPS = 12, 8, 2

_Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        name: unique in the graph.
        column, row: its place, from 0.
        attributes: what is known of it, as docs/graphs.md explains: the same in all formats.
    """

    name: str
    column: int
    row: int
    attributes: Mapping[str, str | int | float]

    @property
    def facts(self) -> tuple[str, ...]:
        """Its name, and its attributes as people read them: the lines of a tooltip."""
        return (self.name, *[f"{name}: {value}" for name, value in self.attributes.items()])


@dataclass(frozen=True)
class GraphView:
    """A graph to be written.

    Attributes:
        title: how many layers and partitions the plan has.
        note: what a node stands for where that is not one layer of one partition, else empty.
        columns, rows: their labels.
        nodes: row by row.
        edges: (source, target) names, each pair once.
    """

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]


def make_view(plan: Plan, view: str) -> GraphView:
    """Return the graph of `plan`.

    Args:
        plan: whose graph.
        view: "logical" (a node for each layer and partition), "tasks" (for each span and partition: what Dask runs) or
            "collapsed" (for a few groups of layers and of partitions).

    Raises:
        DumpError: the view is none of these.
    """
    if view not in _CUTS:
        raise DumpError(f"unknown view {view!r}, expected one of {', '.join(VIEWS)}")
    layers, partitions, merged = _CUTS[view](plan)
    columns = _columns(plan, layers)
    rows = [*_rows(plan, partitions), *_merged_rows(plan, merged, columns)]
    notes = {
        "tasks": "each box is a task",
        "collapsed": f"each box is {_up_to(_longest(layers), 'layer')} of {_up_to(_longest(partitions), 'partition')}",
    }
    return GraphView(
        title=_title(plan),
        note=notes.get(view, ""),
        columns=("input", *(column.word for column in columns), "output"),
        rows=tuple(row.word for row in rows),
        nodes=tuple(_nodes(plan, columns, rows)),
        edges=tuple(dict.fromkeys(_edges(plan, columns, rows))),
    )


def logical_size(plan: Plan) -> int:
    """Return how many nodes the logical view has, or a few more."""
    return (len(plan.layers) + 2) * (len(plan.partitions) + plan.merged)


def _title(plan: Plan) -> str:
    merged = f" and {plan.merged:,} merged" if plan.merged else ""
    return f"{counted(len(plan.layers), 'layer')} x {counted(len(plan.partitions), 'partition')}{merged}"


def _logical(plan: Plan) -> tuple[_Ranges, _Ranges, _Ranges]:
    return _each(len(plan.layers)), _each(len(plan.partitions)), _each(plan.merged)


def _tasks(plan: Plan) -> tuple[_Ranges, _Ranges, _Ranges]:
    return plan.spans, _each(len(plan.partitions)), _each(plan.merged)


def _collapsed(plan: Plan) -> tuple[_Ranges, _Ranges, _Ranges]:
    return (
        even_ranges(len(plan.layers), _LAYER_GROUPS),
        even_ranges(len(plan.partitions), _PARTITION_GROUPS),
        even_ranges(plan.merged, _MERGED_GROUPS),
    )


#: How each view cuts layers, partitions and merged partitions.
_CUTS: dict[str, Callable[[Plan], tuple[_Ranges, _Ranges, _Ranges]]] = {
    "logical": _logical,
    "tasks": _tasks,
    "collapsed": _collapsed,
}
VIEWS = tuple(_CUTS)


def _each(count: int) -> _Ranges:
    return [(number, number + 1) for number in range(count)]


def _longest(ranges: _Ranges) -> int:
    return max((stop - first for first, stop in ranges), default=0)


def _label(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _up_to(most: int, word: str) -> str:
    return counted(most, word) if most == 1 else f"up to {counted(most, word)}"


@dataclass(frozen=True)
class _Column:
    """Some layers: (first, stop) from 0, their spans, what is known of them, and seconds of the largest partition."""

    label: str
    layers: tuple[int, int]
    spans: tuple[int, int]
    known: Mapping[str, Any]
    seconds: float

    @property
    def word(self) -> str:
        """What nodes are called."""
        return f"{plural(self.layers[1] - self.layers[0], 'layer')} {self.label}"


@dataclass(frozen=True)
class _Row:
    """Some partitions: (first, stop), what is known of them, and their part of the largest one's work.

    Merged ones begin at a later column, take samples from `members`, and nobody knows how much work they are.
    """

    label: str
    partitions: tuple[int, int]
    known: Mapping[str, Any]
    part: float | None = None
    begins: int = 0
    members: tuple[int, int] = (0, 0)

    @property
    def word(self) -> str:
        """What the row is called."""
        kind = "merged" if self.part is None else plural(self.partitions[1] - self.partitions[0], "partition")
        return f"{kind} {self.label}"

    def takes_from(self, other: "_Row") -> bool:
        """Whether some partitions of the other row may leave samples to this one."""
        first, stop = self.members
        return other.part is not None and first < other.partitions[1] and other.partitions[0] < stop


def _columns(plan: Plan, layers: _Ranges) -> list[_Column]:
    span = [number for number, (first, stop) in enumerate(plan.spans) for _ in range(first, stop)]
    columns = []
    for first, stop in layers:
        some, number = plan.layers[first:stop], first + 1 - plan.folds_inputs
        nnz = sum(layer.nnz for layer in some)
        known = {
            "layer": number,
            "layers": stop - first,
            "neurons": some[-1].outputs,
            "nnz": nnz,
            "density": _short(nnz / sum(layer.inputs * layer.outputs for layer in some)),
            "kernel": ", ".join(dict.fromkeys(layer.kernel for layer in some)),
        }
        seconds = sum(layer.seconds for layer in some)
        label = _label(number, stop - plan.folds_inputs)
        columns.append(_Column(label, (first, stop), (span[first], span[stop - 1]), known, seconds))
    return columns


def _rows(plan: Plan, partitions: _Ranges) -> list[_Row]:
    tiles = np.array([-(-(stop - first) // plan.lanes) for first, stop in plan.partitions])
    rows = []
    for first, stop in partitions:
        sample, end = plan.partitions[first][0], plan.partitions[stop - 1][1]
        known = {"partition": first, "partitions": stop - first, "first_sample": sample, "samples": end - sample}
        part = float(tiles[first:stop].sum() / tiles.max(initial=1))
        rows.append(_Row(_label(first, stop - 1), (first, stop), known, part))
    return rows


def _merged_rows(plan: Plan, merged: _Ranges, columns: Sequence[_Column]) -> list[_Row]:
    rows, count = [], len(plan.partitions)
    begins = _column_of(columns)[plan.spans[1][0]] if merged else 0
    for first, stop in merged:
        members = plan.members(first).start, plan.members(stop - 1).stop
        numbers = count + first, count + stop
        most = plan.few * (members[1] - members[0])
        known = {"partition": numbers[0], "partitions": stop - first, "samples": most}
        rows.append(_Row(_label(numbers[0], numbers[1] - 1), numbers, known, None, begins, members))
    return rows


def _column_of(columns: Sequence[_Column]) -> list[int]:
    """Return the column of each layer; the inputs are column 0."""
    return [number for number, column in enumerate(columns, start=1) for _ in range(*column.layers)]


def _nodes(plan: Plan, columns: Sequence[_Column], rows: Sequence[_Row]) -> Iterator[Node]:
    last, itemsize = len(columns) + 1, np.dtype(plan.dtype).itemsize
    for number, row in enumerate(rows):
        if not row.begins:
            known = {"kind": "input", **row.known, "neurons": plan.inputs}
            yield Node(f"input, {row.label}", 0, number, known)
        for place, column in enumerate(columns[max(0, row.begins - 1) :], start=max(1, row.begins)):
            yield Node(f"{column.word}, {row.label}", place, number, _known(plan, itemsize, column, row))
        known = {"kind": "output", **row.known, "neurons": plan.layers[-1].outputs}
        yield Node(f"output, {row.label}", last, number, known)


def _known(plan: Plan, itemsize: int, column: _Column, row: _Row) -> dict[str, Any]:
    """Return the attributes of the node of some layers and partitions."""
    known = {"kind": "merged" if row.part is None else "layer", **column.known, **row.known}
    known["nbytes"] = itemsize * known["neurons"] * known["samples"]
    if row.part is not None:
        known["seconds"] = _short(column.seconds * row.part)
    if column.spans[0] == column.spans[1]:
        known["span"] = column.spans[0]
    worker = _worker(plan, column, row)
    return known if worker is None else known | {"worker": worker}


def _worker(plan: Plan, column: _Column, row: _Row) -> int | None:
    """Return the worker of all that a node stands for; None where any will do, or several have a part."""
    first = plan.worker(column.spans[0], row.partitions[0])
    for span in range(column.spans[0], column.spans[1] + 1):
        for partition in range(*row.partitions) if first is not None else ():
            if plan.worker(span, partition) != first:
                return None
    return first


@lru_cache(1 << 16)  # most nodes are like others
def _short(number: float) -> float:
    """Return a number of four digits, which is more than estimates are good for."""
    return float(f"{number:.4g}")


def _edges(plan: Plan, columns: Sequence[_Column], rows: Sequence[_Row]) -> Iterator[tuple[str, str]]:
    """Yield the edges, some more than once: those of each row, then those to merged rows."""
    words = ["input", *(column.word for column in columns), "output"]
    along, across = _links(plan, columns)
    for row in rows:
        for source, target in along:
            if source >= row.begins:
                yield f"{words[source]}, {row.label}", f"{words[target]}, {row.label}"
    for row in rows:
        for member in (other for other in rows if row.takes_from(other)):
            for source, target in across:
                yield f"{words[source]}, {member.label}", f"{words[target]}, {row.label}"


def _links(plan: Plan, columns: Sequence[_Column]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the edges of a row, and those from a row to a merged one, as pairs of columns; inputs are column 0."""
    column_of = _column_of(columns)
    along = {
        (0 if source == NETWORK_INPUT else column_of[source], column_of[number])
        for number, layer in enumerate(plan.layers)
        for source in layer.sources
    }
    along.add((len(columns), len(columns) + 1))
    across = {(column_of[first - 1], column_of[first]) for first, _ in plan.spans[1:]}
    return sorted(link for link in along if link[0] != link[1]), sorted(across)
