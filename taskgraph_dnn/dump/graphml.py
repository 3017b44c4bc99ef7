"""GraphML, which networkx (`networkx.read_graphml`), Gephi, yEd and others read."""

from collections.abc import Iterable

from taskgraph_dnn.dump.markup import xml_text
from taskgraph_dnn.dump.view import GraphView

_TYPES = {int: "long", float: "double", str: "string"}


def render(view: GraphView) -> str:
    """Return the graph as GraphML."""
    types = {name: type(value) for node in view.nodes for name, value in node.attributes.items()}
    keys = {name: f"n{number}" for number, name in enumerate(types)}
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">',
        *(_key("graph", name, name, str) for name in ("title", "note")),
        *(_key("node", keys[name], name, kind) for name, kind in types.items()),
        '<graph edgedefault="directed">',
        *_data([("title", view.title), ("note", view.note)]),
    ]
    for node in view.nodes:
        data = "".join(_data((keys[name], value) for name, value in node.attributes.items()))
        lines.append(f'<node id="{xml_text(node.name)}">{data}</node>')
    lines += [f'<edge source="{xml_text(source)}" target="{xml_text(target)}"/>' for source, target in view.edges]
    return "\n".join([*lines, "</graph>", "</graphml>", ""])


def _key(of: str, identity: str, name: str, kind: type) -> str:
    return f'<key id="{identity}" for="{of}" attr.name="{xml_text(name)}" attr.type="{_TYPES[kind]}"/>'


def _data(values: Iterable[tuple[str, object]]) -> list[str]:
    return [f'<data key="{key}">{xml_text(value)}</data>' for key, value in values]
