"""The built-in layout as a PNG picture, drawn by Pillow at twice the size, for screens with many pixels."""

from functools import cache
from io import BytesIO
from typing import Any

from taskgraph_dnn.dump.markup import FILLS
from taskgraph_dnn.dump.picture import BOX_HEIGHT, BOX_WIDTH, MARGIN, NOTE_Y, TITLE_Y, Box, Picture, Point, layout
from taskgraph_dnn.dump.view import GraphView
from taskgraph_dnn.errors import DumpError, MissingDependencyError

_SCALE = 2
#: 0.3 GiB in memory.
_MOST_PIXELS = 100_000_000

_TEXT, _LINE, _BAND, _BORDER = "#1f2933", "#7b8794", "#eef3f8", "#52606d"


def render(view: GraphView) -> bytes:
    """Return the graph as a PNG picture.

    Raises:
        DumpError: it would have more than 100 million pixels.
        MissingDependencyError: Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ModuleNotFoundError as error:
        raise MissingDependencyError.of("a .png file without graphviz", "pillow", "visualize") from error
    picture = layout(view)
    width, height = _SCALE * picture.width, _SCALE * picture.height
    if width * height > _MOST_PIXELS:
        raise DumpError(
            f"the picture would have {width:,} x {height:,} pixels, expected at most {_MOST_PIXELS:,}: "
            "take the collapsed view, or a .svg or .html file"
        )
    image = Image.new("RGB", (width, height), "white")
    _Pencil(ImageDraw.Draw(image)).draw(picture)
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


class _Pencil:
    """Draws shapes, whose lengths are the picture's."""

    def __init__(self, drawing: Any) -> None:
        self.drawing = drawing

    def draw(self, picture: Picture) -> None:
        self.text(MARGIN, TITLE_Y, picture.title, 14, "ls")
        self.text(MARGIN, NOTE_Y, picture.note, 12, "ls")
        for x, y, label in picture.rows:
            self.text(x, y, label, 12, "rm")
        for place in picture.bands:
            self.rectangle(place, 8, fill=_BAND)
        for points in picture.edges:
            self.edge(points)
        for box in picture.boxes:
            self.box(box)

    def text(self, x: float, y: float, text: str, size: float, anchor: str) -> None:
        self.drawing.text((_SCALE * x, _SCALE * y), text, _TEXT, _font(_SCALE * size), anchor)

    def rectangle(self, place: tuple[int, int, int, int], radius: int, **options: Any) -> None:
        x, y, width, height = place
        corners = [_SCALE * x, _SCALE * y, _SCALE * (x + width), _SCALE * (y + height)]
        self.drawing.rounded_rectangle(corners, _SCALE * radius, **options)

    def edge(self, points: tuple[Point, ...]) -> None:
        path = [(_SCALE * x, _SCALE * y) for x, y in (points if len(points) == 2 else _curve(*points))]
        self.drawing.line(path, _LINE, _SCALE)
        (before_x, before_y), (x, y) = path[-2:]
        length = max(1e-9, ((x - before_x) ** 2 + (y - before_y) ** 2) ** 0.5)
        ahead_x, ahead_y = (x - before_x) / length, (y - before_y) / length
        back, wide = 6 * _SCALE, 3 * _SCALE
        foot_x, foot_y = x - back * ahead_x, y - back * ahead_y
        sides = (foot_x - wide * ahead_y, foot_y + wide * ahead_x), (foot_x + wide * ahead_y, foot_y - wide * ahead_x)
        self.drawing.polygon([(x, y), *sides], _LINE)

    def box(self, box: Box) -> None:
        fill, place = FILLS.get(box.kind, "white"), (box.x, box.y, BOX_WIDTH, BOX_HEIGHT)
        self.rectangle(place, 5, fill=fill, outline=_BORDER, width=_SCALE)
        middle = box.x + BOX_WIDTH // 2
        self.text(middle, box.y + (13 if box.detail else BOX_HEIGHT // 2), box.label, 12, "mm")
        self.text(middle, box.y + 27, box.detail, 10.5, "mm")


@cache
def _font(size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _curve(start: Point, first: Point, second: Point, end: Point) -> list[Point]:
    """Return points of a cubic Bézier curve."""
    points = []
    for t in (step / 16 for step in range(17)):
        weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
        corners = tuple(zip(weights, (start, first, second, end), strict=True))
        points.append((sum(weight * x for weight, (x, _) in corners), sum(weight * y for weight, (_, y) in corners)))
    return points
