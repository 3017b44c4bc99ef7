"""Graphviz's DOT language, and the pictures that graphviz makes of it."""

import shutil
import subprocess
from collections.abc import Callable

from taskgraph_dnn.dump.markup import FILLS
from taskgraph_dnn.dump.view import GraphView, Node
from taskgraph_dnn.errors import DumpError


def render(view: GraphView) -> str:
    """Return the graph in DOT, left to right."""
    return _document(view, _attributes)


def _document(view: GraphView, attributes: Callable[[Node], str], *more: str) -> str:
    title = " - ".join(filter(None, (view.title, view.note)))
    lines = [
        "digraph inference {",
        f"  rankdir=LR; label={_quoted(title)}; labelloc=t; labeljust=l; fontname=helvetica;",
        '  node [shape=box, style=filled, fontname="helvetica"];',
    ]
    lines += [f"  {_quoted(node.name)} [{attributes(node)}];" for node in view.nodes]
    lines += [f"  {_quoted(source)} -> {_quoted(target)};" for source, target in view.edges]
    return "\n".join([*lines, *more, "}", ""])


def has_program() -> bool:
    """Whether graphviz's program `dot` is there."""
    return shutil.which("dot") is not None


def draw(view: GraphView, picture: str) -> bytes:
    """Return the graph as graphviz draws it: "svg" or "png".

    Raises:
        DumpError: graphviz is not installed, or fails.
    """
    if not has_program():
        raise DumpError("found no program dot, expected graphviz to be installed; the layout grid does without")
    text = _document(view, _told, _downwards(view))
    made = subprocess.run(["dot", f"-T{picture}"], input=text.encode(), capture_output=True, check=False)
    if made.returncode:
        said = made.stderr.decode(errors="replace").strip()
        raise DumpError(f"dot failed with exit status {made.returncode}: {said}")
    return made.stdout


def _attributes(node: Node) -> str:
    color = FILLS.get(str(node.attributes.get("kind")), "white")
    label = _quoted(*filter(None, (node.name, str(node.attributes.get("kernel", "")))))
    known = ", ".join(f"{name}={_quoted(str(value))}" for name, value in node.attributes.items())
    return f"{known}, label={label}, fillcolor={_quoted(color)}"


def _told(node: Node) -> str:
    return f"{_attributes(node)}, tooltip={_quoted(*node.facts)}"


def _downwards(view: GraphView) -> str:
    """Return what keeps partitions in order, from top to bottom: edges between their inputs that nobody sees."""
    inputs = [_quoted(node.name) for node in view.nodes if node.column == 0]
    return f"  {{ rank=same; {' -> '.join(inputs)} [style=invis]; }}" if len(inputs) > 1 else ""


def _quoted(*lines: str) -> str:
    # A quote is all that has to be escaped, but labels are read once more, and take a backslash for an escape.
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + r"\n".join(escaped) + '"'
