"""Mermaid's flowcharts, which GitHub, GitLab and many editors draw where they stand in a Markdown file.

Mermaid has no attributes: they stand in a comment above each node.
"""

import re

from taskgraph_dnn.dump.markup import FILLS
from taskgraph_dnn.dump.view import GraphView, Node

_SIGNS = re.compile(r"[^\w ,.:+-]")


def render(view: GraphView) -> str:
    """Return the graph as a flowchart, left to right."""
    numbers = {node.name: f"n{number}" for number, node in enumerate(view.nodes)}
    title = " - ".join(filter(None, (view.title, view.note)))
    lines = ["flowchart LR", f"  %% {_escaped(title)}"]
    lines += [line for node in view.nodes for line in _node(numbers[node.name], node)]
    lines += [f"  {numbers[source]} --> {numbers[target]}" for source, target in view.edges]
    kinds = dict.fromkeys(str(node.attributes.get("kind")) for node in view.nodes)
    lines += [f"  classDef {kind} fill:{FILLS[kind]},stroke:#52606d,color:#1f2933" for kind in kinds if kind in FILLS]
    return "\n".join([*lines, ""])


def _node(number: str, node: Node) -> list[str]:
    known = ", ".join(f"{name}={_escaped(str(value))}" for name, value in node.attributes.items())
    label = "<br>".join(filter(None, (_escaped(node.name), _escaped(str(node.attributes.get("kernel", ""))))))
    kind = str(node.attributes.get("kind"))
    return [f"  %% {number}: {known}", f'  {number}["{label}"]' + (f":::{kind}" if kind in FILLS else "")]


def _escaped(text: str) -> str:
    """Return text with all but letters, digits and a few signs as Mermaid's entities: #60; is <."""
    return _SIGNS.sub(lambda sign: f"#{ord(sign[0])};", text)
