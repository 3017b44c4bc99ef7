"""Values on their way through a model that is being translated: affine functions of what layers put out.

All that is linear in a model (products, convolutions, averages, additions, concatenations, other orders of the same
values) changes such a function and costs nothing; only an activation makes a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

#: The shape of a sample's values.
Shape = tuple[int, ...]


class Source(NamedTuple):
    """A layer, or `NETWORK_INPUT`, and how many values it gives."""

    layer: int
    width: int


@dataclass(frozen=True, eq=False)
class Affine:
    """Values of a sample: outputs of the sources, side by side, @ weights + bias.

    Attributes:
        sources: what is read, each once.
        weights: float64 CSC, inputs x size, or None: the sources' outputs as they are.
        bias: float64, (size,).
        shape: how the values are arranged, the last axis fastest; samples have no axis.
    """

    sources: tuple[Source, ...]
    weights: scipy.sparse.csc_array | None
    bias: NDArray[np.float64]
    shape: Shape

    @classmethod
    def of(cls, source: Source, shape: Shape) -> "Affine":
        """Return the outputs of a source."""
        return cls((source,), None, np.zeros(source.width), shape)

    @property
    def size(self) -> int:
        """How many values a sample has."""
        return prod(self.shape)

    @cached_property
    def matrix(self) -> scipy.sparse.csc_array:
        """The weights, written out."""
        return scipy.sparse.eye_array(self.size, format="csc") if self.weights is None else self.weights

    @property
    def bare(self) -> bool:
        """Whether these are the outputs of one source, as they are."""
        return self.weights is None and len(self.sources) == 1 and not self.bias.any()

    @property
    def positions(self) -> NDArray[np.int64]:
        """The number of each value, in the values' shape."""
        return np.arange(self.size).reshape(self.shape)

    def reshaped(self, shape: Shape) -> "Affine":
        """Return the same values in another shape of the same size."""
        return replace(self, shape=shape)

    def taken(self, positions: NDArray[Any]) -> "Affine":
        """Return the values at these positions, in their shape; 0 for a position of -1."""
        chosen = positions.ravel()
        if np.array_equal(chosen, np.arange(self.size)):
            return self.reshaped(positions.shape)
        there = chosen >= 0
        outputs = np.flatnonzero(there)
        choice = (np.ones(outputs.size), (chosen[there], outputs))
        return self.times(scipy.sparse.csc_array(choice, shape=(self.size, chosen.size)), positions.shape)

    def times(self, matrix: scipy.sparse.csc_array, shape: Shape) -> "Affine":
        """Return the values @ matrix."""
        weights = matrix if self.weights is None else (self.weights @ matrix).tocsc()
        return Affine(self.sources, weights, self.bias @ matrix, shape)

    def scaled(self, factors: NDArray[Any]) -> "Affine":
        """Return each value times its factor."""
        return self.times(scipy.sparse.diags_array(factors.ravel().astype(np.float64), format="csc"), self.shape)

    def plus(self, numbers: NDArray[Any] | float) -> "Affine":
        """Return each value plus its number, or all plus one."""
        return replace(self, bias=self.bias + np.ravel(numbers))

    def over(self, sources: Sequence[Source]) -> scipy.sparse.csc_array:
        """Return the weights of sources that hold all of these."""
        first = {}
        rows = 0
        for source in sources:
            first[source.layer] = rows
            rows += source.width
        places = np.concatenate([first[source.layer] + np.arange(source.width) for source in self.sources])
        coo = self.matrix.tocoo()
        return scipy.sparse.csc_array((coo.data, (places[coo.row], coo.col)), shape=(rows, self.size))


def side_by_side(parts: Sequence[Affine]) -> Affine:
    """Return the values of all parts, one after the other, flat."""
    sources = _all_sources(parts)
    bias, size = np.concatenate([part.bias for part in parts]), sum(part.size for part in parts)
    if all(part.weights is None for part in parts) and len(sources) == sum(len(part.sources) for part in parts):
        return Affine(sources, None, bias, (size,))
    weights = scipy.sparse.hstack([part.over(sources) for part in parts], format="csc")
    return Affine(sources, weights, bias, (size,))


def total(parts: Sequence[Affine]) -> Affine:
    """Return the sum of parts of one shape."""
    sources = _all_sources(parts)
    weights = sum((part.over(sources) for part in parts[1:]), start=parts[0].over(sources))
    bias: NDArray[np.float64] = np.sum([part.bias for part in parts], axis=0)
    return Affine(sources, weights.tocsc(), bias, parts[0].shape)


def _all_sources(parts: Sequence[Affine]) -> tuple[Source, ...]:
    return tuple(dict.fromkeys(source for part in parts for source in part.sources))
