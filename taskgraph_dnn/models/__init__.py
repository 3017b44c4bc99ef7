"""Networks out of other libraries' models, and back."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from taskgraph_dnn.arguments import whole_number
from taskgraph_dnn.errors import MissingDependencyError, NetworkError
from taskgraph_dnn.models import state_dict
from taskgraph_dnn.network import Network

__all__ = ["from_onnx", "from_sklearn", "from_torch", "to_onnx"]


def from_onnx(model: Any, *, input_shape: Sequence[int] | None = None, output: str | None = None) -> Network:
    """Return the network that an ONNX model is, with the same outputs up to the rounding of float32.

    Products, convolutions, averages, additions, concatenations and batch normalisations are multiplied into sparse
    layers; each activation is one. `docs/models.md` has the operators. The first axis of the input is that of the
    samples; the others are one sample, flattened with the last axis fastest.

    Args:
        model: the file, or an `onnx.ModelProto`.
        input_shape: the shape of a sample, where the model leaves it open.
        output: the name of the value to compute, where it is not the model's only output; what comes after it, the
            choice of a label for example, is left out.

    Raises:
        FileError: the file cannot be read.
        NetworkError: operators cannot be translated, which names all of them; or the model has not one input and one
            output with one value of each sample after the other.
        MissingDependencyError: onnx is not installed.
    """
    try:
        from taskgraph_dnn.models import onnx_graph
    except ImportError as error:
        raise MissingDependencyError.of("reading ONNX", "onnx", "onnx") from error
    shape = _checked(input_shape)
    if isinstance(model, str | os.PathLike):
        return onnx_graph.network_of(onnx_graph.loaded(Path(model)), str(model), shape, output)
    if not hasattr(model, "graph"):
        raise NetworkError(f"model is a {type(model).__name__}, expected a path or an onnx.ModelProto")
    return onnx_graph.network_of(model, model.graph.name or "the model", shape, output)


def to_onnx(network: Network) -> Any:
    """Return the `onnx.ModelProto` of a network: opset 13, dense float32 weights, input "input", output "output".

    Raises:
        NetworkError: the dense weights do not fit into one protobuf message, 2 GiB.
        MissingDependencyError: onnx is not installed.
    """
    try:
        from taskgraph_dnn.models import onnx_model
    except ImportError as error:
        raise MissingDependencyError.of("writing ONNX", "onnx", "onnx") from error
    return onnx_model.model_of(network)


def from_sklearn(model: Any) -> Network:
    """Return the network of a fitted `MLPClassifier` or `MLPRegressor` of scikit-learn.

    A classifier's outputs are its `predict_proba`; of two classes the probability of the second one only. Which class
    an output is, `model.classes_` says.

    Raises:
        NetworkError: it is something else, or not fitted, or its last activation is none of ours.
    """
    from taskgraph_dnn.models.sklearn_mlp import network_of

    return network_of(model)


def from_torch(
    model: Any,
    *,
    input_shape: Sequence[int] | None = None,
    activation: str | None = None,
    output_activation: str | None = None,
) -> Network:
    """Return the network of a PyTorch module or of a state dict, pruned weights being 0.

    A module is traced by `torch.fx`, as it is in evaluation; additions and concatenations of what earlier layers gave
    are kept. `docs/models.md` has the modules and functions that are known.

    A state dict has weights and no activations: all its tensors are to be `NAME.weight`, of two dimensions, and
    `NAME.bias`, in place of which may be `NAME.weight_orig` and `NAME.weight_mask`. Its layers have `activation`, the
    last one `output_activation`.

    Args:
        model: a `torch.nn.Module`, or tensors or arrays by name.
        input_shape: of a module, the shape of one sample; where the module begins with a `Linear`, it is known.
        activation: of a state dict, that of the layers before the last; None is "relu".
        output_activation: of a state dict, that of the last layer; None is "identity".

    Raises:
        NetworkError: modules or functions cannot be translated, which names all of them; or the tensors are no layers
            that fit.
        MissingDependencyError: torch is not installed.
    """
    if isinstance(model, Mapping):
        if input_shape is not None:
            raise NetworkError(f"input_shape is {input_shape}, but a state dict has its own")
        found = state_dict.linears(model, "the state dict", in_order=hasattr(model, "_metadata"))
        return state_dict.network_of(found, activation, output_activation)
    for name, value in (("activation", activation), ("output_activation", output_activation)):
        if value is not None:
            raise NetworkError(f"{name} is {value!r}, but a module has its own")
    try:
        from taskgraph_dnn.models import torch_module
    except ImportError as error:
        raise MissingDependencyError.of("reading a module", "torch", "torch") from error
    return torch_module.network_of(model, _checked(input_shape))


def _checked(input_shape: Sequence[int] | None) -> tuple[int, ...] | None:
    if input_shape is None:
        return None
    if not isinstance(input_shape, Iterable) or not (sizes := tuple(input_shape)):
        raise NetworkError(f"input_shape is {input_shape!r}, expected the sizes of a sample's axes")
    return tuple(whole_number("a size of input_shape", size, 1, NetworkError) for size in sizes)
