"""A whole network, from CSR images to categories: this package beside scipy and python-graphblas, in one run.

    python -m taskgraph_dnn.benchmarks.whole --neurons 1024 --layers 120

The others run the challenge's own algorithm: sparse activations times sparse weights, the bias where there is a sum,
relu and the cap. Samples that are all zero are empty rows there, which cost them nothing.
"""

import json
import statistics
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from taskgraph_dnn import challenge
from taskgraph_dnn.benchmarks.fingerprint import machine
from taskgraph_dnn.benchmarks.timing import ratios, rest
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.inference import infer
from taskgraph_dnn.io.atomic import check_writable, write_text
from taskgraph_dnn.network import Network
from taskgraph_dnn.synthetic import digit_images, radixnet

Categories = NDArray[np.int64]

#: What is timed first and last in this module: a run from images to categories, and the seconds that it took.
Run = Callable[[], tuple[float, Categories]]


def ours(network: Network, images: scipy.sparse.csr_array, reductions: str) -> Run:
    """Return a run of this package; planning is not timed, as reading and converting the weights is not elsewhere."""
    inference = infer(network, images, reductions=reductions)

    def run() -> tuple[float, Categories]:
        started = time.perf_counter()
        found = inference.compute().categories
        return time.perf_counter() - started, found

    return run


def with_scipy(network: Network, images: scipy.sparse.csr_array) -> Run:
    """Return a run in scipy: sparse times sparse, one thread, because it has no more."""
    weights = [layer.weights.tocsr() for layer in network]

    def run() -> tuple[float, Categories]:
        started = time.perf_counter()
        Y = images
        for W, layer in zip(weights, network, strict=True):
            Y = Y @ W
            Y.data += layer.bias[0]
            np.clip(Y.data, 0, layer.cap, out=Y.data)
            Y.eliminate_zeros()
        found = np.flatnonzero(np.diff(Y.indptr))
        return time.perf_counter() - started, found

    return run


def with_graphblas(network: Network, images: scipy.sparse.csr_array) -> Run:
    """Return a run in python-graphblas, with all its threads (Davis et al., IEEE HPEC 2019)."""
    gb = import_module("graphblas")
    new = gb.Matrix.ss.import_csr

    def matrix(rows: scipy.sparse.csr_array) -> Any:
        indptr, indices = (array.astype(np.uint64) for array in (rows.indptr, rows.indices))
        return new(
            nrows=rows.shape[0], ncols=rows.shape[1], indptr=indptr, col_indices=indices, values=rows.data.copy()
        )

    weights = [matrix(layer.weights.tocsr()) for layer in network]
    given = matrix(images)
    plus_times = gb.semiring.plus_times["FP32"]
    plus, least = gb.binary.plus["FP32"], gb.binary.min["FP32"]

    def run() -> tuple[float, Categories]:
        started = time.perf_counter()
        Y = given
        for W, layer in zip(weights, network, strict=True):
            Z = plus_times(Y @ W).new(dtype="FP32")
            Z << plus(Z, float(layer.bias[0]))
            Z << gb.select.valuegt(Z, 0.0)
            if layer.cap is not None:
                Z << least(Z, layer.cap)
            Y = Z
        found = Y.reduce_rowwise(gb.monoid.max).new().to_coo(values=False)[0].astype(np.int64)
        return time.perf_counter() - started, np.sort(found)

    return run


def measure(network: Network, images: scipy.sparse.csr_array, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contender, round by round.

    Raises:
        KernelError: two of them find different categories.
    """
    runs: dict[str, Run] = {
        "this package, exact": ours(network, images, "exact"),
        "this package, dynamic": ours(network, images, "dynamic"),
        "scipy": with_scipy(network, images),
    }
    try:
        runs["graphblas"] = with_graphblas(network, images)
    except ImportError:
        click.echo("left out: python-graphblas is not installed")
    for name in list(runs)[:2]:
        runs[name]()  # packs weights and compiles kernels
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    expected: Categories | None = None
    for _ in range(rounds):
        for name, run in runs.items():
            rest()
            took, found = run()
            seconds[name].append(took)
            expected = found if expected is None else expected
            if not np.array_equal(found, expected):
                raise KernelError(f"{name} finds {len(found)} categories, expected {len(expected)}")
    return seconds


def _table(seconds: dict[str, list[float]]) -> list[list[str]]:
    rows = [["", "seconds, median", "from", "to", "exact is faster by", "dynamic is faster by"]]
    exact, dynamic = list(seconds.values())[:2]
    for name, times in seconds.items():
        faster = [statistics.median(ratios(times, ours)) for ours in (exact, dynamic)]
        cells = f"{statistics.median(times):.3f}", f"{min(times):.3f}", f"{max(times):.3f}"
        rows.append([name, *cells, *(f"{ratio:.1f}" for ratio in faster)])
    return rows


@click.command()
@click.option("--neurons", default=1024, show_default=True)
@click.option("--layers", default=120, show_default=True)
@click.option("--samples", default=challenge.OFFICIAL_SAMPLES, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all times to this file.")
def main(neurons: int, layers: int, samples: int, rounds: int, json_file: Path | None) -> None:
    """Time a synthetic network of the Graph Challenge in this package, scipy and python-graphblas."""
    if json_file is not None:
        check_writable(json_file)
    network, images = radixnet(neurons, layers), digit_images(samples, neurons)
    seconds = measure(network, images, rounds)
    head, *rows = _table(seconds)
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    if json_file is not None:
        report = {"machine": machine(), "neurons": neurons, "layers": layers, "samples": samples, "seconds": seconds}
        write_text(json_file, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
