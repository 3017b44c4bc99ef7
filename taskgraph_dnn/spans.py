"""What a task does: take one partition's activations through a span of layers.

This is the inner floor of a run: it knows networks, activations and kernels, not Dask. A task gets its rows of input,
or the activations of the span before, and returns activations, or the rows of the result after the last span, together
with the events of the whole chain so far.

It works depth first: a few tiles go through all layers of the span before the next ones begin, so that a layer finds
in the cache what the layer before has left there.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from taskgraph_dnn.activations import Activations, Alive, Values, aligned_empty, fill_tiles, to_csr
from taskgraph_dnn.events import TaskEvent, publish
from taskgraph_dnn.inputs import row_slice
from taskgraph_dnn.kernels import Kernel, load_kernel
from taskgraph_dnn.matrices import sparse_nbytes
from taskgraph_dnn.network import Layer, Network, NetworkSource
from taskgraph_dnn.pools import one_thread_each

_EVENT_NBYTES = 200  # about, of one event


@dataclass(frozen=True)
class Span:
    """The layers of one task.

    Attributes:
        run: the run's token, for its events.
        partition: the batch partition, from 0.
        first, stop: the layers, from 0.
        kernels: the kernel of each of them.
        lanes: samples in a tile.
        tiles_at_once: tiles that go through all layers before the next ones begin.
        dtype: of the activations.
    """

    run: str
    partition: int
    first: int
    stop: int
    kernels: tuple[str, ...]
    lanes: int
    tiles_at_once: int
    dtype: str


@dataclass(frozen=True, eq=False)
class Progressed:
    """A partition on its way through the network: its activations, and the events of the tasks that made them."""

    activations: Activations
    events: tuple[TaskEvent, ...]

    def __sizeof__(self) -> int:
        return self.activations.nbytes + _EVENT_NBYTES * len(self.events)


@dataclass(frozen=True, eq=False)
class Finished:
    """A partition at its end: the last layer's activations as CSR, and the events of its tasks."""

    outputs: scipy.sparse.csr_array
    events: tuple[TaskEvent, ...]

    def __sizeof__(self) -> int:
        return sparse_nbytes(self.outputs) + _EVENT_NBYTES * len(self.events)


@dataclass(frozen=True, eq=False)
class _Step:
    """A layer, ready to run."""

    kernel: Kernel
    packed: Any
    outputs: int

    def run(self, inputs: Any, outputs: Values, alive: Alive) -> None:
        self.kernel.run(self.packed, inputs, outputs, alive)


def run_span(before: Any, network: Network | NetworkSource, span: Span) -> Progressed | Finished:
    """Take one partition through the layers of `span`.

    Args:
        before: what the span before returned; for the first span the partition's rows of input.
        network: the network, or where to read it.
        span: which layers, and how.

    Returns:
        `Finished` after the network's last layer, else `Progressed`.
    """
    entered = time.time()
    if not isinstance(network, Network):
        network = network.open()
    layers = network.layers[span.first : span.stop]
    steps = [
        _Step(load_kernel(name), packed_layer(layer, name, np.dtype(span.dtype)), layer.outputs)
        for layer, name in zip(layers, span.kernels, strict=True)
    ]
    start = time.time()
    given, events = (before.activations, before.events) if isinstance(before, Progressed) else (before, ())
    with one_thread_each() if any(step.kernel.uses_blas for step in steps) else nullcontext():
        after = _finish(given, steps, span) if span.stop == len(network) else _progress(given, steps, span)
    samples = _samples(given)
    event = TaskEvent(
        run=span.run,
        partition=span.partition,
        first_layer=span.first + 1,
        last_layer=span.stop,
        worker=f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}",
        prepare_seconds=start - entered,
        start=start,
        end=time.time(),
        samples=samples,
        alive=_alive(after),
        nbytes=_nbytes(after),
        multiply_adds=samples * sum(layer.nnz for layer in layers),
    )
    publish(event)
    events = (*events, event)
    return Progressed(after, events) if isinstance(after, Activations) else Finished(after, events)


def _samples(given: Any) -> int:
    return given.samples if isinstance(given, Activations) else int(given.shape[0])


def _alive(after: Any) -> int:
    return int(np.count_nonzero(after.alive if isinstance(after, Activations) else np.diff(after.indptr)))


def _nbytes(after: Any) -> int:
    return after.nbytes if isinstance(after, Activations) else sparse_nbytes(after)


def _progress(given: Any, steps: list[_Step], span: Span) -> Activations:
    """Take all tiles through the steps and return the last one's outputs."""
    samples = _samples(given)
    tiles = -(-samples // span.lanes)
    values = aligned_empty((tiles, steps[-1].outputs, span.lanes), span.dtype)
    alive = np.empty((tiles, span.lanes), np.bool_)
    for first, stop, outputs, living in _depth_first(given, steps, span):
        values[first:stop], alive[first:stop] = outputs, living
    return Activations(values, alive.ravel()[:samples])


def _finish(given: Any, steps: list[_Step], span: Span) -> scipy.sparse.csr_array:
    """Take all tiles through the steps and return the last one's outputs as rows."""
    samples = _samples(given)
    rows = [
        to_csr(outputs, living.ravel()[: samples - first * span.lanes])
        for first, _, outputs, living in _depth_first(given, steps, span)
    ]
    if not rows:
        return scipy.sparse.csr_array((0, steps[-1].outputs), dtype=span.dtype)
    return scipy.sparse.vstack(rows, format="csr")


def _depth_first(given: Any, steps: list[_Step], span: Span) -> Iterator[tuple[int, int, Values, Alive]]:
    """Yield (first tile, stop tile, outputs, alive) of the last step; the next ones overwrite them."""
    tiles = -(-_samples(given) // span.lanes)
    at_once = max(1, min(span.tiles_at_once, tiles))
    widest = max([_neurons(given), *(step.outputs for step in steps)])
    buffers = [aligned_empty((at_once * widest * span.lanes,), span.dtype) for _ in range(2)]
    alive = np.empty((at_once, span.lanes), np.bool_)

    def buffer(number: int, count: int, neurons: int) -> Values:
        return buffers[number % 2][: count * neurons * span.lanes].reshape(count, neurons, span.lanes)

    for first in range(0, tiles, at_once):
        stop = min(first + at_once, tiles)
        count = stop - first
        inputs = _inputs(given, first, stop, steps[0].kernel.reads_rows, buffer(1, count, _neurons(given)))
        for number, step in enumerate(steps):
            outputs = buffer(number, count, step.outputs)
            step.run(inputs, outputs, alive[:count])
            inputs = outputs
        yield first, stop, inputs, alive[:count]


def _neurons(given: Any) -> int:
    return int(given.values.shape[1] if isinstance(given, Activations) else given.shape[1])


def _inputs(given: Any, first: int, stop: int, as_rows: bool, buffer: Values) -> Any:
    """Return what the first step reads of tiles `first` to `stop`: tiles, or rows where its kernel takes those."""
    if isinstance(given, Activations):
        return given.values[first:stop]
    lanes = buffer.shape[2]
    rows = row_slice(given, first * lanes, min(stop * lanes, given.shape[0]))
    if as_rows:
        return scipy.sparse.csr_array(rows)
    fill_tiles(buffer, rows)
    return buffer


def packed_layer(layer: Layer, kernel: str, dtype: np.dtype[Any]) -> Any:
    """Return the layer as `kernel` wants it: packed at the first call, kept for as long as the layer is."""
    key = f"{kernel} {dtype}"
    with layer.packing:
        if key not in layer.packed:
            layer.packed[key] = load_kernel(kernel).pack(layer, dtype)
        return layer.packed[key]
