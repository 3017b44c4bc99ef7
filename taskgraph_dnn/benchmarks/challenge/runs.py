"""One configuration, run and timed: the network opened, a warm-up, then the same inference a few times."""

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.benchmarks.challenge.files import Size, Stored, read_stored_images
from taskgraph_dnn.benchmarks.memory import peak_nbytes, reset_peak
from taskgraph_dnn.inference import Inference, infer
from taskgraph_dnn.inputs import row_slice
from taskgraph_dnn.network import Network
from taskgraph_dnn.result import Result

#: Images whose outputs are compared with a reference.
COMPARED = 200
#: Images of the warm-up: at most, and at least where time is short.
_WARM_UP, _SHORT_WARM_UP = 1024, 64
#: The part of the time for one run that its warm-up may take.
_WARM_UP_SHARE = 1 / 4
#: A run that is cut short has so many images at least, and a multiple of this: whole tiles.
_LEAST, _STEP = 256, 64


@dataclass(frozen=True)
class Effort:
    """How much work a row may be.

    Attributes:
        repeats: how often it is run.
        none_seconds: what one run without reductions may take; it is run on fewer images if need be.
        check_seconds: what the reference of a configuration may take beyond its first layers.
    """

    repeats: int
    none_seconds: float
    check_seconds: float


@dataclass(frozen=True, eq=False)
class Images:
    """The images of one width, in memory.

    Attributes:
        rows: CSR, images x neurons.
        order: their numbers in random order; where not all are run, the first ones of these are.
        seconds: of reading them.
        nbytes: the peak of memory meanwhile.
    """

    rows: scipy.sparse.csr_array
    order: NDArray[np.int64]
    seconds: float
    nbytes: int

    @classmethod
    def read(cls, size: Size, path: Path) -> "Images":
        """Read the images of a width."""
        reset_peak()
        start = time.perf_counter()
        rows = read_stored_images(path, size.samples, size.neurons)
        seconds = time.perf_counter() - start
        return cls(rows, np.random.default_rng(size.seed).permutation(size.samples), seconds, peak_nbytes())

    @property
    def samples(self) -> int:
        """How many there are."""
        return int(self.rows.shape[0])

    @property
    def compared(self) -> NDArray[np.int64]:
        """Numbers of those whose outputs are compared with a reference."""
        return self.order[:COMPARED]


@dataclass(frozen=True, eq=False)
class Run:
    """A configuration, run.

    Attributes:
        result: of the last time.
        numbers: of the images that were run; where not all were, in random order, those that are compared first.
        read_seconds: opening the network and reading the images.
        prepare_seconds: the warm-up, planning, and the most that tasks still prepared in one run.
        infer_seconds: of each time, from rows of input to rows of output.
        wall_seconds: of each time, with all that Dask does, and the categories.
        peak_nbytes: the most memory of this process and its workers.
    """

    result: Result
    numbers: NDArray[np.int64]
    read_seconds: float
    prepare_seconds: float
    infer_seconds: tuple[float, ...]
    wall_seconds: tuple[float, ...]
    peak_nbytes: int

    @property
    def categories(self) -> NDArray[np.int64]:
        """Numbers of the images that have an output, ascending."""
        return np.sort(self.numbers[self.result.categories])


@dataclass(frozen=True, eq=False)
class Configuration:
    """What a row runs.

    Attributes:
        size: the width.
        layers: the depth.
        stored: the files; the packed network may have more layers.
        images: its input.
        effort: how much work a row may be.
        where: keywords for `Inference.compute`.
    """

    size: Size
    layers: int
    stored: Stored
    images: Images
    effort: Effort
    where: dict[str, Any]

    def open(self, layers: int | None = None) -> Network:
        """Open the network, or its first layers, anew: nothing is packed yet."""
        return self.size.open_network(self.stored.network, layers or self.layers)

    def run(self, reductions: Sequence[str]) -> Run:
        """Run it and measure what that takes.

        Args:
            reductions: names; without any, it is run on fewer images where all would take too long.
        """
        gc.collect()
        reset_peak()
        start = time.perf_counter()
        network = self.open()
        opened = time.perf_counter()
        few = self._few(network, reductions)
        few.compute(**self.where)  # packs weights and compiles kernels
        warmed = time.perf_counter()
        numbers = np.arange(self.images.samples) if reductions else self._affordable(few)
        rows = self.images.rows if len(numbers) == self.images.samples else self.images.rows[numbers]
        inference = infer(network, rows, reductions=list(reductions))
        result, times = self._timed(inference)
        return Run(
            result=result,
            numbers=numbers,
            read_seconds=self.images.seconds + opened - start,
            prepare_seconds=warmed - opened + max(times.prepare),
            infer_seconds=tuple(times.infer),
            wall_seconds=tuple(times.wall),
            peak_nbytes=max(self.images.nbytes, peak_nbytes()),
        )

    def _timed(self, inference: Inference) -> tuple[Result, "_Times"]:
        times = _Times([], [], [])
        while True:
            start = time.perf_counter()
            result = inference.compute(**self.where)
            _ = result.categories  # made at first use
            times.wall.append(time.perf_counter() - start)
            times.infer.append(result.seconds.infer)
            times.prepare.append(result.seconds.prepare)
            if len(times.wall) == self.effort.repeats:
                return result, times
            del result  # or there would be two at a time

    def _few(self, network: Network, reductions: Sequence[str]) -> Inference:
        """Return the inference of a few images: fewer where, without reductions, they would take long."""
        count = min(_WARM_UP, self.images.samples)
        few = infer(network, row_slice(self.images.rows, 0, count), reductions=list(reductions))
        part = _WARM_UP_SHARE * self.effort.none_seconds / _expected_seconds(few)
        if reductions or part >= 1:
            return few
        count = min(count, max(_SHORT_WARM_UP, int(part * count)))
        return infer(network, row_slice(self.images.rows, 0, count), reductions=[])

    def _affordable(self, few: Inference) -> NDArray[np.int64]:
        """Return the numbers of as many images as can be run in the time for one run, by what a few of them take."""
        seconds = few.compute(**self.where).seconds.infer
        affordable = max(_LEAST, few.plan.samples * self.effort.none_seconds / seconds)
        if affordable >= self.images.samples:
            return np.arange(self.images.samples)
        return self.images.order[: int(affordable) // _STEP * _STEP]


class _Times(NamedTuple):
    """Seconds of each time that an inference was run."""

    infer: list[float]
    wall: list[float]
    prepare: list[float]


def _expected_seconds(inference: Inference) -> float:
    """Return about what a run takes without reductions."""
    plan = inference.plan
    return plan.longest_task_seconds * plan.tasks / plan.threads
