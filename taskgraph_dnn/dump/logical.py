"""The logical graph: one node for each (layer, batch partition), and the inputs and outputs of each partition.

    input, p  ->  layer 1, p  ->  layer 2, p  ->  ...  ->  output, p

The same attributes go into every format.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from taskgraph_dnn.network import NETWORK_INPUT
from taskgraph_dnn.plan import Plan


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        name: unique in the graph.
        column: 0 for inputs, the layer's number from 1, one more than the last layer for outputs.
        partition: from 0; the row of the picture.
        attributes: what is known of it, plain values.
    """

    name: str
    column: int
    partition: int
    attributes: dict[str, Any]


@dataclass(frozen=True)
class LogicalGraph:
    """Nodes, and edges from name to name."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]

    @property
    def columns(self) -> int:
        """Columns of the picture: the layers, the inputs and the outputs."""
        return 1 + max((node.column for node in self.nodes), default=-1)

    @property
    def rows(self) -> int:
        """Rows of the picture: the partitions."""
        return 1 + max((node.partition for node in self.nodes), default=-1)


def logical_graph(plan: Plan) -> LogicalGraph:
    """Return the logical graph of `plan`."""
    return LogicalGraph(tuple(_nodes(plan)), tuple(_edges(plan)))


def _nodes(plan: Plan) -> Iterator[Node]:
    last = len(plan.layers)
    spans = [number for number, (first, stop) in enumerate(plan.spans) for _ in range(first, stop)]
    for p, (first, stop) in enumerate(plan.partitions):
        samples = {"partition": p, "samples": stop - first, "first_sample": first}
        yield Node(_name(NETWORK_INPUT, p), 0, p, {"kind": "input", **samples, "neurons": plan.layers[0].inputs})
        for number, layer in enumerate(plan.layers):
            yield Node(
                _name(number, p),
                number + 1,
                p,
                {
                    "kind": "layer",
                    "layer": number + 1 - plan.folds_inputs,
                    **samples,
                    "neurons": layer.outputs,
                    "nnz": layer.nnz,
                    "kernel": layer.kernel,
                    "span": spans[number],
                    **_place(plan, spans[number], p),
                    "nbytes": 4 * layer.outputs * (stop - first),
                },
            )
        yield Node(_output(p), last + 1, p, {"kind": "output", **samples, "neurons": plan.layers[-1].outputs})


def _edges(plan: Plan) -> Iterator[tuple[str, str]]:
    for p in range(len(plan.partitions)):
        for number, layer in enumerate(plan.layers):
            for source in layer.sources:
                yield _name(source, p), _name(number, p)
        yield _name(len(plan.layers) - 1, p), _output(p)


def _place(plan: Plan, span: int, partition: int) -> dict[str, int]:
    worker = plan.worker(span, partition)
    return {} if worker is None else {"worker": worker}


def _name(layer: int, partition: int) -> str:
    return f"input, {partition}" if layer == NETWORK_INPUT else f"layer {layer + 1}, {partition}"


def _output(partition: int) -> str:
    return f"output, {partition}"
