"""JSON in networkx's node-link form: `networkx.node_link_graph(json.load(file), edges="edges")` reads it."""

import json

from taskgraph_dnn.dump.logical import LogicalGraph


def render(graph: LogicalGraph) -> str:
    """Return the graph as JSON, one node or edge a line."""
    nodes = [json.dumps({"id": node.name, **node.attributes}) for node in graph.nodes]
    edges = [json.dumps({"source": source, "target": target}) for source, target in graph.edges]
    return (
        '{"directed": true, "multigraph": false, "graph": {},\n'
        '"nodes": [\n' + ",\n".join(nodes) + '\n],\n"edges": [\n' + ",\n".join(edges) + "\n]}\n"
    )
