"""The Graph Challenge's official files: downloaded into a folder of this machine, and found there again."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from taskgraph_dnn import challenge
from taskgraph_dnn.errors import FileError, PlanError
from taskgraph_dnn.io.atomic import require_space
from taskgraph_dnn.io.download import PAUSES, Fetched, Stage, download, missing_bytes, quiet
from taskgraph_dnn.io.samples import read_categories
from taskgraph_dnn.io.streams import UNREADABLE, Progress, archive_files, line_blocks, map_ahead, open_compressed
from taskgraph_dnn.io.tsv import Column, Table, parse_tsv

#: Where the challenge publishes its files; a mirror has the same files under the same names.
OFFICIAL = "https://graphchallenge.s3.amazonaws.com/synthetic/sparsechallenge_2019"
#: Categories that are left after 120 layers, by neurons. Deeper networks begin with the same layers, and no sample
#: comes back to life (no bias is positive), so they have no more.
CATEGORIES_AT_120 = {1024: 1812, 4096: 1801, 16384: 1918, 65536: 1994}


@dataclass(frozen=True)
class ChallengeFiles:
    """The official files of one configuration; None for what is not there."""

    network: Path | None
    images: Path | None
    categories: Path | None


@dataclass(frozen=True)
class RemoteFile:
    """One official file.

    Attributes:
        kind: "network", "images" or "categories".
        address: where it lies below the address of all files.
        check: called with a file and a progress report; raises `FileError` where the content is not what it should be.
    """

    kind: str
    address: str
    check: Callable[[Path, Progress], None]

    @property
    def name(self) -> str:
        """What it is called in the folder."""
        return self.address.rpartition("/")[2]


def default_cache() -> Path:
    """Return the folder for downloaded files: `taskgraph-dnn` in $XDG_CACHE_HOME, or in ~/.cache."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "taskgraph-dnn"


def cached_challenge_files(neurons: int, layers: int, folder: str | os.PathLike[str] | None = None) -> ChallengeFiles:
    """Return which official files of a configuration are in `folder` (None: the default cache), whole and checked.

    Raises:
        PlanError: there is no such official configuration.
    """
    cache = default_cache() if folder is None else Path(folder)
    paths = (cache / file.name for file in remote_files(neurons, [layers]))
    return ChallengeFiles(*(path if path.is_file() else None for path in paths))


def remote_files(neurons: int, layers: Iterable[int]) -> list[RemoteFile]:
    """Return the official files of a size: network, images, and the categories of each of these depths.

    Raises:
        PlanError: there is no official network of so many neurons or layers.
    """
    depths = sorted(set(layers))
    for name, value, official in (
        ("neurons", neurons, challenge.OFFICIAL_NEURONS),
        *(("layers", depth, challenge.OFFICIAL_LAYERS) for depth in depths),
    ):
        if value not in official:
            raise PlanError(f"{name} is {value}, but official networks have {', '.join(map(str, official))}")
    check_network = partial(_check_network, neurons=neurons, layers=max(depths, default=1))
    return [
        RemoteFile("network", f"dnn/neuron{neurons}.tar.gz", check_network),
        RemoteFile("images", f"mnist/sparse-images-{neurons}.tsv.gz", partial(_check_images, neurons=neurons)),
        *(
            RemoteFile(
                "categories",
                f"dnn/neuron{neurons}-l{depth}-categories.tsv",
                partial(_check_categories, neurons=neurons, layers=depth),
            )
            for depth in depths
        ),
    ]


def fetch_file(
    file: RemoteFile,
    folder: str | os.PathLike[str],
    base: str = OFFICIAL,
    *,
    sha256: str | None = None,
    pauses: Sequence[float] = PAUSES,
    stage: Stage = quiet,
) -> Fetched:
    """Download a file into `folder`, or what is missing of it; one that is there already stays as it is.

    Args:
        file: what to download.
        folder: made if need be.
        base: address of all files, http or https.
        sha256: what the file's SHA-256 must be; see `download`.
        pauses: seconds to wait before each new connection; see `download`.
        stage: shows progress; see `download`.

    Raises:
        FileError: see `download`.
        MissingDependencyError: checking the file needs a package that is not installed; nothing is downloaded then.
    """
    target = Path(folder) / file.name
    if file.kind == "images" and not target.is_file():
        parse_tsv(b"1\t1\t1\n", _images_table(file.name, 1))  # says now, not hours later, that the parser is missing
    return download(_url(file, base), target, file.check, sha256=sha256, pauses=pauses, stage=stage)


def check_space(files: Iterable[RemoteFile], folder: str | os.PathLike[str], base: str = OFFICIAL) -> None:
    """Ask the server for the sizes of all files that are missing; those that it does not tell count as nothing.

    Raises:
        FileError: the disk has no space for them; the message says how many bytes are needed and how many are free.
    """
    missing = [missing_bytes(_url(file, base), Path(folder) / file.name) for file in files]
    require_space(Path(folder), sum(missing), "the files that are missing")


def _url(file: RemoteFile, base: str) -> str:
    return f"{base.rstrip('/')}/{file.address}"


def _check_network(path: Path, report: Progress, *, neurons: int, layers: int) -> None:
    """Look for all layers, each with its number of lines. What the lines say, their reader checks."""
    wanted = re.compile(rf"n{neurons}-l([1-9][0-9]*)\.tsv")
    expected = challenge.EDGES_PER_NEURON * neurons
    found: set[str] = set()
    for name, content in archive_files(path, wanted.fullmatch):
        edges = content.count(b"\n")
        if edges != expected:
            raise FileError(f"{path}: {name} has {edges:,} edges, expected {expected:,}")
        if name.name in found:
            raise FileError(f"{path}: {name} comes twice")
        found.add(name.name)
        report(len(found), challenge.OFFICIAL_LAYERS[-1])
    missing = [layer for layer in range(1, layers + 1) if f"n{neurons}-l{layer}.tsv" not in found]
    if missing:
        raise FileError(
            f"{path} has {len(found):,} layers of {neurons} neurons, expected {layers:,}: layer {missing[0]} is missing"
        )


def _images_table(place: str, neurons: int) -> Table:
    return Table(place, Column("image", challenge.OFFICIAL_SAMPLES), Column("pixel", neurons))


def _check_images(path: Path, report: Progress, *, neurons: int) -> None:
    """Parse all pixels, a block at a time: the largest file holds far more of them than memory should."""
    table = _images_table(path.name, neurons)
    last = 0
    try:
        with open_compressed(path) as stream:
            parsed = map_ahead(lambda block: parse_tsv(block[1], table, block[0]).rows.max(), line_blocks(stream))
            for number, row in enumerate(parsed, start=1):
                last = max(last, int(row) + 1)
                report(number, None)
    except UNREADABLE as error:
        raise FileError(f"cannot read {path}: {error}") from error
    if last != challenge.OFFICIAL_SAMPLES:
        raise FileError(f"{path} has {last:,} images, expected {challenge.OFFICIAL_SAMPLES:,}")


def _check_categories(path: Path, report: Progress, *, neurons: int, layers: int) -> None:
    categories = read_categories(path)
    report(1, 1)
    most = CATEGORIES_AT_120[neurons]
    least, expected = (most, f"{most:,}") if layers == challenge.OFFICIAL_LAYERS[0] else (1, f"1 to {most:,}")
    if not least <= categories.size <= most:
        raise FileError(f"{path} has {categories.size:,} categories, expected {expected}")
    if categories[-1] >= challenge.OFFICIAL_SAMPLES:
        raise FileError(f"{path} has category {categories[-1] + 1}, expected at most {challenge.OFFICIAL_SAMPLES}")
