"""Layers in the making: what a model is translated into, one activation after the other, until a network is taken."""

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.models.affine import Affine, Shape, Source
from taskgraph_dnn.network import NETWORK_INPUT, Layer, Network

#: Activations that are never below 0.
_NEVER_NEGATIVE = ("relu", "sigmoid", "softmax")


class UnsupportedError(Exception):
    """A step of a model cannot be a part of a layer; says why."""


def require_finite(numbers: NDArray[Any], what: str) -> None:
    """Refuse constants that are no numbers.

    Raises:
        UnsupportedError: one of them is nan or infinite.
    """
    wrong = numbers[~np.isfinite(numbers)]
    if wrong.size:
        raise UnsupportedError(f"with {what} of {wrong[0]}, expected finite numbers")


@dataclass(frozen=True, eq=False)
class _Draft:
    """A layer to be: where it comes from, its sums, and what is done with them."""

    place: str
    sums: Affine
    activation: str
    negative_slope: float | None = None
    cap: float | None = None

    def layer(self) -> Layer:
        try:
            return Layer(
                self.sums.matrix,
                bias=self.sums.bias,
                activation=self.activation,
                negative_slope=self.negative_slope,
                cap=self.cap,
            )
        except NetworkError as error:
            raise NetworkError(f"{self.place}: {error}") from error


class Drafts:
    """The layers made so far.

    Attributes:
        model: what the model is called in messages.
        place: the step of the model that is being translated, for messages.
    """

    def __init__(self, model: str) -> None:
        self.model, self.place = model, "input"
        self._drafts: list[_Draft] = []

    @staticmethod
    def input(shape: Shape) -> Affine:
        """Return the network's input."""
        return Affine.of(Source(NETWORK_INPUT, int(np.prod(shape, dtype=np.int64))), shape)

    def linear(
        self, x: Affine, matrix: scipy.sparse.csc_array, bias: NDArray[np.float64] | float, shape: Shape
    ) -> Affine:
        """Return x @ matrix + bias.

        Two products without an activation between become one, where that has no more edges than the two.

        Raises:
            UnsupportedError: a weight or a bias is no finite number.
        """
        require_finite(matrix.data, "a weight")
        require_finite(np.asarray(bias), "a bias")
        if x.weights is not None and _edges_bound(x.weights, matrix) > x.weights.nnz + matrix.nnz:
            x = self.settled(x)
        return x.times(matrix, shape).plus(bias)

    def activated(
        self, x: Affine, activation: str, *, negative_slope: float | None = None, cap: float | None = None
    ) -> Affine:
        """Return min(activation(x), cap), which is a layer."""
        before = self._before(x)
        if activation == "relu" and cap is None and before and before.activation in _NEVER_NEGATIVE:
            return x
        return self._add(_Draft(self.place, x, activation, negative_slope, cap))

    def settled(self, x: Affine) -> Affine:
        """Return x as the outputs of a layer of its own."""
        return self.activated(x, "identity")

    def shared(self, x: Affine) -> Affine:
        """Return x as several should read it: its products are to be done once."""
        return x if x.weights is None or x.weights.nnz <= x.size else self.settled(x)

    def clipped(self, x: Affine, low: float, high: float) -> Affine:
        """Return min(max(x, low), high).

        Raises:
            UnsupportedError: low is not below high, or there is no low and high is not above 0.
        """
        if not low < high:
            raise UnsupportedError(f"with the bounds {low:g} and {high:g}")
        if low == -inf and high == inf:
            return x
        before = self._before(x)
        if before and (low == -inf or (low <= 0 and before.activation in _NEVER_NEGATIVE)) and high > 0:
            return x if high == inf else self._add(replace(before, cap=min(high, before.cap or inf)))
        if low == -inf:
            if high <= 0:
                raise UnsupportedError(f"with the upper bound {high:g}, and no lower one")
            return self.activated(x, "identity", cap=high)
        cap = None if high == inf else high - low
        return self.activated(x.plus(-low), "relu", cap=cap).plus(low)

    def network(self, output: Affine) -> Network:
        """Return the network that ends with `output`, of the layers that lead to it.

        Raises:
            NetworkError: a layer before the last has softmax, or weights that float32 cannot hold.
        """
        self.place = "output"
        if not self._before(output):
            output = self.settled(output)
        kept = self._leading_to(output.sources[0].layer)
        for number in kept[:-1]:
            if self._drafts[number].activation == "softmax":
                place = self._drafts[number].place
                text = "softmax is read by other layers, expected it at the end of the model only"
                raise NetworkError(f"{self.model}: {place}: {text}")
        numbers = {NETWORK_INPUT: NETWORK_INPUT} | {number: k for k, number in enumerate(kept)}
        drafts = [self._drafts[number] for number in kept]
        sources = [tuple(numbers[source.layer] for source in draft.sums.sources) for draft in drafts]
        try:
            return Network([draft.layer() for draft in drafts], sources)
        except NetworkError as error:
            raise NetworkError(f"{self.model}: {error}") from error

    def _leading_to(self, last: int) -> list[int]:
        found, waiting = set[int](), [last]
        while waiting:
            number = waiting.pop()
            if number not in found and number != NETWORK_INPUT:
                found.add(number)
                waiting += [source.layer for source in self._drafts[number].sums.sources]
        return sorted(found)

    def _before(self, x: Affine) -> _Draft | None:
        """Return the draft whose outputs x is, as they are, or None."""
        return self._drafts[x.sources[0].layer] if x.bare and x.sources[0].layer != NETWORK_INPUT else None

    def _add(self, draft: _Draft) -> Affine:
        self._drafts.append(draft)
        return Affine.of(Source(len(self._drafts) - 1, draft.sums.size), draft.sums.shape)


def _edges_bound(first: scipy.sparse.csc_array, second: scipy.sparse.csc_array) -> int:
    """Return what the edges of first @ second cannot exceed."""
    into = np.diff(first.indptr).astype(np.int64)
    return int(into @ np.bincount(second.indices, minlength=into.size))
