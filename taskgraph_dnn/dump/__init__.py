"""Task graphs on paper: the logical graph of a plan, written as SVG, DOT or JSON."""

import os
from collections.abc import Callable
from pathlib import Path

from taskgraph_dnn.dump import dot, node_link, svg
from taskgraph_dnn.dump.logical import LogicalGraph, logical_graph
from taskgraph_dnn.errors import DumpError
from taskgraph_dnn.io.atomic import write_text
from taskgraph_dnn.plan import Plan

__all__ = ["LogicalGraph", "logical_graph", "write_graph"]

_FORMATS: dict[str, Callable[[LogicalGraph], str]] = {".svg": svg.render, ".dot": dot.render, ".json": node_link.render}


def write_graph(plan: Plan, path: str | os.PathLike[str]) -> Path:
    """Write the logical graph of `plan`, a node for each layer and partition, and return where.

    Args:
        plan: whose graph.
        path: the file; its suffix, .svg, .dot or .json (networkx's node-link form), is the format.

    Raises:
        DumpError: the suffix is none of these, or a picture would have more nodes than anyone can look at.
    """
    target = Path(path)
    render = _FORMATS.get(target.suffix.lower())
    if render is None:
        raise DumpError(f"cannot write a graph as {target.name!r}, expected a name that ends in {', '.join(_FORMATS)}")
    write_text(target, render(logical_graph(plan)))
    return target
