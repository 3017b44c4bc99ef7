"""What the machine can do: multiply-adds by BLAS, bytes copied, rows gathered. Results are told as parts of these."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import numpy as np

from taskgraph_dnn.activations import aligned_empty
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table
from taskgraph_dnn.benchmarks.timing import THREADS, Contender, in_threads, in_turn, limited, measured, summary
from taskgraph_dnn.kernels import kernel_problem
from taskgraph_dnn.plan import even_ranges
from taskgraph_dnn.reference import mismatch

#: What is copied, or gathered from: what the first two caches of a core hold, the activations of the kernels' cases,
#: and more than most last caches have.
SIZES = {"16 KiB": 2**14, "512 KiB": 2**19, "16 MiB": 2**24, "256 MiB": 2**28}

#: Of less, copying would be calls of numpy; and rows of less are not fetched ahead, which costs more than it brings.
_LARGE = 2**24

#: Rows that a thread gathers before it begins again, and in a pass, at least. A list of the former stays in the first
#: cache.
_LISTED, _GATHERED = 2**11, 2**18


def sgemm(threads: int, size: int = 1024) -> Contender:
    """Return the product of two square matrices by numpy's BLAS: how many multiply-adds the machine can do."""
    left, right = np.random.default_rng(0).standard_normal((2, size, size), dtype=np.float32)
    product = np.full((size, size), np.nan, np.float32)
    right_answer = left[:8].astype(np.float64) @ right
    return Contender(
        "sgemm",
        f"{size} x {size} by {size}",
        threads,
        size**3,
        in_turn(partial(np.matmul, left, right, out=product)),
        lambda: mismatch(product[:8], right_answer),
        partial(limited, threads),
        kind="ceiling",
    )


def copy(threads: int, pool: Executor, nbytes: int) -> Contender:
    """Return copying one half of so many bytes to the other; its work is these bytes, read and written."""
    source, target = np.ones((1, nbytes // 8), np.float32), np.zeros((1, nbytes // 8), np.float32)
    parts = [partial(np.copyto, target[:, a:b], source[:, a:b]) for a, b in even_ranges(source.size, threads)]
    return Contender(
        "copy",
        "np.copyto",
        threads,
        nbytes,
        in_threads(pool, parts),
        lambda: mismatch(target[:, ::1024], source[:, ::1024].astype(np.float64)),
        kind="ceiling",
        work_unit="bytes",
    )


def gather(threads: int, pool: Executor, nbytes: int) -> Contender:
    """Return adding up rows that lie at random places of so many bytes; its work is the bytes of these rows.

    Raises:
        MissingDependencyError: it is compiled code, and numba is not installed.
    """
    from taskgraph_dnn.benchmarks.gathering import AHEAD, LANES, gathering

    rng, rows = np.random.default_rng(0), nbytes // (4 * LANES)
    table = aligned_empty((rows, LANES), np.float32)
    table[:] = rng.integers(0, 4, table.shape)  # whole numbers, whose sums are exact
    listed = max(_LISTED, rows)
    times = max(1, _GATHERED // listed)
    places = [rng.integers(0, rows, listed + AHEAD, np.int32) for _ in range(threads)]
    sums = np.full((threads, LANES), np.nan, np.float32)
    add = gathering(far=nbytes >= _LARGE)

    def part(thread: int) -> None:
        sums[thread] = 0
        add(table, places[thread], 0, listed, times, sums[thread])

    def difference() -> float:
        once = [np.bincount(each[:listed], minlength=rows) @ table.astype(np.float64) for each in places]
        return mismatch(sums, times * np.array(once, np.float64))

    return Contender(
        "gather",
        f"rows of {4 * LANES} bytes",
        threads,
        threads * times * listed * 4 * LANES,
        in_threads(pool, [partial(part, thread) for thread in range(threads)]),
        difference,
        kind="ceiling",
        work_unit="bytes",
    )


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield what the machine can do on one thread and on all of them."""
    say("multiply-adds")
    yield from measured("ceilings", "multiply-adds", [sgemm(1), sgemm(THREADS)], effort, {})
    problem = kernel_problem("csr")  # needs what gathering does
    with ThreadPoolExecutor(THREADS) as pool:
        for name, nbytes in SIZES.items():
            if nbytes > effort.pick(_LARGE, nbytes, nbytes):
                continue
            say(f"bytes of {name}")
            makes = [copy] * (nbytes >= _LARGE) + [gather] * (problem is None)
            contenders = [make(threads, pool, nbytes) for make in makes for threads in (1, THREADS)]
            yield from measured("ceilings", name, contenders, effort, {"bytes": nbytes})
            if problem is not None:
                yield Measurement("ceilings", name, "gather", "ceiling", threads=THREADS, left_out=problem)


def tables(report: Report) -> Sequence[Table]:
    """Return what the machine can do."""
    rows = [["", "of", "threads", "1e9 a second", "", "median of rounds, from 10th to 90th percentile"]]
    for each in report.of("ceilings"):
        cells = f"{each.contender}, {each.formulation}", each.case, str(each.threads)
        if not each.rounds:
            rows.append([*cells, "left out", "", each.left_out])
            continue
        rates = summary([each.work / seconds / 1e9 for seconds in each.rounds])
        rows.append([*cells, f"{rates.median:.1f}", each.work_unit, f"{rates.low:.1f} to {rates.high:.1f}"])
    return [Table("What the machine can do", rows)]


CEILINGS = Suite(
    "ceilings",
    "Ceilings",
    "*sgemm* is numpy's product of square matrices. *copy* moves one half of so many bytes to the other; what is read "
    "and what is written counts. *gather* reads rows of 128 bytes, what an edge needs of a tile of 32 samples, at "
    "random places of so many bytes, and adds them up in compiled vector code: one load a vector, and nothing that "
    "takes longer. An edge of a sample needs 4 bytes of them, so that a quarter of this rate, in multiply-adds, is the "
    "most for a pattern in which outputs share no inputs.",
    measure,
    tables,
)
