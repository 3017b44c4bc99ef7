"""Multi-layer perceptrons of scikit-learn."""

from typing import Any

from taskgraph_dnn.errors import MissingDependencyError, NetworkError
from taskgraph_dnn.network import Layer, Network

_ACTIVATIONS = {"identity": "identity", "logistic": "sigmoid", "tanh": "tanh", "relu": "relu", "softmax": "softmax"}


def network_of(model: Any) -> Network:
    """Return the network of a fitted model; see `from_sklearn`."""
    try:
        from sklearn.neural_network import MLPClassifier, MLPRegressor
    except ImportError as error:
        raise MissingDependencyError.of("reading a model of scikit-learn", "scikit-learn", "sklearn") from error
    kind = type(model).__name__
    if not isinstance(model, MLPClassifier | MLPRegressor):
        raise NetworkError(f"model is a {kind}, expected an MLPClassifier or an MLPRegressor")
    if not hasattr(model, "coefs_"):
        raise NetworkError(f"the {kind} is not fitted")
    names = [*[model.activation] * (len(model.coefs_) - 1), model.out_activation_]
    unknown = sorted(set(names) - _ACTIVATIONS.keys())
    if unknown:
        raise NetworkError(f"the {kind} has the activation {unknown[0]!r}, expected one of {', '.join(_ACTIVATIONS)}")
    parts = zip(model.coefs_, model.intercepts_, names, strict=True)
    return Network([_layer(f"the {kind}: layer {k}", *part) for k, part in enumerate(parts, start=1)])


def _layer(place: str, weights: Any, bias: Any, name: str) -> Layer:
    try:
        return Layer(weights, bias=bias, activation=_ACTIVATIONS[name])
    except NetworkError as error:
        raise NetworkError(f"{place}: {error}") from error
