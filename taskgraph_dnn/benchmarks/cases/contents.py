"""Networks in files, as text, compressed and in memory; what tells contents apart, and who reads or writes them."""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from taskgraph_dnn.benchmarks.timing import Contender, in_turn
from taskgraph_dnn.io import read_challenge_network, write_challenge_network
from taskgraph_dnn.network import Network
from taskgraph_dnn.synthetic import radixnet

NEURONS = 1024

#: The folder with official data is what this variable says, or shared/data beside the checkout.
_DATA = "TASKGRAPH_DNN_DATA"
_BESIDE = Path(__file__).resolve().parents[4] / "shared" / "data"


class Content(NamedTuple):
    """What tells the content of one file, or several, from another: entries, and sums of what each of them says."""

    entries: int
    places: float
    values: float

    @classmethod
    def of(cls, rows: Any, columns: Any, values: Any) -> "Content":
        """Return that of a matrix in triples, rows and columns from 1."""
        rows, columns, values = (np.asarray(each, np.float64) for each in (rows, columns, values))
        return cls(values.size, float(rows @ columns), float(values.sum()))

    @classmethod
    def of_matrices(cls, matrices: Any) -> "Content":
        """Return that of several sparse matrices."""
        triples = (matrix.tocoo() for matrix in matrices)
        return cls.total(cls.of(each.coords[0] + 1, each.coords[1] + 1, each.data) for each in triples)

    @classmethod
    def of_network(cls, network: Network) -> "Content":
        """Return that of all weights."""
        return cls.of_matrices(layer.weights for layer in network)

    @classmethod
    def of_tables(cls, tables: Any) -> "Content":
        """Return that of tables of three columns, each an array of all rows or of pyarrow."""
        return cls.total(cls.of(*table) for table in tables)

    @classmethod
    def total(cls, contents: Any) -> "Content":
        """Return that of several together."""
        return cls(*(sum(column) for column in zip(*contents, strict=True)))

    def difference(self, other: "Content") -> float:
        """Return how far this is from the other, relative to it where that is above 1."""
        return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(self, other, strict=True))


class Case(NamedTuple):
    """Something that is read or written: what it is called, its bytes, and what it holds."""

    name: str
    nbytes: int
    content: Content

    def way(
        self, kind: str, name: str, formulation: str, do: Callable[[], Any], look: Callable[[Any], Any], **rest: Any
    ) -> Contender:
        """Return a contender: `do` reads or writes it, and `look` tells the content of what `do` has returned."""
        last: list[Any] = [None]

        def once() -> None:
            last[0] = do()

        def difference() -> float:
            found = look(last[0])
            if not isinstance(found, Content):  # bytes that were moved; an archive has some beside those of its files
                return 0.0 if found >= self.nbytes else np.inf
            return found.difference(self.content)

        counted = {"entries": self.content.entries} if kind == "ours" else {}
        how: dict[str, Any] = {
            "threads": 1,
            "work": self.nbytes,
            "work_unit": "bytes",
            "counted": lambda: counted,
        } | rest
        return Contender(name, formulation, run=in_turn(once), difference=difference, kind=kind, **how)


class NetworkFiles(NamedTuple):
    """A network in every form: where that is, and all of its text in memory."""

    name: str
    network: Network
    folder: Path
    archive: Path
    texts: list[bytes]

    @property
    def nbytes(self) -> int:
        """Bytes of the text."""
        return sum(map(len, self.texts))

    @property
    def content(self) -> Content:
        """What the text says."""
        return Content.of_network(self.network)


def official(folder: Path) -> NetworkFiles | None:
    """Return the official network, where it is found."""
    archive = Path(os.environ.get(_DATA, _BESIDE)) / "graph-challenge" / f"neuron{NEURONS}.tar.gz"
    if not archive.exists():
        return None
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return _in_memory("official", folder / f"neuron{NEURONS}", archive)


def generated(folder: Path, layers: int) -> NetworkFiles:
    """Return a synthetic network in the same layout."""
    folder.mkdir()
    write_challenge_network(radixnet(NEURONS, layers), folder / "tsv")
    with tarfile.open(folder / "network.tar.gz", "w:gz") as archive:
        archive.add(folder / "tsv", f"neuron{NEURONS}")
    return _in_memory("synthetic", folder / "tsv", folder / "network.tar.gz")


def _in_memory(kind: str, folder: Path, archive: Path) -> NetworkFiles:
    network = read_challenge_network(folder, NEURONS)
    texts = [path.read_bytes() for path in sorted(folder.iterdir())]
    name = f"{kind} network of {NEURONS:,} neurons x {len(network)} layers"
    return NetworkFiles(name, network, folder, archive, texts)
