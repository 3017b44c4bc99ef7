"""Whole networks from rows to answers, as contenders: this package, and each peer in the fastest of its ways."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import dask.array
import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.benchmarks.cases.networks import Problem
from taskgraph_dnn.benchmarks.challenge.oracle import Oracle
from taskgraph_dnn.benchmarks.peers import chains, products
from taskgraph_dnn.benchmarks.peers.chains import Chain, dense_rows
from taskgraph_dnn.benchmarks.runs import counted
from taskgraph_dnn.benchmarks.timing import Contender, in_threads, in_turn
from taskgraph_dnn.inference import infer
from taskgraph_dnn.inputs import row_slice
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan, even_ranges
from taskgraph_dnn.reference import mismatch, reference_outputs
from taskgraph_dnn.result import Result
from taskgraph_dnn.words import counted as in_words

#: Samples whose outputs are compared with the right ones: as many at random, and, of categories, the first of these.
_CHECKED = 8

#: Dense weights that take more bytes are left out. An ONNX model, for one, can hold no more.
_DENSE_NBYTES = 2**31

#: Ways are tried on this part of the samples, but at least on so many.
_TRIED, _LEAST_TRIED = 4, 256

#: Each way is tried so often; once it has taken so long, no more than twice, for the first time it may be compiled.
_PASSES, _ENOUGH_SECONDS = 4, 0.5


@dataclass(frozen=True, eq=False)
class Work:
    """A network, its input, and the right answer.

    Attributes:
        network: the network.
        rows: samples x inputs, CSR or an array.
        categories: those that must be found; None where outputs are asked for.
        checked: samples whose outputs are compared.
        outputs: right outputs of these, float64.
    """

    network: Network
    rows: Any
    categories: NDArray[np.int64] | None
    checked: NDArray[np.int64]
    outputs: NDArray[np.float64]

    @classmethod
    def of(cls, problem: Problem, *, categories: bool) -> "Work":
        """Return the work of finding the categories, or the outputs, of a network's samples."""
        network, rows = problem
        drawn = np.random.default_rng(0).choice(rows.shape[0], min(_CHECKED, rows.shape[0]), replace=False)
        if not categories:
            checked = np.sort(drawn)
            return cls(network, rows, None, checked, reference_outputs(network, rows[checked]))
        outputs = Oracle(rows).references(network, np.inf)[-1].outputs
        found = np.flatnonzero(np.diff(outputs.indptr))
        checked = np.union1d(drawn, found[:_CHECKED])
        return cls(network, rows, found, checked, outputs[checked].toarray())

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return int(self.rows.shape[0])

    @property
    def edges(self) -> int:
        """Samples x edges."""
        return self.samples * self.network.nnz

    def first(self, samples: int) -> "Work":
        """Return the work on the first samples, whose answers are not compared."""
        nothing = np.empty(0, np.int64)
        return Work(self.network, row_slice(self.rows, 0, samples), self.categories, nothing, self.outputs[:0])

    def difference(self, outputs: Any, categories: NDArray[np.int64] | None) -> float:
        """Return how far outputs of the checked samples are off; infinitely, where categories are others."""
        if self.categories is not None and (categories is None or not np.array_equal(self.categories, categories)):
            return np.inf
        return mismatch(outputs, self.outputs)


def our_contender(work: Work, reductions: str, threads: int, where: Mapping[str, Any], **options: Any) -> Contender:
    """Return a run of this package, planned for the threads that it will run on.

    Planning is not timed, as preparing weights is not elsewhere.

    Args:
        work: what to do.
        reductions: which are used, and how it is called.
        threads: that it runs on.
        where: what to call `compute` with.
        options: of `infer`.
    """
    inference = infer(work.network, work.rows, reductions=reductions, **options)
    last: list[Result] = []

    def run() -> None:
        last[:] = [inference.compute(**where)]
        _ = last[0].outputs if work.categories is None else last[0].categories

    def difference() -> float:
        return work.difference(last[0].outputs[work.checked], last[0].categories)

    def counts() -> dict[str, float]:
        return {**counted(inference, last[0]), "categories": len(last[0].categories)}

    about = _summary(inference.plan)
    kind: dict[str, Any] = {"kind": "ours", "work_unit": "edges", "counted": counts}
    return Contender(reductions, about, threads, work.edges, in_turn(run), difference, **kind)


def _summary(plan: Plan) -> str:
    kernels = ", ".join(sorted({layer.kernel for layer in plan.layers}))
    parts = in_words(len(plan.partitions), "partition"), in_words(len(plan.spans), "span")
    return f"{kernels}; {' x '.join(parts)}; {plan.tiles_at_once} tiles of {plan.lanes} at once"


@dataclass(frozen=True)
class Way:
    """A way to take a network's rows through a library.

    Attributes:
        name: what it is called.
        chain: `chain(network, threads)` prepares a network for so many threads of the library's own.
        width: samples that go through all layers at a time; 0 for all that a thread has.
        by: who uses the threads: the library of its "own", "callers" of it, which are Python's, or "dask".
    """

    name: str
    chain: Callable[[Network, int], Chain]
    width: int
    by: str

    def formulation(self, threads: int) -> str:
        """Return what it is called in full."""
        who = {"own": "own threads", "callers": f"{threads} callers", "dask": "map_blocks"}[self.by]
        return f"{self.name}, {self.width or 'all'} samples at a time, {who}"


def _fits_dense(network: Network) -> str:
    nbytes = sum(4 * layer.inputs * layer.outputs for layer in network)
    return f"dense weights would take {nbytes / 2**30:.1f} GiB" if nbytes > _DENSE_NBYTES else ""


def _fits_sparse(network: Network) -> str:
    biases = {float(bias) for layer in network for bias in (layer.bias.min(), layer.bias.max())}
    if max(biases) > 0 or any(layer.activation != "relu" or np.ptp(layer.bias) for layer in network):
        return "outputs without a sum are not all zero"
    return ""


@dataclass(frozen=True)
class NetworkPeer:
    """A library that can run networks.

    Attributes:
        name: what it is called.
        ways: those that are known to be good; which is the fastest depends on the network and the machine.
        problem: `problem()` returns why it cannot be used here, or None if it can.
        product: the peer of the kernels' benchmark that knows how to set its threads, where there is one.
        misfit: `misfit(network)` returns why it cannot run a network, or "".
    """

    name: str
    ways: tuple[Way, ...]
    problem: Callable[[], str | None] = lambda: None
    product: str | None = None
    misfit: Callable[[Network], str] = lambda _: ""

    def alone(self) -> AbstractContextManager[Any]:
        """Return the context in which it stays on the thread that calls it."""
        return nullcontext() if self.product is None else _LIBRARIES[self.product].alone()

    def limited(self, threads: int) -> AbstractContextManager[Any]:
        """Return the context in which it uses so many threads of its own."""
        limited = None if self.product is None else _LIBRARIES[self.product].limited
        return nullcontext() if limited is None else limited(threads)

    def contender(self, work: Work, way: Way, chain: Chain, threads: int, pool: Executor) -> Contender:
        """Return one of its ways as a contender."""
        if way.by == "dask":
            run, difference = _by_dask(work, way, chain, threads)
        else:
            run, difference = self._ready(work, way, chain, threads, pool)
        around = partial(self.limited, threads) if way.by == "own" else nullcontext
        how = way.formulation(threads)
        return Contender(self.name, how, threads, work.edges, run, difference, around, work_unit="edges")

    def _ready(
        self, work: Work, way: Way, chain: Chain, threads: int, pool: Executor
    ) -> tuple[Callable[[int], None], Callable[[], float]]:
        """Return what takes blocks through the chain, and what compares the answer with the right one."""
        width = way.width or -(-work.samples // threads)
        blocks = [(first, min(first + width, work.samples)) for first in range(0, work.samples, width)]
        outputs: list[Any] = [None] * len(blocks)
        alive = np.zeros(work.samples, np.bool_)
        joined = None if work.categories is not None else np.empty((work.samples, work.network.outputs), np.float32)

        def part(numbers: range) -> None:
            for number in numbers:
                first, stop = blocks[number]
                outputs[number] = chain(row_slice(work.rows, first, stop))
                if joined is None:
                    alive[first:stop] = _nonzero(outputs[number])
                else:
                    joined[first:stop] = outputs[number] = dense_rows(outputs[number])

        def difference() -> float:
            found = [dense_rows(outputs[s // width][[s % width]])[0] for s in work.checked]
            return work.difference(np.stack(found), np.flatnonzero(alive))

        if way.by == "own":
            return in_turn(partial(part, range(len(blocks)))), difference
        parts = [partial(part, range(*bounds)) for bounds in even_ranges(len(blocks), threads)]
        return in_threads(pool, parts, self.alone), difference


def _nonzero(outputs: Any) -> NDArray[np.bool_]:
    """Return which rows have a nonzero value."""
    found = np.diff(outputs.indptr) > 0 if scipy.sparse.issparse(outputs) else outputs.any(axis=1)
    return np.asarray(found)


def _by_dask(work: Work, way: Way, chain: Chain, threads: int) -> tuple[Callable[[int], None], Callable[[], float]]:
    """Return what a user of Dask's arrays would write, and what compares the answer with the right one."""
    chunks = way.width or -(-work.samples // threads), work.network.inputs
    rows = dask.array.from_array(work.rows, chunks=chunks, name=False, asarray=False)
    shapes = {"chunks": (rows.chunks[0], (work.network.outputs,)), "dtype": np.float32, "meta": np.empty((0, 0))}
    outputs = rows.map_blocks(lambda block: dense_rows(chain(block)), **shapes)
    found: list[Any] = []

    def run() -> None:
        answer = outputs.compute(scheduler="threads", num_workers=threads)
        found[:] = answer, None if work.categories is None else np.flatnonzero(_nonzero(answer))

    return in_turn(run), lambda: work.difference(found[0][work.checked], found[1])


def fastest_way(
    peer: NetworkPeer, work: Work, threads: int, pool: Executor, most_seconds: float
) -> tuple[Contender | None, str]:
    """Return the fastest of a peer's ways, found on a part of the samples; or None, and why it is left out.

    Args:
        peer: the library.
        work: what to do.
        threads: that it may use.
        pool: that many, to call the library from.
        most_seconds: it is left out if a pass takes longer.
    """
    misfit = peer.misfit(work.network)
    if misfit:
        return None, misfit
    few = work.first(min(work.samples, max(_LEAST_TRIED, work.samples // _TRIED)))
    prepared = cache(lambda chain, own: chain(work.network, own))
    taken = {}
    for way in peer.ways:
        chain = prepared(way.chain, threads if way.by == "own" else 1)
        taken[way] = _tried(peer.contender(few, way, chain, threads, pool)) * work.samples / few.samples
    way = min(taken, key=taken.__getitem__)
    if taken[way] > most_seconds:
        return None, f"a pass would take about {taken[way]:.1f} s"
    chain = prepared(way.chain, threads if way.by == "own" else 1)
    return peer.contender(work, way, chain, threads, pool), ""


def _tried(contender: Contender) -> float:
    """Return the seconds of the fastest of a few passes; the first one warms up, and of long ones two are enough."""
    taken: list[float] = []
    with contender.around():
        while len(taken) < 2 or (len(taken) < _PASSES and sum(taken) < _ENOUGH_SECONDS):
            started = time.perf_counter()
            contender.run(1)
            taken.append(time.perf_counter() - started)
    return min(taken)


def _ways(name: str, chain: Callable[[Network, int], Chain], *kinds: tuple[int, str]) -> tuple[Way, ...]:
    return tuple(Way(name, chain, width, by) for width, by in kinds)


def _lacking(*modules: str) -> str | None:
    lacking = [name for name in modules if find_spec(name) is None]
    return f"{lacking[0]} is not installed" if lacking else None


def _library_problem(name: str) -> str | None:
    return _LIBRARIES[name].problem


def _compiler_problem() -> str | None:
    compilers = "g++", "clang++", "c++"
    none = None if any(map(shutil.which, compilers)) else f"it needs a compiler, one of {', '.join(compilers)}"
    return _library_problem("torch") or none


_LIBRARIES = {peer.name: peer for peer in products.PEERS}

#: Who is measured against. Ways were chosen among many more: others were never the fastest.
PEERS: Sequence[NetworkPeer] = (
    NetworkPeer(
        "scipy",
        (
            *_ways("sparse weights x dense columns", chains.scipy_columns, (64, "callers"), (256, "callers")),
            *_ways("dense rows x sparse weights", chains.scipy_rows, (512, "callers")),
        ),
    ),
    NetworkPeer(
        "scipy sparse",
        _ways("sparse rows x sparse weights", chains.scipy_sparse, (0, "callers"), (256, "callers")),
        misfit=_fits_sparse,
    ),
    NetworkPeer(
        "mkl",
        _ways("sparse weights x dense columns", chains.mkl_columns, (64, "callers"), (256, "callers"), (256, "own")),
        partial(_library_problem, "mkl"),
        "mkl",
    ),
    NetworkPeer(
        "torch CSR",
        _ways("sparse weights x dense columns", chains.torch_columns, (32, "callers"), (64, "own"), (256, "own")),
        partial(_library_problem, "torch"),
        "torch",
    ),
    NetworkPeer(
        "torch dense",
        _ways("dense rows x dense weights", chains.torch_rows, (1024, "callers"), (1024, "own"), (0, "own")),
        partial(_library_problem, "torch"),
        "torch",
        _fits_dense,
    ),
    NetworkPeer(
        "torch compiled",
        _ways("dense rows x dense weights", chains.torch_compiled, (1024, "own")),
        _compiler_problem,
        "torch",
        _fits_dense,
    ),
    NetworkPeer(
        "graphblas",
        _ways("sparse weights x full columns", chains.graphblas_columns, (64, "own"), (256, "callers")),
        partial(_library_problem, "graphblas"),
        "graphblas",
    ),
    NetworkPeer(
        "graphblas sparse",
        _ways("sparse rows x sparse weights", chains.graphblas_sparse, (0, "own"), (0, "callers")),
        partial(_library_problem, "graphblas"),
        "graphblas",
        _fits_sparse,
    ),
    NetworkPeer(
        "onnxruntime",
        _ways("dense rows x dense weights", chains.onnx_rows, (256, "callers"), (1024, "callers")),
        partial(_lacking, "onnxruntime", "onnx"),
        misfit=_fits_dense,
    ),
    NetworkPeer(
        "dask array",
        _ways("dense rows x sparse weights", chains.scipy_rows, (256, "dask"), (1024, "dask")),
    ),
    NetworkPeer(
        "dask array sparse",
        _ways("sparse rows x sparse weights", chains.scipy_sparse, (256, "dask"), (0, "dask")),
        misfit=_fits_sparse,
    ),
)
