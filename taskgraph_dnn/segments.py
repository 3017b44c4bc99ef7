"""How a block goes from one joint to the next: through the layers of a segment, in buffers that it leaves to the next.

A layer that reads several sources finds them side by side, where they were copied. What later layers of the segment are
still to read stays where it is until the last of them has read it; which buffer holds what is decided by the network's
`layout`, once.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.activations import Values
from taskgraph_dnn.kernels.moves import fill
from taskgraph_dnn.network import NETWORK_INPUT, Network
from taskgraph_dnn.spare import SPARE

#: `compute(layer, inputs, outputs, alive)` fills the last two; inputs are tiles, or rows.
Compute = Callable[[int, Any, Values, NDArray[np.bool_]], None]


class Passage:
    """Takes blocks through the segments of a network; end it with `close`.

    Args:
        network: the network.
        compute: see `Compute`; of rows only the network's first layer is asked, and only if it is given such.
        lanes: samples in a tile.
        dtype: of the activations.
    """

    def __init__(self, network: Network, compute: Compute, lanes: int, dtype: Any) -> None:
        self._layers, self._wiring, self._layout = network.layers, network.wiring, network.layout
        self._compute, self._lanes, self._dtype = compute, lanes, dtype
        self._buffers: dict[int, Values] = {}

    def through(self, first: int, given: Any, tiles: int) -> tuple[Values, list[NDArray[np.bool_]]]:
        """Compute the segment that begins with a layer.

        Args:
            first: the layer, from 0.
            given: the output of the layer before it, or the network's input: tiles, or rows.
            tiles: how many.

        Returns:
            The last layer's outputs, which are valid until the next segment is over, and for each layer whether each
            place of its outputs has any nonzero value.
        """
        values, flags = {first - 1: given}, []
        for layer in range(first, self._wiring.ends[first]):
            inputs = self._inputs(layer, values, tiles)
            values[layer] = outputs = self._room(self._layout.outputs[layer], tiles, self._layers[layer].shape[1])
            alive = np.empty((tiles, self._lanes), np.bool_)
            self._compute(layer, inputs, outputs, alive)
            flags.append(alive.ravel())
        return outputs, flags

    def close(self) -> None:
        """Give the buffers back."""
        for buffer in self._buffers.values():
            SPARE.give_back(buffer)

    def _inputs(self, layer: int, values: dict[int, Any], tiles: int) -> Any:
        """Return what a layer reads of what its sources gave."""
        read, joined = self._wiring.sources[layer], self._layout.joined[layer]
        if joined is None and (not layer or read[0] != NETWORK_INPUT):
            return values[read[0]]
        if NETWORK_INPUT in read:
            values[NETWORK_INPUT] = self._tiled(values[NETWORK_INPUT], tiles)
        if joined is None:
            return values[read[0]]
        together = self._room(joined, tiles, self._layers[layer].inputs)
        return np.concatenate([values[source] for source in read], axis=1, out=together)

    def _tiled(self, given: Any, tiles: int) -> Values:
        """Return the network's input as tiles, whatever it came as."""
        if isinstance(given, np.ndarray):
            return given
        values = self._room(NETWORK_INPUT, tiles, given.shape[1])
        fill(values, given)
        return values

    def _room(self, buffer: int, tiles: int, neurons: int) -> Values:
        """Return room in a buffer, which is made, or made larger, if need be; what it held is lost."""
        size, buffers = tiles * neurons * self._lanes, self._buffers
        if buffer not in buffers or buffers[buffer].size < size:
            if buffer in buffers:
                SPARE.give_back(buffers.pop(buffer))  # the smaller one goes before the larger comes
            buffers[buffer] = SPARE.borrow((size,), self._dtype)
        return buffers[buffer][:size].reshape(tiles, neurons, self._lanes)
