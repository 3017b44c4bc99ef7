"""An SVG picture, light or dark as its reader's system is; all that is known of a node is its tooltip."""

from taskgraph_dnn.dump.markup import xml_text
from taskgraph_dnn.dump.picture import BOX_HEIGHT, BOX_WIDTH, MARGIN, NOTE_Y, TITLE_Y, Box, Point, layout
from taskgraph_dnn.dump.view import GraphView

_STYLE = """
  svg { background: #ffffff; font: 12px system-ui, sans-serif; }
  text { fill: #1f2933; text-anchor: middle; }
  .title, .note { text-anchor: start; }
  .title { font-weight: 600; font-size: 14px; }
  .row { text-anchor: end; }
  .detail { font-size: 10.5px; }
  .band { fill: #eef3f8; }
  .edge { fill: none; stroke: #7b8794; stroke-width: 1.2; marker-end: url(#arrow); }
  .node rect { stroke: #52606d; stroke-width: 1; fill: #d9e8f8; }
  .input rect { fill: #e3f5e9; } .output rect { fill: #fdeed3; } .merged rect { fill: #ece3f8; }
  .arrow { fill: #7b8794; }
  @media (prefers-color-scheme: dark) {
    svg { background: #15191e; } text { fill: #e4e7eb; } .band { fill: #20262d; }
    .edge { stroke: #8a97a5; } .arrow { fill: #8a97a5; } .node rect { stroke: #9aa5b1; fill: #1f3f63; }
    .input rect { fill: #1d4a30; } .output rect { fill: #5a431b; } .merged rect { fill: #47346a; }
  }
"""


def render(view: GraphView) -> str:
    """Return the graph as an SVG document."""
    picture = layout(view)
    width, height, title = picture.width, picture.height, xml_text(picture.title)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
            f' viewBox="0 0 {width} {height}" role="img" aria-label="Task graph, {title}">',
            f"<style>{_STYLE}</style>",
            '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto"><path class="arrow" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<text class="title" x="{MARGIN}" y="{TITLE_Y}">{title}</text>',
            f'<text class="note" x="{MARGIN}" y="{NOTE_Y}">{xml_text(picture.note)}</text>',
            *(f'<text class="row" x="{x}" y="{y + 4}">{xml_text(label)}</text>' for x, y, label in picture.rows),
            *(f'<rect class="band" x="{x}" y="{y}" width="{w}" height="{h}" rx="8"/>' for x, y, w, h in picture.bands),
            *(f'<path class="edge" d="{_path(points)}"/>' for points in picture.edges),
            *(_node(box) for box in picture.boxes),
            "</svg>",
            "",
        ]
    )


def _path(points: tuple[Point, ...]) -> str:
    first, *others = (f"{x:g} {y:g}" for x, y in points)
    return f"M{first}{'L' if len(others) == 1 else 'C'}{' '.join(others)}"


def _node(box: Box) -> str:
    middle = box.x + BOX_WIDTH // 2
    label_y = box.y + BOX_HEIGHT // 2 + (-2 if box.detail else 4)
    detail = f'<text class="detail" x="{middle}" y="{box.y + 30}">{xml_text(box.detail)}</text>' if box.detail else ""
    return (
        f'<g class="node {xml_text(box.kind)}"><title>{xml_text(chr(10).join(box.facts))}</title>'
        f'<rect x="{box.x}" y="{box.y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5"/>'
        f'<text x="{middle}" y="{label_y}">{xml_text(box.label)}</text>{detail}</g>'
    )
