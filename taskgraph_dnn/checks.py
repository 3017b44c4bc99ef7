"""Is the answer right? A result held against known categories, and against a float64 reference on some samples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.network import Network
from taskgraph_dnn.reference import mismatch, reference_outputs
from taskgraph_dnn.result import Result

#: Largest difference from the reference, relative to values above 1: float32 keeps 6 to 7 digits, and layers add up.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """One comparison: what was compared, whether it agrees, and the numbers."""

    name: str
    passed: bool
    detail: str


def check_result(
    result: Result,
    network: Network,
    rows: Any,
    *,
    truth: NDArray[np.int64] | None = None,
    samples: int = 0,
    seed: int = 0,
    label: str = "",
) -> list[Check]:
    """Compare a result with known categories and with the float64 reference.

    Args:
        result: of `network` on `rows`.
        network: that was run.
        rows: its input, CSR, samples x inputs.
        truth: the categories, from 0, of all samples or of a larger batch that begins with these.
        samples: how many samples, drawn at random, to compute again in float64; half of them, if there are as many,
            from those with an output, because most challenge samples end as zeros.
        seed: of the draw.
        label: put before the checks' names.

    Raises:
        PlanError: `samples` is negative.
    """
    if samples < 0:
        raise PlanError(f"check is {samples}, expected the number of samples to compare, at least 0")
    prefix = f"{label}: " if label else ""
    checks = []
    if truth is not None:
        checks.append(_categories(prefix, result, truth))
    if samples:
        checks.append(_reference(prefix, result, network, rows, _draw(result, samples, seed)))
    return checks


def _categories(prefix: str, result: Result, truth: NDArray[np.int64]) -> Check:
    expected = truth[truth < result.samples]
    missing, extra = np.setdiff1d(expected, result.categories), np.setdiff1d(result.categories, expected)
    detail = f"{len(expected):,} categories"
    if len(expected) < len(truth):
        detail += f" (of {len(truth):,}, the others are beyond the {result.samples:,} samples)"
    if missing.size or extra.size:
        detail += f": {missing.size} are missing {_some(missing)}, {extra.size} are wrong {_some(extra)}"
    return Check(f"{prefix}categories", not (missing.size or extra.size), detail)


def _reference(prefix: str, result: Result, network: Network, rows: Any, drawn: NDArray[np.int64]) -> Check:
    expected = reference_outputs(network, rows[drawn])
    got = result.outputs[drawn].toarray()
    difference = mismatch(got, expected)
    unlike = int(np.count_nonzero(got.any(axis=1) != expected.any(axis=1)))
    detail = f"{len(drawn):,} samples, largest relative difference {difference:.1e}"
    if unlike:
        detail += f", {unlike} are zero in one only"
    return Check(f"{prefix}float64 reference", difference <= TOLERANCE and not unlike, detail)


def _draw(result: Result, samples: int, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    alive = rng.permutation(result.categories)[: samples // 2]
    others = np.setdiff1d(np.arange(result.samples), alive)
    return np.sort(np.concatenate([alive, rng.permutation(others)[: samples - len(alive)]]))


def _some(samples: NDArray[np.int64]) -> str:
    shown = ", ".join(map(str, samples[:5]))
    return f"({shown}{', ...' if samples.size > 5 else ''})" if samples.size else ""
