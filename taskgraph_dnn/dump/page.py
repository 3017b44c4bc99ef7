"""A page to look around in, in one file, without any network: page.html with its style, its script and the graph."""

import json
from importlib.resources import files

from taskgraph_dnn.dump.markup import filled_page
from taskgraph_dnn.dump.view import GraphView

_PARTS = ("page.css", "page.js")


def render(view: GraphView) -> str:
    """Return the graph as an HTML page."""
    folder = files("taskgraph_dnn.dump")
    parts = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in _PARTS}
    return filled_page("taskgraph_dnn.dump", parts | {"graph": _embedded(view)})


def _embedded(view: GraphView) -> str:
    """Return the graph as JSON that can stand in a page: nothing in it can end the element that it stands in."""
    fullest_first = sorted(view.nodes, key=lambda node: -len(node.attributes))
    names = list(dict.fromkeys(name for node in fullest_first for name in node.attributes))
    numbers = {node.name: number for number, node in enumerate(view.nodes)}
    graph = {
        "title": view.title,
        "note": view.note,
        "columns": view.columns,
        "rows": view.rows,
        "attributes": names,
        "nodes": [[n.name, n.column, n.row, *(n.attributes.get(name) for name in names)] for n in view.nodes],
        "edges": [[numbers[source], numbers[target]] for source, target in view.edges],
    }
    return json.dumps(graph, separators=(",", ":")).replace("<", "\\u003c")
