"""Memory for activations that the tasks of a process hand on to one another.

The system clears the memory that it gives, which for a large block takes about as long as a layer; and tasks need many
large blocks, each for a moment. What one gives back here, the next one gets. Together they hold no more than the most
that was in use at one time; nothing is held once no task runs.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.activations import ALIGNMENT, Values, aligned

_Raw = NDArray[np.uint8]

#: A block that is larger than this times what is needed is left for somebody who needs it.
_LOOSE = 2


class Spare:
    """Blocks of memory, lent and given back; may be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Raw] = []
        self._tasks = self._lent = self._most = 0

    @contextmanager
    def task(self) -> Iterator[None]:
        """Keep what is given back, until nobody is left in this context."""
        with self._lock:
            self._tasks += 1
        try:
            yield
        finally:
            with self._lock:
                self._tasks -= 1
                if not self._tasks:
                    self._waiting, self._lent, self._most = [], 0, 0

    @property
    def nbytes(self) -> int:
        """Bytes that wait for somebody to need them."""
        return sum(raw.nbytes for raw in self._waiting)

    @property
    def lent_nbytes(self) -> int:
        """Bytes that were borrowed and are neither given back nor left."""
        return self._lent

    def borrow(self, shape: tuple[int, ...], dtype: Any) -> Values:
        """Return an uninitialised array that begins on a cache line, to be given back."""
        needed = prod(shape) * np.dtype(dtype).itemsize + ALIGNMENT
        with self._lock:
            fitting = [number for number, raw in enumerate(self._waiting) if needed <= raw.nbytes <= _LOOSE * needed]
            best = min(fitting, key=lambda number: self._waiting[number].nbytes, default=None)
            raw = None if best is None else self._waiting.pop(best)
            self._lent += needed if raw is None else raw.nbytes
            self._most = max(self._most, self._lent)
            while self._waiting and self._lent + self.nbytes > self._most:
                self._waiting.pop(0)  # before the system is asked for more
        return aligned(np.empty(needed, np.uint8) if raw is None else raw, shape, dtype)

    def leave(self, values: Values) -> None:
        """Let somebody keep an array that was borrowed: it is not among what tasks use any more."""
        nbytes = _raw(values).nbytes
        with self._lock:
            self._lent -= nbytes
            self._most = max(self._lent, self._most - nbytes)

    def give_back(self, values: Values) -> None:
        """Take back an array that was borrowed; nobody may use it any more."""
        raw = _raw(values)
        with self._lock:
            self._lent -= raw.nbytes
            if self._tasks:
                self._waiting.append(raw)


def _raw(values: Values) -> _Raw:
    assert values.base is not None
    return np.asarray(values.base)


#: That of this process.
SPARE = Spare()
