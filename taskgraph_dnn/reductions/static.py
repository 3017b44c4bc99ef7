"""Smaller networks with the same answer: neurons that are equal become one, neurons that change nothing are left out.

A network is looked at twice, layer by layer: backward for which outputs are read, which needs masks only, and forward
for all else. `reduced_layers` gives each reduced layer as it is made and keeps none, so networks that do not fit into
memory can be reduced, too.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activation_functions import activate
from taskgraph_dnn.layer import Layer
from taskgraph_dnn.network import NETWORK_INPUT, Network
from taskgraph_dnn.reductions.bounds import Bounds, output_bounds
from taskgraph_dnn.reductions.folding import Columns, first_equals

#: On a network, when it is prepared: equal neurons become one; neurons that are always 0 or never read are left out.
STATIC = ("duplicate-neurons", "unused-neurons")

#: A reduced network that keeps more than this part of the edges is not worth having.
WORTHWHILE = 0.9

#: The input is folded where at most this part of it is left,
_INPUT_LEFT = 0.5

#: and the fold and the first layer together have at most so many times the edges that the first layer had.
_FOLD_COSTS = 1.1


@dataclass(frozen=True, eq=False)
class ReducedLayer:
    """A layer made smaller, or the fold of the network's input that comes before the first.

    Attributes:
        layer: the reduced layer; it has at least one output.
        places: for each output of the original layer (for the fold: for each input of the network) the output of
            `layer` that has its value; -1 where the value is always 0, or read by nobody.
        unread: how many outputs are missing although they may be other than 0, because no later layer reads them. Only
            where it is 0 does the network up to this layer have the answers of the original up to this layer.
    """

    layer: Layer
    places: NDArray[np.int32]
    unread: int


@dataclass(frozen=True, eq=False)
class Reduced:
    """What static reductions made of a network.

    Attributes:
        network: the reduced network, which has one layer more than the original where it folds the input.
        places: for each output of the original's last layer the output of `network` that has its value; -1 where the
            value is always 0.
        names: the reductions that made it.
        folds_inputs: whether the first layer of `network` is the fold of the input.
        earlier: for each layer of the original its places, or None where the network cannot end there; may be empty if
            they are not known, and may leave out the last layer's.
    """

    network: Network
    places: NDArray[np.int32]
    names: tuple[str, ...]
    folds_inputs: bool
    earlier: Sequence[NDArray[np.int32] | None] = ()

    def head(self, layers: int) -> "Reduced | None":
        """Return the reduction of the first `layers` layers of the original, or None where this one has lost it."""
        if layers + self.folds_inputs == len(self.network):
            return self
        places = self.earlier[layers - 1] if 0 < layers <= len(self.earlier) else None
        if places is None:
            return None
        network = self.network.head(layers + self.folds_inputs)
        return Reduced(network, places, self.names, self.folds_inputs, self.earlier[:layers])


def reduce_network(network: Network, names: Collection[str]) -> Reduced | None:
    """Return the network with the reductions in `names`, in memory, or None where they leave nearly all of it.

    Args:
        network: any network.
        names: names of `STATIC`; others are passed over.
    """
    items = list(reduced_layers(network, names))
    if sum(item.layer.nnz for item in items) > WORTHWHILE * network.nnz:
        return None
    folds_inputs = len(items) > len(network)
    earlier = tuple(None if item.unread else item.places for item in items[folds_inputs:])
    wiring = network.wiring.folded() if folds_inputs else network.wiring
    reduced = Network((item.layer for item in items), wiring.sources, read_seconds=network.read_seconds)
    return Reduced(reduced, items[-1].places, _static(names), folds_inputs, earlier)


def reduced_layers(network: Network, names: Collection[str]) -> Iterator[ReducedLayer]:
    """Yield the network's layers with the reductions in `names`, in order; before them the fold of the input, if any.

    Each is made when it is asked for. A stored layer of the network is released when the next one is asked for, and
    a reduced layer may be the original itself, where nothing of it changes.

    Args:
        network: any network.
        names: names of `STATIC`; others are passed over.
    """
    chosen = _static(names)
    folds, drops = "duplicate-neurons" in chosen, "unused-neurons" in chosen
    left = {NETWORK_INPUT: _Left(_numbers(network.inputs), network.inputs, Bounds.unknown(network.inputs))}
    for number, (layer, outlook) in enumerate(zip(network, _outlooks(network, folds, drops), strict=True)):
        inputs = _Left.joined([left[source] for source in network.sources(number)])
        part, width = _narrowed(layer, outlook, inputs.places, inputs.width), inputs.width
        bounds = Bounds.unknown(part.columns.outputs)
        if drops and layer.activation != "softmax":
            part, bounds = _without_zeros(part, layer, inputs.bounds)
        like = layer
        if not part.columns.outputs:
            part, like, bounds = _Part(_NOTHING, part.places), _ZERO, Bounds(np.zeros(1), np.zeros(1))
        if _reads_input_alone(network, number) and (fold := _input_fold(part.columns, width, folds, drops)) is not None:
            yield fold.item
            part, width = _Part(fold.columns, part.places), fold.item.layer.outputs
        yield ReducedLayer(part.columns.layer(width, like), part.places, _unread(layer, outlook.read))
        layer.release()
        left[number] = _Left(part.places, part.columns.outputs, bounds)
        for source in network.wiring.released[number]:
            del left[source]


class _Left(NamedTuple):
    """What is left of a source's outputs: where each of them is, how many there are, and the bounds of these."""

    places: NDArray[np.int32]
    width: int
    bounds: Bounds

    @classmethod
    def joined(cls, sources: "Sequence[_Left]") -> "_Left":
        """Return what is left of several sources, side by side."""
        if len(sources) == 1:
            return sources[0]
        starts = accumulate((source.width for source in sources), initial=0)
        places = [np.where(y.places < 0, -1, y.places + start) for y, start in zip(sources, starts, strict=False)]
        bounds = (np.concatenate(ends) for ends in zip(*(source.bounds for source in sources), strict=True))
        return cls(np.concatenate(places).astype(np.int32), sum(y.width for y in sources), Bounds(*bounds))


def _reads_input_alone(network: Network, layer: int) -> bool:
    """Whether it is the first layer, and reads the network's input once, and no other does."""
    return not layer and network.sources(0) == (NETWORK_INPUT,) == network.wiring.released[0]


class _Outlook(NamedTuple):
    """What later layers make of a layer's outputs: which are read (None: all), and whether equal ones may be folded."""

    read: NDArray[np.bool_] | None
    folds: bool

    def together(self, other: "_Outlook") -> "_Outlook":
        """Return what two readers make of the same outputs."""
        read = None if self.read is None or other.read is None else self.read | other.read
        return _Outlook(None if read is not None and read.all() else read, self.folds and other.folds)


def _outlooks(network: Network, folds: bool, drops: bool) -> list[_Outlook]:
    """Return each layer's outlook; from the last layer to the first, because what is read hangs on the readers."""
    last = _Outlook(None, folds and network[-1].activation != "softmax")  # which counts each output
    outlooks: dict[int, _Outlook] = {len(network) - 1: last}
    for number in reversed(range(len(network))):
        layer, sources = network[number], network.sources(number)
        if set(sources) == {NETWORK_INPUT}:
            continue
        columns = Columns.of(layer)
        read = _read(columns, outlooks[number].read, layer.inputs) if drops else None
        fits, ends = folds and _sums_fit(columns), accumulate(map(network.width, sources), initial=0)
        for source, (first, stop) in zip(sources, pairwise(ends), strict=True):
            here = _Outlook(None if read is None else read[first:stop], fits)
            outlooks[source] = here.together(outlooks.get(source, here))
        layer.release()
    return [outlooks[number] for number in range(len(network))]


def _read(columns: Columns, outputs: NDArray[np.bool_] | None, inputs: int) -> NDArray[np.bool_] | None:
    """Return which inputs these outputs read; None stands for all."""
    read = np.zeros(inputs, dtype=bool)
    read[columns.inputs if outputs is None else columns.inputs[np.repeat(outputs, columns.lengths)]] = True
    return None if read.all() else read


def _sums_fit(columns: Columns) -> bool:
    """Return whether any sum of an output's weights is a float32."""
    largest = float(max(columns.weights.max(initial=0), -columns.weights.min(initial=0)))
    return largest * int(columns.lengths.max()) < float(np.finfo(np.float32).max)


class _Part(NamedTuple):
    """What is left of a layer, and which output stands for each original one; places are int32."""

    columns: Columns
    places: NDArray[np.int32]

    def kept(self, which: NDArray[np.bool_]) -> "_Part":
        """Return it with these outputs only."""
        return self._with(which, np.where(which, np.cumsum(which) - 1, -1))

    def folded(self) -> "_Part":
        """Return it with the first of equal outputs only."""
        first = first_equals(self.columns)
        which = first == np.arange(len(first))
        return self._with(which, (np.cumsum(which) - 1)[first])

    def _with(self, which: NDArray[np.bool_], numbers: NDArray[np.intp]) -> "_Part":
        # A place of -1 picks the last number.
        places = np.append(numbers, -1)[self.places].astype(np.int32)
        return _Part(self.columns.selected(which), places)


#: A layer needs an output: this one has no edges, nobody reads it, and in a layer like this one it is 0.
_ZERO = Layer(np.zeros((1, 1)))
_NOTHING = Columns(np.zeros(2, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(1, np.float32))


def _narrowed(layer: Layer, outlook: _Outlook, places: NDArray[np.int32], width: int) -> _Part:
    """Return the outputs that are read, folded, as they read the reduced layer before; `places` are of its inputs."""
    part = _Part(Columns.of(layer), _numbers(layer.outputs))
    if outlook.read is not None:
        part = part.kept(outlook.read)
    if outlook.folds:
        part = part.folded()
    if np.array_equal(places, _numbers(width)):
        return part
    # Only now, on the few that are left, because sorting edges is slow.
    part = _Part(part.columns.rewired(places, width), part.places)
    return part.folded() if outlook.folds else part


def _without_zeros(part: _Part, layer: Layer, inputs: Bounds) -> tuple[_Part, Bounds]:
    """Return the outputs that are not always 0, and their bounds."""
    found = output_bounds(part.columns, inputs, layer)
    other = (found.low != 0) | (found.high != 0)
    return part.kept(other), found.selected(other).outward()


def _unread(layer: Layer, read: NDArray[np.bool_] | None) -> int:
    """Return how many outputs are not read, without those that are known to be 0 as they have no edges."""
    if read is None:
        return 0
    at_rest = activate(layer.bias.astype(np.float64), layer.activation, layer.negative_slope, layer.cap, axis=0)
    zero = (np.diff(layer.weights.indptr) == 0) & (at_rest == 0)
    return int(np.count_nonzero(~read & ~zero))


class _InputFold(NamedTuple):
    """The fold of the input, and the first layer's columns as they read it."""

    item: ReducedLayer
    columns: Columns


def _input_fold(columns: Columns, inputs: int, folds: bool, drops: bool) -> _InputFold | None:
    """Return the fold of inputs whose edges in the first layer are equal, or None where it does not pay."""
    rows = _Part(columns.transposed(inputs), _numbers(inputs))
    if drops:
        rows = rows.kept(rows.columns.lengths > 0)
    if folds:
        rows = rows.folded()
    kept = np.flatnonzero(rows.places >= 0)
    edges = len(kept) + len(rows.columns.inputs)
    left = rows.columns.outputs
    if not 0 < left <= _INPUT_LEFT * inputs or edges > _FOLD_COSTS * len(columns.inputs):
        return None
    ones = np.ones(len(kept), dtype=np.float32)
    sums = scipy.sparse.coo_array((ones, (kept, rows.places[kept])), shape=(inputs, left))
    layer = Layer(sums, activation="identity")
    item = ReducedLayer(layer, rows.places, inputs - len(kept))
    return _InputFold(item, rows.columns.transposed(columns.outputs)._replace(bias=columns.bias))


def _numbers(count: int) -> NDArray[np.int32]:
    return np.arange(count, dtype=np.int32)


def _static(names: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in STATIC if name in names)
