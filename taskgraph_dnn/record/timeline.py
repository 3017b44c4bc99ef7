"""The timeline of a run: a row for each thread of each worker, a bar for each task."""

from collections.abc import Iterator, Sequence

from dask.utils import format_bytes

from taskgraph_dnn.dump.markup import xml_text
from taskgraph_dnn.record.drawing import STYLE, clock, line, picture, text, ticks
from taskgraph_dnn.record.slices import Slice, by_track, closed_up
from taskgraph_dnn.words import counted

_WIDTH, _LEFT, _RIGHT = 1160, 150, 24
_TOP, _STEP, _BAR, _BOTTOM = 62, 30, 24, 30
_STRIPE = 4  # height of what was spent on preparing
_COLOURS = 6
_LETTER = 6.5

#: Bars that are no wider than this become one with their neighbours, so that any run stays a picture.
_NARROW = 1.0


def render(tasks: Sequence[Slice], *, style: str = STYLE) -> str:
    """Return the timeline as an SVG document, or, without a style, as a part of a page that has `STYLE`.

    The time between the attempts of a run that was resumed is left out.
    """
    tasks = closed_up(tasks)
    tracks = by_track(tasks)
    total = max((task.end for task in tasks), default=0)
    scale = (_WIDTH - _LEFT - _RIGHT) / (total or 1)
    height = _TOP + _STEP * len(tracks) + _BOTTOM
    title = f"{counted(len(tasks), 'task')} on {counted(len(tracks), 'thread')} in {clock(total / 1e9)}"
    parts = [text(12, 22, title, "title"), *_key(), *_axis(total / 1e9, scale * 1e9, height - _BOTTOM)]
    depth = max((task.last_layer for task in tasks), default=0)
    for row, (track, own) in enumerate(tracks.items()):
        y = _TOP + row * _STEP
        parts.append(_label(track, [process for process, _ in tracks], y))
        parts += [_bar(group, scale, y, depth) for group in _groups(own, scale)]
    return picture(_WIDTH, height, f"Timeline: {title}", parts, style=style) + "\n"


def tooltip(task: Slice) -> str:
    """Return what is known of a task, a fact a line."""
    return "\n".join(
        [
            task.name,
            f"{clock(task.seconds)} from {clock(task.start / 1e9)}, "
            f"of these {clock(task.prepare_seconds)} for preparing",
            f"{task.samples:,} samples given, {task.alive:,} alive after it, {task.carried:,} handed on",
            f"{task.multiply_adds:,} multiply-adds",
            f"{format_bytes(task.nbytes)} returned, {format_bytes(task.weights_nbytes)} of weights loaded",
            f"worker {task.worker}",
        ]
    )


def _groups(own: list[Slice], scale: float) -> Iterator[list[Slice]]:
    """Yield the tasks of a track that share a bar: mostly one; many where they are too narrow to be seen apart."""
    group: list[Slice] = []
    for task in own:
        together = group and (task.end - group[0].start) * scale <= _NARROW
        if group and not together:
            yield group
            group = []
        group.append(task)
    if group:
        yield group


def _bar(group: list[Slice], scale: float, y: float, depth: int) -> str:
    first, last = group[0], group[-1]
    x, width = _LEFT + first.start * scale, max(0.5, (last.end - first.start) * scale)
    colour = max(0, first.first_layer - 1) * _COLOURS // max(1, depth)
    told = tooltip(first) if len(group) == 1 else _together(group)
    parts = [f'<rect class="c{colour}" x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_BAR}"/>']
    preparing = sum(task.prepare_seconds for task in group) * 1e9 * scale
    if preparing >= 0.5:
        stripe = f'y="{y + _BAR - _STRIPE}" width="{min(width, preparing):.2f}" height="{_STRIPE}"'
        parts.append(f'<rect class="prepare" x="{x:.2f}" {stripe}/>')
    words = f"{first.partition}"
    if width > _LETTER * len(words) + 4 and len(group) == 1:
        parts.append(text(x + 3, y + 15, words))
    return f'<g class="task"><title>{xml_text(told)}</title>{"".join(parts)}</g>'


def _together(group: list[Slice]) -> str:
    seconds = sum(task.seconds for task in group)
    return f"{len(group):,} tasks, {clock(seconds)} in all\nfrom {group[0].name}\nto {group[-1].name}"


def _label(track: tuple[str, int], processes: Sequence[str], y: float) -> str:
    process, thread = track
    numbers = {name: number for number, name in enumerate(dict.fromkeys(processes), start=1)}
    words = f"thread {thread}" if len(numbers) == 1 else f"process {numbers[process]}, thread {thread}"
    return f"<g><title>{xml_text(f'{process}, thread {thread}')}</title>{text(_LEFT - 10, y + 16, words, 'end')}</g>"


def _key() -> list[str]:
    x, words = _LEFT, "partitions' numbers on their tasks; colours: first layers"
    parts = [text(x, 44, words, "soft")]
    x += round(_LETTER * len(words)) - 10
    parts += [f'<rect class="c{n}" x="{x + 14 * n}" y="34" width="14" height="12"/>' for n in range(_COLOURS)]
    x += 14 * _COLOURS + 8
    parts.append(text(x, 44, "last layers", "soft"))
    x += 92
    parts.append(f'<rect class="prepare" x="{x}" y="40" width="26" height="{_STRIPE}"/>')
    return [*parts, text(x + 34, 44, "so much of a task was spent on preparing", "soft")]


def _axis(seconds: float, scale: float, low: float) -> Iterator[str]:
    for at in ticks(seconds, 8):
        x = _LEFT + at * scale
        yield line(x, _TOP - 6, x, low)
        yield text(x, low + 18, clock(at), "soft middle")
