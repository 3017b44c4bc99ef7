"""The oracle: what a network computes, in float64, layer by layer, with nothing clever.

Slow (every sample is dense) and right; tests and `verify` compare every kernel and every executor with it.
"""

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activation_functions import activate
from taskgraph_dnn.errors import InputError
from taskgraph_dnn.network import NETWORK_INPUT, Network


def reference_outputs(network: Network, rows: Any) -> NDArray[np.float64]:
    """Return the outputs of the last layer, samples x outputs.

    A nan of the input passes through, see `activate`.

    Args:
        network: the network; its float32 weights and biases are cast up.
        rows: samples x inputs, any scipy sparse matrix or array, or a 2-D array.

    Raises:
        InputError: the rows do not fit the network.
    """
    Y = _dense(rows)
    if Y.ndim != 2 or Y.shape[1] != network.inputs:
        raise InputError(f"samples have shape {Y.shape}, expected samples x {network.inputs} inputs")
    outputs = {NETWORK_INPUT: Y}
    for number, layer in enumerate(network):
        Y = np.concatenate([outputs[source] for source in network.sources(number)], axis=1)
        sums = Y @ layer.weights.astype(np.float64) + layer.bias.astype(np.float64)
        outputs[number] = activate(sums, layer.activation, layer.negative_slope, layer.cap, axis=1)
        for source in network.wiring.released[number]:
            del outputs[source]
    return outputs[len(network) - 1]


def mismatch(outputs: Any, reference: NDArray[np.float64]) -> float:
    """Return the largest |difference| of the two, relative to the reference where that is above 1.

    Two nan, or two equal infinities, agree; either of them and any other number are infinitely far apart.

    Args:
        outputs: samples x outputs, any scipy sparse matrix or array, or a 2-D array.
        reference: the expected outputs.

    Raises:
        InputError: the two have different shapes.
    """
    found = _dense(outputs)
    if found.shape != reference.shape:
        raise InputError(f"outputs have shape {found.shape}, but the reference has shape {reference.shape}")
    with np.errstate(invalid="ignore"):  # inf - inf
        far = np.abs(found - reference) / np.maximum(1.0, np.abs(reference))
    same = (found == reference) | (np.isnan(found) & np.isnan(reference))
    far[np.isnan(far)] = np.inf
    return float(far[~same].max(initial=0.0))


def _dense(rows: Any) -> NDArray[np.float64]:
    return np.asarray(rows.toarray() if scipy.sparse.issparse(rows) else rows, dtype=np.float64)
