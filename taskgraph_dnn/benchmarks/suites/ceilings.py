"""What the machine can do: multiply-adds by BLAS, bytes copied, rows gathered. Results are told as parts of these."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
from threadpoolctl import ThreadpoolController

from taskgraph_dnn.benchmarks.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table
from taskgraph_dnn.benchmarks.timing import Contender, in_threads, in_turn, measured, summary
from taskgraph_dnn.plan import even_ranges
from taskgraph_dnn.reference import mismatch

#: Threads of all that is compared.
THREADS = 2

#: Values of a row that is gathered: those of a tile of activations that one edge needs.
_LANES = 32


def limited(threads: int) -> AbstractContextManager[object]:
    """Return the context in which BLAS, MKL and OpenMP use so many threads."""
    limits: AbstractContextManager[object] = ThreadpoolController().limit(limits=threads)
    return limits


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


def copy(threads: int, pool: Executor, nbytes: int = 2**28) -> Contender:
    """Return copying so many bytes from one array to another; its work is these bytes."""
    source, target = np.ones((1, nbytes // 4), np.float32), np.zeros((1, nbytes // 4), np.float32)
    parts = [partial(np.copyto, target[:, a:b], source[:, a:b]) for a, b in even_ranges(source.size, threads)]
    return Contender(
        "copy",
        "np.copyto",
        threads,
        nbytes,
        in_threads(pool, parts),
        lambda: mismatch(target[:, ::4096], source[:, ::4096].astype(np.float64)),
        kind="ceiling",
        work_unit="bytes",
    )


def gather(threads: int, pool: Executor, nbytes: int = 2**28) -> Contender:
    """Return copying so many bytes of rows that lie at random places of an array as large; its work is these bytes."""
    rng = np.random.default_rng(0)
    rows = nbytes // (4 * _LANES)
    source = rng.random((rows, _LANES), dtype=np.float32)
    places, target = rng.integers(0, rows, rows), np.zeros((rows, _LANES), np.float32)

    def part(first: int, stop: int) -> None:
        np.take(source, places[first:stop], axis=0, out=target[first:stop], mode="clip")

    return Contender(
        "gather",
        f"np.take of rows of {4 * _LANES} bytes",
        threads,
        nbytes,
        in_threads(pool, [partial(part, *bounds) for bounds in even_ranges(rows, threads)]),
        lambda: mismatch(target[::4096], source[places[::4096]].astype(np.float64)),
        kind="ceiling",
        work_unit="bytes",
    )


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield what the machine can do on one thread and on all of them."""
    say("ceilings")
    with ThreadPoolExecutor(THREADS) as pool:
        nbytes = effort.pick(2**24, 2**28, 2**28)
        contenders = [sgemm(1), sgemm(THREADS)]
        contenders += [make(count, pool, nbytes) for make in (copy, gather) for count in (1, THREADS)]
        yield from measured("ceilings", "the machine", contenders, effort, {})


def tables(report: Report) -> Sequence[Table]:
    """Return what the machine can do."""
    rows = [["", "threads", "1e9 a second", "", "median of rounds, from 10th to 90th percentile"]]
    for each in report.of("ceilings"):
        rates = summary([each.work / seconds / 1e9 for seconds in each.rounds])
        cells = f"{rates.median:.1f}", each.work_unit, f"{rates.low:.1f} to {rates.high:.1f}"
        rows.append([f"{each.contender}, {each.formulation}", str(each.threads), *cells])
    return [Table("What the machine can do", rows)]


CEILINGS = Suite(
    "ceilings",
    "Ceilings",
    "*sgemm* is numpy's product of square matrices. *copy* reads each byte once and writes it once. *gather* reads "
    "rows of 128 bytes, what an edge needs of a tile of 32 samples, at random places of an array, and writes them.",
    measure,
    tables,
)
