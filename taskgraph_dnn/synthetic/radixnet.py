"""RadiX-Net networks, built as the Graph Challenge builds its own (Kepner and Robinett, IEEE IPDPSW 2019).

With p = neurons / 16, layers come in blocks of log2(p). In layer m of the first block input a feeds output b if

    (a - b) mod p  is  0  or  2^m

so p neurons form a butterfly, copied 16 times along the inputs and 16 times along the outputs, and the block joins
every input to every output by equally many paths. A later block is the first with the inputs of each layer permuted,
by one random permutation for all its layers. The official 1,024-neuron network is of this form, edge by edge. How its
permutations were drawn is not known; here a seed draws them.
"""

import math
import time
from collections.abc import Callable, Iterator
from itertools import count, islice

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn import challenge
from taskgraph_dnn.arguments import whole_number
from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.network import Layer, Network, index_dtype

#: Times that the butterfly is copied along the inputs, and along the outputs; each copy has two edges for an output.
COPIES = challenge.EDGES_PER_NEURON // 2


def radixnet(
    neurons: int,
    layers: int,
    *,
    seed: int = 0,
    bias: float | None = None,
    cap: float | None = challenge.CAP,
    weight: float = challenge.WEIGHT,
    progress: Callable[[int, int], None] | None = None,
) -> Network:
    """Return a RadiX-Net network as the Graph Challenge builds them.

    A deep network begins with the shallow one: `radixnet(n, 1920).head(120)` equals `radixnet(n, 120)`.

    Args:
        neurons: neurons of every layer, a power of two of at least 32.
        layers: number of layers.
        seed: draws the permutations of the second and later blocks; at least 0.
        bias: the bias of every neuron; `challenge.bias(neurons)` where None.
        cap: the activation's upper bound, or None.
        weight: the weight of every edge.
        progress: called as `progress(made, layers)` after each layer.

    Raises:
        NetworkError: one of the numbers is out of range.
    """
    started = time.perf_counter()
    made = []
    for layer in radixnet_layers(neurons, layers, seed=seed, bias=bias, cap=cap, weight=weight):
        made.append(layer)
        if progress is not None:
            progress(len(made), layers)
    return Network(made, read_seconds=time.perf_counter() - started)


def radixnet_layers(
    neurons: int,
    layers: int,
    *,
    seed: int = 0,
    bias: float | None = None,
    cap: float | None = challenge.CAP,
    weight: float = challenge.WEIGHT,
) -> Iterator[Layer]:
    """Return the layers of `radixnet`, made one at a time: a network that does not fit in memory can be written so.

    The arguments are those of `radixnet`, and checked at once.

    Raises:
        NetworkError: one of the numbers is out of range.
    """
    _check(neurons, layers, seed)
    first = _first_layer(neurons, weight, challenge.bias(neurons) if bias is None else bias, cap)
    return (_rewired(first, row_numbers) for row_numbers in islice(_row_numbers(neurons, seed), layers))


def _check(neurons: int, layers: int, seed: int) -> None:
    whole_number("neurons", neurons, 2 * COPIES, NetworkError)
    whole_number("layers", layers, 1, NetworkError)
    whole_number("seed", seed, 0, NetworkError)
    if neurons & (neurons - 1):
        raise NetworkError(f"a RadiX-Net has a power of two of neurons a layer, got {neurons}")


def _first_layer(neurons: int, weight: float, bias: float, cap: float | None) -> Layer:
    row_numbers = next(_row_numbers(neurons, seed=0))
    column_starts = np.arange(neurons + 1) * challenge.EDGES_PER_NEURON
    shape = (neurons, neurons)
    layer = Layer(
        scipy.sparse.csc_array((np.full(row_numbers.size, weight), row_numbers, column_starts), shape=shape),
        bias=bias,
        cap=cap,
    )
    if layer.nnz != row_numbers.size:
        raise NetworkError(f"weight is {weight}, which is 0 in float32, expected another number")
    return layer


def _rewired(layer: Layer, row_numbers: NDArray[np.signedinteger]) -> Layer:
    """Return the layer with other inputs; it shares all other arrays, which are the same in every layer."""
    weights = layer.weights
    return Layer.from_csc_arrays(
        weights.shape,
        weights.indptr,
        row_numbers,
        weights.data,
        bias=layer.bias,
        activation=layer.activation,
        cap=layer.cap,
    )


def _row_numbers(neurons: int, seed: int) -> Iterator[NDArray[np.signedinteger]]:
    """Yield each layer's row numbers (the inputs of all its edges, output by output), without end."""
    p = neurons // COPIES
    for order in _input_orders(neurons, seed):
        copies = order.reshape(COPIES, p).T  # row r: the inputs that the block sees as r modulo p
        for m in range(int(math.log2(p))):
            by_output = np.sort(np.hstack([copies, np.roll(copies, -(2**m), axis=0)]), axis=1)
            yield np.tile(by_output, (COPIES, 1)).ravel()


def _input_orders(neurons: int, seed: int) -> Iterator[NDArray[np.signedinteger]]:
    """Yield each block's order of the inputs, without end; it depends on the seed and the block's number alone."""
    dtype = index_dtype((neurons, neurons), neurons * challenge.EDGES_PER_NEURON)
    yield np.arange(neurons, dtype=dtype)
    for block in count(1):
        yield np.random.default_rng((seed, block)).permutation(neurons).astype(dtype)
