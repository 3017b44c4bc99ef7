"""Whether a run of a challenge configuration has the right answer."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.benchmarks.challenge.oracle import ALWAYS, Oracle, Reference
from taskgraph_dnn.benchmarks.challenge.runs import Configuration, Run
from taskgraph_dnn.checks import TOLERANCE, Check
from taskgraph_dnn.inference import infer
from taskgraph_dnn.io import read_categories
from taskgraph_dnn.reference import mismatch
from taskgraph_dnn.result import Result

#: Largest difference from the float64 reference, relative to values above 1, of the same computed in float64. (In
#: float32 it is `checks.TOLERANCE`: the weights of an output sum to 2, so each layer doubles the roundings before it.)
TOLERANCE_IN_FLOAT64 = 1e-5


class Verifier:
    """Checks the runs of one configuration.

    Args:
        configuration: what is run.
        oracle: of the images that are compared; it has seen no deeper network.

    Attributes:
        truth: the official categories, or None.
        references: the outputs of the images that are compared, after the first layers, and as deep as time allows.
    """

    def __init__(self, configuration: Configuration, oracle: Oracle) -> None:
        self._configuration = configuration
        self._earlier: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}  # numbers and categories
        self.truth = official_categories(configuration)
        seconds = configuration.effort.check_seconds if self.truth is None else 0.0
        self.references: list[Reference] = oracle.references(configuration.open(), seconds)

    @property
    def layers(self) -> int:
        """How many layers the deepest check covers."""
        return self._configuration.layers if self.truth is not None else self.references[-1].layers

    def checks(self, name: str, run: Run, reductions: Sequence[str]) -> list[Check]:
        """Compare a run with the official categories, with earlier runs, and with the float64 reference.

        Args:
            name: of the row.
            run: what came out.
            reductions: names of those that it was run with.
        """
        found = []
        if self.truth is not None:
            expected = np.intersect1d(self.truth, run.numbers)
            found.append(_check_categories("official categories", run.categories, expected))
        for earlier, (numbers, categories) in self._earlier.items():
            here, there = np.intersect1d(run.categories, numbers), np.intersect1d(categories, run.numbers)
            found.append(_check_categories(f"categories of {earlier}", here, there))
        self._earlier[name] = run.numbers, run.categories
        for reference in self.references:
            outputs = self._outputs(run, reductions, reference.layers)
            found.append(_check_outputs(outputs, reference, "float32", TOLERANCE))
            if reference.layers <= max(ALWAYS):
                outputs = self._head_outputs(reductions, reference.layers, "float64")
                found.append(_check_outputs(outputs, reference, "float64", TOLERANCE_IN_FLOAT64))
        return found

    def _outputs(self, run: Run, reductions: Sequence[str], layers: int) -> scipy.sparse.csr_array:
        """Return the outputs of the images that are compared after the first so many layers."""
        images, configuration = self._configuration.images, self._configuration
        compared = images.compared
        if layers == configuration.layers:
            cut_short = len(run.numbers) < images.samples  # then it begins with those that are compared
            return _some_outputs(run.result, np.arange(len(compared)) if cut_short else compared)
        return self._head_outputs(reductions, layers)

    def _head_outputs(self, reductions: Sequence[str], layers: int, dtype: str | None = None) -> scipy.sparse.csr_array:
        images, network = self._configuration.images, self._configuration.open(layers)
        head = infer(network, images.rows[images.compared], reductions=list(reductions), dtype=dtype)
        return head.compute(**self._configuration.where).outputs


def official_categories(configuration: Configuration) -> NDArray[np.int64] | None:
    """Return the official categories among the images, where network and images are official and they are there."""
    stored, categories = configuration.stored, configuration.size.official_files(configuration.layers).categories
    if not (stored.official_network and stored.official_images and categories):
        return None
    truth = read_categories(categories)
    return truth[truth < configuration.images.samples]


def _some_outputs(result: Result, positions: NDArray[np.int64]) -> scipy.sparse.csr_array:
    """Return some rows of a result's outputs, without making all of them."""
    rows = result.rows[positions]
    used = np.unique(rows[rows >= 0])
    numbers = np.where(rows >= 0, np.searchsorted(used, rows), -1)
    return replace(result, distinct=result.distinct[used], rows=numbers).outputs


def _check_outputs(found: scipy.sparse.csr_array, reference: Reference, dtype: str, tolerance: float) -> Check:
    """Compare outputs with the reference: which images have any, and all values."""
    expected = reference.outputs.toarray()
    difference = mismatch(found, expected)
    alive = expected.any(axis=1)
    unlike = int(np.count_nonzero((np.diff(found.indptr) > 0) != alive))
    detail = f"{len(alive):,} images, {alive.sum():,} of them alive, largest relative difference {difference:.1e}"
    if unlike:
        detail += f", {unlike} are zero in one only"
    name = f"{dtype} against the float64 reference, {reference.layers:,} layers"
    return Check(name, difference <= tolerance and not unlike, detail)


def _check_categories(name: str, found: NDArray[np.int64], expected: NDArray[np.int64]) -> Check:
    """Compare the images that have an output with those that should."""
    missing, wrong = len(np.setdiff1d(expected, found)), len(np.setdiff1d(found, expected))
    detail = f"{len(expected):,} categories" + (
        f", {missing} are missing, {wrong} are wrong" if missing + wrong else ""
    )
    return Check(name, not missing + wrong, detail)
