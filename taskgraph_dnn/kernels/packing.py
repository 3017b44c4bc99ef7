"""Packed layers: made once in a process, kept while there is room for them."""

import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any
from weakref import ref

import numpy as np

from taskgraph_dnn.config import task_bytes
from taskgraph_dnn.kernels.registry import Kernel
from taskgraph_dnn.layer import Layer
from taskgraph_dnn.meter import METER

_lock = threading.RLock()  # a layer may be collected, and forgotten, while it is held
#: By layer and what it was packed for, from the one that was used longest ago: the layer, where it is, and its bytes.
_kept: OrderedDict[tuple[int, str], tuple[Any, int]] = OrderedDict()
_nbytes = 0


def packed_layer(layer: Layer, kernel: Kernel, dtype: np.dtype[Any]) -> Any:
    """Return the layer as `kernel` wants it: packed at the first call, and kept with the layer.

    All layers of a process together keep no more than `taskgraph-dnn.packed-bytes`; those that were not used for the
    longest time are dropped then, and packed again when they are wanted.
    """
    key = f"{kernel.name} {dtype.char}"  # a type's name would take longer than all the rest
    packed = layer.packed.get(key)
    if packed is None:
        METER.misses += 1
        dropped: list[Layer] = []
        with layer.packing:
            packed = layer.packed.get(key)
            if packed is None:
                packed = layer.packed[key] = kernel.pack(layer, dtype)
                layer.packed.pop("groups", None)  # large, and only packing needs them
                layer.release()
                dropped = _keep(layer, key, packed_nbytes(packed))
        for other in dropped:  # now that no layer is locked
            other.release()  # a kernel may work on the layer itself
    else:
        METER.hits += 1
        if (id(layer), key) in _kept:
            with suppress(KeyError):  # another thread may have dropped it
                _kept.move_to_end((id(layer), key))
    return packed


def _keep(layer: Layer, key: str, nbytes: int) -> list[Layer]:
    """Count what was packed, and return the layers that had to give way."""
    global _nbytes
    limit, dropped = task_bytes("packed-bytes"), []
    with _lock:
        identity = id(layer), key
        _kept[identity] = ref(layer, lambda _: _forget(identity)), nbytes
        _nbytes += nbytes
        while _nbytes > limit and len(_kept) > 1:
            (_, oldest), (reference, nbytes) = _kept.popitem(last=False)
            _nbytes -= nbytes
            owner = reference()
            if owner is not None:
                owner.packed.pop(oldest, None)
                dropped.append(owner)
    return dropped


def _forget(identity: tuple[int, str]) -> None:
    global _nbytes
    with _lock:
        _, nbytes = _kept.pop(identity, (None, 0))
        _nbytes -= nbytes


def packed_nbytes(packed: Any) -> int:
    """Return the bytes of the arrays in a packed layer."""
    if isinstance(packed, np.ndarray):
        return packed.nbytes
    if isinstance(packed, Layer):  # a kernel works on the layer itself, which takes no room of its own in memory
        return packed.nbytes if packed.stored else 0
    if not is_dataclass(packed):
        return 0
    return sum(packed_nbytes(getattr(packed, field.name)) for field in fields(packed))
