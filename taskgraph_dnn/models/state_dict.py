"""State dicts: tensors by name, of which `NAME.weight` and `NAME.bias` are a layer, in the order of the layers."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.network import Layer, Network

_PART = re.compile(r"(?:(.*)\.)?(weight|bias)(_orig|_mask)?")
#: So many names of tensors are said, of more their number.
_NAMED = 8


@dataclass(frozen=True)
class Linear:
    """Weights, outputs x inputs, and a bias, under their common name; `place` is what they are part of."""

    name: str
    weights: NDArray[Any]
    bias: NDArray[Any] | float
    place: str

    def layer(self, activation: str, negative_slope: float | None = None, cap: float | None = None) -> Layer:
        """Return the layer with this activation.

        Raises:
            NetworkError: numbers are not finite, or the bias does not fit.
        """
        end: dict[str, Any] = {"activation": activation, "negative_slope": negative_slope, "cap": cap}
        try:
            return Layer(self.weights.T, bias=self.bias, **end)
        except NetworkError as error:
            raise NetworkError(f"{self.place}: {self.name}: {error}") from error


def linears(tensors: Mapping[str, Any], place: str, *, in_order: bool) -> list[Linear]:
    """Return what these tensors are, in the order of the layers.

    Args:
        tensors: tensors or arrays by name.
        place: what they are called in messages.
        in_order: whether they come in the order of the layers; otherwise names and shapes must say it.

    Raises:
        NetworkError: there are other tensors than those of layers, they do not fit, or their order is not certain.
    """
    found = list(_linears(tensors, place))
    ordered = found if in_order else _ordered(found, place)
    for before, after in pairwise(ordered):
        if after.weights.shape[1] != before.weights.shape[0]:
            shapes = f"{after.weights.shape[1]} inputs, but {before.name} has {before.weights.shape[0]} outputs"
            raise NetworkError(f"{place}: {after.name} has {shapes}")
    return ordered


def network_of(found: Sequence[Linear], activation: str | None, output_activation: str | None) -> Network:
    """Return the network of what was found, with one activation for all layers but the last; see `from_torch`."""
    *hidden, last = found
    layers = [linear.layer(activation or "relu") for linear in hidden]
    return Network([*layers, last.layer(output_activation or "identity")])


def array(tensor: Any) -> NDArray[Any]:
    """Return the numbers of an array, or of a tensor of torch wherever it is, as float64, or as float32 if they are it.

    Raises:
        ValueError: they are complex, or torch does not give them away.
    """
    kind = str(getattr(tensor, "dtype", "")).removeprefix("torch.")
    if kind.startswith("complex"):
        raise ValueError(f"the numbers are {kind}, expected real ones")
    if hasattr(tensor, "detach"):
        try:
            full = tensor.detach().to(device="cpu").to_dense()
            tensor = (full if kind == "float32" else full.double()).numpy()
        except RuntimeError as error:  # a tensor of the device "meta", or a quantized one
            raise ValueError(f"torch does not give the numbers: {error}") from error
    return np.asarray(tensor, np.float32 if kind == "float32" else np.float64)


def pruned(parts: Mapping[str, Any], part: str) -> NDArray[Any] | None:
    """Return the weight or the bias of a layer, with its mask where it has one, or None.

    Args:
        parts: the layer's tensors by name, without the layer's.
        part: "weight" or "bias".

    Raises:
        ValueError: the mask does not fit; or there are masked numbers without a mask; or see `array`.
    """
    numbers, mask = parts.get(f"{part}_orig", parts.get(part)), parts.get(f"{part}_mask")
    if numbers is None:
        return None
    if mask is None:
        if f"{part}_orig" in parts:
            raise ValueError(f"{part}_orig has no {part}_mask")
        return array(numbers)
    if tuple(mask.shape) != tuple(numbers.shape):
        raise ValueError(f"{part}_mask has shape {tuple(mask.shape)}, but {part} has {tuple(numbers.shape)}")
    masked: NDArray[Any] = array(numbers) * array(mask) + 0.0  # no -0.0
    return masked


def _linears(tensors: Mapping[str, Any], place: str) -> Iterator[Linear]:
    layers: dict[str, dict[str, Any]] = {}
    strange = []
    for name, tensor in tensors.items():
        match = _PART.fullmatch(name) if isinstance(name, str) else None
        dimensions = len(getattr(tensor, "shape", ()))
        if match is None or dimensions != (2 if match[2] == "weight" else 1):
            has = f"shape {tuple(tensor.shape)}" if hasattr(tensor, "shape") else f"type {type(tensor).__name__}"
            strange.append(f"{name} of {has}")
        else:
            layers.setdefault(match[1] or "", {})[f"{match[2]}{match[3] or ''}"] = tensor
    if strange or not layers:
        raise NetworkError(
            f"{place} holds {_some(strange) or 'no tensors'}, expected NAME.weight of 2 dimensions and NAME.bias of 1; "
            "of other models give the module, or ONNX"
        )
    for name, parts in layers.items():
        try:
            weights, bias = pruned(parts, "weight"), pruned(parts, "bias")
        except (ValueError, TypeError) as error:
            raise NetworkError(f"{place}: {name}: {error}") from error
        if weights is None:
            raise NetworkError(f"{place}: {name} has {', '.join(parts)}, but no weight")
        yield Linear(name, weights, 0.0 if bias is None else bias, place)


def _ordered(layers: list[Linear], place: str) -> list[Linear]:
    """Return the layers in the order that their names or their shapes say.

    Names that differ in numbers alone are in the order of the numbers. Others only if the shapes leave no choice.
    """
    if len({re.sub("[0-9]+", "0", layer.name) for layer in layers}) == 1:
        return sorted(layers, key=lambda layer: [int(number) for number in re.findall("[0-9]+", layer.name)])
    names = _some([layer.name for layer in layers])
    reader = {layer.weights.shape[1]: layer for layer in layers}
    orders = [order for layer in layers if len(order := list(_followed(layer, reader))) == len(layers)]
    if len(reader) < len(layers) or len(orders) > 1:
        raise NetworkError(
            f"{place}: {names} may be in more than one order; names that differ in numbers alone say which is meant"
        )
    if not orders:
        raise NetworkError(f"{place}: there is no order in which {names} feed one another")
    return orders[0]


def _followed(layer: Linear | None, reader: Mapping[int, Linear]) -> Iterator[Linear]:
    """Yield a layer, the one that reads it, and so on; each once."""
    left = dict(reader)
    while layer is not None and left.pop(layer.weights.shape[1], None) is not None:
        yield layer
        layer = left.get(layer.weights.shape[0])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
