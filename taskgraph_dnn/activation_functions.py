"""What a layer does with its sums: the activations by name, what they accept, and one implementation in numpy.

Kernels may have their own; this one is the oracle's, and that of kernels that work on numpy arrays.
"""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.errors import NetworkError

ACTIVATIONS = ("relu", "identity", "leaky_relu", "sigmoid", "tanh", "softmax")

#: The slope of leaky_relu below 0 where none is given, as in torch.
NEGATIVE_SLOPE = 0.01


def checked_activation(activation: Any, negative_slope: Any, cap: Any) -> tuple[str, float | None, float | None]:
    """Return the three as a layer keeps them.

    Args:
        activation: one of `ACTIVATIONS`.
        negative_slope: the slope of leaky_relu below 0, or None: then it is `NEGATIVE_SLOPE`. Others have none.
        cap: the activation's upper bound, or None.

    Raises:
        NetworkError: one of them is not valid.
    """
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise NetworkError(f"unknown activation {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    if activation == "leaky_relu" and negative_slope is None:
        negative_slope = NEGATIVE_SLOPE
    if activation != "leaky_relu" and negative_slope is not None:
        raise NetworkError(f"negative_slope is {negative_slope!r}, but {activation} has none, only leaky_relu")
    if negative_slope is not None:
        if not 0 <= _float32(negative_slope) <= 1:
            raise NetworkError(f"negative_slope is {negative_slope!r}, expected a number from 0 to 1")
        rounded = _float32(negative_slope)
        negative_slope = float(rounded) if rounded in (0, 1) else float(negative_slope)
        negative_slope = abs(negative_slope)  # -0.0
    if cap is not None:
        if not 0 < _float32(cap) < np.inf:
            raise NetworkError(f"cap is {cap!r}, expected a finite float32 above 0, or None")
        cap = float(cap)
    return activation, negative_slope, cap


def activate(
    values: NDArray[Any], activation: str, negative_slope: float | None, cap: float | None, axis: int
) -> NDArray[Any]:
    """Replace the sums in `values` by min(activation(sums), cap), and return it.

    nan stays nan, and an infinity becomes the activation's limit, without a warning. Softmax has none at inf: a sample
    with an inf, or with nothing but -inf, becomes nan.

    Args:
        values: float32 or float64, with the bias already added.
        activation: see `checked_activation`, as for the next two.
        negative_slope: a number for leaky_relu.
        cap: a number, or None.
        axis: the axis of the neurons, over which softmax sums.
    """
    with np.errstate(all="ignore"):
        match activation:
            case "relu":
                np.maximum(values, 0, out=values)
            case "leaky_relu":
                _leaky_relu(values, values.dtype.type(negative_slope))
            case "sigmoid":
                _sigmoid(values)
            case "tanh":
                np.tanh(values, out=values)
            case "softmax":
                _softmax(values, axis)
        if cap is not None:
            np.minimum(values, values.dtype.type(cap), out=values)
    return values


def _leaky_relu(values: NDArray[Any], slope: Any) -> None:
    below = values * slope if slope else 0  # 0 * inf would be nan
    np.maximum(values, below, out=values)  # right because the slope is at most 1


def _sigmoid(values: NDArray[Any]) -> None:
    np.negative(values, out=values)
    np.exp(values, out=values)  # inf for a sum far below 0, and then 1 / inf is 0
    values += 1
    np.reciprocal(values, out=values)


def _softmax(values: NDArray[Any], axis: int) -> None:
    values -= values.max(axis, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis, keepdims=True, dtype=np.float64)  # float32 loses digits over many outputs


def _float32(number: Any) -> np.float32:
    """Return the number rounded to float32, or nan where it is none."""
    if isinstance(number, bool) or not isinstance(number, Real):
        return np.float32(np.nan)
    try:
        with np.errstate(over="ignore", under="ignore"):
            return np.float32(float(number))
    except OverflowError:  # a whole number beyond float64
        return np.float32(np.inf)
