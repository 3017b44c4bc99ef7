"""What kernels are measured against: other libraries' products, each at its best, and what the machine can do.

A peer computes sums = weights x inputs and nothing more, from arrays that lie as it likes them best: activations by
rows, neurons x samples, all samples in one call or a few at a time, and whatever a library can prepare is prepared.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import aligned_empty
from taskgraph_dnn.benchmarks.cases.layers import Problem
from taskgraph_dnn.benchmarks.timing import Contender, in_threads, in_turn, limited
from taskgraph_dnn.kernels import kernel_problem
from taskgraph_dnn.plan import even_ranges
from taskgraph_dnn.reference import mismatch

#: Columns of a call where a peer takes few at a time.
NARROW = 64

#: Dense weights are left out of layers that are wider: they would take gigabytes.
DENSE_NEURONS = 8192


@dataclass(frozen=True, eq=False)
class _Product:
    """A product that is ready to be computed, block of samples by block.

    Attributes:
        multiply: `multiply(number)` computes a block, and returns what holds its sums.
        array: turns that into an array, outputs x samples.
    """

    multiply: Callable[[int], Any]
    array: Callable[[Any], NDArray[Any]] = np.asarray


@dataclass(frozen=True)
class Peer:
    """A library that multiplies.

    Attributes:
        name: what it is called.
        kernel: our kernel that needs the same library; it knows whether that is installed.
        product: `product(weights, blocks)` prepares weights (outputs x inputs, CSR) times blocks x inputs x samples.
        limited: `limited(threads)` is the context in which the library uses so many threads of its own, or None where
            it has none.
        alone: `alone()` is the context in which it stays on the thread that calls it.
        dense: whether weights are dense.
        lacking: `lacking()` returns what the library lacks for this, or None; asked where it is installed.
    """

    name: str
    kernel: str
    product: Callable[[scipy.sparse.csr_array, NDArray[np.float32]], _Product]
    limited: Callable[[int], AbstractContextManager[Any]] | None
    alone: Callable[[], AbstractContextManager[Any]]
    dense: bool = False
    lacking: Callable[[], str | None] = lambda: None

    @property
    def problem(self) -> str | None:
        """Why it cannot be used here, or None if it can."""
        return kernel_problem(self.kernel) or self.lacking()

    def contenders(self, problem: Problem, threads: int, pool: Executor) -> list[Contender]:
        """Return the ways in which the peer may compute the problem's sums; the fastest one counts.

        Args:
            problem: the layer, and inputs that are no CSR rows.
            threads: threads that it may use.
            pool: that many threads, to call the library from.
        """
        found = [self._called(problem, threads, pool, NARROW, f"{NARROW} columns a call, {threads} callers")]
        if self.limited is None:
            whole = problem.samples // threads
            return [*found, self._called(problem, threads, pool, whole, f"one call, {threads} callers")]
        own = partial(self.limited, threads)
        return [
            *found,
            self._calling(problem, threads, own, NARROW, f"{NARROW} columns a call"),
            self._calling(problem, threads, own, problem.samples, "one call"),
        ]

    def _called(self, problem: Problem, threads: int, pool: Executor, width: int, formulation: str) -> Contender:
        """Return the peer as it is called from so many threads, each with samples of its own."""
        multiply, difference = self._ready(problem, width)
        parts = [partial(multiply, *part) for part in even_ranges(problem.samples // width, threads)]
        run = in_threads(pool, parts, self.alone)
        return Contender(self.name, formulation, threads, problem.multiply_adds, run, difference)

    def _calling(
        self,
        problem: Problem,
        threads: int,
        own: Callable[[], AbstractContextManager[Any]],
        width: int,
        formulation: str,
    ) -> Contender:
        """Return the peer as it uses threads of its own."""
        multiply, difference = self._ready(problem, width)
        run = in_turn(partial(multiply, 0, problem.samples // width))
        return Contender(self.name, formulation, threads, problem.multiply_adds, run, difference, own)

    def _ready(self, problem: Problem, width: int) -> tuple[Callable[[int, int], None], Callable[[], float]]:
        """Return what multiplies blocks (first, stop), and what compares their sums with the right ones."""
        blocks = _aligned(problem.rows.reshape(-1, width, problem.layer.inputs).transpose(0, 2, 1))
        product = self.product(problem.layer.weights.T, blocks)
        sums: list[Any] = [None] * len(blocks)

        def multiply(first: int, stop: int) -> None:
            for number in range(first, stop):
                sums[number] = product.multiply(number)

        def difference() -> float:
            found = [product.array(sums[sample // width])[:, sample % width] for sample in problem.checked]
            return mismatch(np.stack(found), problem.sums)

        return multiply, difference


def _aligned(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a copy that begins on a cache line: of inputs that lie across lines MKL and torch do 0.6 of their rate."""
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _no_sums(weights: scipy.sparse.csr_array, blocks: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return where sums go; until then, what no check takes for one."""
    return _aligned(np.broadcast_to(np.float32(np.nan), (len(blocks), weights.shape[0], blocks.shape[2])))


def _scipy(weights: scipy.sparse.csr_array, blocks: NDArray[np.float32]) -> _Product:
    return _Product(lambda number: weights @ blocks[number])


def _mkl(weights: scipy.sparse.csr_array, blocks: NDArray[np.float32]) -> _Product:
    """Keep MKL's handle: sparse_dot_mkl's public product makes one at each call, and takes up to 1.4 times as long."""
    handle = _kernel("mkl")._Handle(weights)
    sums = _no_sums(weights, blocks)

    def multiply(number: int) -> NDArray[np.float32]:
        handle.multiply(blocks[number], sums[number])
        return np.asarray(sums[number])

    return _Product(multiply)


def _torch(weights: scipy.sparse.csr_array, blocks: NDArray[np.float32]) -> _Product:
    return _torch_product(_kernel("torch")._sparse(weights), weights, blocks)


def _torch_dense(weights: scipy.sparse.csr_array, blocks: NDArray[np.float32]) -> _Product:
    dense = import_module("torch").from_numpy(_aligned(weights.toarray()))
    return _torch_product(dense, weights, blocks)


def _torch_product(matrix: Any, weights: scipy.sparse.csr_array, blocks: NDArray[np.float32]) -> _Product:
    torch = import_module("torch")
    inputs, sums = torch.from_numpy(blocks), torch.from_numpy(_no_sums(weights, blocks))

    def multiply(number: int) -> Any:
        # Of sparse weights `torch.mm` with `out` does the same, and takes longer.
        return torch.addmm(sums[number], matrix, inputs[number], beta=0, out=sums[number])

    return _Product(multiply)


def _torch_compiled(weights: scipy.sparse.csr_array, blocks: NDArray[np.float32]) -> _Product:
    """Multiply by weights that MKL has packed, samples by rows: what `torch.compile` makes of a frozen linear layer.

    It is called as the compiled code calls it. Compiling needs a C++ compiler besides, and for a product alone there is
    nothing else to gain: without freezing it calls what `addmm` calls.
    """
    torch = import_module("torch")
    mkl = torch.ops.mkl
    rows = torch.from_numpy(_aligned(blocks.transpose(0, 2, 1)))
    dense, batch = torch.from_numpy(_aligned(weights.toarray())), rows.shape[1]
    packed = mkl._mkl_reorder_linear_weight(dense, batch)
    return _Product(
        lambda number: mkl._mkl_linear(rows[number], packed, dense, None, batch), lambda sums: sums.numpy().T
    )


def _without_mkl() -> str | None:
    return None if import_module("torch")._C.has_mkl else "this build of torch has no MKL"


def _graphblas(weights: scipy.sparse.csr_array, blocks: NDArray[np.float32]) -> _Product:
    """Add to zeros, see `kernels.graphblas_kernel`."""
    graphblas = import_module("graphblas")
    new = graphblas.Matrix.ss
    plus, plus_times = graphblas.binary.plus["FP32"], graphblas.semiring.plus_times["FP32"]
    matrix = new.import_csr(
        nrows=weights.shape[0],
        ncols=weights.shape[1],
        indptr=weights.indptr,
        col_indices=weights.indices,
        values=weights.data,
        sorted_cols=True,
    )
    inputs = [new.import_fullr(values=block) for block in blocks]
    zeros = {"values": np.zeros(1, np.float32), "is_iso": True, "nrows": weights.shape[0], "ncols": blocks.shape[2]}

    def multiply(number: int) -> Any:
        sums = new.import_fullr(**zeros)
        sums(plus) << plus_times(matrix @ inputs[number])
        return sums

    return _Product(multiply, lambda sums: np.asarray(sums.to_dense()))


@contextmanager
def _torch_limited(threads: int) -> Iterator[None]:
    torch = import_module("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _graphblas_limited(threads: int) -> AbstractContextManager[Any]:
    limits: AbstractContextManager[Any] = import_module("graphblas.ss").Context(nthreads=threads)
    return limits


def _alone(name: str) -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = _kernel(name)._one_thread()
    return context


def _kernel(name: str) -> Any:
    """Return the module of our kernel for a library: it knows how to load that, and how to keep it on one thread."""
    return import_module(f"taskgraph_dnn.kernels.{name}_kernel")


PEERS = (
    Peer("scipy", "scipy", _scipy, None, nullcontext),
    Peer("mkl", "mkl", _mkl, limited, partial(_alone, "mkl")),
    Peer("torch", "torch", _torch, _torch_limited, partial(_alone, "torch")),
    Peer("torch dense", "torch", _torch_dense, _torch_limited, partial(_alone, "torch"), dense=True),
    Peer(
        *("torch compiled", "torch", _torch_compiled, _torch_limited, partial(_alone, "torch")),
        dense=True,
        lacking=_without_mkl,
    ),
    Peer("graphblas", "graphblas", _graphblas, _graphblas_limited, partial(_alone, "graphblas")),
)
