"""Perceptrons of scikit-learn, beside scikit-learn itself."""

import warnings

import numpy as np
import pytest

import taskgraph_dnn as tg
from taskgraph_dnn.errors import NetworkError
from tests.models import assert_agrees

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]


def fitted(kind, targets, rng, **options):
    rows = rng.standard_normal((80, 9))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        return kind(max_iter=15, random_state=0, **options).fit(rows, targets), rows.astype(np.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("classes", [2, 4])
def test_classifiers(rng, activation, classes):
    names = np.array(["d", "c", "b", "a"])[np.arange(80) % classes]
    model, rows = fitted(MLPClassifier, names, rng, activation=activation, hidden_layer_sizes=(7, 5))
    expected = model.predict_proba(rows)
    network = tg.from_sklearn(model)
    assert_agrees(network, rows, expected if classes > 2 else expected[:, 1])
    assert network[-1].activation == ("softmax" if classes > 2 else "sigmoid")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", [1, 3])
def test_regressors(rng, activation, outputs):
    model, rows = fitted(MLPRegressor, rng.standard_normal((80, outputs)).squeeze(), rng, activation=activation)
    assert_agrees(tg.from_sklearn(model), rows, model.predict(rows))


def test_several_labels_at_once(rng):
    model, rows = fitted(MLPClassifier, rng.integers(0, 2, (80, 3)), rng)
    assert_agrees(tg.from_sklearn(model), rows, model.predict_proba(rows))


def test_no_hidden_layer_and_float32(rng):
    model, rows = fitted(MLPClassifier, np.arange(80) % 3, rng, hidden_layer_sizes=())
    assert_agrees(tg.from_sklearn(model), rows, model.predict_proba(rows))


def test_what_was_pruned_is_no_edge(rng):
    model, rows = fitted(MLPClassifier, np.arange(80) % 3, rng, hidden_layer_sizes=(30,))
    for weights in model.coefs_:
        weights[abs(weights) < np.quantile(abs(weights), 0.9)] = 0
    network = tg.from_sklearn(model)
    assert network.nnz == sum(np.count_nonzero(weights) for weights in model.coefs_)
    assert_agrees(network, rows, model.predict_proba(rows))


def test_other_things_are_refused(rng):
    with pytest.raises(NetworkError, match="the MLPClassifier is not fitted"):
        tg.from_sklearn(MLPClassifier())
    for wrong in (3, LogisticRegression()):
        with pytest.raises(NetworkError, match=f"model is a {type(wrong).__name__}, expected an MLPClassifier"):
            tg.from_sklearn(wrong)
    model, _ = fitted(MLPRegressor, rng.standard_normal(80), rng)
    model.out_activation_ = "exp"
    with pytest.raises(NetworkError, match="the MLPRegressor has the activation 'exp', expected one of identity,"):
        tg.from_sklearn(model)


def test_weights_that_are_no_numbers_are_refused_by_their_layer(rng):
    model, _ = fitted(MLPRegressor, rng.standard_normal(80), rng)
    model.coefs_[1][2, 0] = np.nan
    with pytest.raises(NetworkError, match="the MLPRegressor: layer 2: weight of input 2, output 0 is nan, expected a"):
        tg.from_sklearn(model)
