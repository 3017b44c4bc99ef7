"""What the tests of models share: the original's outputs beside ours."""

from typing import Any

import numpy as np

import taskgraph_dnn as tg
from taskgraph_dnn.reference import mismatch, reference_outputs


def assert_agrees(network: tg.Network, rows: Any, expected: Any) -> None:
    """The network gives what the original has given, run and in the oracle."""
    expected = np.asarray(expected, np.float64).reshape(len(rows), -1)
    rows = np.asarray(rows, np.float32).reshape(len(rows), -1)
    assert mismatch(reference_outputs(network, rows), expected) < 1e-5
    assert mismatch(tg.infer(network, rows).compute(scheduler="synchronous").outputs, expected) < 1e-5
