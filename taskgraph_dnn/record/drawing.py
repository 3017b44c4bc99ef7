"""What all pictures of a run share: colours for light and dark, axes, numbers in few letters."""

import re
from collections.abc import Sequence
from itertools import pairwise
from math import floor, log10

import numpy as np
from dask.utils import format_time
from numpy.typing import ArrayLike, NDArray

from taskgraph_dnn.dump.markup import xml_text

#: One style for pictures that stand alone and for those on a page. Early layers have the first of the six colours.
STYLE = """
  :root {
    --paper: #ffffff; --ink: #1f2933; --soft: #52606d; --line: #d5dbe1; --accent: #b3261e; --a: #1b62c4; --b: #b7500b;
    --c0: #cfe0f5; --c1: #c3e6e6; --c2: #cdebc9; --c3: #f1e8ab; --c4: #f8d5aa; --c5: #f3bfbc;
  }
  @media (prefers-color-scheme: dark) {
    :root {
      --paper: #15191e; --ink: #e4e7eb; --soft: #a6b1bd; --line: #363e47; --accent: #ff8a80; --a: #74b3ff; --b: #ffb066;
      --c0: #274a72; --c1: #1f5b60; --c2: #2c5c34; --c3: #5f5718; --c4: #6b4520; --c5: #6d3230;
    }
  }
  .picture { background: var(--paper); font: 12px system-ui, sans-serif; }
  .picture text { fill: var(--ink); }
  .picture .title { font-weight: 600; font-size: 14px; }
  .picture .soft { fill: var(--soft); }
  .picture .end { text-anchor: end; } .picture .middle { text-anchor: middle; }
  .picture .line { stroke: var(--line); stroke-width: 1; fill: none; }
  .picture .a { stroke: var(--a); stroke-width: 1.6; fill: none; }
  .picture .b { stroke: var(--b); stroke-width: 1.6; fill: none; }
  .picture .key-a { fill: var(--a); } .picture .key-b { fill: var(--b); }
  .picture .prepare { fill: var(--accent); }
  .picture .c0 { fill: var(--c0); } .picture .c1 { fill: var(--c1); } .picture .c2 { fill: var(--c2); }
  .picture .c3 { fill: var(--c3); } .picture .c4 { fill: var(--c4); } .picture .c5 { fill: var(--c5); }
  .picture .task > rect:first-of-type { stroke: var(--paper); stroke-width: 1; }
"""

_SUFFIXES = ("", "k", "M", "G", "T", "P", "E")
_KEY_WIDTH = 7  # of a letter, about


def picture(width: int, height: int, label: str, parts: Sequence[str], *, style: str = "", fixed: bool = True) -> str:
    """Return an SVG element.

    Args:
        width: in pixels.
        height: in pixels.
        label: for those who cannot see it.
        parts: what is in it.
        style: to stand alone, where it is not on a page that has it.
        fixed: whether it keeps its size; else it becomes as wide as its place.
    """
    size = f' width="{width}" height="{height}"' if fixed else ""
    inner = [f"<style>{style}</style>"] if style else []
    return "\n".join(
        [
            f'<svg class="picture" xmlns="http://www.w3.org/2000/svg"{size} viewBox="0 0 {width} {height}" role="img"'
            f' aria-label="{xml_text(label)}">',
            *inner,
            *parts,
            "</svg>",
        ]
    )


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Return a line of text, its baseline at y."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{xml_text(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a line of a grid or an axis."""
    return f'<path class="line" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>'


def short(value: float) -> str:
    """Return a number in few letters: 1.5k, 20M, 0.03."""
    if not value:
        return "0"
    thousands = max(0, min(len(_SUFFIXES) - 1, floor(log10(abs(value)) / 3)))
    return f"{value / 1000**thousands:.3g}{_SUFFIXES[thousands]}"


def clock(seconds: float) -> str:
    """Return a time in few letters: 0, 12.5 ms, 3.21 s, 20m 34s."""
    return re.sub(r"\.0+ |(\.\d*?)0+ ", r"\1 ", format_time(seconds)) if seconds else "0"


def ticks(most: float, about: int, least: float = 0.0) -> list[float]:
    """Return round numbers from 0 to at most `most`, about so many, and at least `least` apart."""
    if most <= 0:
        return [0.0]
    rough = max(most / about, least)
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [number * step for number in range(int(most / step * 1.000001) + 1)]


def chart(
    title: str,
    edges: ArrayLike,
    series: dict[str, ArrayLike],
    *,
    unit: str = "",
    x_title: str = "layer",
    x_unit: str = "",
    x_step: float = 1.0,
) -> str:
    """Return a picture of one or two step functions, in a size for pages.

    Args:
        title: what is shown.
        edges: n + 1 ascending places on the horizontal axis, n at least 1.
        series: by name, n values each, from 0; a value holds between two edges.
        unit: of the values.
        x_title: what the horizontal axis shows.
        x_unit: its unit.
        x_step: how close numbers on it may be.
    """
    width, height, left, right, top, bottom = 360, 200, 52, 14, 50, 40
    across, lines = np.asarray(edges, float), {name: np.asarray(values, float) for name, values in series.items()}
    most = max((float(values.max(initial=0.0)) for values in lines.values()), default=0.0) or 1.0
    begin, extent = across[0], (across[-1] - across[0]) or 1.0
    xs = left + (across - begin) / extent * (width - left - right)
    low = height - bottom
    parts = [text(8, 18, title, "title"), *_keys(list(series))]
    for value in ticks(most, 4):
        y = low - value / most * (low - top)
        parts += [line(left, y, width - right, y), text(left - 6, y + 4, short(value) + unit, "soft end")]
    for value in ticks(across[-1], 4, x_step):
        if value >= begin:
            x = left + (value - begin) / extent * (width - left - right)
            parts.append(text(x, low + 17, short(value) + x_unit, "soft middle"))
    parts.append(text((left + width - right) / 2, height - 6, x_title, "soft middle"))
    for kind, values in zip("ab", lines.values(), strict=False):
        parts.append(f'<path class="{kind}" d="{_steps(xs, low - values / most * (low - top))}"/>')
    return picture(width, height, title, parts, fixed=False)


def _keys(names: list[str]) -> list[str]:
    if len(names) < 2:
        return []
    parts, x = [], 8
    for kind, name in zip("ab", names, strict=True):
        parts += [f'<rect class="key-{kind}" x="{x}" y="27" width="9" height="9"/>', text(x + 13, 36, name, "soft")]
        x += 30 + _KEY_WIDTH * len(name)
    return parts


def _steps(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> str:
    """Return the path that has the height ys[n] from xs[n] to xs[n + 1], without points that nobody could see."""
    heights = {f"{x:.1f}": f"{y:.1f}" for x, y in zip(xs, ys, strict=False)}
    turns = [f"H{x}V{y}" for (_, before), (x, y) in pairwise(heights.items()) if y != before]
    return "".join(["M", " ".join(next(iter(heights.items()))), *turns, f"H{xs[-1]:.1f}"])
