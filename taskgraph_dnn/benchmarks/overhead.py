"""What reductions cost where there is nothing to leave out: networks without structure, with and without them.

    python -m taskgraph_dnn.benchmarks.overhead

A part of a percent is to be seen on machines whose other users cost tens of percents. So the seconds that the processor
worked for this process are counted beside those on the clock: somebody else's work is not among them.
"""

import json
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import scipy.sparse
from rich.console import Console
from rich.table import Table

from taskgraph_dnn.benchmarks.fingerprint import machine
from taskgraph_dnn.benchmarks.timing import ratios, rest, summary
from taskgraph_dnn.benchmarks.whole import ours
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.inference import infer
from taskgraph_dnn.io.atomic import check_writable, write_text
from taskgraph_dnn.network import Layer, Network

#: A network and samples for it.
Problem = tuple[Network, Any]

_MODES = ("none", "dynamic", "exact")

#: Of each choice of reductions, round by round: the clock's seconds, and the processor's of all threads.
Times = dict[str, list[tuple[float, float]]]


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


def pruned_network(samples: int) -> Problem:
    """Return a perceptron of 784-300-100-10 neurons with random weights, of which one in ten is left."""
    rng = np.random.default_rng(0)
    widths = 784, 300, 100, 10
    layers = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        weights = scipy.sparse.random_array((inputs, outputs), density=0.1, rng=rng, data_sampler=rng.standard_normal)
        layers.append(Layer(weights, bias=0.1, activation="relu" if number < 2 else "softmax"))
    return Network(layers), rng.random((samples, 784), np.float32)


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


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "random, 1,024 x 40, 32 inputs an output": lambda: random_network(1024, 40, 32, 10_000),
    "random, 16,384 x 6, 32 inputs an output": lambda: random_network(16384, 6, 32, 3_000),
    "random, 784-300-100-10, 90% pruned": lambda: pruned_network(60_000),
    "trained, 64-512-512-512-10, 90% pruned": lambda: trained_network(60_000),
}


def measure(problem: Problem, rounds: int) -> Times:
    """Return the seconds of each choice of reductions, round by round, each round in a new order.

    Raises:
        KernelError: a reduction has left something out, so that this is no network without structure.
    """
    runs = {mode: ours(*problem, mode) for mode in _MODES}
    for run in runs.values():
        run()
    result = infer(*problem, reductions="dynamic").compute()
    if result.multiply_adds < 0.99 * result.edges:
        raise KernelError(f"reductions leave out all but {result.multiply_adds / result.edges:.0%} of the work")
    times: Times = {mode: [] for mode in _MODES}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for number in rng.permutation(len(_MODES)):
            rest()
            worked = time.process_time()
            seconds, _ = runs[_MODES[number]]()
            times[_MODES[number]].append((seconds, time.process_time() - worked))
    return times


def _row(name: str, times: Times) -> list[str]:
    columns = {mode: list(zip(*taken, strict=True)) for mode, taken in times.items()}
    cells = [name, f"{statistics.median(columns['none'][0]):.3f}"]
    for mode in _MODES[1:]:
        for taken, without in zip(columns[mode], columns["none"], strict=True):
            slower = summary(ratios(taken, without))
            cells.append(f"{slower.median - 1:+.1%} ({slower.low - 1:+.1%} to {slower.high - 1:+.1%})")
    return cells


@click.command()
@click.option("--rounds", default=25, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all times to this file.")
def main(rounds: int, json_file: Path | None) -> None:
    """Time networks without structure with and without reductions."""
    if json_file is not None:
        check_writable(json_file)
    costs = (f"{mode}, {what}" for mode in _MODES[1:] for what in ("time", "processor"))
    table = Table("", "none, seconds", *costs, caption="median, and 10th to 90th percentile")
    times = {}
    for name, make in PROBLEMS.items():
        if name.startswith("trained") and find_spec("sklearn") is None:
            click.echo(f"left out: {name}: scikit-learn is not installed")
            continue
        times[name] = measure(make(), rounds)
        table.add_row(*_row(name, times[name]))
    Console().print(table)
    if json_file is not None:
        write_text(json_file, json.dumps({"machine": machine(), "times": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
