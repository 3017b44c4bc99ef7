"""How a number grows with another one: a power law through the points, and how far they are from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taskgraph_dnn.errors import InputError

#: Points that are no further from the line than by this factor are on it.
CLOSE = 1.2


@dataclass(frozen=True)
class PowerLaw:
    """The line y = factor * x ** exponent that is nearest to points, by least squares of the logarithms of y.

    Attributes:
        exponent: the slope of the logarithms.
        error: its standard error; None of two points, through which a line always goes.
        factor: what y is where x is 1.
        worst: the largest factor by which a point lies above or below the line, 1 at least.
        first, last: slopes between the first two points, and between the last two.
    """

    exponent: float
    error: float | None
    factor: float
    worst: float
    first: float
    last: float

    @property
    def holds(self) -> bool:
        """Whether all points lie near the line."""
        return self.worst <= CLOSE

    def __call__(self, x: float) -> float:
        """Return what y is on the line."""
        return float(self.factor * x**self.exponent)


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Return the power law that is nearest to points.

    Args:
        x: ascending, above 0.
        y: for each of them, above 0.

    Raises:
        InputError: there are fewer than two points, or they are not ascending, or not above 0.
    """
    if len(x) != len(y) or len(x) < 2:
        raise InputError(f"{len(x)} and {len(y)} numbers, expected as many of both, and two at least")
    if min(*x, *y) <= 0 or (np.diff(x) <= 0).any():
        raise InputError(f"points at {list(x)} with values {list(y)}: expected numbers above 0, the former ascending")
    logs, values = np.log(x), np.log(y)
    spread = logs - logs.mean()
    exponent = float(spread @ values / (spread @ spread))
    residuals = values - values.mean() - exponent * spread
    slopes = np.diff(values) / np.diff(logs)
    return PowerLaw(
        exponent=exponent,
        error=math.sqrt(residuals @ residuals / (len(x) - 2) / (spread @ spread)) if len(x) > 2 else None,
        factor=float(np.exp(values.mean() - exponent * logs.mean())),
        worst=float(np.exp(np.abs(residuals).max())),
        first=float(slopes[0]),
        last=float(slopes[-1]),
    )
