"""Graphviz's DOT language; `dot -Tpdf graph.dot` draws it."""

from taskgraph_dnn.dump.logical import LogicalGraph, Node


def render(graph: LogicalGraph) -> str:
    """Return the graph in DOT, left to right, one rank a layer."""
    lines = ["digraph inference {", "  rankdir=LR;", '  node [shape=box, fontname="helvetica"];']
    lines += [f"  {_quoted(node.name)} [{_attributes(node)}];" for node in graph.nodes]
    lines += [f"  {_quoted(source)} -> {_quoted(target)};" for source, target in graph.edges]
    return "\n".join([*lines, "}", ""])


def _attributes(node: Node) -> str:
    return ", ".join(f"{name}={_quoted(str(value))}" for name, value in node.attributes.items())


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
