"""Which reductions a run uses: those that were asked for, less those that bring nothing on this network."""

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.network import Network
from taskgraph_dnn.reductions.certificates import certify
from taskgraph_dnn.reductions.folding import ROUNDED
from taskgraph_dnn.reductions.names import DYNAMIC
from taskgraph_dnn.reductions.static import STATIC, Reduced, reduce_network


@dataclass(frozen=True, eq=False)
class Reductions:
    """The network that a run computes, and what it may leave out.

    Attributes:
        original: the network as it was given.
        network: what is computed: the reduced network where there is one.
        places: for each output of the original's last layer, the output of `network` that holds its value, or -1 where
            it is always 0; None where the two have the same outputs.
        folds_inputs: whether the first layer of `network` only adds inputs up, and the original's layers follow it.
        used: names of the reductions in use.
        notes: for each that was asked for, its name and what it finds, or why it is off.
    """

    original: Network
    network: Network
    places: NDArray[np.int32] | None
    folds_inputs: bool
    used: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]


def choose_reductions(network: Network, asked: Sequence[str], dtype: str = "float32") -> Reductions:
    """Return what a run leaves out.

    Args:
        network: what is to be run.
        asked: names of reductions.
        dtype: of the run: in float64, no reduced network is used whose weights were rounded to float32.
    """
    static = tuple(name for name in asked if name in STATIC)
    reduced = _reduced(network, static) if static else None
    rounded = reduced is not None and dtype == "float64" and any(ROUNDED in y.facts for y in reduced.network)
    reduced = None if rounded else reduced
    run = network if reduced is None else reduced.network
    notes = {name: _dynamic_note(name, run) for name in asked if name in DYNAMIC}
    notes |= {name: _ROUNDED_NOTE if rounded else _static_note(network, reduced) for name in static}
    used = tuple(name for name in asked if not notes[name].startswith("off"))
    places, folds_inputs = (None, False) if reduced is None else (reduced.places, reduced.folds_inputs)
    return Reductions(network, run, places, folds_inputs, used, tuple((name, notes[name]) for name in asked))


_ROUNDED_NOTE = "off: sums of weights were rounded to float32, and the run is in float64"

#: What static reductions made of networks that are in use, by the reductions' names.
_reductions: WeakKeyDictionary[Network, dict[tuple[str, ...], Reduced | None]] = WeakKeyDictionary()


def _reduced(network: Network, names: tuple[str, ...]) -> Reduced | None:
    if network.source is not None and names == STATIC:  # whoever wrote the file has tried
        stored: Reduced | None = network.reduced
        return stored
    known = _reductions.setdefault(network, {})
    if names not in known:
        known[names] = reduce_network(network, names)
    return known[names]


def _static_note(network: Network, reduced: Reduced | None) -> str:
    if reduced is None and network.source is not None and network.reduced is None:
        return "off: its file has no smaller network that ends after the same layer"
    if reduced is None:
        return "off: the network would stay as it is, or nearly so"
    return f"{reduced.network.nnz:,} of {network.nnz:,} edges are left"


def _dynamic_note(name: str, network: Network) -> str:
    if name in ("duplicate-samples", "merge-partitions"):
        return "on"
    proved = certify(network)
    if name == "dead-samples":
        first = proved.dead.index(True)
        if first == len(network):
            return f"off: layer {first} does not keep a sample of zeros"
        return "on" if not first else f"on after layer {first}"
    if any(map(np.isfinite, proved.thresholds)) or any(proved.tied):
        return "on"
    return "off: no layer is known to leave a sample as it is"
