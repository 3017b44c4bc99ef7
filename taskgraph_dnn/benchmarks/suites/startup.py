"""What a fresh process takes: to import a library, and from the command to the answer."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse

from taskgraph_dnn.benchmarks.challenge.oracle import Oracle
from taskgraph_dnn.benchmarks.report.races import ratio_cell, within
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table, amount
from taskgraph_dnn.benchmarks.timing import THREADS, Contender, in_turn, measured, ratios, summary
from taskgraph_dnn.errors import KernelError
from taskgraph_dnn.io import read_categories, write_challenge_images, write_packed
from taskgraph_dnn.network import Network
from taskgraph_dnn.synthetic import digit_images, radixnet

_NEURONS, _LAYERS, _SAMPLES = 1024, 120, 1200
_IMPORTS, _RUNS = "importing", f"{_NEURONS:,} neurons x {_LAYERS} layers, {_SAMPLES:,} images"
_OURS = "this package"

#: What a user waits for, and how long it may take.
_COMMAND, _GOAL_SECONDS = "taskgraph-dnn run, threads", 2.0

#: Large libraries that are imported when they are used; which of them a process has, it counts.
LARGE = "distributed", "numba", "pyarrow", "fsspec", "sklearn", "asyncio", "ssl", "click", "rich"

#: What an import is, by contender: its kind, and the libraries; this package needs those of the last ceiling at once.
_CEILINGS = {"Python": "", "numpy, scipy.sparse": "numpy, scipy.sparse", "and dask": "numpy, scipy.sparse, dask"}
_PEERS = {"numba": "numba", "dask.array": "dask.array", "torch": "torch", "onnxruntime": "onnxruntime"}

_IMPORT = """
{code}
import json, sys
large = [name for name in {large} if name in sys.modules]
print(json.dumps({{"answer": 1 + 1, "modules": len(sys.modules), "large": large}}))
"""

#: What `run` does, and again in the same process; the seconds are those of `_PARTS`.
_PROGRAM = """
import json, sys, time
marks = [time.perf_counter()]
import taskgraph_dnn as tg
marks.append(time.perf_counter())
network = tg.read_network(sys.argv[1])
marks.append(time.perf_counter())
images = tg.read_images(sys.argv[2], network.inputs)
marks.append(time.perf_counter())
inference = tg.infer(network, images)
marks.append(time.perf_counter())
found = inference.compute().categories.tolist()
marks.append(time.perf_counter())
again = tg.infer(network, images).compute().categories.tolist()
marks.append(time.perf_counter())
large = [name for name in {large} if name in sys.modules]
print(json.dumps({{"answer": found if again == found else again, "marks": marks, "large": large}}))
"""
_PARTS = (
    "import this package",
    "open the network",
    "read the images, and import pyarrow",
    "plan, and import numba",
    "run, and load compiled kernels",
    "plan and run again",
)

#: The same by scipy, from its own files.
_WITH_SCIPY = """
import json, sys
import numpy as np, scipy.sparse
folder, layers, bias, cap = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
Y = scipy.sparse.load_npz(f"{folder}/images.npz")
for number in range(layers):
    Y = Y @ scipy.sparse.load_npz(f"{folder}/{number}.npz")
    Y.data += np.float32(bias)
    np.clip(Y.data, 0, cap, out=Y.data)
    Y.eliminate_zeros()
print(json.dumps({"answer": np.flatnonzero(np.diff(Y.indptr)).tolist()}))
"""


class _Process:
    """A command that is run anew each time; `printed` has what the last runs printed, one for each.

    Args:
        command: with its arguments.
        answer: returns what a run has found, of what it has printed.
        expected: what it should be.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        command: Sequence[str],
        answer: Callable[[str], Any],
        expected: Any,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command, self._answer, self._expected = command, answer, expected
        self._environment = {**os.environ, "DASK_NUM_WORKERS": str(THREADS), **(environment or {})}
        self.printed: list[str] = []

    def run(self) -> None:
        done = subprocess.run(self._command, capture_output=True, text=True, check=False, env=self._environment)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            raise KernelError(f"a process ended with status {done.returncode}: {last}")
        self.printed.append(done.stdout)

    def difference(self) -> float:
        return 0.0 if self._answer(self.printed[-1]) == self._expected else np.inf

    def told(self, rounds: int) -> list[dict[str, Any]]:
        """Return what the last rounds have told: the second run of each, because the first one is not timed."""
        return [json.loads(text) for text in self.printed[1 - 2 * rounds :: 2]]


def _contender(name: str, formulation: str, kind: str, process: _Process) -> Contender:
    run, difference = in_turn(process.run), process.difference
    return Contender(name, formulation, THREADS, 1, run, difference, kind=kind, work_unit="starts")


def _python(program: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", program, *map(str, arguments)]


def _answer(text: str) -> Any:
    return json.loads(text)["answer"]


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield what importing takes, and what runs of fresh processes take."""
    say(_IMPORTS)
    yield from _imports(effort)
    say(_RUNS)
    with TemporaryDirectory() as folder:
        yield from _runs(Path(folder), effort)


def _imports(effort: Effort) -> Iterator[Measurement]:
    peers = {name: what for name, what in _PEERS.items() if name not in missing()}
    libraries = {name: ("ceiling", what) for name, what in _CEILINGS.items()}
    libraries |= effort.pick({}, *2 * [{name: ("peer", what) for name, what in peers.items()}])
    libraries[_OURS] = "ours", "taskgraph_dnn"
    processes, contenders = [], []
    for name, (kind, what) in libraries.items():
        code = f"import {what}" if what else "pass"
        processes.append(_Process(_python(_IMPORT.format(code=code, large=LARGE)), _answer, 2))
        contenders.append(_contender(name, code, kind, processes[-1]))
    for process, measurement in zip(processes, measured("start-up", _IMPORTS, contenders, effort, {}), strict=True):
        (told,) = process.told(1)
        counted = {"large libraries": len(told["large"])} if measurement.kind == "ours" else {}
        yield replace(measurement, counted=counted, details={"modules": told["modules"], "large": told["large"]})


def _runs(folder: Path, effort: Effort) -> Iterator[Measurement]:
    network, images = radixnet(_NEURONS, _LAYERS), digit_images(_SAMPLES, _NEURONS)
    expected = _categories(Oracle(images).references(network, np.inf)[-1].outputs)
    files = folder / "network.safetensors", folder / "images.tsv.gz"
    write_packed(network, files[0])
    write_challenge_images(images, files[1])
    program = _Process(_python(_PROGRAM.format(large=LARGE), *files), _answer, expected)
    contenders = [_run(folder, files, expected), _contender(_OURS, "in Python, twice", "ours", program)]
    if effort.pick(False, True, True):
        contenders.append(_with_scipy(folder, network, images, expected))
    slow = [_cold_run(folder, files, expected), _run(folder, files, expected, "processes")]
    contenders += effort.pick([], [], slow)
    parameters = {"neurons": _NEURONS, "layers": _LAYERS, "samples": _SAMPLES}
    command, in_python, *others = measured("start-up", _RUNS, contenders, effort, parameters)
    yield from [
        replace(command, details={"default": True}),
        _with_parts(in_python, program.told(effort.rounds)),
        *others,
    ]
    yield from [_left_out(contender) for contender in effort.pick(slow, slow, [])]


def _run(
    folder: Path, files: Sequence[Path], expected: list[int], scheduler: str = "threads", **environment: str
) -> Contender:
    found = folder / f"{scheduler}.tsv"
    options = "--network", files[0], "--images", files[1], "--scheduler", scheduler, "--categories", found
    command = [sys.executable, "-m", "taskgraph_dnn", "run", *map(str, options)]
    process = _Process(command, lambda _: read_categories(found).tolist(), expected, environment)
    return _contender(_OURS, f"taskgraph-dnn run, {scheduler}", "ours", process)


def _cold_run(folder: Path, files: Sequence[Path], expected: list[int]) -> Contender:
    cache = folder / "compiled"
    run = _run(folder, files, expected, NUMBA_CACHE_DIR=str(cache))

    def emptied() -> None:
        shutil.rmtree(cache, ignore_errors=True)  # takes no time beside compiling
        run.run(1)

    return replace(run, formulation=f"{run.formulation}, nothing compiled yet", run=in_turn(emptied))


def _with_scipy(folder: Path, network: Network, images: scipy.sparse.csr_array, expected: list[int]) -> Contender:
    scipy.sparse.save_npz(folder / "images.npz", images, compressed=False)
    for number, layer in enumerate(network):
        scipy.sparse.save_npz(folder / f"{number}.npz", layer.weights.tocsr(), compressed=False)
    first = network[0]
    process = _Process(_python(_WITH_SCIPY, folder, len(network), first.bias[0], first.cap), _answer, expected)
    return replace(_contender("scipy", "sparse x sparse, .npz files", "peer", process), threads=1)


def _categories(outputs: scipy.sparse.csr_array) -> list[int]:
    return np.flatnonzero(np.diff(outputs.indptr)).tolist()


def _with_parts(measurement: Measurement, told: Sequence[Mapping[str, Any]]) -> Measurement:
    parts = [[after - before for before, after in pairwise(each["marks"])] for each in told]
    large = told[-1]["large"]
    return replace(measurement, counted={"large libraries": len(large)}, details={"parts": parts, "large": large})


def _left_out(contender: Contender) -> Measurement:
    why = "takes seconds a round: --effort all measures it"
    name, formulation, threads = contender.name, contender.formulation, contender.threads
    return Measurement(
        "start-up", _RUNS, name, contender.kind, (), formulation=formulation, threads=threads, left_out=why
    )


def missing() -> dict[str, str]:
    """Return the libraries whose import cannot be timed here."""
    absent = [(name, module) for name, module in _PEERS.items() if find_spec(module.partition(".")[0]) is None]
    return {name: f"{module} is not installed" for name, module in absent}


def tables(report: Report) -> Sequence[Table]:
    """Return what processes take, and the parts of a run."""
    found = report.of("start-up")
    imports = [each for each in found if each.case == _IMPORTS]
    runs = [each for each in found if each.case == _RUNS]
    return [
        Table("Imports, in fresh processes", _rows(imports)),
        Table(f"From the command to the answer: {_RUNS}", _rows(runs)),
        *(_goal(each) for each in runs if each.formulation == _COMMAND),
        *(Table("Where the seconds of such a process go", _parts(each)) for each in runs if "parts" in each.details),
    ]


def _goal(command: Measurement) -> Table:
    taken = summary(command.rounds)
    low, middle, high, goal = (amount(s, "seconds") for s in (taken.low, taken.median, taken.high, _GOAL_SECONDS))
    head = ["", "median", "from 10th to 90th percentile", "goal, at most", ""]
    row = [command.formulation, middle, f"{low} to {high}", goal, within(taken, _GOAL_SECONDS)]
    return Table("The goal of a run", [head, row])


def _rows(measurements: Sequence[Measurement]) -> list[list[str]]:
    """Return a row for each; the last column is its part of our first."""
    ours = next((each for each in measurements if each.kind == "ours"), None)
    rows = [["", "", "median", "from 10th to 90th percentile", "to ours", "modules"]]
    for each in measurements:
        name = [each.contender, each.formulation]
        if each.left_out or ours is None:
            rows.append([*name, f"left out: {each.left_out}", "", "", ""])
            continue
        taken = summary(each.rounds)
        to_ours = "1" if each is ours else ratio_cell(summary(ratios(each.rounds, ours.rounds)))
        low, high = (amount(seconds, "seconds") for seconds in (taken.low, taken.high))
        cells = amount(taken.median, "seconds"), f"{low} to {high}", to_ours
        rows.append([*name, *cells, str(each.details.get("modules", ""))])
    return rows


def _parts(measurement: Measurement) -> list[list[str]]:
    """Return a row for each part of what `_PROGRAM` does, and for the rest of its process."""
    parts = np.array(measurement.details["parts"])
    rest = np.array(measurement.rounds) - parts.sum(axis=1)
    columns = [*zip(_PARTS, parts.T, strict=True), ("start Python, and end it", rest)]
    return [["", "median"], *([name, amount(float(np.median(seconds)), "seconds")] for name, seconds in columns)]


STARTUP = Suite(
    "start-up",
    "Start-up",
    "Whole processes, from their start to their end, with the files they read in the page cache. Runs are warm (numba "
    "has compiled the kernels and kept them on disk) but for the one that begins with an empty cache. *in Python* does "
    "what the command does, and then the same again in the same process; a table has its parts. scipy reads its own "
    "files, uncompressed, where this package reads a packed network and compressed text; where its process ends "
    "first, the parts tell why: it imports neither Dask nor numba nor pyarrow, and loads no compiled kernels. Imports "
    "are compared with those of the libraries that this package needs at once.",
    measure,
    tables,
    missing,
)
