"""What it takes tasks to get at weights, counted in each thread."""

import threading
from typing import NamedTuple


class Weights(NamedTuple):
    """What it took to get at weights.

    Attributes:
        hits: how often a block of samples found the weights of a layer packed.
        misses: how often they had to be packed first.
        nbytes: bytes of the layers that were loaded from files, URLs, or what the process keeps of these.
        stall_seconds: what this took: waiting for the bytes, or for another task that loads them, and checking them.
    """

    hits: int
    misses: int
    nbytes: int
    stall_seconds: float


class _Meter(threading.local):
    """The counts of the thread that looks at it; they only grow."""

    hits = 0
    misses = 0
    nbytes = 0
    stall_seconds = 0.0

    def reading(self) -> Weights:
        """Return the counts so far."""
        return Weights(self.hits, self.misses, self.nbytes, self.stall_seconds)

    def since(self, before: Weights) -> Weights:
        """Return what was counted since the reading `before`."""
        now = self.reading()
        return Weights(
            now.hits - before.hits,
            now.misses - before.misses,
            now.nbytes - before.nbytes,
            now.stall_seconds - before.stall_seconds,
        )


METER = _Meter()
