"""Outputs of a layer, found equal and made one: plain arrays in, plain arrays out, nothing is assumed of the weights.

Equal means equal in every bit: the same inputs, the same weights and the same bias. Outputs are found by a hash of 64
bits and then compared with the first of their kind, so that no collision passes; it costs a fold that could have been.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.layer import Layer, index_dtype

#: An odd number without a pattern (2^64 over the golden ratio), so that products with it spread every bit upwards.
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


#: The fact that says of a layer that not all of its weights are exactly the sums they stand for.
ROUNDED = "rounded sums"


class Columns(NamedTuple):
    """The edges of a layer's outputs, as in its CSC matrix.

    Attributes:
        starts: where each output's edges begin, and where all end; shape (outputs + 1,).
        inputs: the input of each edge, rising within an output; shape (edges,).
        weights: the weight of each edge, not 0; shape (edges,).
        bias: of each output; shape (outputs,).
        rounded: whether a weight is a sum that was rounded to float32.
    """

    starts: NDArray[Any]
    inputs: NDArray[Any]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    rounded: bool = False

    @classmethod
    def of(cls, layer: Layer) -> "Columns":
        """Return the layer's own arrays."""
        w = layer.weights
        return cls(w.indptr, w.indices, w.data, layer.bias)

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return len(self.bias)

    @property
    def lengths(self) -> NDArray[Any]:
        """Number of edges of each output."""
        return np.diff(self.starts)

    def selected(self, which: NDArray[np.bool_]) -> "Columns":
        """Return the outputs where `which` is true; shape (outputs,)."""
        if which.all():
            return self
        lengths = self.lengths
        edges = np.repeat(which, lengths)
        starts = np.append(0, np.cumsum(lengths[which]))
        return Columns(starts, self.inputs[edges], self.weights[edges], self.bias[which], self.rounded)

    def rewired(self, places: NDArray[np.int32], width: int) -> "Columns":
        """Return the outputs as they read other inputs.

        Args:
            places: which of the new inputs stands for each old one; -1 where its edges bring nothing.
            width: number of new inputs.

        Returns:
            For each output one edge for each of the new inputs that it reads; edges that meet are summed in float64,
            and those that cancel are gone.
        """
        inputs, weights, starts = places[self.inputs], self.weights, self.starts
        brings = inputs >= 0
        if not brings.all():
            starts = np.append(0, np.cumsum(brings))[starts]
            inputs, weights = inputs[brings], weights[brings]
        csc = scipy.sparse.csc_array((weights, inputs, starts), shape=(width, self.outputs), copy=False)
        rounded = self.rounded
        if not csc.has_canonical_format:
            sums = csc.astype(np.float64)
            sums.sum_duplicates()
            csc = sums.astype(np.float32)
            rounded |= bool((csc.data != sums.data).any())
            csc.eliminate_zeros()
        return Columns(csc.indptr, csc.indices, csc.data, self.bias, rounded)

    def transposed(self, inputs: int) -> "Columns":
        """Return the same edges seen from the inputs, as outputs with a bias of 0."""
        shape = (inputs, self.outputs)
        csr = scipy.sparse.csc_array((self.weights, self.inputs, self.starts), shape=shape, copy=False).tocsr()
        return Columns(csr.indptr, csr.indices, csr.data, np.zeros(inputs, dtype=np.float32))

    def layer(self, inputs: int, like: Layer) -> Layer:
        """Return these outputs as a layer of `inputs` inputs with the activation and cap of the layer `like`.

        It is that layer itself where the edges are.
        """
        if self.weights is like.weights.data and self.inputs is like.weights.indices:
            return like
        shape = (inputs, self.outputs)
        dtype = index_dtype(shape, len(self.weights))
        layer = Layer.from_csc_arrays(
            shape,
            self.starts.astype(dtype, copy=False),
            self.inputs.astype(dtype, copy=False),
            self.weights,
            bias=self.bias,
            activation=like.activation,
            negative_slope=like.negative_slope,
            cap=like.cap,
        )
        if self.rounded:
            layer.facts[ROUNDED] = True
        return layer


def sums(values: NDArray[Any], starts: NDArray[Any]) -> NDArray[Any]:
    """Return the sum of the values of each output's edges; 0 for an output without edges."""
    total = np.zeros(len(starts) - 1, dtype=values.dtype)
    filled = np.diff(starts) > 0
    if filled.any():  # reduceat cannot express an empty sum
        total[filled] = np.add.reduceat(values, starts[:-1][filled])
    return total


def first_equals(columns: Columns) -> NDArray[np.intp]:
    """Return for each output the first one that equals it, in every bit; itself where none before does."""
    own = np.arange(columns.outputs)
    _, first, kind = np.unique(_hashes(columns), return_index=True, return_inverse=True)
    found = first[kind]
    later = np.flatnonzero(found != own)
    differ = later[_differ(columns, later, found[later])]
    found[differ] = differ
    return found


def _hashes(columns: Columns) -> NDArray[np.uint64]:
    """Return a hash of each output, the sum of hashes of its edges and of its bias; sums wrap around."""
    # The inputs are numbers of no pattern, or equal weights on regular inputs would meet in equal sums.
    random = np.random.default_rng(0)
    numbers = random.integers(2**64, size=int(columns.inputs.max(initial=0)) + 1, dtype=np.uint64)
    edges = columns.weights.view(np.uint32) * _SPREAD
    edges ^= edges >> np.uint64(32)  # products carry no bit downwards
    edges *= numbers[columns.inputs]
    hashed: NDArray[np.uint64] = sums(edges, columns.starts) + columns.bias.view(np.uint32) * _SPREAD
    return hashed


def _differ(columns: Columns, some: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return for each of `some` outputs whether it differs from the one of `others` beside it."""
    lengths, bias = columns.lengths, columns.bias.view(np.uint32)
    differ: NDArray[np.bool_] = (lengths[some] != lengths[others]) | (bias[some] != bias[others])
    alike = np.flatnonzero(~differ)
    a, b = _edges(columns, some[alike]), _edges(columns, others[alike])
    weights = columns.weights.view(np.uint32)
    unequal = (columns.inputs[a] != columns.inputs[b]) | (weights[a] != weights[b])
    if unequal.any():
        differ[np.repeat(alike, lengths[some[alike]])[unequal]] = True
    return differ


def _edges(columns: Columns, outputs: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return where the edges of these outputs are, output by output."""
    lengths = columns.lengths[outputs].astype(np.int64)
    shifts = columns.starts[:-1][outputs] - (np.cumsum(lengths) - lengths)
    edges: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(shifts, lengths)
    return edges
