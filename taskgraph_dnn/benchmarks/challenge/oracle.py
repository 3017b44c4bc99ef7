"""What a challenge network makes of a few images, in float64 and with scipy alone: none of our kernels or reductions.

Slow, but images that are all zero cost nothing in a sparse product, and the 120-layer network is the head of the
1,920-layer one: an `Oracle` goes on where it stopped.
"""

import time
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.network import Layer, Network

#: So many layers are computed whatever they take. The first few are compared, too: after many, most of what is left is
#: at the cap, where differences do not show.
ALWAYS = (10, 40)


@dataclass(frozen=True, eq=False)
class Reference:
    """The outputs of the first layers: how many layers, and CSR, images x neurons, float64."""

    layers: int
    outputs: scipy.sparse.csr_array


class Oracle:
    """Computes images layer by layer.

    Args:
        images: CSR, images x neurons.
    """

    def __init__(self, images: scipy.sparse.csr_array) -> None:
        self._state = images.astype(
            np.float64
        ).T.tocsr()  # neurons x images: the transposed weights are CSR as they lie
        self._layers = 0
        self._known: dict[int, Reference] = {}

    def references(self, network: Network, seconds: float) -> list[Reference]:
        """Return the outputs of the first 10 and 40 layers (or all, if there are fewer), and as deep as time allows.

        Args:
            network: begins with the layers of the networks that were asked for before, and has at least as many.
            seconds: to go on for, beyond the 40 layers.

        Raises:
            NetworkError: a layer is none of the challenge's: not relu, or with a positive bias.
        """
        depths = {min(layers, len(network)) for layers in ALWAYS}
        for layers in sorted(depths - self._known.keys()):
            self._advance(network, layers, np.inf)
        self._advance(network, len(network), seconds)
        return [self._known[layers] for layers in sorted({*depths, self._layers})]

    def _advance(self, network: Network, layers: int, seconds: float) -> None:
        stop = time.perf_counter() + seconds
        while self._layers < layers and time.perf_counter() < stop:
            layer = network[self._layers]
            self._state = _next(layer, self._layers + 1, self._state)
            layer.release()
            self._layers += 1
        self._known[self._layers] = Reference(self._layers, self._state.T.tocsr())


def _next(layer: Layer, number: int, state: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
    """Return the outputs of a layer, neurons x images."""
    bias = layer.bias.astype(np.float64)
    if layer.activation != "relu" or bias.max() > 0:
        raise NetworkError(
            f"layer {number} has {layer.activation} and biases up to {bias.max():g}, expected relu and none above 0"
        )
    weights = layer.weights
    transposed = scipy.sparse.csr_array(
        (weights.data.astype(np.float64), weights.indices, weights.indptr), shape=weights.shape[::-1]
    )
    sums = transposed @ state
    # What is not stored is a sum of 0: with a bias that is not positive, relu leaves it 0.
    sums.data += np.repeat(bias, np.diff(sums.indptr))
    np.clip(sums.data, 0, layer.cap, out=sums.data)
    sums.eliminate_zeros()
    return sums
