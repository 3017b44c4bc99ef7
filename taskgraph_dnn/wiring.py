"""Which layer reads which: where a network can be cut in two, and how long each layer's outputs are needed.

A **boundary** `b` lies before layer `b`, behind the layers before it; the last one is the network's end. It is a
**joint** where all that the layers behind it read of those before it is the output of the one just before it: there a
partition is one block of activations, and can be handed on. The layers from one joint to the next are a **segment**,
which goes as a whole. In a chain every boundary is a joint, and every layer a segment.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

#: The number that stands for the network's input where a layer's sources are named.
NETWORK_INPUT = -1


@dataclass(frozen=True)
class Wiring:
    """What each layer of a network reads.

    Attributes:
        sources: for each layer the numbers (from 0) of the earlier layers whose outputs it reads side by side, in this
            order; `NETWORK_INPUT` is the input.
    """

    sources: tuple[tuple[int, ...], ...]

    @classmethod
    def chain(cls, layers: int) -> "Wiring":
        """Return that of layers each of which reads the one before it."""
        return cls(tuple((before,) for before in range(NETWORK_INPUT, layers - 1)))

    @cached_property
    def is_chain(self) -> bool:
        """Whether each layer reads the one before it, once, and no other."""
        return self == Wiring.chain(len(self.sources))

    @cached_property
    def joints(self) -> tuple[int, ...]:
        """The boundaries where a network can be cut, ascending: its beginning, 0, and its end among them."""
        earliest = list(accumulate((min(read) for read in reversed(self.sources)), min))[::-1]
        inner = (b for b in range(1, len(self.sources)) if earliest[b] == b - 1)
        return (0, *inner, len(self.sources))

    @cached_property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """The (first, stop) layers between one joint and the next."""
        return tuple(pairwise(self.joints))

    @cached_property
    def ends(self) -> dict[int, int]:
        """For the first layer of each segment, where the segment stops."""
        return dict(self.segments)

    @cached_property
    def released(self) -> tuple[tuple[int, ...], ...]:
        """For each layer the sources that no layer behind it reads."""
        last = {source: number for number, read in enumerate(self.sources) for source in read}
        return tuple(
            tuple(source for source in dict.fromkeys(read) if last[source] == number)
            for number, read in enumerate(self.sources)
        )

    def is_link(self, layer: int) -> bool:
        """Whether a layer is a segment of its own that reads the layer before it once, as all layers of a chain."""
        return self.ends.get(layer) == layer + 1 and self.sources[layer] == (layer - 1,)

    def unread(self) -> int | None:
        """Return the first layer before the last that nobody reads; None where there is none."""
        read = {source for sources in self.sources for source in sources}
        return next((layer for layer in range(len(self.sources) - 1) if layer not in read), None)

    def folded(self) -> "Wiring":
        """Return that of the same layers behind another one, which they read where they have read the input."""
        return Wiring(((NETWORK_INPUT,), *(tuple(source + 1 for source in read) for read in self.sources)))

    def head(self, layers: int) -> "Wiring":
        """Return that of the first layers."""
        return Wiring(self.sources[:layers])


@dataclass(frozen=True)
class Layout:
    """Where a block's activations lie on their way: in buffers, each used again once nobody needs what it holds.

    Attributes:
        outputs: for each layer the number of the buffer that it fills; in a chain 0 and 1 by turns.
        joined: for each layer the number of the buffer where its sources are put side by side; None where it reads one.
        widths: for each layer how many values it writes, and how many are put side by side for it.
    """

    outputs: tuple[int, ...]
    joined: tuple[int | None, ...]
    widths: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, wiring: Wiring, shapes: Sequence[tuple[int, int]]) -> "Layout":
        """Return that of layers with these inputs and outputs."""
        buffers, held = _Buffers(), dict[int, int]()  # of what is still needed, by source
        outputs, joined, widths = [], [], []
        for number, (read, released) in enumerate(zip(wiring.sources, wiring.released, strict=True)):
            inputs, width = shapes[number]
            together = buffers.take(inputs) if len(read) > 1 else None
            held[number] = buffers.take(width)
            outputs.append(held[number])
            joined.append(together)
            widths.append((width, 0 if together is None else inputs))
            buffers.free += [held.pop(source) for source in released if source != NETWORK_INPUT]
            buffers.free += [] if together is None else [together]
        return cls(tuple(outputs), tuple(joined), tuple(widths))

    def width(self, first: int, stop: int) -> int:
        """Return how many values of a sample there is room for in all buffers that layers `first` to `stop` use."""
        most: dict[int, int] = {}
        for layer in range(first, stop):
            for buffer, width in zip((self.outputs[layer], self.joined[layer]), self.widths[layer], strict=True):
                if buffer is not None:
                    most[buffer] = max(most.get(buffer, 0), width)
        return sum(most.values())


class _Buffers:
    """Buffers of which as few as can be are made, and the one that fits best is used again."""

    def __init__(self) -> None:
        self.widths: list[int] = []
        self.free: list[int] = []

    def take(self, width: int) -> int:
        """Return the number of a buffer for so many values: the smallest of those free, or the largest made larger."""
        if not self.free:
            self.widths.append(width)
            return len(self.widths) - 1
        self.free.sort(key=lambda number: (self.widths[number] < width, abs(self.widths[number] - width), number))
        taken = self.free.pop(0)
        self.widths[taken] = max(self.widths[taken], width)
        return taken


def words(sources: Iterable[int]) -> str:
    """Return what sources are called: "layer 2", "the network's input, layer 1 and layer 2"."""
    names = ["the network's input" if source == NETWORK_INPUT else f"layer {source + 1}" for source in sources]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
