"""What files take: networks and images read from text and from packed files, converted, and written."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import scipy.io
import scipy.sparse
from safetensors.numpy import load_file, save_file

from taskgraph_dnn.benchmarks.cases.contents import NEURONS, Case, Content, NetworkFiles, generated, official
from taskgraph_dnn.benchmarks.report.races import ratio_cell, within
from taskgraph_dnn.benchmarks.report.records import Measurement, Report
from taskgraph_dnn.benchmarks.suite import Effort, Suite, Table, amount
from taskgraph_dnn.benchmarks.timing import Contender, limited, measured, ratios, summary
from taskgraph_dnn.io import (
    convert_network,
    read_challenge_images,
    read_challenge_network,
    read_matrix_market,
    read_packed,
    write_challenge_images,
    write_challenge_network,
    write_matrix_market,
    write_packed,
)
from taskgraph_dnn.io.streams import THREADS, open_compressed
from taskgraph_dnn.network import Network
from taskgraph_dnn.synthetic import digit_images

_OFFICIAL_LAYERS = 120
_OURS = "this package"
_CHUNK_NBYTES = 2**20
_PEERS = "pyarrow", "pandas"

#: Ours that do all of what peers do, where another one does less.
_DEFAULTS = "folder", "open, and all weights", "packed, with facts and reductions"

#: Which ways are to take at most so many times as long as pyarrow's parse.
_PARSED, _GOAL = ("folder", ".tar.gz"), 1.5


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Measurement]:
    """Yield what reading and writing takes."""
    with TemporaryDirectory() as name:
        for case, contenders in _cases(Path(name), effort):
            say(case.name)
            parameters = {"bytes": case.nbytes, "entries": case.content.entries}
            for each in measured("reading", case.name, contenders, effort, parameters):
                yield replace(each, details={"default": True}) if each.formulation in _DEFAULTS else each


def _cases(folder: Path, effort: Effort) -> Iterator[tuple[Case, list[Contender]]]:
    whole = few = generated(folder / "few", effort.pick(2, 8, 24))
    if effort.pick(False, True, True):
        whole = official(folder / "official") or generated(folder / "whole", _OFFICIAL_LAYERS)
        yield _tsv_case(whole), _parsed(whole)
    yield _tsv(few)
    yield _images(folder, effort.pick(300, 5_000, 20_000))
    yield _matrix_market(few, folder / "mtx")
    yield _packed(whole, folder)
    yield _written(few, folder / "written")


# Networks in the challenge's layout.


def _tsv_case(files: NetworkFiles) -> Case:
    return Case(f"{files.name}, TSV", files.nbytes, files.content)


def _parsed(files: NetworkFiles) -> list[Contender]:
    """Return this package beside pyarrow's parse of bytes that are in memory, and what moves the bytes alone."""
    way, paths = _tsv_case(files).way, sorted(files.folder.iterdir())
    look, ours = Content.of_tables, Content.of_network
    found = [
        way("ours", _OURS, "folder", partial(read_challenge_network, files.folder), ours, threads=THREADS),
        way("ours", _OURS, ".tar.gz", partial(read_challenge_network, files.archive), ours, threads=THREADS),
        way("ceiling", "bytes of the folder", "read", lambda: sum(len(path.read_bytes()) for path in paths), int),
        way("ceiling", "bytes of the .tar.gz", "decompressed", partial(_decompressed, files.archive), int),
    ]
    if "pyarrow" in missing():
        return found
    whole = b"".join(files.texts)
    alone, together = "parse of each file's bytes", "parse of all bytes as one table"
    return [
        way("peer", "pyarrow", alone, lambda: [_arrow(text) for text in files.texts], look),
        way("peer", "pyarrow", together, lambda: [_arrow(whole)], look, threads=THREADS, around=_arrow_threads),
        *found,
    ]


def _decompressed(path: Path) -> int:
    with open_compressed(path) as stream:
        return sum(len(chunk) for chunk in iter(partial(stream.read, _CHUNK_NBYTES), b""))


def _tsv(files: NetworkFiles) -> tuple[Case, list[Contender]]:
    """Return the same, and slower peers, on a network of a few layers."""
    case, paths = _tsv_case(files), sorted(files.folder.iterdir())
    found = [
        *_parsed(files),
        case.way("peer", "numpy", "loadtxt", lambda: list(map(_loaded, paths)), Content.of_tables),
    ]
    if "pandas" not in missing():
        found.append(case.way("peer", "pandas", "read_csv", lambda: list(map(_framed, paths)), Content.of_tables))
    return case, found


def _loaded(path: Path) -> Any:
    return np.loadtxt(path, dtype=np.float32, delimiter="\t", unpack=True)


def _framed(path: Path) -> Any:
    types = dict(enumerate((np.int32, np.int32, np.float32)))
    return import_module("pandas").read_csv(path, sep="\t", header=None, dtype=types).to_numpy(np.float64).T


def _arrow(source: Any) -> Any:
    """Return the columns that pyarrow finds in bytes, or in a file, which it decompresses."""
    arrow, csv = import_module("pyarrow"), import_module("pyarrow.csv")
    types = {"row": arrow.int32(), "column": arrow.int32(), "value": arrow.float32()}
    return csv.read_csv(
        arrow.py_buffer(source) if isinstance(source, bytes) else source,
        csv.ReadOptions(column_names=list(types)),
        csv.ParseOptions(delimiter="\t", quote_char=False),
        csv.ConvertOptions(column_types=types, null_values=[]),
    ).columns


@contextmanager
def _arrow_threads() -> Iterator[None]:
    arrow = import_module("pyarrow")
    before = arrow.cpu_count()
    arrow.set_cpu_count(THREADS)
    try:
        yield
    finally:
        arrow.set_cpu_count(before)


# Images.


def _images(folder: Path, samples: int) -> tuple[Case, list[Contender]]:
    images, path = digit_images(samples, NEURONS), folder / "images.tsv.gz"
    write_challenge_images(images, path)
    case = Case(f"{samples:,} images, TSV, compressed", _decompressed(path), Content.of_matrices([images]))
    read, threads = partial(read_challenge_images, path, NEURONS, samples), {"threads": THREADS}
    found = [
        case.way("ours", _OURS, ".tsv.gz", read, lambda rows: Content.of_matrices([rows]), **threads),
        case.way("ceiling", "bytes of the .tsv.gz", "decompressed", partial(_decompressed, path), int),
    ]
    if "pyarrow" not in missing():
        columns = partial(_arrow, path)
        around: dict[str, Any] = threads | {"around": _arrow_threads}
        look = Content.of_tables
        found.insert(0, case.way("peer", "pyarrow", "read_csv", lambda: [columns()], look, **around))
    if "pandas" not in missing():
        found.append(case.way("peer", "pandas", "read_csv", lambda: [_framed(path)], Content.of_tables))
    return case, found


# Other formats, and writing.


def _matrix_market(files: NetworkFiles, folder: Path) -> tuple[Case, list[Contender]]:
    write_matrix_market(files.network, folder)
    paths = sorted(folder.iterdir())
    case = Case(f"{files.name}, Matrix Market", sum(path.stat().st_size for path in paths), files.content)
    read, how = partial(read_matrix_market, folder), {"threads": THREADS, "around": partial(limited, THREADS)}
    theirs = Content.of_matrices
    return case, [
        case.way("peer", "scipy", "mmread", lambda: [scipy.io.mmread(path) for path in paths], theirs, **how),
        case.way("ours", _OURS, "folder of .mtx", read, Content.of_network, threads=THREADS),
    ]


def _packed(files: NetworkFiles, folder: Path) -> tuple[Case, list[Contender]]:
    path, arrays, single = folder / "network.safetensors", folder / "arrays.safetensors", folder / "npz"
    write_packed(files.network, path)
    save_file(_arrays(files.network), arrays)
    _save_npz(files.network, single)
    case = Case(f"{files.name}, packed", path.stat().st_size, files.content)
    shapes, look = [layer.weights.shape for layer in files.network], Content.of_network
    return case, [
        case.way("peer", "safetensors", "load_file", partial(load_file, arrays), partial(_of_arrays, shapes)),
        case.way("peer", "scipy", "load_npz, a file a layer", partial(_load_npz, single), Content.of_matrices),
        case.way("ours", _OURS, "open", partial(read_packed, path), look),
        case.way("ours", _OURS, "open, and all weights", partial(_read_all, path), look),
        case.way("ours", _OURS, "open and verify", partial(read_packed, path, verify=True), look, threads=THREADS),
        case.way("ceiling", "bytes of the packed file", "read", lambda: len(path.read_bytes()), int),
    ]


def _read_all(path: Path) -> Network:
    network = read_packed(path)
    for layer in network:
        layer.weights.data.sum()  # they are mapped: somebody has to look
        layer.weights.indices.sum()
    return network


def _arrays(network: Network) -> dict[str, Any]:
    names = "data", "indices", "indptr"
    return {f"{number}.{name}": getattr(y.weights, name) for number, y in enumerate(network) for name in names}


def _of_arrays(shapes: Sequence[tuple[int, int]], arrays: dict[str, Any]) -> Content:
    parts = [[arrays[f"{number}.{name}"] for name in ("data", "indices", "indptr")] for number in range(len(shapes))]
    return Content.of_matrices(scipy.sparse.csc_array(tuple(p), s) for p, s in zip(parts, shapes, strict=True))


def _save_npz(network: Network, folder: Path) -> Path:
    folder.mkdir()
    for number, layer in enumerate(network):
        scipy.sparse.save_npz(folder / f"{number}.npz", layer.weights, compressed=False)
    return folder


def _load_npz(folder: Path) -> list[Any]:
    return [scipy.sparse.load_npz(path) for path in sorted(folder.iterdir())]


class _Writing(NamedTuple):
    """A way to write a network: `write(path)` does it, and `read(path)` tells what is there then."""

    kind: str
    name: str
    formulation: str
    write: Callable[[Path], Any]
    read: Callable[[Path], Content]
    suffix: str = ""
    threads: int = 1


def _written(files: NetworkFiles, folder: Path) -> tuple[Case, list[Contender]]:
    network, shapes, packed = files.network, [layer.weights.shape for layer in files.network], ".safetensors"

    def content(read: Callable[[Path], Network]) -> Callable[[Path], Content]:
        return lambda path: Content.of_network(read(path))

    writings = [
        _Writing(
            *("peer", "safetensors", "save_file", lambda path: save_file(_arrays(network), path)),
            lambda path: _of_arrays(shapes, load_file(path)),
        ),
        _Writing(
            *("peer", "scipy", "save_npz, a file a layer", partial(_save_npz, network)),
            lambda path: Content.of_matrices(_load_npz(path)),
        ),
        _Writing(
            *("ours", _OURS, "packed, with facts and reductions", partial(write_packed, network)),
            *(content(read_packed), packed, THREADS),
        ),
        _Writing(
            *("ours", _OURS, "TSV to packed", partial(convert_network, files.folder)),
            *(content(read_packed), packed, THREADS),
        ),
        _Writing("ours", _OURS, "TSV", partial(write_challenge_network, network), content(read_challenge_network)),
        _Writing("ours", _OURS, "Matrix Market", partial(write_matrix_market, network), content(read_matrix_market)),
    ]
    case = Case(f"{files.name}, written, as bytes of its TSV", files.nbytes, files.content)
    around = partial(_emptied, folder)
    return case, [
        case.way(*each[:3], _anew(each, folder), each.read, threads=each.threads, around=around) for each in writings
    ]


def _anew(writing: _Writing, folder: Path) -> Callable[[], Path]:
    """Return what writes to another path each time, and returns it."""
    paths = (folder / f"{number}{writing.suffix}" for number in count())

    def once() -> Path:
        path = next(paths)
        writing.write(path)
        return path

    return once


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield


def missing() -> dict[str, str]:
    """Return the peers that are not installed."""
    return {name: f"{name} is not installed" for name in _PEERS if find_spec(name) is None}


def tables(report: Report) -> Sequence[Table]:
    """Return a table for each case; its last column compares with the case's first peer."""
    found = report.of("reading")
    cases = dict.fromkeys(each.case for each in found)
    return [_table(case, [each for each in found if each.case == case]) for case in cases]


def _table(case: str, measurements: Sequence[Measurement]) -> Table:
    peer = next((each for each in measurements if each.kind == "peer"), None)
    beside = "" if peer is None else f"time to {peer.contender}, {peer.formulation}"
    rows = [["", "", "threads", "median", "1e6 bytes a second", "from 10th to 90th percentile", beside]]
    for each in measurements:
        rates = summary([each.work / seconds / 1e6 for seconds in each.rounds])
        ratio = "" if peer is None else _ratio(each, peer)
        taken = amount(median(each.rounds), "seconds")
        cells = taken, f"{rates.median:,.0f}", f"{rates.low:,.0f} to {rates.high:,.0f}", ratio
        rows.append([each.contender, each.formulation, str(each.threads), *cells])
    return Table(f"{case}: {measurements[0].work / 1e6:,.1f} MB", rows)


def _ratio(each: Measurement, peer: Measurement) -> str:
    """Return how many times as long as the peer it takes, and whether that is the goal where it has one."""
    if each is peer:
        return "1"
    times = summary(ratios(each.rounds, peer.rounds))
    has_goal = peer.contender == "pyarrow" and each.kind == "ours" and each.formulation in _PARSED
    return f"{ratio_cell(times)}, {within(times, _GOAL)}" if has_goal else ratio_cell(times)


READING = Suite(
    "reading",
    "Reading and converting",
    "Files are in the page cache, and rates are of the text, decompressed, or of the packed file. pyarrow parses bytes "
    "that are in memory already, and checks nothing; this package opens files, decompresses, parses by pyarrow, checks "
    "that every number is in its range and no place comes twice, and makes matrices of them. The goal for a network is "
    f"at most {_GOAL} times the time of pyarrow's parse of each file: *reached*, *missed*, or *open* where the spread "
    "is wider than that. A network is *official* where the Graph Challenge's own files are "
    "found, in $TASKGRAPH_DNN_DATA or in shared/data beside the checkout. To open a packed file maps it, and reads no "
    "weights; safetensors and scipy hold weights alone, nothing that planning asks for.",
    measure,
    tables,
    missing,
)
