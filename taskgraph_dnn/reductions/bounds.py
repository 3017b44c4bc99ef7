"""What the values of a layer cannot exceed, whatever the sample: interval arithmetic, rounded outward.

With inputs from l to h an output's sum is at most the sum of w h over its positive weights and of w l over its
negative ones, plus the bias. A run adds the same terms in floating point, in an order of its own, fused or not; then
each term t counts as t (1 + d) with |d| at most g = n u / (1 - n u), n terms and the unit roundoff u (Higham, Accuracy
and Stability of Numerical Algorithms, 2002, section 3.1). So a bound T of a term stands for (1 + g) T where it is
positive, and for (1 - g) T where it is not. In particular a sum whose terms cannot be positive is not, to the last bit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.activation_functions import activate
from taskgraph_dnn.layer import Layer
from taskgraph_dnn.reductions.folding import Columns, sums

#: The unit roundoff of float32; float64 runs have a smaller one.
ROUNDOFF = 2.0**-24

#: What a term may lose to underflow, where the processor flushes to 0 what is no normal float32.
UNDERFLOW = 2.0**-126

#: What an activation, with its exp and its cap in float32, may be off, relatively.
_ACTIVATED = 2.0**-20

#: No lower bound is above it and no upper bound below its negative, so that no sum of bounds is inf - inf.
_LARGEST = 1e200


class Bounds(NamedTuple):
    """Least and greatest value of each neuron, float64, both of shape (neurons,)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def unknown(cls, neurons: int) -> "Bounds":
        """Return the bounds of a network's input: none."""
        return cls(np.full(neurons, -np.inf), np.full(neurons, np.inf))

    def selected(self, which: NDArray[np.bool_]) -> "Bounds":
        """Return the bounds of the neurons where `which` is true; shape (neurons,)."""
        return Bounds(self.low[which], self.high[which])

    def outward(self) -> "Bounds":
        """Return bounds that also hold for what a run makes of these values in float32."""
        return Bounds(_lower(self.low), -_lower(-self.high))


def output_bounds(columns: Columns, inputs: Bounds, layer: Layer) -> Bounds:
    """Return what an activation makes of exact sums at their bounds; `outward` is for the caller to take.

    All activations but softmax rise with their sum, so where both bounds are 0 the output is always 0.

    Args:
        columns: the layer's edges and bias.
        inputs: the bounds of what they read.
        layer: the activation, its slope and its cap are this layer's; not softmax.
    """
    high = _greatest_sum(columns, inputs)
    low = -_greatest_sum(columns._replace(weights=-columns.weights, bias=-columns.bias), inputs)
    return Bounds(*(activate(s, layer.activation, layer.negative_slope, layer.cap, axis=0) for s in (low, high)))


@np.errstate(over="ignore")  # a bound beyond float64 is inf
def _greatest_sum(columns: Columns, inputs: Bounds) -> NDArray[np.float64]:
    weights, bias, lengths = columns.weights, columns.bias.astype(np.float64), columns.lengths
    terms = weights * np.where(weights > 0, inputs.high[columns.inputs], inputs.low[columns.inputs])
    positive = sums(np.maximum(terms, 0), columns.starts) + np.maximum(bias, 0)
    negative = sums(np.minimum(terms, 0), columns.starts) + np.minimum(bias, 0)
    slack = np.where(lengths > 0, 2 * (lengths + 1) * ROUNDOFF, 0)  # twice n u is above g while n u is below 1/2
    greatest = positive * (1 + slack) + negative * (1 - slack) + (positive > 0) * lengths * UNDERFLOW
    return np.where(slack < 1, greatest, np.inf)


def _lower(values: NDArray[np.float64]) -> NDArray[np.float64]:
    below = np.minimum(values - np.abs(values) * _ACTIVATED, _LARGEST)
    below[(below > 0) & (below < UNDERFLOW)] = 0
    return below
