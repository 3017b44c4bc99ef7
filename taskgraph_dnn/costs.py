"""What a layer costs, and which kernel is the cheapest for it: the one estimate that all planning shares."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taskgraph_dnn.config import Settings
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.kernels import Kernel, automatic_kernels, load_kernel
from taskgraph_dnn.kernels.registry import AUTO
from taskgraph_dnn.network import NETWORK_INPUT, Layer, Network

#: Of a number in a tile, while the tile is filled from rows of input (measured).
_DENSE_SECONDS, _ZERO_SECONDS, _NONZERO_SECONDS = 3e-10, 1e-10, 1e-8

#: Of a number that is put beside those of another source (measured).
_JOINED_SECONDS = 3e-10


@dataclass(frozen=True)
class Cost:
    """What a layer is expected to cost: seconds of one thread, and bytes of activations that it reads and writes."""

    seconds: float
    read_nbytes: int
    written_nbytes: int

    @property
    def nbytes(self) -> int:
        """Bytes of activations read and written."""
        return self.read_nbytes + self.written_nbytes


def cost(
    layer: Layer,
    kernel: Kernel,
    samples: int,
    lanes: int,
    *,
    dtype: str = "float32",
    first: bool = False,
    joins: bool = False,
    density: float = 1.0,
) -> Cost:
    """Estimate one layer for `samples` samples, in tiles of `lanes`, on one thread.

    Args:
        layer: the layer.
        kernel: what computes it.
        samples: samples; the last tile is computed as a whole.
        lanes: samples in a tile.
        dtype: of the activations.
        first: whether the layer reads the network's input, which comes as rows.
        joins: whether it reads several sources, which are put side by side for it.
        density: which part of the network's input is not zero; of activations nobody knows.
    """
    tiles, itemsize = -(-samples // lanes), np.dtype(dtype).itemsize
    joining = layer.inputs * lanes * _JOINED_SECONDS if joins else 0.0
    return Cost(
        seconds=tiles * (_tile_seconds(layer, kernel, lanes, first, density) + joining) * itemsize / 4,
        read_nbytes=tiles * lanes * layer.inputs * itemsize,
        written_nbytes=tiles * lanes * layer.outputs * itemsize,
    )


def _tile_seconds(layer: Layer, kernel: Kernel, lanes: int, first: bool, density: float) -> float:
    """Estimate a tile, and making it of rows where the layer is the first and its kernel does not read those."""
    if not first:
        return kernel.seconds(layer, lanes, 1.0)
    filling = _DENSE_SECONDS if density == 1 else _ZERO_SECONDS + density * _NONZERO_SECONDS
    return kernel.seconds(layer, lanes, density) + (0.0 if kernel.reads_rows else layer.inputs * lanes * filling)


def choose_kernel(
    name: str,
    layer: Layer,
    lanes: int,
    *,
    first: bool,
    density: float,
    automatic: Sequence[Kernel] | None = None,
) -> tuple[Kernel, str]:
    """Return the kernel for a layer, and the reason.

    Args:
        name: a kernel's name, or "auto" for the one that is expected to be the fastest.
        layer: the layer.
        lanes: samples in a tile.
        first: whether the layer reads the network's input, which some kernels take as rows.
        density: which part of the network's input is not zero; of activations nobody knows.
        automatic: what `automatic_kernels` returns, where the caller has asked already.

    Raises:
        KernelError: the kernel is unknown, or none can be used.
        MissingDependencyError: the kernel needs a package that is not installed.
    """
    if name != AUTO:
        kernel = load_kernel(name)
        if first or not kernel.reads_rows:
            return kernel, "as asked"
    known = automatic_kernels() if automatic is None else automatic
    able = [kernel for kernel in known if first or not kernel.reads_rows]
    if not able:
        raise KernelError("no kernel can be used")
    seconds = {kernel: _tile_seconds(layer, kernel, lanes, first, density) for kernel in able}
    ranking = sorted(able, key=seconds.__getitem__)
    times = ", ".join(f"{kernel.name} {1e6 * seconds[kernel]:.2g}" for kernel in ranking)
    reason = sys.intern(f"us a tile: {times}")  # a plan that is sent has it once for all layers alike
    return ranking[0], reason if name == AUTO else f"{name} reads the network's input only; {reason}"


#: The kernel of each layer, and the reason.
Choices = list[tuple[Kernel, str]]


def choose_kernels(network: Network, settings: Settings, lanes: int, density: float) -> Choices:
    """Return the kernel for each layer, and the reason; arguments and errors as of `choose_kernel`."""
    kernels = automatic_kernels()
    return [
        choose_kernel(settings.kernel, y, lanes, first=_is_first(network, n), density=density, automatic=kernels)
        for n, y in enumerate(network)
    ]


def network_costs(
    network: Network, choices: Choices, samples: int, lanes: int, settings: Settings, density: float
) -> list[Cost]:
    """Return what each layer is expected to cost for so many samples and what fills their last tile."""
    given: dict[str, Any] = {"dtype": settings.dtype, "density": density}
    return [
        cost(y, kernel, samples, lanes, first=_is_first(network, n), joins=len(network.sources(n)) > 1, **given)
        for n, (y, (kernel, _)) in enumerate(zip(network, choices, strict=True))
    ]


def _is_first(network: Network, layer: int) -> bool:
    """Whether a layer can read the network's input as it comes: as rows."""
    return not layer and network.sources(layer) == (NETWORK_INPUT,)
