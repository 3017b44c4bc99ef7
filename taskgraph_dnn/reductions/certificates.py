"""What a layer provably does to a sample that is all zero, and to one that is saturated.

A **zero** sample gives activation(bias), so it stays zero where that is 0 for every output.

A sample is **saturated** where every value is at the activation's cap. Let a layer have the cap c, weights w and bias
b, and let all inputs x of a sample be at least m and at most h. Each output's sum is then, in exact numbers, at least

    s(m) = sum of w m over the positive weights + sum of w h over the negative ones + b

and a sum of n products in floating point, in any order and fused or not, is within g (sum of |w| h + |b|) of the exact
one, where g = (n + 2) u / (1 - (n + 2) u) with the unit roundoff u (Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 3.1), and n 2^-126 more where products underflow. Where s(m) less both is at least c for every
output, every output is exactly c, whatever the sample was. The least such m is the layer's **threshold**, at most h, 0
or a normal float32; it is infinite where there is none.

Where layers read several others, this is said of joints only, where a sample is what one layer has made of it; of
saturation, only of **links**, which stand between two joints and read what is there once, as each layer of a chain.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from taskgraph_dnn.activation_functions import activate
from taskgraph_dnn.layer import Layer
from taskgraph_dnn.network import Network
from taskgraph_dnn.reductions.bounds import ROUNDOFF, UNDERFLOW

#: Activations that let a sum beyond the cap become the cap.
_CAPPED = ("relu", "identity", "leaky_relu")

#: Far from float32's largest number.
_LARGEST = 1e37


_known: WeakKeyDictionary[Network, "Certificates"] = WeakKeyDictionary()


@dataclass(frozen=True)
class Certificates:
    """What is proved of a network's layers, from 0; one more entry stands for the end of the network.

    Attributes:
        dead: whether a sample that is zero at the joint before this layer is zero after all the rest; never elsewhere.
        thresholds: a sample whose values are all at least this before the layer is saturated after it.
        settled: where a sample that is saturated after this layer is no longer known to be: the first later layer that
            may leave saturation.
        tied: how many of the next layers equal this one.
    """

    dead: tuple[bool, ...]
    thresholds: tuple[float, ...]
    settled: tuple[int, ...]
    tied: tuple[int, ...]


def nothing_proved(layers: int) -> Certificates:
    """Return the certificates of so many layers of which nothing is known."""
    return Certificates(
        (False,) * (layers + 1), (np.inf,) * (layers + 1), tuple(range(1, layers + 2)), (0,) * (layers + 1)
    )


def certify(network: Network) -> Certificates:
    """Return what is proved of the network's layers; each layer is looked at once, and remembers it (`Layer.fact`)."""
    if network not in _known:
        _known[network] = _certify(network)
    return _known[network]


def _certify(network: Network) -> Certificates:
    layers, joints = network.layers, set(network.wiring.joints)
    caps = [layer.cap for layer in layers]
    links = [network.wiring.is_link(k) for k in range(len(layers))]
    thresholds = [
        _threshold_after(layer, cap) if link else np.inf
        for layer, cap, link in zip(layers, [None, *caps[:-1]], links, strict=True)
    ]
    keeps, settled, tied = [True], [len(layers)], [0]  # from the last layer on; turned round below
    for k in reversed(range(len(layers))):
        keeps.append(keeps[-1] and keeps_zero(layers[k]))
        stays = k + 1 < len(layers) and thresholds[k + 1] <= (caps[k] or 0.0)
        settled.append(settled[-1] if stays else k + 1)
        same = k + 1 < len(layers) and links[k] and links[k + 1] and layers[k].digest == layers[k + 1].digest
        tied.append(tied[-1] + 1 if same else 0)
    dead = tuple(kept and k in joints for k, kept in enumerate(keeps[::-1]))
    return Certificates(dead, (*thresholds, np.inf), tuple(settled[::-1]), tuple(tied[::-1]))


def keeps_zero(layer: Layer) -> bool:
    """Return whether a sample of zeros gives zeros."""
    return bool(layer.fact("keeps zero", lambda: _keeps_zero(layer)))


def threshold(layer: Layer, largest: float | None) -> float:
    """Return the least value of all inputs that makes every output the layer's cap; infinite where there is none.

    Args:
        layer: the layer.
        largest: what no input exceeds, or None where nobody knows.
    """
    found = layer.fact(f"threshold of inputs up to {largest}", lambda: _json(_threshold(layer, largest)))
    return np.inf if found is None else float(found)


def _threshold_after(layer: Layer, cap: float | None) -> float:
    """Return the layer's threshold, where all inputs are at most `cap`."""
    return np.inf if layer.cap is None or layer.activation not in _CAPPED else threshold(layer, cap)


def _json(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _keeps_zero(layer: Layer) -> bool:
    if layer.activation == "softmax":
        return False
    values = activate(layer.bias.astype(np.float64), layer.activation, layer.negative_slope, layer.cap, axis=0)
    return not values.any()


def _threshold(layer: Layer, largest: float | None) -> float:
    w, bias = layer.weights, layer.bias.astype(np.float64)
    counts = np.diff(w.indptr)
    if layer.cap is None or not counts.all():
        return np.inf
    data = w.data.astype(np.float64)
    positive = np.add.reduceat(np.maximum(data, 0), w.indptr[:-1])
    negative = np.add.reduceat(np.minimum(data, 0), w.indptr[:-1])
    if not positive.all() or (largest is None and negative.any()):
        return np.inf
    if largest is not None and not ((positive - negative) * largest < _LARGEST).all():
        return np.inf  # sums might overflow
    slack = (counts + 2) * ROUNDOFF
    slack = slack / (1 - slack) * (1 + 2.0**-20)  # and what this very computation rounds
    if largest is None:  # all products are positive, so the errors are relative to a sum that the inputs' least bounds
        errors = slack * np.abs(bias) + counts * UNDERFLOW
        needed = (layer.cap - bias + errors) / (positive * (1 - slack))
    else:
        errors = slack * ((positive - negative) * largest + np.abs(bias)) + counts * UNDERFLOW
        needed = (layer.cap - bias - negative * largest + errors) / positive
    least = float(needed.max()) * (1 + 2.0**-20)
    return max(least, UNDERFLOW) if least > 0 else 0.0
