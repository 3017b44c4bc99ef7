"""A network as a plain function of numpy arrays, for those who wait for the outputs of a few samples: without Dask.

What can be done once is done once: kernels are chosen and compiled, weights packed, buffers made, and for each number
of tiles it is written down which kernel reads and fills which of them. A call fills the first buffer, runs what is
written down, and copies the outputs.
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Values, aligned_empty
from taskgraph_dnn.arguments import whole_number
from taskgraph_dnn.config import settings
from taskgraph_dnn.errors import InputError, PlanError
from taskgraph_dnn.inputs import checked_rows, row_slice
from taskgraph_dnn.kernels import load_kernel
from taskgraph_dnn.kernels.moves import fill
from taskgraph_dnn.kernels.packing import packed_layer
from taskgraph_dnn.network import Network
from taskgraph_dnn.plan import Plan, make_plan
from taskgraph_dnn.reductions.choice import choose_reductions
from taskgraph_dnn.reductions.names import chosen_reductions
from taskgraph_dnn.segments import Passage


def compile_network(
    network: Network, *, batch: int = 1, kernel: str | None = None, dtype: Any = None, reductions: Any = None
) -> "CompiledNetwork":
    """Return a network as a function: `model(x)` gives the outputs of samples, at once, in the thread that calls it.

    Args:
        network: what to run.
        batch: samples that most calls have; larger ones are taken in pieces of this size.
        kernel: as of `infer`.
        dtype: as of `infer`.
        reductions: as of `infer`; only the static ones, which make a smaller network of the same answer.

    Raises:
        PlanError: an option is out of range or unknown.
        KernelError: the kernel is unknown, or cannot be used.
        MissingDependencyError: the kernel needs a package that is not installed.
    """
    if not isinstance(network, Network):
        raise InputError(f"network is a {type(network).__name__}, expected a Network")
    batch = whole_number("batch", batch, 1, PlanError)
    chosen = settings(kernel=kernel, dtype=dtype, reductions=reductions)
    reduced = choose_reductions(network, chosen_reductions(chosen.reductions), chosen.dtype)
    plan = make_plan(reduced, batch, chosen, threads=1, partitions=[(0, batch)])
    return CompiledNetwork(network.inputs, reduced.network, plan, reduced.places)


class CompiledNetwork:
    """A function from samples to outputs; any number of threads may call it at a time.

    Each thread has buffers of its own, for `batch` samples, from its first call on. Pickled, it is made anew where it
    arrives.

    Attributes:
        inputs: values of a sample that goes in.
        outputs: values of one that comes out.
        plan: which kernels compute the layers, and in tiles of how many samples.
    """

    def __init__(self, inputs: int, network: Network, plan: Plan, places: NDArray[np.int32] | None) -> None:
        self.inputs, self.plan = inputs, plan
        self.outputs = network.outputs if places is None else len(places)
        kernels = [load_kernel(layer.kernel) for layer in plan.layers]
        packed = [packed_layer(y, kernel, np.dtype(plan.dtype)) for y, kernel in zip(network, kernels, strict=True)]
        runs = [partial(kernel.run, layer) for kernel, layer in zip(kernels, packed, strict=True)]
        self._network, self._places = network, places
        self._program = _Program(network, runs, plan, reads_rows=kernels[0].reads_rows)
        self(np.zeros((plan.samples, inputs), np.float32))  # compiles what is compiled at its first call

    def __reduce__(self) -> tuple[Any, ...]:
        return CompiledNetwork, (self.inputs, self._network, self.plan, self._places)

    def __call__(self, samples: Any) -> NDArray[Any]:
        """Return the outputs, samples x outputs, of the plan's dtype: the bits that `infer` gives with these kernels.

        Kernels that are other libraries' code, `dense` among them, use as many threads as these are set to.

        Args:
            samples: samples x inputs, or the inputs of one sample, as an array; or a scipy sparse matrix.

        Raises:
            InputError: they have another width than the network, or one is nan or infinite.
        """
        if isinstance(samples, np.ndarray) and samples.ndim == 1:
            return np.asarray(self(samples[None])[0])
        rows = checked_rows(samples, self.inputs)
        count, most = rows.shape[0], self.plan.samples
        outputs = np.empty((count, self._network.outputs), self.plan.dtype)
        for first in range(0, count, most):
            stop = min(first + most, count)
            self._program.run(row_slice(rows, first, stop), outputs[first:stop])
        if self._places is None:
            return outputs
        return np.where(self._places >= 0, outputs[:, np.maximum(self._places, 0)], outputs.dtype.type(0))


class _Program(threading.local):
    """What a call does, in buffers that each thread has of its own, as large as a batch needs them.

    Where each layer reads one source, in tiles, the kernels' calls are written down for each number of tiles, with
    their buffers.
    """

    def __init__(self, network: Network, runs: Sequence[Callable[..., None]], plan: Plan, *, reads_rows: bool) -> None:
        self._network, self._runs, self._lanes, self._reads_rows = network, runs, plan.lanes, reads_rows
        # Layers that read several sources find them copied side by side, which is no kernel's call.
        self._records = not reads_rows and all(len(read) == 1 for read in network.wiring.sources)
        most = -(-plan.samples // plan.lanes)
        self._inputs = aligned_empty((0 if reads_rows else most, network.inputs, plan.lanes), plan.dtype)
        self._passage = Passage(network, self._compute, plan.lanes, plan.dtype)
        self._calls: dict[int, list[Callable[[], None]]] = {}
        self._outputs: dict[int, Values] = {}
        self._latest: list[Callable[[], None]] = []
        self._inputs[...] = 0
        if self._records:
            self._through(self._inputs, most)  # makes all buffers as large as they will ever be

    def run(self, rows: Any, outputs: NDArray[Any]) -> None:
        """Fill the outputs of some rows, an array or CSR, at most a batch."""
        tiles = -(-len(outputs) // self._lanes)
        if self._reads_rows:
            values = self._through(scipy.sparse.csr_array(rows), tiles)
        else:
            self._fill(rows.toarray() if scipy.sparse.issparse(rows) else rows)
            values = self._recorded(tiles) if self._records else self._through(self._inputs[:tiles], tiles)
        for tile, first in zip(values, range(0, len(outputs), self._lanes), strict=True):
            part = outputs[first : first + self._lanes]
            part[...] = tile[:, : len(part)].T

    def _fill(self, rows: NDArray[Any]) -> None:
        whole = len(rows) // self._lanes
        if whole:
            fill(self._inputs[:whole], rows[: whole * self._lanes])
        if rest := len(rows) % self._lanes:
            self._inputs[whole, :, :rest] = rows[-rest:].T  # what else is in the tile, nobody reads

    def _recorded(self, tiles: int) -> Values:
        if tiles not in self._calls:
            self._outputs[tiles] = self._through(self._inputs[:tiles], tiles)
            self._calls[tiles] = self._latest
        else:
            for call in self._calls[tiles]:
                call()
        return self._outputs[tiles]

    def _through(self, given: Any, tiles: int) -> Values:
        self._latest = []
        for first, _ in self._network.wiring.segments:
            given, _ = self._passage.through(first, given, tiles)
        return np.asarray(given)

    def _compute(self, layer: int, inputs: Any, outputs: Values, alive: NDArray[np.bool_]) -> None:
        call = partial(self._runs[layer], inputs, outputs, alive)
        call()
        self._latest.append(call)
