"""An SVG picture, laid out as what this graph is: a grid of layers (left to right) by partitions (top to bottom).

Layers of one span stand on one band, because one task computes them. No program has to be installed for it.
"""

from html import escape

from taskgraph_dnn.dump.logical import LogicalGraph, Node
from taskgraph_dnn.errors import DumpError

#: Browsers still scroll this smoothly; nobody looks at more.
NODE_LIMIT = 20_000

_WIDTH, _HEIGHT = 64, 34
_STEP_X, _STEP_Y = 92, 58
_MARGIN, _HEADER = 24, 44

_STYLE = """
  svg { background: #ffffff; font: 12px system-ui, sans-serif; }
  text { fill: #1f2933; text-anchor: middle; }
  .title { text-anchor: start; font-weight: 600; font-size: 14px; }
  .band { fill: #eef3f8; }
  .edge { stroke: #7b8794; stroke-width: 1.2; marker-end: url(#arrow); }
  .node rect { stroke: #52606d; stroke-width: 1; fill: #ffffff; }
  .input rect { fill: #e3f5e9; } .output rect { fill: #fdeed3; } .layer rect { fill: #d9e8f8; }
  .arrow { fill: #7b8794; }
  @media (prefers-color-scheme: dark) {
    svg { background: #15191e; } text { fill: #e4e7eb; } .band { fill: #20262d; }
    .edge { stroke: #8a97a5; } .arrow { fill: #8a97a5; } .node rect { stroke: #9aa5b1; fill: #15191e; }
    .input rect { fill: #1d4a30; } .output rect { fill: #5a431b; } .layer rect { fill: #1f3f63; }
  }
"""


def render(graph: LogicalGraph) -> str:
    """Return the graph as an SVG document.

    Raises:
        DumpError: it has more than `NODE_LIMIT` nodes.
    """
    if len(graph.nodes) > NODE_LIMIT:
        raise DumpError(
            f"the graph has {len(graph.nodes):,} nodes, a picture holds {NODE_LIMIT:,}: "
            "use fewer partitions, or a .json or .dot file"
        )
    width = 2 * _MARGIN + max(4, graph.columns) * _STEP_X - (_STEP_X - _WIDTH)
    height = _HEADER + graph.rows * _STEP_Y - (_STEP_Y - _HEIGHT) + _MARGIN
    places = {node.name: _place(node) for node in graph.nodes}
    title = f"{max(0, graph.columns - 2):,} layers x {graph.rows:,} partitions"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}" role="img" aria-label="Task graph, {title}">',
            f"<style>{_STYLE}</style>",
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto"><path class="arrow" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<text class="title" x="{_MARGIN}" y="28">{title}</text>',
            *_bands(graph),
            *(_edge(places[source], places[target]) for source, target in graph.edges),
            *(_node(node) for node in graph.nodes),
            "</svg>",
            "",
        ]
    )


def _place(node: Node) -> tuple[int, int]:
    return _MARGIN + node.column * _STEP_X, _HEADER + node.partition * _STEP_Y


def _bands(graph: LogicalGraph) -> list[str]:
    spans: dict[tuple[int, int], list[int]] = {}
    for node in graph.nodes:
        if "span" in node.attributes:
            spans.setdefault((node.partition, node.attributes["span"]), []).append(node.column)
    bands = []
    for (partition, _), columns in spans.items():
        x, y = _MARGIN + min(columns) * _STEP_X - 8, _HEADER + partition * _STEP_Y - 8
        width = (max(columns) - min(columns)) * _STEP_X + _WIDTH + 16
        bands.append(f'<rect class="band" x="{x}" y="{y}" width="{width}" height="{_HEIGHT + 16}" rx="8"/>')
    return bands


def _edge(source: tuple[int, int], target: tuple[int, int]) -> str:
    y = _HEIGHT // 2
    return f'<line class="edge" x1="{source[0] + _WIDTH}" y1="{source[1] + y}" x2="{target[0]}" y2="{target[1] + y}"/>'


def _node(node: Node) -> str:
    x, y = _place(node)
    kind = node.attributes["kind"]
    label = str(node.attributes["layer"]) if kind == "layer" else kind
    tooltip = escape("\n".join([node.name, *(f"{name}: {value}" for name, value in node.attributes.items())]))
    return (
        f'<g class="node {kind}"><title>{tooltip}</title>'
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{x + _WIDTH // 2}" y="{y + _HEIGHT // 2 + 4}">{label}</text></g>'
    )
