"""The built-in layout: a grid, because that is what this graph is, as shapes that any format can draw.

Columns are layers, from left to right; rows are partitions, merged ones last. Layers of one span stand on one band,
because one task computes them. Lengths are in pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from taskgraph_dnn.dump.view import GraphView, Node

BOX_WIDTH, BOX_HEIGHT = 72, 38
MARGIN, TITLE_Y, NOTE_Y = 24, 28, 48

_STEP_X, _STEP_Y = 104, 64
_HEADER, _BAND = 68, 8
_LETTER = 8  # as wide as letters are, or wider
_LETTERS = 11  # in a box

Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A node: the corner of its box, its kind, the two lines in it, and all that is known of it."""

    x: int
    y: int
    kind: str
    label: str
    detail: str
    facts: tuple[str, ...]


@dataclass(frozen=True)
class Picture:
    """What to draw, one thing over the other.

    Attributes:
        width, height: of all.
        title, note: at `MARGIN`, `TITLE_Y` and `NOTE_Y`.
        rows: (x, y, label) of each row; x is where the label ends.
        bands: (x, y, width, height).
        edges: two points of a line, or four of a cubic curve; the last one is the arrow's head.
        boxes: the nodes.
    """

    width: int
    height: int
    title: str
    note: str
    rows: tuple[tuple[int, int, str], ...]
    bands: tuple[tuple[int, int, int, int], ...]
    edges: tuple[tuple[Point, ...], ...]
    boxes: tuple[Box, ...]


def layout(view: GraphView) -> Picture:
    """Return the picture of a graph."""
    left = MARGIN + _LETTER * max(map(len, view.rows), default=0) + 16
    places = {node.name: (left + node.column * _STEP_X, _HEADER + node.row * _STEP_Y) for node in view.nodes}
    middle = _HEADER + BOX_HEIGHT // 2
    right = left + len(view.columns) * _STEP_X - (_STEP_X - BOX_WIDTH)
    return Picture(
        width=MARGIN + max(right, MARGIN + _LETTER * max(len(view.title), len(view.note))),
        height=_HEADER + max(1, len(view.rows)) * _STEP_Y - (_STEP_Y - BOX_HEIGHT) + MARGIN,
        title=view.title,
        note=view.note,
        rows=tuple((left - 16, middle + row * _STEP_Y, label) for row, label in enumerate(view.rows)),
        bands=tuple(_bands(view, places)),
        edges=tuple(_edge(places[source], places[target]) for source, target in view.edges),
        boxes=tuple(_box(view, node, *places[node.name]) for node in view.nodes),
    )


def _bands(view: GraphView, places: dict[str, tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    spans: dict[tuple[int, str | int | float], list[int]] = {}
    for node in view.nodes:
        if "span" in node.attributes:
            spans.setdefault((node.row, node.attributes["span"]), []).append(places[node.name][0])
    for (row, _), xs in spans.items():
        y = _HEADER + row * _STEP_Y - _BAND
        yield xs[0] - _BAND, y, xs[-1] - xs[0] + BOX_WIDTH + 2 * _BAND, BOX_HEIGHT + 2 * _BAND


def _edge(source: tuple[int, int], target: tuple[int, int]) -> tuple[Point, ...]:
    """Return a line from right to left; or a curve over the boxes between, or, in a column, beside them."""
    middle = BOX_HEIGHT // 2
    x, y, to_x, to_y = source[0] + BOX_WIDTH, source[1] + middle, target[0], target[1] + middle
    if source[0] == target[0]:
        to_x += BOX_WIDTH
        return (x, y), (x + 24, y), (to_x + 24, to_y), (to_x, to_y)
    if to_x - x > _STEP_X:
        return (x, y), (x + 20, y - _STEP_Y * 0.6), (to_x - 20, to_y - _STEP_Y * 0.6), (to_x, to_y)
    return (x, y), (to_x, to_y)


def _box(view: GraphView, node: Node, x: int, y: int) -> Box:
    known = node.attributes
    label = view.columns[node.column]
    if len(label) > _LETTERS:
        label = label.split()[-1]  # the numbers alone
    return Box(x, y, str(known.get("kind", "")), _cut(label), _cut(str(known.get("kernel", ""))), node.facts)


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"
