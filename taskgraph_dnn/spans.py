"""What a task does: take one partition's activations through a span of layers.

This is the inner floor of a run: it knows networks, activations and kernels, not Dask. A task gets its rows of input,
or the activations of the span before, and returns activations, or the rows of the result after the last span, together
with the events of the whole chain so far.
"""

import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from taskgraph_dnn.activations import Activations, Values
from taskgraph_dnn.events import TaskEvent, publish
from taskgraph_dnn.kernels import Kernel, load_kernel
from taskgraph_dnn.matrices import sparse_nbytes
from taskgraph_dnn.network import Layer, Network, NetworkSource

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
    """

    run: str
    partition: int
    first: int
    stop: int
    kernels: tuple[str, ...]
    lanes: int


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
        (layer.outputs, load_kernel(name), packed_layer(layer, name))
        for layer, name in zip(layers, span.kernels, strict=True)
    ]
    start = time.time()
    if not isinstance(before, Progressed):
        before = Progressed(Activations.from_rows(before, span.lanes), ())
    after = _through(before.activations, steps)
    outputs = after.to_csr() if span.stop == len(network) else None
    event = TaskEvent(
        run=span.run,
        partition=span.partition,
        first_layer=span.first + 1,
        last_layer=span.stop,
        worker=f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}",
        prepare_seconds=start - entered,
        start=start,
        end=time.time(),
        samples=after.samples,
        nbytes=after.nbytes,
        multiply_adds=after.samples * sum(layer.nnz for layer in layers),
    )
    publish(event)
    events = (*before.events, event)
    return Progressed(after, events) if outputs is None else Finished(outputs, events)


def _through(before: Activations, steps: list[tuple[int, Kernel, Any]]) -> Activations:
    values = before.values
    tiles, _, lanes = values.shape
    spare: Values | None = None
    for outputs, kernel, packed in steps:
        shape = (tiles, outputs, lanes)
        if spare is None or spare.shape != shape:
            spare = None  # free before more is taken
        out = np.empty(shape, np.float32) if spare is None else spare
        kernel.run(packed, values, out)
        # The first values belong to the task before, whose result Dask may hand to others.
        spare = values if values is not before.values else None
        values = out
    return Activations(values, before.samples)


def packed_layer(layer: Layer, kernel: str) -> Any:
    """Return the layer as `kernel` wants it: packed at the first call, kept for as long as the layer is."""
    with layer.packing:
        if kernel not in layer.packed:
            layer.packed[kernel] = load_kernel(kernel).pack(layer)
        return layer.packed[kernel]
