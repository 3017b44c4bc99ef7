"""Timing contenders side by side: in one process, round by round, in a new order each round.

What else the machine does then meets all of them alike, and the ratio of two is taken within rounds.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from taskgraph_dnn.benchmarks.report.records import Measurement
from taskgraph_dnn.benchmarks.suite import Effort
from taskgraph_dnn.errors import KernelError

#: Threads of all that is compared.
THREADS = 2

#: Fewer rounds say nothing about the spread.
LEAST_ROUNDS = 5

#: An answer that is further off is wrong.
TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Contender:
    """One way to do a piece of work.

    Attributes:
        name: what does it.
        formulation: in which way.
        threads: with how many threads.
        work: of one pass.
        run: `run(passes)` does all of the work so many times.
        difference: `difference()` returns how far what the last pass has left is from the right answer, relative to it
            where it is above 1.
        around: what to hold while it runs; not timed.
        kind: as of `Measurement`, as is the next.
        work_unit: what `work` is.
        counted: `counted()` returns what the last pass counted.
    """

    name: str
    formulation: str
    threads: int
    work: int
    run: Callable[[int], None]
    difference: Callable[[], float]
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    kind: str = "peer"
    work_unit: str = "multiply-adds"
    counted: Callable[[], Mapping[str, float]] = dict

    def __str__(self) -> str:
        return f"{self.name} ({self.formulation}, threads: {self.threads})"


@dataclass(frozen=True)
class Summary:
    """Of a number measured in every round: median, least, and 10th and 90th percentile."""

    median: float
    minimum: float
    low: float
    high: float


def summary(values: Sequence[float]) -> Summary:
    """Return the summary of a number's values, one for each round."""
    low, median, high = (float(value) for value in np.percentile(values, (10, 50, 90)))
    return Summary(median, float(min(values)), low, high)


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of two numbers in each round."""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]


def rates(measurement: Measurement) -> list[float]:
    """Return the work of a second in each round; passes, where no work is told."""
    return [(measurement.work or 1.0) / seconds for seconds in measurement.rounds]


def fastest(measurements: Sequence[Measurement]) -> Measurement | None:
    """Return that of the highest rate in its median round, or None of none."""
    return max(measurements, key=lambda each: summary(rates(each)).median, default=None)


def limited(threads: int) -> AbstractContextManager[Any]:
    """Return the context in which BLAS, MKL and OpenMP use so many threads."""
    limits: AbstractContextManager[Any] = ThreadpoolController().limit(limits=threads)
    return limits


def in_turn(work: Callable[[], None]) -> Callable[[int], None]:
    """Return the `run` of a contender that does this, pass after pass."""

    def run(passes: int) -> None:
        for _ in range(passes):
            work()

    return run


def in_threads(
    pool: Executor,
    parts: Iterable[Callable[[], None]],
    within: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Callable[[int], None]:
    """Return the `run` of a contender that does each part in a thread of its own; none waits for another in between.

    Args:
        pool: the threads.
        parts: what each of them does in a pass.
        within: the context that each of them holds.
    """
    runs = [in_turn(part) for part in parts]

    def repeat(run: Callable[[int], None], passes: int) -> None:
        with within():
            run(passes)

    def run(passes: int) -> None:
        for future in [pool.submit(repeat, run, passes) for run in runs]:
            future.result()

    return run


def measured(
    suite: str,
    case: str,
    contenders: Sequence[Contender],
    effort: Effort,
    parameters: Mapping[str, float],
    details: Mapping[str, Any] | None = None,
) -> list[Measurement]:
    """Time the contenders of a case side by side, and return their measurements.

    Raises:
        KernelError: a contender's answer is wrong.
    """
    rng = np.random.default_rng(0)
    taken = interleaved(contenders, rounds=effort.rounds, seconds=effort.seconds, rng=rng)
    return [
        Measurement(
            suite=suite,
            case=case,
            contender=contender.name,
            kind=contender.kind,
            rounds=tuple(seconds),
            formulation=contender.formulation,
            threads=contender.threads,
            work=contender.work,
            work_unit=contender.work_unit,
            counted=contender.counted(),
            parameters=parameters,
            details=details or {},
        )
        for contender, seconds in zip(contenders, taken, strict=True)
    ]


def interleaved(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    seconds: float,
    rng: np.random.Generator,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Return what a pass of each contender took, in seconds, in each round.

    All contenders run once, and must be right; they are warmed up; then each runs once a round, in random order.

    Args:
        contenders: what to time.
        rounds: how often.
        seconds: a measurement repeats passes until it lasts about so long.
        rng: draws the orders.
        clock: tells the time.

    Raises:
        KernelError: a contender's answer is wrong.
    """
    for contender in contenders:
        _check(contender)
    passes = [_passes(contender, seconds, clock) for contender in contenders]
    taken: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for number in rng.permutation(len(contenders)):
            taken[number].append(_measure(contenders[number], passes[number], clock))
    return taken


def _check(contender: Contender) -> None:
    with contender.around():
        contender.run(1)
    check(contender, contender.difference())


def check(who: object, difference: float) -> None:
    """Refuse an answer that is wrong.

    Raises:
        KernelError: it is too far from the right one.
    """
    if not difference <= TOLERANCE:
        raise KernelError(f"{who}: the answer is off by {difference:.1e}, expected at most {TOLERANCE:.0e}")


def _passes(contender: Contender, seconds: float, clock: Callable[[], float]) -> int:
    """Warm the contender up, and return how many passes last so long."""
    passes, taken = 1, _measure(contender, 1, clock)
    while passes * taken < seconds:
        enough = math.ceil(1.1 * seconds / taken) if taken else math.inf
        passes = int(min(10 * passes, max(passes + 1, enough)))
        taken = _measure(contender, passes, clock)
    return passes


def _measure(contender: Contender, passes: int, clock: Callable[[], float]) -> float:
    """Return the seconds of a pass."""
    with contender.around():
        rest()
        contender.run(1)  # wakes its threads, fills the caches, and has memory back that a virtual machine's host took
        start = clock()
        contender.run(passes)
        return (clock() - start) / passes


def rest(slice_seconds: float = 0.005, most_slices: int = 100) -> None:
    """Wait until this process rests.

    The threads of OpenMP and BLAS spin for up to 0.2 s after their work, on cores that the next contender needs.
    """
    for _ in range(most_slices):
        used = time.process_time()
        time.sleep(slice_seconds)
        if time.process_time() - used < slice_seconds / 10:
            return
