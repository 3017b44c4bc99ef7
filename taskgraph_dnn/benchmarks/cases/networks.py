"""Whole networks without structure, and samples for them: nothing of the work on them can be left out."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse

from taskgraph_dnn.network import Layer, Network

#: A network and samples for it.
Problem = tuple[Network, Any]


def random_network(neurons: int, layers: int, degree: int, samples: int) -> Problem:
    """Return layers of random weights, so many inputs an output, in which all samples stay alive and differ."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(layers):
        rows = rng.integers(0, neurons, (neurons, degree)).ravel()
        weights = rng.normal(0.02, (2 / degree) ** 0.5, rows.size).astype(np.float32)
        shape = neurons, neurons
        coordinates = rows, np.repeat(np.arange(neurons), degree)
        made.append(Layer(scipy.sparse.coo_array((weights, coordinates), shape=shape), bias=-0.01, cap=32.0))
    return Network(made), rng.random((samples, neurons), np.float32)


def pruned_network(samples: int, widths: Sequence[int] = (784, 300, 100, 10), density: float = 0.1) -> Problem:
    """Return a perceptron of so many neurons, with random weights, of which this part is left."""
    rng = np.random.default_rng(0)
    layers = []
    for number, (inputs, outputs) in enumerate(pairwise(widths), start=1):
        weights = scipy.sparse.random_array(
            (inputs, outputs), density=density, rng=rng, data_sampler=rng.standard_normal
        )
        scaled = weights * (2 / (density * inputs)) ** 0.5  # so that sums stay of one size, however wide layers are
        layers.append(Layer(scaled, bias=0.1, activation="softmax" if number == len(widths) - 1 else "relu"))
    return Network(layers), rng.random((samples, widths[0]), np.float32)


def trained_network(samples: int) -> Problem:
    """Return a perceptron that scikit-learn has trained on its digits, with the largest tenth of its weights."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    pixels, digits = load_digits(return_X_y=True)
    model = MLPClassifier((512, 512, 512), max_iter=20, random_state=0).fit(pixels / 16, digits)
    layers = []
    for number, (weights, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        kept = np.where(np.abs(weights) >= np.quantile(np.abs(weights), 0.9), weights, 0)
        layers.append(Layer(kept, bias=bias, activation="softmax" if number + 1 == len(model.coefs_) else "relu"))
    rng = np.random.default_rng(0)
    noisy = pixels[rng.integers(0, len(pixels), samples)] / 16 + rng.normal(0, 0.05, (samples, pixels.shape[1]))
    return Network(layers), noisy.astype(np.float32)
