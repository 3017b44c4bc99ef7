"""Pictures of a report, as SVG: bars against peers, the roofline of the kernels, and growth.

Colours are told apart by those who see less of them, and stand out on white as well as on a dark page (a contrast of 3
and more); everything that a colour says is also a shape or a text. The same report makes the same bytes.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from taskgraph_dnn.benchmarks.report.races import AHEAD, BEHIND, OPEN, Race, races
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import amount
from taskgraph_dnn.benchmarks.suites.growth import Curve, curves
from taskgraph_dnn.benchmarks.suites.kernels import intensity
from taskgraph_dnn.benchmarks.timing import THREADS, rates, summary
from taskgraph_dnn.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

PAPER, INK, GRID = "#ffffff", "#1f2933", "#d3d9df"
DARK = {PAPER: "#15191e", INK: "#e4e7eb", GRID: "#39424c"}

#: After Okabe and Ito (Color universal design, 2008), two of them darker.
BLUE, VERMILION, GREEN, PURPLE, OCHRE, GREY = "#0072b2", "#d55e00", "#009e73", "#b8578c", "#94740a", "#767676"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, GREY)
VERDICT_COLOURS = {AHEAD: BLUE, BEHIND: VERMILION, OPEN: GREY}
MARKERS = ("o", "s", "^", "D", "v", "P")

_INCHES = 12.8

#: Less is drawn as so much: memory comes in pages, and no clock tells less than a nanosecond.
LEAST = {"seconds": 1e-9, "bytes": 4096.0}

#: Suites whose races are drawn as bars.
_BARRED = "end-to-end", "latency"

#: What a point and the line through it show of the rounds.
SPREAD = ("median", "low", "high")

_STYLE = {
    "svg.hashsalt": "taskgraph-dnn",
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "legend.facecolor": PAPER,
    "legend.edgecolor": GRID,
    "grid.color": GRID,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Plot:
    """A picture: the suite that it belongs to, what its file is called, what it says to those who cannot see it."""

    suite: str
    name: str
    alt: str
    svg: str


def plots(report: Report) -> list[Plot]:
    """Return the pictures that a report has the measurements for.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    with _style():
        drawn = [*(_bars(report, suite) for suite in _BARRED), _roofline(report), _growth(report)]
    return [plot for plot in drawn if plot is not None]


def _style() -> AbstractContextManager[Any]:
    try:
        context: AbstractContextManager[Any] = import_module("matplotlib").rc_context(_STYLE)
    except ImportError as error:
        raise MissingDependencyError.of("drawing plots", "matplotlib", "plots") from error
    return context


def _figure(inches: float) -> "Figure":
    engine = import_module("matplotlib.layout_engine").ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure: Figure = import_module("matplotlib.figure").Figure(figsize=(_INCHES, inches), layout=engine)
    return figure


def _svg(figure: "Figure") -> str:
    """Return a picture that turns dark where its reader's system is."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    rules = [
        f'[style*="{name}: {light}"] {{ {name}: {dark} !important; }}'
        for light, dark in DARK.items()
        for name in ("fill", "stroke")
    ]
    style = f"<style>@media (prefers-color-scheme: dark) {{ {' '.join(rules)} }}</style>"
    head, tag, body = stream.getvalue().partition("<defs>")
    # A picture says nothing of who made it; lines end alike on every system.
    return head + style + tag + "\n".join(line.rstrip() for line in body.splitlines()) + "\n"


# Bars: ours against peers.


def _bars(report: Report, suite: str) -> Plot | None:
    found = races(report, suite)
    cases = list(dict.fromkeys(race.ours.case for race in found))
    if not cases:
        return None
    columns = 2 if len(cases) > 1 else 1
    rows = -(-len(cases) // columns)
    most = max(sum(race.ours.case == case for race in found) for case in cases)
    figure = _figure(0.8 + rows * (0.75 + 0.24 * most))
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for axes, case in zip(panels.flat, cases, strict=False):
        _bar_panel(axes, [race for race in found if race.ours.case == case], most)
    for axes in panels.flat[len(cases) :]:
        axes.remove()
    figure.supxlabel("times as fast as the peer (median of rounds; line: 10th to 90th percentile)", fontsize=10)
    alt = f"Bars: how many times as fast as each peer, in {len(cases)} cases; the tables below have the numbers"
    return Plot(suite, suite, alt, _svg(figure))


def _bar_panel(axes: "Axes", found: Sequence[Race], most: int) -> None:
    """Draw the bars of one case, as thick as those of the case with the most."""
    ranked = sorted(found, key=lambda race: race.times.median)
    for place, race in enumerate(reversed(ranked)):
        times = race.times
        axes.barh(place, times.median - 1, left=1, height=0.62, color=VERDICT_COLOURS[race.verdict])
        axes.plot([times.low, times.high], [place, place], color=INK, linewidth=1.2, solid_capstyle="butt")
        end = max(times.high, 1.0)
        note = "" if race.verdict == AHEAD else f" ({race.verdict})"
        axes.annotate(
            f"{_times(times.median)}{note}", (end, place), (4, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(ranked)), [race.peer.contender for race in reversed(ranked)])
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_ylim(len(ranked) - most - 0.6, len(ranked) - 0.4)
    axes.tick_params(labelbottom=True)  # of the panels that share an axis, the lowest may not be there
    axes.set_title(ranked[0].ours.case, loc="left")
    _bare(axes, "x")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    low, high = min(race.times.low for race in found), max(race.times.high for race in found)
    axes.set_xlim(min(axes.get_xlim()[0], 0.8 * min(low, 1)), max(axes.get_xlim()[1], 3 * max(high, 1)))


def _times(value: float) -> str:
    return f"{value:,.0f}x" if value >= 10 else f"{value:.2g}x" if value < 1 else f"{value:.1f}x"


def _bare(axes: "Axes", grid: Literal["both", "x"] = "both") -> None:
    """Leave out the frame, and put a grid below."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="minor", length=0)


# The roofline: how far kernels are from what the machine can do.


_PEER = "fastest peer on the same layer, its product alone"


def _roofline(report: Report) -> Plot | None:
    ours = [each for each in report.of("kernels") if each.details.get("default")]
    roofs = {(each.contender, each.case): _rate(each) for each in report.of("ceilings") if each.threads == THREADS}
    if not ours or ("sgemm", "multiply-adds") not in roofs:
        return None
    figure = _figure(7.2)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    for race in _best_peers(report):
        colour, x = VERDICT_COLOURS[race.verdict], intensity(race.ours)
        axes.plot([x, x], [_rate(race.ours), _rate(race.peer)], color=colour, linewidth=1.0, zorder=1)
        axes.scatter(x, _rate(race.peer), marker="x", color=GREY, s=28, label=_PEER)
    for (pattern, group), colour, marker in zip(_patterns(ours).items(), SERIES, MARKERS, strict=False):
        axes.scatter(*_places(group), marker=marker, color=colour, s=42, label=f"{pattern}, ours", zorder=3)
    low, high = 0.6 * min(map(intensity, ours)), 2.6 * max(map(intensity, ours))
    axes.set_xlim(low, high)
    _roofs(axes, roofs, low, high)
    _label(axes, ours)
    axes.set_xlabel("multiply-adds for each byte of weights, inputs and outputs")
    axes.set_ylabel("1e9 multiply-adds a second")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,g}")
        _ticks(axis)
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one for all peers
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    _bare(axes)
    alt = (
        "Rates of kernels against how much they compute for each byte, below what the machine can do at most; "
        "a line leads to the fastest peer, and is red where that is ahead"
    )
    return Plot("kernels", "roofline", alt, _svg(figure))


def _rate(each: Measurement) -> float:
    return summary(rates(each)).median / 1e9


def _places(measurements: Sequence[Measurement]) -> tuple[list[float], list[float]]:
    return [intensity(each) for each in measurements], [_rate(each) for each in measurements]


def _patterns(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Return the measurements by what their cases begin with: random-1024, sparse50-4096 ..."""
    found: dict[str, list[Measurement]] = {}
    for each in measurements:
        found.setdefault(each.case.partition("-")[0].rstrip("0123456789"), []).append(each)
    return found


def _best_peers(report: Report) -> list[Race]:
    """Return the race against the fastest peer of each case."""
    found: dict[str, Race] = {}
    for race in races(report, "kernels"):
        best = found.get(race.ours.case)
        if best is None or race.times.median < best.times.median:
            found[race.ours.case] = race
    return list(found.values())


def _roofs(axes: "Axes", roofs: Mapping[tuple[str, str], float], low: float, high: float) -> None:
    """Draw what the machine can do: multiply, copy, and gather a value of four bytes for each multiply-add."""
    top = roofs["sgemm", "multiply-adds"]
    x = np.geomspace(low, high, 200)
    lines = {"sgemm": np.full_like(x, top)}
    for case in ("16 MiB", "256 MiB"):
        if ("copy", case) in roofs:
            lines[f"copying {case}"] = np.minimum(roofs["copy", case] * x, top)
    for (name, case), rate in roofs.items():
        if name == "gather":
            lines[f"gathering from {case}"] = np.full_like(x, rate / 4)
    for name, y in lines.items():
        slope = name.startswith("copying")
        axes.plot(x, y, color=INK, linewidth=1.0, linestyle="-" if name == "sgemm" else "--" if slope else ":")
        place, side = ((x[4], y[4]), "left") if slope else ((x[-1], y[-1]), "right")
        shift, height = ((8, 0), "top") if slope else ((0, 3), "bottom")
        axes.annotate(name, place, shift, textcoords="offset points", ha=side, va=height, fontsize=8)


def _label(axes: "Axes", measurements: Sequence[Measurement]) -> None:
    """Name the points, to their right; names that would lie on one another are moved up."""
    taken: list[tuple[float, float]] = []
    bottom, top = axes.get_ylim()
    least = 0.02 * np.log(top / bottom)
    for each in sorted(measurements, key=_rate):
        x, y = intensity(each), _rate(each)
        while any(abs(np.log(x / other)) < 0.35 and abs(np.log(y / height)) < least for other, height in taken):
            y *= 1.01
        taken.append((x, y))
        axes.annotate(each.case, (x, y), (7, 0), textcoords="offset points", va="center", fontsize=8)


# Growth: seconds and bytes against what makes a run large.


def _growth(report: Report) -> Plot | None:
    found = curves(report)
    panels = list(dict.fromkeys((curve.unit, curve.axis) for curve in found))
    panels.sort(key=lambda panel: panel[0] != "seconds")
    if not panels:
        return None
    columns = 3
    rows = -(-len(panels) // columns)
    figure = _figure(0.3 + 3.3 * rows)
    every = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(every.flat, panels, strict=False):
        _growth_panel(axes, [curve for curve in found if (curve.unit, curve.axis) == panel])
    for axes in every.flat[len(panels) :]:
        axes.remove()
    alt = "Seconds and bytes against what makes a run large, on logarithmic axes, with the exponents of power laws"
    return Plot("growth", "growth", alt, _svg(figure))


def _growth_panel(axes: "Axes", found: Sequence[Curve]) -> None:
    axis, unit = found[0].axis, found[0].unit
    axes.set_xscale("log")
    axes.set_yscale("log", base=2 if unit == "bytes" else 10)
    for curve, colour, marker in zip(found, SERIES, MARKERS, strict=False):
        law = curve.law
        y, low, high = (np.maximum([getattr(each, name) for each in curve.y], LEAST[unit]) for name in SPREAD)
        error = "" if law.error is None else f" \u00b1 {law.error:.2f}"
        label = f"{curve.contender}: {law.exponent:.2f}{error}{'' if law.holds else ', bent'}"
        axes.errorbar(
            curve.x, y, [y - low, high - y], fmt=marker, color=colour, markersize=5, linewidth=1.2, label=label
        )
        axes.plot(curve.x, [law(x) for x in curve.x], color=colour, linewidth=1.0, linestyle="--")
    axes.set_title(f"{'peak memory' if unit == 'bytes' else 'time'} with {axis}", loc="left")
    axes.set_xlabel(axis)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: amount(value, unit))
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top * (top / bottom) ** (0.2 + 0.12 * len(found)))  # room for the legend
    axes.legend(title="exponent", loc="upper left", fontsize=9, title_fontsize=9)
    _bare(axes)
    _ticks(axes.xaxis)
    _ticks(axes.yaxis, binary=unit == "bytes")


def _ticks(axis: "Axis", *, binary: bool = False) -> None:
    """Let an axis of less than two decades have numbers in between."""
    low, high = axis.get_view_interval()
    ticker = import_module("matplotlib.ticker")
    if binary:
        axis.set_major_locator(ticker.LogLocator(base=2, numticks=9))
    elif high < 100 * low:
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(ticker.NullLocator())
