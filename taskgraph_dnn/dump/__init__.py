"""Task graphs on paper: a view of a plan, written in the format that a file's name ends in."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taskgraph_dnn.dump import dot, graphml, mermaid, node_link, page, png, svg
from taskgraph_dnn.dump.view import VIEWS, GraphView, Node, logical_size, make_view
from taskgraph_dnn.errors import DumpError
from taskgraph_dnn.io.atomic import atomic_path
from taskgraph_dnn.plan import Plan

__all__ = ["LAYOUTS", "VIEWS", "GraphView", "Node", "check_format", "make_view", "write_graph"]

LAYOUTS = ("auto", "grid", "dot")


@dataclass(frozen=True)
class _Format:
    """A format: what writes it, and the largest logical graph that is not collapsed unless somebody asks for it."""

    render: Callable[[GraphView], str | bytes]
    most_nodes: int


_FORMATS = {
    ".svg": _Format(svg.render, 20_000),  # browsers still scroll this smoothly; nobody looks at more
    ".png": _Format(png.render, 1_000),
    ".dot": _Format(dot.render, 1_000_000),
    ".json": _Format(node_link.render, 1_000_000),
    ".graphml": _Format(graphml.render, 1_000_000),
    ".mmd": _Format(mermaid.render, 150),  # Mermaid refuses 500 edges, and 50,000 letters
    ".html": _Format(page.render, 20_000),
}
_PICTURES = (".svg", ".png")

#: Graphviz draws so many nodes in a second or two; it takes minutes for a few thousand.
_DOT_NODES = 300


def write_graph(
    plan: Plan, path: str | os.PathLike[str], *, view: str | None = None, layout: str = "auto"
) -> GraphView:
    """Write the graph of `plan` and return what was written.

    Args:
        plan: whose graph.
        path: the file; its suffix is the format: .svg, .png, .dot, .json (networkx's node-link form), .graphml, .mmd
            (Mermaid) or .html (a page to look around in).
        view: "logical", "tasks" or "collapsed", see `make_view`; None for the logical one, or for the collapsed one
            where that has more nodes than the format is good for.
        layout: of a .svg or .png file: "grid", "dot" (graphviz's), or "auto" for graphviz's where it is installed and
            the graph is small.

    Raises:
        DumpError: the suffix, the view or the layout is none of these; or a picture would be too large; or graphviz is
            asked for and not installed, or fails.
        MissingDependencyError: a .png file needs Pillow.
        FileError: the file cannot be written.
    """
    suffix = check_format(path, layout)
    if view is None:
        view = "logical" if logical_size(plan) <= _FORMATS[suffix].most_nodes else "collapsed"
    made = make_view(plan, view)
    content = _content(made, suffix, layout)
    with atomic_path(path) as draft:
        draft.write_bytes(content if isinstance(content, bytes) else content.encode())
    return made


def check_format(path: str | os.PathLike[str], layout: str = "auto") -> str:
    """Return the suffix of a file, if a graph can be written to it with this layout; call it before long work.

    Raises:
        DumpError: the suffix or the layout is unknown, or the layout is not for this format.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in _FORMATS:
        raise DumpError(f"cannot write a graph as {target.name!r}, expected a name that ends in {', '.join(_FORMATS)}")
    if layout not in LAYOUTS:
        raise DumpError(f"unknown layout {layout!r}, expected one of {', '.join(LAYOUTS)}")
    if layout != "auto" and suffix not in _PICTURES:
        raise DumpError(f"layout is {layout!r}, but {target.name!r} has none, expected {' or '.join(_PICTURES)}")
    return suffix


def _content(view: GraphView, suffix: str, layout: str) -> str | bytes:
    small = len(view.nodes) <= _DOT_NODES and dot.has_program()
    if suffix in _PICTURES and (layout == "dot" or (layout == "auto" and small)):
        return dot.draw(view, suffix.removeprefix("."))
    return _FORMATS[suffix].render(view)
