"""JSON in networkx's node-link form: `networkx.node_link_graph(json.load(file), edges="edges")` reads it."""

import json

from taskgraph_dnn.dump.view import GraphView


def render(view: GraphView) -> str:
    """Return the graph as JSON, one node or edge a line."""
    graph = json.dumps({"title": view.title, "note": view.note})
    nodes = [json.dumps({"id": node.name, **node.attributes}) for node in view.nodes]
    edges = [json.dumps({"source": source, "target": target}) for source, target in view.edges]
    return (
        f'{{"directed": true, "multigraph": false, "graph": {graph},\n'
        '"nodes": [\n' + ",\n".join(nodes) + '\n],\n"edges": [\n' + ",\n".join(edges) + "\n]}\n"
    )
