"""The end of a layer for kernels that work on numpy arrays: bias, activation, cap, and which samples are alive."""

import numpy as np

from taskgraph_dnn.activation_functions import activate
from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.network import Layer


def finish(layer: Layer, outputs: Values, alive: Alive) -> None:
    """Turn the sums in `outputs` into the layer's outputs, and fill `alive`."""
    outputs += layer.bias[:, None]
    activate(outputs, layer.activation, layer.negative_slope, layer.cap, axis=1)
    np.any(outputs, axis=1, out=alive)
